// Matrix products by cuBLASLt: what it is asked for, what is made of its answers, and of its refusals.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "engine/gpu_libraries.h"
#include "engine/launch.h"
#include "engine/ops.h"
#include "engine/step.h"
#include "engine/tape.h"
#include "kernels/matmul.h"
#include "tests/libraries/libraries.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Device kSimt{DeviceType::simt, 0};

class CublasLt : public ::testing::Test {
 protected:
  CublasLt() : everywhere_(kSimt), fake(cublas_lt()) {
    fake.fails.clear();
    fake.algorithms = {{}};
    fake.products.clear();
    fake.asked = 0;
    choose_gemm(GemmBackend::cublaslt, kSimt);
  }
  ~CublasLt() override { choose_gemm(GemmBackend::automatic, kSimt); }

  const DefaultDevice everywhere_;
  FakeCublasLt& fake;
};

Tensor normal(const Shape& shape, DType dtype = DType::f32, unsigned seed = 1) {
  Generator random(seed);
  return random.normal(shape, 0, 1, dtype);
}

struct Problem {
  std::int64_t m, n, k;
  bool transpose_a = false, transpose_b = false, bias = false, accumulate = false;
  std::int64_t batches = 1, margin = 0;
  bool shared_b = false;
  double alpha = 1.0;
};

/// c of the call, by the library or by our own kernel.
std::vector<double> product(const Problem& p, DType dtype, bool by_library) {
  const std::int64_t rows_a = p.transpose_a ? p.k : p.m, lda = (p.transpose_a ? p.m : p.k) + p.margin;
  const std::int64_t rows_b = p.transpose_b ? p.n : p.k, ldb = (p.transpose_b ? p.k : p.n) + p.margin;
  const Tensor a = normal({p.batches, rows_a, lda}, dtype, 1), bias = normal({p.n}, dtype, 3);
  const Tensor b = normal({p.shared_b ? 1 : p.batches, rows_b, ldb}, dtype, 2);
  Tensor c = normal({p.batches, p.m, p.n + p.margin}, dtype, 4);
  launch(kSimt, Matmul{.dtype = dtype,
                       .batches = p.batches,
                       .m = p.m,
                       .n = p.n,
                       .k = p.k,
                       .a = a.data(),
                       .lda = lda,
                       .a_batch = rows_a * lda,
                       .transpose_a = p.transpose_a,
                       .b = b.data(),
                       .ldb = ldb,
                       .b_batch = p.shared_b ? 0 : rows_b * ldb,
                       .transpose_b = p.transpose_b,
                       .c = c.data(),
                       .ldc = p.n + p.margin,
                       .c_batch = p.m * (p.n + p.margin),
                       .bias = p.bias ? bias.data() : nullptr,
                       .alpha = p.alpha,
                       .accumulate = p.accumulate,
                       .by_library = by_library});
  return c.to_vector();
}

TEST_F(CublasLt, Gives_what_our_own_kernel_gives_for_every_layout) {
  fake.algorithms = {{.workspace = 4096}};
  for (const Problem& p :
       std::vector<Problem>{{.m = 1, .n = 1, .k = 1},
                            {.m = 5, .n = 7, .k = 3},
                            {.m = 5, .n = 7, .k = 3, .bias = true},
                            {.m = 31, .n = 33, .k = 32, .transpose_b = true, .alpha = 0.5},
                            {.m = 13, .n = 11, .k = 17, .transpose_a = true, .accumulate = true},
                            {.m = 5, .n = 7, .k = 3, .bias = true, .accumulate = true},
                            {.m = 10, .n = 9, .k = 8, .transpose_a = true, .transpose_b = true, .margin = 3},
                            {.m = 6, .n = 5, .k = 4, .bias = true, .batches = 3, .shared_b = true}}) {
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
      fake.products.clear();
      const std::vector<double> got = product(p, dtype, true);
      const bool has_none = dtype == DType::f64 && p.bias && !p.accumulate;
      ASSERT_EQ(fake.products.size(), has_none ? 0u : 1u) << name(dtype);
      const std::vector<double> want = product(p, dtype, false);
      // Both sum k products of normal numbers and round once; the library's loop does so in double.
      const double tolerance = dtype == DType::f64 ? 1e-13 : dtype == DType::f32 ? 1e-5 : 0x1p-7;
      for (std::size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], want[i], tolerance * (1 + std::abs(want[i])))
            << name(dtype) << " " << p.m << "x" << p.n << "x" << p.k << " element " << i;
    }
  }
  EXPECT_EQ(fake.objects % 4, 0) << "a preference outlived its use";
}

