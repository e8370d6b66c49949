// Opening libraries, and their first calls. Every test is the work of a child: a process opens a library once, and
// these come first, before another test has opened any.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/gpu_libraries.h"
#include "engine/launch.h"
#include "engine/ops.h"
#include "engine/tape.h"
#include "kernels/base/shared_library.h"
#include "kernels/matmul.h"
#include "tests/libraries/libraries.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

using ::testing::HasSubstr;

constexpr Device kSimt{DeviceType::simt, 0};

Tensor normal(const Shape& shape) {
  Generator random(1);
  return random.normal(shape, 0, 1);
}

std::string gemm_in_child(const std::string& library, std::size_t version = CUBLAS_VERSION) {
  return in_child([&] {
    cublas_lt().version = version;
    if (!library.empty()) setenv("ADJOINT_CUBLASLT_LIBRARY", library.c_str(), 1);
    choose_gemm(GemmBackend::cublaslt, kSimt);
    const DefaultDevice everywhere(kSimt);
    linear(normal({2, 3}), normal({4, 3}));
    return std::string("done");
  });
}

TEST(ALibrary, That_is_there_is_used) { EXPECT_EQ(gemm_in_child(""), "done"); }

TEST(ALibrary, That_is_not_there_is_named_with_every_place_that_was_tried) {
  const std::string line = gemm_in_child("/nowhere/libcublasLt.so.13");
  EXPECT_TRUE(matches(line,
                      "^error\\[E-GPU-009\\]: simt: no cuBLASLt \\(/nowhere/libcublasLt.so.13: cannot open.*"
                      "tried /nowhere/libcublasLt.so.13; set ADJOINT_CUBLASLT_LIBRARY.*--gemm-backend=own$"))
      << line;
  const std::string by_name = in_child([] {
    unsetenv("ADJOINT_CUBLASLT_LIBRARY");
    setenv("CUDA_HOME", "/nowhere", 1);
    setenv("LD_LIBRARY_PATH", "", 1);
    const SharedLibrary library("ADJOINT_NO_VARIABLE", "libadjoint_has_no_such.so.7");
    return library.why_not();
  });
  EXPECT_TRUE(matches(by_name,
                      "tried libadjoint_has_no_such.so.7, /nowhere/lib64/libadjoint_has_no_such.so.7, "
                      ".*/usr/local/cuda/lib64/libadjoint_has_no_such.so.7"))
      << by_name;
}

TEST(ALibrary, That_is_none_or_lacks_a_function_or_has_another_version_is_refused) {
  EXPECT_THAT(gemm_in_child(built("cmake_install.cmake")), HasSubstr("E-GPU-009"));
  const std::string lacking = built("libfake_cublas_lt_lacking.so");
  EXPECT_THAT(gemm_in_child(lacking), HasSubstr(lacking + " has no cublasLtMatmul"));
  EXPECT_THAT(gemm_in_child("", CUBLAS_VERSION - 10000),
              ::testing::AllOf(HasSubstr("E-GPU-009"), HasSubstr(fmt::format("is cuBLASLt {}.", CUBLAS_VER_MAJOR - 1)),
                               HasSubstr(fmt::format("expected {}", CUBLAS_VER_MAJOR))));
}

TEST(ALibrary, That_cannot_start_is_an_error_of_its_first_call) {
  const std::string line = in_child([] {
    cublas_lt().fails = "cublasLtCreate";
    cublas_lt().status = CUBLAS_STATUS_NOT_INITIALIZED;
    choose_gemm(GemmBackend::cublaslt, kSimt);
    launch(kSimt, Matmul{.dtype = DType::f32,
                         .m = 1,
                         .n = 1,
                         .k = 1,
                         .a = "",
                         .lda = 1,
                         .b = "",
                         .ldb = 1,
                         .c = nullptr,
                         .ldc = 1,
                         .by_library = true});
    return std::string("done");
  });
  EXPECT_THAT(line, HasSubstr("error[E-GPU-008]"));
  EXPECT_THAT(line, HasSubstr("cublasLtCreate returned CUBLAS_STATUS_NOT_INITIALIZED (1)"));
}

