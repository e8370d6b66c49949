<<<<<<< HEAD
// Draws from Philox streams, and dropout. Element i takes word i of its stream whatever the chunking.

#include "kernels/random.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/philox.h"
#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/strided.h"
=======
#include "kernels/random.h"

#include <cmath>
#include <numbers>

#include "kernels/base/philox.h"
>>>>>>> ec7094d (Add copies, softmax, dropout and random numbers on the CPU)
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu {
namespace {

<<<<<<< HEAD
constexpr int kBlocks = 16;  // Philox blocks computed side by side
constexpr int kWords = 4 * kBlocks;

/// The 64 words of the blocks from `first`: philox() of kernels/base/philox.h, 16 blocks a loop, which compilers turn
/// into vector code.
void philox_words(std::uint64_t key, std::uint64_t first, std::uint32_t* words) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  std::uint32_t c0[kBlocks], c1[kBlocks], c2[kBlocks] = {}, c3[kBlocks] = {};
  for (int i = 0; i < kBlocks; ++i) {
    c0[i] = static_cast<std::uint32_t>(first + i);
    c1[i] = static_cast<std::uint32_t>((first + i) >> 32);
  }
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kBlocks; ++i) {
      const std::uint64_t p0 = static_cast<std::uint64_t>(0xD2511F53u) * c0[i];
      const std::uint64_t p1 = static_cast<std::uint64_t>(0xCD9E8D57u) * c2[i];
      c0[i] = static_cast<std::uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c2[i] = static_cast<std::uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<std::uint32_t>(p1);
      c3[i] = static_cast<std::uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kBlocks; ++i) {
    words[4 * i] = c0[i];
    words[4 * i + 1] = c1[i];
    words[4 * i + 2] = c2[i];
    words[4 * i + 3] = c3[i];
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
                         [&](std::int64_t i, auto get) { return start + scale * get(u + i); });
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
      return word >= threshold ? get(x + i) * scale : Vec<A>{};
    });
  });
=======
constexpr std::int64_t kGrain = 4096;  // a multiple of the four words of a block
constexpr std::int64_t kWorkPerElement = 16;

/// Calls f(i, word) for the elements [begin, end) of a draw; begin is a multiple of 4.
template <class F>
void words(const PhiloxState& state, std::int64_t begin, std::int64_t end, F&& f) {
  for (std::int64_t i = begin; i < end; i += 4) {
    const PhiloxBlock block = philox(state.key, state.counter + static_cast<std::uint64_t>(i) / 4);
    for (std::int64_t j = i; j < end && j < i + 4; ++j) f(j, block.word[j - i]);
  }
}

/// In (0, 1]: the logarithm of it is finite.
template <class A>
A open_uniform(std::uint32_t word) {
  return (static_cast<A>(word >> 8) + A(1)) * A(1.0 / 16777216.0);
}

template <class T>
void fill(const RandomFill& call, std::int64_t begin, std::int64_t end) {
  using A = acc_t<T>;
  T* y = static_cast<T*>(call.y);
  const A a = static_cast<A>(call.a), b = static_cast<A>(call.b);
  if (call.kind == RandomKind::uniform) {
    words(*call.state, begin, end, [&](std::int64_t i, std::uint32_t word) {
      y[i] = static_cast<T>(a + (b - a) * static_cast<A>(philox_uniform(word)));
    });
    return;
  }
  for (std::int64_t i = begin; i < end; i += 4) {
    const PhiloxBlock block = philox(call.state->key, call.state->counter + static_cast<std::uint64_t>(i) / 4);
    for (int pair = 0; pair < 2; ++pair) {
      const A radius = std::sqrt(A(-2) * std::log(open_uniform<A>(block.word[2 * pair])));
      const A angle = A(2) * std::numbers::pi_v<A> * static_cast<A>(philox_uniform(block.word[2 * pair + 1]));
      const std::int64_t j = i + 2 * pair;
      if (j < end) y[j] = static_cast<T>(a + b * (radius * std::cos(angle)));
      if (j + 1 < end) y[j + 1] = static_cast<T>(a + b * (radius * std::sin(angle)));
    }
  }
>>>>>>> ec7094d (Add copies, softmax, dropout and random numbers on the CPU)
}

}  // namespace

void run(const At& at, const RandomFill& call) {
<<<<<<< HEAD
  visit_float(call.dtype, [&](auto type) { fill<typename decltype(type)::type>(at, call); });
}

void run(const At&, const RandomAdvance& call) {
  if (call.saved) *call.saved = *call.state;
=======
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    parallel_for(at, call.n, kGrain, kWorkPerElement,
                 [&](std::int64_t begin, std::int64_t end) { fill<T>(call, begin, end); });
  });
}

void run(const At&, const RandomAdvance& call) {
  if (call.saved != nullptr) *call.saved = *call.state;
>>>>>>> ec7094d (Add copies, softmax, dropout and random numbers on the CPU)
  call.state->counter += call.blocks;
}

void run(const At& at, const Dropout& call) {
  visit_float(call.dtype, [&](auto type) {
<<<<<<< HEAD
    using S = typename decltype(type)::type;
    call.accumulate ? dropout<S, true>(at, call) : dropout<S, false>(at, call);
=======
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const T* x = static_cast<const T*>(call.x);
    T* y = static_cast<T*>(call.y);
    const A factor = static_cast<A>(1.0 / (1.0 - call.p));
    parallel_for(at, call.n, kGrain, kWorkPerElement, [&](std::int64_t begin, std::int64_t end) {
      words(*call.state, begin, end, [&](std::int64_t i, std::uint32_t word) {
        const A v = philox_uniform(word) >= call.p ? static_cast<A>(x[i]) * factor : A(0);
        y[i] = static_cast<T>(call.accumulate ? static_cast<A>(y[i]) + v : v);
      });
    });
>>>>>>> ec7094d (Add copies, softmax, dropout and random numbers on the CPU)
  });
}

}  // namespace adjoint::cpu