TEST_F(CublasLt, Multiplies_what_nothing_is_added_to_and_nothing_else) {
  for (const Problem& p : {Problem{.m = 4, .n = 0, .k = 3}, Problem{.m = 4, .n = 3, .k = 0, .bias = true}})
    EXPECT_EQ(product(p, DType::f32, true), product(p, DType::f32, false));
  const Tensor lengths = Tensor::from(std::span<const std::int32_t>(std::vector{1, 0}), {2});
  linear(normal({2, 3, 4}), normal({5, 4}), {}, lengths);
  EXPECT_THAT(fake.products, ElementsAre()) << "the library knows no padding";
}

TEST_F(CublasLt, Sees_row_major_matrices_as_columns_of_the_transposed_product) {
  linear(normal({2, 3, 12}), normal({5, 12}), normal({5}));  // c [6,5] = x [6,12] w' + bias
  ASSERT_EQ(fake.products.size(), 1u);
  const FakeCublasLt::Product& p = fake.products[0];
  EXPECT_EQ(p.rows, 5u);
  EXPECT_EQ(p.columns, 6u);
  EXPECT_EQ(p.inner, 12u);
  EXPECT_TRUE(p.transpose_a);
  EXPECT_FALSE(p.transpose_b);
  EXPECT_EQ(p.epilogue, CUBLASLT_EPILOGUE_BIAS);
  EXPECT_EQ(p.type, CUDA_R_32F);
  EXPECT_EQ(p.compute, CUBLAS_COMPUTE_32F) << "TF32 is not what f32 promises";
  EXPECT_EQ(p.beta, 0.0);
}

/// Gradients of x, w and b for y = linear(x, w, b), used `uses` times.
std::vector<std::vector<double>> linear_gradients(int uses, std::int64_t rows = 4) {
  Tape tape;
  Tensor x, w, b, y;
  {
    const auto recording = tape.record();
    x = tape.watch(normal({rows, 6})), w = tape.watch(normal({3, 6}, DType::f32, 2));
    b = tape.watch(normal({3}, DType::f32, 3));
    y = linear(x, w, b);
    for (int i = 1; i < uses; ++i) y = y + linear(x * 2.0, w, b);
    y = sum(y * y);
  }
  tape.backward(y);
  return {tape.gradient(x).to_vector(), tape.gradient(w).to_vector(), tape.gradient(b).to_vector()};
}

TEST_F(CublasLt, Sums_a_bias_gradient_beside_its_weights_unless_it_must_be_added) {
  for (const int uses : {1, 2}) {
    fake.products.clear();
    choose_gemm(GemmBackend::cublaslt, kSimt);
    const auto got = linear_gradients(uses);
    std::vector<cublasLtEpilogue_t> epilogues;
    for (const auto& p : fake.products) epilogues.push_back(p.epilogue);
    if (uses == 1) {
      EXPECT_THAT(epilogues, ElementsAre(CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BGRADB));
    } else {  // the second gradient that comes is added
      EXPECT_THAT(epilogues,
                  ElementsAre(CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_DEFAULT,
                              CUBLASLT_EPILOGUE_BGRADB, CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_DEFAULT));
    }
    choose_gemm(GemmBackend::own, kSimt);
    const auto want = linear_gradients(uses);
    for (std::size_t g = 0; g < want.size(); ++g)
      for (std::size_t i = 0; i < want[g].size(); ++i)
        EXPECT_NEAR(got[g][i], want[g][i], 1e-5 * (1 + std::abs(want[g][i]))) << "input " << g << " element " << i;
  }
}

/// y = linear_gelu_tanh(x, w, b), and the gradients of the three of the sum of y's squares.
std::vector<std::vector<double>> gelu_results(std::int64_t width, DType dtype) {
  Tape tape;
  Tensor x, w, b, y, loss;
  {
    const auto recording = tape.record();
    x = tape.watch(normal({2, 3, 6}, dtype)), w = tape.watch(normal({width, 6}, dtype, 2));
    b = tape.watch(normal({width}, dtype, 3));
    y = linear_gelu_tanh(x, w, b);
    loss = sum(y * y);
  }
  tape.backward(loss);
  return {y.to_vector(), tape.gradient(x).to_vector(), tape.gradient(w).to_vector(), tape.gradient(b).to_vector()};
}

