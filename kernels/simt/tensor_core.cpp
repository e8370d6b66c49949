// Fragment layouts as the PTX ISA documents them ("Matrix Fragments for mma.m16n8k16", ".m16n8k8", and "ldmatrix").
// With g = lane / 4 and t = lane % 4, a lane holds of
//   A [16, K]: rows g and g + 8; its columns come in groups of four lanes;
//   B [K, 8]:  column g;
//   C [16, 8]: rows g and g + 8, columns 2 t and 2 t + 1.

#include "kernels/simt/tensor_core.h"

#include <bit>
#include <cstdint>

#include "kernels/simt/machine.h"

namespace adjoint::simt::detail {
namespace {

struct Fragments {
  float c[4];
  std::uint32_t a[4], b[2];
};

float bf16_half(std::uint32_t pair, int half) { return std::bit_cast<float>(pair >> (16 * half) << 16); }
float tf32(std::uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000u); }

/// C += A B, and every lane's part of C back to it.
template <int K>
void multiply(Lanes& lanes, const float (&a)[16][K], const float (&b)[K][8]) {
  for (int lane = 0; lane < 32; ++lane) {
    const Fragments& in = *static_cast<const Fragments*>(lanes[lane].in);
    float* out = static_cast<float*>(lanes[lane].out);
    for (int i = 0; i < 4; ++i) {
      int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      float sum = 0.0f;
      for (int k = 0; k < K; ++k) sum += a[row][k] * b[k][column];
      out[i] = in.c[i] + sum;
    }
  }
}

void complete_bf16(Lanes& lanes, unsigned) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Fragments& in = *static_cast<const Fragments*>(lanes[lane].in);
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 8; ++i) a[g + 8 * (i / 2 % 2)][2 * t + i % 2 + 8 * (i / 4)] = bf16_half(in.a[i / 2], i % 2);
    for (int i = 0; i < 4; ++i) b[2 * t + i % 2 + 8 * (i / 2)][g] = bf16_half(in.b[i / 2], i % 2);
  }
  multiply(lanes, a, b);
}

void complete_tf32(Lanes& lanes, unsigned) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Fragments& in = *static_cast<const Fragments*>(lanes[lane].in);
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) a[g + 8 * (i % 2)][t + 4 * (i / 2)] = tf32(in.a[i]);
    for (int i = 0; i < 2; ++i) b[t + 4 * i][g] = tf32(in.b[i]);
  }
  multiply(lanes, a, b);
}

/// Matrix m's rows are at the addresses of lanes 8 m … 8 m + 7; a lane receives two neighbours of row lane / 4, or,
/// when transposed, of column lane / 4.
void complete_ldmatrix(Lanes& lanes, unsigned) {
  for (int lane = 0; lane < 32; ++lane) {
    bool transposed = lanes[lane].argument != 0;
    for (int m = 0; m < lanes[lane].width; ++m) {
      std::uint32_t pair = 0;
      for (int e = 0; e < 2; ++e) {
        int row = transposed ? 2 * (lane % 4) + e : lane / 4;
        int column = transposed ? lane / 4 : 2 * (lane % 4) + e;
        std::uint16_t value = static_cast<const std::uint16_t*>(lanes[8 * m + row].in)[column];
        pair |= static_cast<std::uint32_t>(value) << (16 * e);
      }
      static_cast<std::uint32_t*>(lanes[lane].out)[m] = pair;
    }
  }
}

void mma(const char* what, float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Location at,
         Complete complete) {
  Fragments in{{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  collective(what, 0xffffffffu, at, true, {&in, d, 0, 32, sizeof d}, complete);
}

}  // namespace

int lane_id() { return static_cast<int>(machine.current->index % 32); }

void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Location at) {
  mma("mma.m16n8k16.bf16", d, a, b, at, complete_bf16);
}

void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Location at) {
  mma("mma.m16n8k8.tf32", d, a, b, at, complete_tf32);
}

void ldmatrix(std::uint32_t* r, const void* row, int count, bool transposed, Location at, void* pc) {
  // Only the first 8 * count lanes' addresses are used.
  if (lane_id() < 8 * count) {
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) fail_at("ldmatrix", at, "row address not 16-byte aligned");
    touch(row, 16, Access::read, pc);
  }
  collective("ldmatrix", 0xffffffffu, at, true, {row, r, transposed, count, 16}, complete_ldmatrix);
}

void cp_async(void* to, const void* from, unsigned bytes, Location at, void* pc) {
  if (reinterpret_cast<std::uintptr_t>(to) % bytes != 0 || reinterpret_cast<std::uintptr_t>(from) % bytes != 0) {
    fail_at("cp.async", at, "address not aligned to the size of the copy");
  }
  issue_copy(to, from, bytes, pc);
}

}  // namespace adjoint::simt::detail