TEST(ALibrary, Is_refused_on_a_cpu_and_may_be_left_to_chance) {
  expect_error([] { choose_gemm(GemmBackend::cublaslt, Device{}); }, "E-GPU-009",
               "cuBLASLt works on GPUs, and this runs on cpu; try --device=cuda, or --gemm-backend=own", Exit::device);
  choose_gemm(GemmBackend::automatic, kSimt);
  EXPECT_FALSE(gemm_by_library(kSimt)) << "the executor's is asked for by name";
  EXPECT_EQ(gpu_backends_text(kSimt), "matrix products by own kernels");
  EXPECT_EQ(gpu_backends_text(Device{}), "");
  const std::string text = in_child([] {
    setenv("ADJOINT_CUBLASLT_LIBRARY", "/nowhere/libcublasLt.so.13", 1);
    choose_gemm(GemmBackend::automatic, Device{DeviceType::cuda, 0});
    return gpu_backends_text(Device{DeviceType::cuda, 0});
  });
  EXPECT_THAT(text, HasSubstr("matrix products by own kernels, because of cuBLASLt: "));
}

/// One forward and one backward of each.
void train_attention() {
  const DefaultDevice everywhere(kSimt);
  Tape tape;
  Tensor x, loss;
  {
    const auto recording = tape.record();
    x = tape.watch(normal({2, 1, 3, 4}));
    loss = sum(attention(x, x, x));
  }
  tape.backward(loss);
}
void train_lstm() {
  const DefaultDevice everywhere(kSimt);
  Tape tape;
  Tensor w, loss;
  {
    const auto recording = tape.record();
    w = tape.watch(normal({20, 4}));
    loss = sum(lstm(normal({2, 3, 4}), {w, normal({20, 5}), {}, {}}).y);
  }
  tape.backward(loss);
}

TEST(CudnnRefusal, Is_named_with_function_status_and_shape) {
  FakeCudnn& fake = cudnn();
  const char* functions[] = {"cudnnCreate",
                             "cudnnSetStream",
                             "cudnnCreateDropoutDescriptor",
                             "cudnnSetDropoutDescriptor",
                             "cudnnCreateRNNDescriptor",
                             "cudnnSetRNNDescriptor_v8",
                             "cudnnCreateRNNDataDescriptor",
                             "cudnnSetRNNDataDescriptor",
                             "cudnnCreateTensorDescriptor",
                             "cudnnSetTensorNdDescriptor",
                             "cudnnGetRNNWeightSpaceSize",
                             "cudnnGetRNNTempSpaceSizes",
                             "cudnnGetRNNWeightParams",
                             "cudnnRNNForward",
                             "cudnnRNNBackwardData_v8",
                             "cudnnRNNBackwardWeights_v8"};
  for (const char* function : functions) {
    fake.fails = function;
    for (const cudnnStatus_t status : {CUDNN_STATUS_EXECUTION_FAILED, CUDNN_STATUS_NOT_SUPPORTED}) {
      fake.status = status;
      const int before = fake.objects;
      const std::string line = in_child([&] {
        choose_lstm(LstmBackend::cudnn, kSimt);
        try {
          train_lstm();
        } catch (const Error&) {
          // The handle and what belongs to a plan that was made last as long as the process.
          const bool planned =
              std::string(function).find("cudnnRNN") == 0 || std::string(function).find("Params") != std::string::npos;
          if (!planned && fake.objects != before)
            return fmt::format("{} left {} objects", function, fake.objects - before);
          throw;
        }
        return std::string("done");
      });
      const bool failed = status == CUDNN_STATUS_EXECUTION_FAILED;
      EXPECT_THAT(
          line, HasSubstr(fmt::format("error[E-GPU-008]: simt: lstm of f32 [2,3,4] to 5 wide: {} returned {} ({})",
                                      function, failed ? "CUDNN_STATUS_EXECUTION_FAILED" : "CUDNN_STATUS_NOT_SUPPORTED",
                                      static_cast<int>(status))));
    }
  }
}