TEST_F(CublasLt, Gives_the_gelu_of_a_sum_beside_it_where_it_can) {
  const auto run = [&](std::int64_t width, DType dtype, std::vector<cublasLtEpilogue_t> want) {
    fake.products.clear();
    choose_gemm(GemmBackend::cublaslt, kSimt);
    const auto got = gelu_results(width, dtype);
    std::vector<cublasLtEpilogue_t> epilogues;
    for (const auto& p : fake.products) epilogues.push_back(p.epilogue);
    EXPECT_EQ(epilogues, want) << width << " " << name(dtype);
    choose_gemm(GemmBackend::own, kSimt);
    const auto own = gelu_results(width, dtype);
    // bf16: y, the sum and the gradient of the sum are each rounded at another place than in two calls.
    const double tolerance = dtype == DType::f64 ? 1e-13 : dtype == DType::f32 ? 1e-5 : 0x1p-5;
    for (std::size_t g = 0; g < own.size(); ++g) {
      double size = 1;
      for (const double v : own[g]) size = std::max(size, std::abs(v));
      for (std::size_t i = 0; i < own[g].size(); ++i)
        ASSERT_NEAR(got[g][i], own[g][i], tolerance * size)
            << width << " " << name(dtype) << " result " << g << " element " << i;
    }
  };
  constexpr cublasLtEpilogue_t kPlain = CUBLASLT_EPILOGUE_DEFAULT, kBias = CUBLASLT_EPILOGUE_BIAS,
                               kGelu = CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
  run(16, DType::f32, {kGelu, kPlain, kPlain});
  run(24, DType::bf16, {kGelu, kPlain, kPlain});
  run(12, DType::f32, {kBias, kPlain, kPlain});  // it writes rows of a multiple of 8
  run(16, DType::f64, {kPlain, kPlain});         // no epilogue at all
  fake.gelu = false;
  run(32, DType::f32, {kBias, kPlain, kPlain});
  fake.gelu = true;
}

TEST_F(CublasLt, Writes_each_calls_sum_to_its_own_memory) {
  const Tensor w = normal({8, 6}, DType::f32, 2), b = normal({8}, DType::f32, 3);
  const auto step = [&](unsigned seed) {
    Tape tape;
    Tensor x, loss;
    {
      const auto recording = tape.record();
      x = tape.watch(normal({5, 6}, DType::f32, seed));
      loss = sum(linear_gelu_tanh(x, w, b) * linear_gelu_tanh(x * 0.5, w, b));
    }
    tape.backward(loss);
    return tape.gradient(x).to_vector();
  };
  const std::vector<double> got = step(7);
  EXPECT_EQ(fake.asked, 2) << "one plan for both, and one for their gradients";
  choose_gemm(GemmBackend::own, kSimt);
  const std::vector<double> want = step(7);
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-5 * (1 + std::abs(want[i]))) << i;
}

TEST_F(CublasLt, Is_asked_once_a_shape_and_alignment) {
  const Tensor x = normal({7, 16}), w = normal({9, 16}), first = normal({9}, DType::f32, 2), other = normal({9});
  linear(x, w, first);
  EXPECT_EQ(fake.asked, 1);
  EXPECT_EQ(fake.alignment_a, 256u);
  const Tensor y = linear(normal({7, 16}, DType::f32, 5), w, other);
  EXPECT_EQ(fake.asked, 1) << "other memory of the same shape";
  choose_gemm(GemmBackend::own, kSimt);
  EXPECT_NEAR(y.to_vector()[0], linear(normal({7, 16}, DType::f32, 5), w, other).to_vector()[0], 1e-5)
      << "the bias of another call";
  choose_gemm(GemmBackend::cublaslt, kSimt);
  linear(normal({8, 16}), w, first);
  EXPECT_EQ(fake.asked, 2) << "another shape";
  linear(slice(normal({8, 16}), 0, 1, 8), w, first);  // starts 64 bytes into its memory
  EXPECT_EQ(fake.asked, 3) << "another alignment";
  EXPECT_EQ(fake.alignment_b, 64u);
  linear(x, w, {});
  EXPECT_EQ(fake.asked, 4) << "another epilogue";
}

