// Draws from Philox streams, and dropout. Element i takes word i of its stream whatever the chunking.

#include "kernels/random.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/philox.h"
#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/strided.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

constexpr int kBlocks = 16;  // Philox blocks computed side by side
constexpr int kWords = 4 * kBlocks;

using Wide = Vec<std::uint64_t>;  // a word a lane, in the lower half

/// The full products of the lower halves; the upper halves may hold anything.
template <int bytes>
ADJOINT_INLINE Lanes<std::uint64_t, bytes> multiply_low(Lanes<std::uint64_t, bytes> a, std::uint64_t b) {
  if constexpr (bytes > kRegisterBytes) {
    return {multiply_low(a.low, b), multiply_low(a.high, b)};
  } else {
    using Register [[maybe_unused]] = typename Lanes<std::uint64_t, bytes>::Register;
    [[maybe_unused]] const auto factor = static_cast<long long>(b);
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return Register(_mm512_maskz_mul_epu32(0xff, __m512i(a.r), _mm512_set1_epi64(factor)));
#elif defined(__AVX2__)
    return Register(_mm256_mul_epu32(__m256i(a.r), _mm256_set1_epi64x(factor)));
#elif defined(__x86_64__)
    return Register(_mm_mul_epu32(__m128i(a.r), _mm_set1_epi64x(factor)));
#else
    return (a & 0xffffffffu) * b;
#endif
  }
}

/// The 64 words of the blocks from `first`: philox() of kernels/base/philox.h, on registers.
void philox_words(std::uint64_t key, std::uint64_t first, std::uint32_t* words) {
  constexpr int lanes = kLanes<std::uint64_t>, registers = kBlocks / lanes;
  const Wide low = 0xffffffffu;
  Wide c0[registers], c1[registers], c2[registers], c3[registers];
#pragma GCC unroll 8
  for (int k = 0; k < registers; ++k) {
    const Wide counter =
        bits_as<std::uint64_t>(lane_numbers<double>()) + (first + static_cast<std::uint64_t>(k * lanes));
    c0[k] = counter;
    c1[k] = counter >> 32;
    c2[k] = c3[k] = Wide{};
  }
  std::uint64_t k0 = key & 0xffffffffu, k1 = key >> 32;
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 8
    for (int k = 0; k < registers; ++k) {
      const Wide p0 = multiply_low(c0[k], 0xD2511F53u), p1 = multiply_low(c2[k], 0xCD9E8D57u);
      c0[k] = (p1 >> 32) ^ c1[k] ^ k0;
      c2[k] = (p0 >> 32) ^ c3[k] ^ k1;
      c1[k] = p1;
      c3[k] = p0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
#pragma GCC unroll 8
  for (int k = 0; k < registers; ++k) {
    const Wide even = (c0[k] & low) | (c1[k] << 32), odd = (c2[k] & low) | (c3[k] << 32);
    std::uint64_t a[lanes], b[lanes];
    std::memcpy(a, &even, sizeof even);
    std::memcpy(b, &odd, sizeof odd);
    for (int i = 0; i < lanes; ++i) {
      std::memcpy(words + 4 * (k * lanes + i), a + i, 8);
      std::memcpy(words + 4 * (k * lanes + i) + 2, b + i, 8);
    }
  }
}

/// Calls f(begin, n, words) for up to kWords elements at a time, words[i] belonging to element begin + i.
template <class F>
void for_words(const At& at, const PhiloxState& state, std::int64_t n, std::int64_t work, F f) {
  static_assert(kGrain % kWords == 0);
  parallel_for(at, n, kGrain, work, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) std::uint32_t words[kWords];
    for (std::int64_t i = begin; i < end; i += kWords) {
      philox_words(state.key, state.counter + static_cast<std::uint64_t>(i / 4), words);
      f(i, std::min<std::int64_t>(kWords, end - i), words);
    }
  });
}

/// words as numbers in [0, 1).
template <class A>
void uniform(const std::uint32_t* words, A* u) {
  for (int i = 0; i < kWords; ++i) u[i] = static_cast<A>(philox_uniform(words[i]));
}

/// Box-Muller on pairs: u[2j] = r cos t, u[2j + 1] = r sin t, r = sqrt(-2 ln(1 - u[2j])), t = 2 pi u[2j + 1].
template <class A>
void normal_of(A* u) {
  constexpr int lanes = kLanes<A>;
  A first[kWords / 2], second[kWords / 2];
  for (int j = 0; j < kWords / 2; ++j) {
    first[j] = 1 - u[2 * j];  // in (0, 1]: its logarithm is finite
    second[j] = u[2 * j + 1];
  }
  for (int j = 0; j < kWords / 2; j += lanes) {
    const Vec<A> radius = sqrt(A(-2) * log(load(first + j)));
    Vec<A> sine, cosine;
    sincos_turns(load(second + j), sine, cosine);
    store(first + j, radius * cosine);
    store(second + j, radius * sine);
  }
  for (int j = 0; j < kWords / 2; ++j) {
    u[2 * j] = first[j];
    u[2 * j + 1] = second[j];
  }
}

template <class S>
void fill(const At& at, const RandomFill& call) {
  using A = acc_t<S>;
  const bool normal = call.kind == RandomKind::normal;
  const Vec<A> start = broadcast(static_cast<A>(call.a));
  const Vec<A> scale = broadcast(static_cast<A>(normal ? call.b : call.b - call.a));
  for_words(at, *call.state, call.n, 4, [&](std::int64_t begin, std::int64_t n, const std::uint32_t* words) {
    alignas(64) A u[kWords];
    uniform(words, u);
    if (normal) normal_of(u);
    for_registers<false>(static_cast<S*>(call.y) + begin, n,
                         [&](std::int64_t i, auto get) { return multiply_add(scale, get(u + i), start); });
  });
}

template <class S, bool accumulate>
void dropout(const At& at, const Dropout& call) {
  using A = acc_t<S>;
  using Word = typename IntOf<A>::type;
  // u >= p for u = w / 2^24, decided among integers: the same on every backend and in every dtype.
  const Word threshold = static_cast<Word>(std::ceil(call.p * 16777216.0));
  const Vec<A> scale = broadcast(static_cast<A>(1.0 / (1.0 - call.p)));
  for_words(at, *call.state, call.n, 2, [&](std::int64_t begin, std::int64_t n, const std::uint32_t* words) {
    alignas(64) Word drawn[kWords];
    for (int i = 0; i < kWords; ++i) drawn[i] = static_cast<Word>(words[i] >> 8);
    const S* const x = static_cast<const S*>(call.x) + begin;
    for_registers<accumulate>(static_cast<S*>(call.y) + begin, n, [&](std::int64_t i, auto get) {
      VecInt<A> word;
      std::memcpy(&word, drawn + i, sizeof word);
      return select(word >= threshold, get(x + i) * scale, Vec<A>{});
    });
  });
}

}  // namespace

void run(const At& at, const RandomFill& call) {
  visit_float(call.dtype, [&](auto type) { fill<typename decltype(type)::type>(at, call); });
}

void run(const At&, const RandomAdvance& call) {
  if (call.saved) *call.saved = *call.state;
  call.state->counter += call.blocks;
}

void run(const At& at, const Dropout& call) {
  visit_float(call.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    call.accumulate ? dropout<S, true>(at, call) : dropout<S, false>(at, call);
  });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