TEST(CudnnRefusal, Of_attention_is_named_with_function_status_and_shape) {
  FakeCudnn& fake = cudnn();
  for (const char* function :
       {"cudnnCreate", "cudnnSetStream", "cudnnCreateAttnDescriptor", "cudnnSetAttnDescriptor",
        "cudnnCreateSeqDataDescriptor", "cudnnSetSeqDataDescriptor", "cudnnGetMultiHeadAttnBuffers",
        "cudnnMultiHeadAttnForward", "cudnnMultiHeadAttnBackwardData"}) {
    fake.fails = function;
    fake.status = CUDNN_STATUS_NOT_SUPPORTED;
    const int before = fake.objects;
    const std::string line = in_child([&] {
      choose_attention(AttentionBackend::cudnn, kSimt);
      try {
        train_attention();
      } catch (const Error&) {
        const bool planned = std::string(function).find("cudnnMultiHead") == 0;
        if (!planned && fake.objects != before)
          return fmt::format("{} left {} objects", function, fake.objects - before);
        throw;
      }
      return std::string("done");
    });
    EXPECT_THAT(line, HasSubstr(fmt::format("error[E-GPU-008]: simt: attention of f32 [2,1,3,4] over 3 keys to 4 wide: "
                                            "{} returned CUDNN_STATUS_NOT_SUPPORTED (3000)",
                                            function)));
  }
  fake.fails.clear();
}

std::string lstm_in_child(const std::string& library, std::size_t version = CUDNN_VERSION) {
  return in_child([&] {
    cudnn().version = version;
    if (!library.empty()) setenv("ADJOINT_CUDNN_LIBRARY", library.c_str(), 1);
    choose_lstm(LstmBackend::cudnn, kSimt);
    return gpu_backends_text(kSimt);
  });
}

TEST(ACudnn, Is_opened_when_it_is_chosen_or_refused_with_the_reason) {
  EXPECT_EQ(lstm_in_child(""), fmt::format("matrix products by own kernels, LSTMs by cuDNN {}.{}.{}", CUDNN_MAJOR,
                                           CUDNN_MINOR, CUDNN_PATCHLEVEL));
  EXPECT_EQ(in_child([] {
              cudnn();
              choose_attention(AttentionBackend::cudnn, kSimt);
              return gpu_backends_text(kSimt);
            }),
            fmt::format("matrix products by own kernels, attention by cuDNN {}.{}.{}", CUDNN_MAJOR, CUDNN_MINOR,
                        CUDNN_PATCHLEVEL));
  EXPECT_TRUE(matches(lstm_in_child("/nowhere/libcudnn.so.9"),
                      "error\\[E-GPU-009\\]: simt: no cuDNN \\(/nowhere/libcudnn.so.9: cannot open.*set "
                      "ADJOINT_CUDNN_LIBRARY.*try --lstm-backend=own"));
  EXPECT_THAT(lstm_in_child(built("libfake_cudnn_lacking.so")), HasSubstr("has no cudnnRNNBackwardWeights_v8"));
  EXPECT_THAT(lstm_in_child("", CUDNN_VERSION - 10000), HasSubstr(fmt::format("is cuDNN {}.", CUDNN_MAJOR - 1)));
  expect_error([] { choose_lstm(LstmBackend::cudnn, Device{}); }, "E-GPU-009",
               "cuDNN works on GPUs, and this runs on cpu", Exit::device);
  expect_error([] { choose_attention(AttentionBackend::cudnn, Device{}); }, "E-GPU-009",
               "cuDNN works on GPUs, and this runs on cpu; try --device=cuda, or --attention-backend=own",
               Exit::device);
}

TEST(TheRealLibraries, Have_every_function_that_is_called) {
  for (const auto& [variable, choose] :
       {std::pair{"ADJOINT_CUBLASLT_LIBRARY", +[] { choose_gemm(GemmBackend::cublaslt, kSimt); }},
        std::pair{"ADJOINT_CUDNN_LIBRARY", +[] { choose_lstm(LstmBackend::cudnn, kSimt); }}}) {
    const std::string line = in_child([&] {
      unsetenv(variable);
      choose();
      return std::string("all");
    });
    if (line.find("cannot open shared object file") != std::string::npos) {
      std::printf("%s\n", line.c_str());  // not on this machine
    } else {
      EXPECT_EQ(line, "all");
    }
  }
}

}  // namespace
}  // namespace adjoint::testing