TEST_F(CublasLt, Takes_the_first_algorithm_that_adds_parts_in_a_fixed_order) {
  fake.algorithms = {{.state = CUBLAS_STATUS_NOT_SUPPORTED},
                     {.reduction = CUBLASLT_REDUCTION_SCHEME_INPLACE},
                     {.workspace = std::size_t{1} << 30},
                     {.workspace = 12345, .reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
                     {}};
  const Problem p{.m = 21, .n = 22, .k = 23};
  product(p, DType::f32, true);
  ASSERT_EQ(fake.products.size(), 1u);
  EXPECT_EQ(fake.products[0].algorithm, 3);
  EXPECT_EQ(fake.products[0].workspace, 12345u);
}

TEST_F(CublasLt, Leaves_to_our_own_kernel_what_it_has_no_algorithm_for) {
  fake.algorithms = {{.reduction = CUBLASLT_REDUCTION_SCHEME_INPLACE}};
  const Problem p{.m = 24, .n = 22, .k = 23, .bias = true};
  EXPECT_EQ(product(p, DType::f32, true), product(p, DType::f32, false));
  const auto got = linear_gradients(1, 5);  // the bias's gradient too
  EXPECT_TRUE(fake.products.empty());
  choose_gemm(GemmBackend::own, kSimt);
  EXPECT_EQ(got, linear_gradients(1, 5));
}

TEST_F(CublasLt, Multiplies_for_a_weight_even_if_it_cannot_sum_for_the_bias) {
  fake.sums = false;
  const auto got = linear_gradients(1, 6);
  fake.sums = true;
  ASSERT_EQ(fake.products.size(), 3u);
  EXPECT_EQ(fake.products[2].epilogue, CUBLASLT_EPILOGUE_DEFAULT);
  choose_gemm(GemmBackend::own, kSimt);
  const auto want = linear_gradients(1, 6);
  for (std::size_t g = 0; g < want.size(); ++g)
    for (std::size_t i = 0; i < want[g].size(); ++i)
      EXPECT_NEAR(got[g][i], want[g][i], 1e-5 * (1 + std::abs(want[g][i]))) << "input " << g << " element " << i;
}

TEST_F(CublasLt, Is_part_of_a_recorded_step) {
  fake.algorithms = {{.workspace = 512}};
  const Tensor w = normal({5, 8}), b = normal({5}, DType::f32, 2);
  Step step([&](std::span<const Tensor> in) { return std::vector<Tensor>{linear(in[0], w, b)}; }, {});
  for (unsigned i = 0; i < 4; ++i) {
    const Tensor x = normal({3, 8}, DType::f32, i);
    const std::vector<double> got = step(std::vector<Tensor>{x})[0].to_vector();
    EXPECT_EQ(got, linear(x, w, b).to_vector()) << "step " << i;
  }
  EXPECT_EQ(fake.asked, 1);
}

TEST_F(CublasLt, Names_the_function_the_status_and_the_product_of_every_refusal) {
  const char* functions[] = {"cublasLtMatmulDescCreate",
                             "cublasLtMatmulDescSetAttribute",
                             "cublasLtMatrixLayoutCreate",
                             "cublasLtMatrixLayoutSetAttribute",
                             "cublasLtMatmulPreferenceCreate",
                             "cublasLtMatmulPreferenceSetAttribute",
                             "cublasLtMatmulAlgoGetHeuristic",
                             "cublasLtMatmulAlgoConfigGetAttribute",
                             "cublasLtMatmul"};
  const Problem p{.m = 3, .n = 4, .k = 19, .batches = 2};
  const int before = fake.objects;
  for (const char* function : functions) {
    fake.fails = function;
    for (const cublasStatus_t status : {CUBLAS_STATUS_INTERNAL_ERROR, CUBLAS_STATUS_ALLOC_FAILED}) {
      fake.status = status;
      expect_error(
          [&] { product(p, DType::f32, true); }, "E-GPU-008",
          fmt::format(
              "simt: matmul of f32 \\[3,19\\] by \\[19,4\\] times 2: {} returned {} \\({}\\)", function,
              status == CUBLAS_STATUS_ALLOC_FAILED ? "CUBLAS_STATUS_ALLOC_FAILED" : "CUBLAS_STATUS_INTERNAL_ERROR",
              static_cast<int>(status)),
          Exit::device);
    }
    if (std::string(function) != "cublasLtMatmul") {
      EXPECT_EQ(fake.objects, before) << "left behind by " << function;
    }
  }
  fake.fails.clear();
  EXPECT_EQ(product(p, DType::f32, true).size(), 24u) << "it works again";
}

}  // namespace
}  // namespace adjoint::testing
