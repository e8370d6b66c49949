// Matrix products by cuBLASLt, which is opened at first use: no program is linked with it. One algorithm a shape, the
// first that its heuristic gives and that adds the parts of a split product in a fixed order; none is timed, so equal
// calls give equal bits from run to run. What it cannot express goes to our own kernel.

#include <cublasLt.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <type_traits>

#include "kernels/base/shared_library.h"
#include "kernels/bias_gelu.h"
#include "kernels/matmul.h"
#include "kernels/reduce.h"

#ifndef ADJOINT_GPU_NAMESPACE  // the tests build it once more, for the executor's memory
#define ADJOINT_GPU_NAMESPACE cuda
#endif

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

constexpr std::size_t kMostWorkspace = std::size_t{32} << 20;  // what NVIDIA recommends for sm_90
constexpr int kCandidates = 8;
// Partial sums are kept in the accumulator's type and added in a step of their own. The others add into c in place, in
// an order or a precision that we do not promise.
constexpr std::uint32_t kReductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

struct Library {
  SharedLibrary file{"ADJOINT_CUBLASLT_LIBRARY", fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR)};
  Imported<decltype(cublasLtGetVersion)> version{file, "cublasLtGetVersion"};
  Imported<decltype(cublasLtGetStatusName)> status_name{file, "cublasLtGetStatusName"};
  Imported<decltype(cublasLtCreate)> create{file, "cublasLtCreate"};
  Imported<decltype(cublasLtMatmulDescCreate)> create_desc{file, "cublasLtMatmulDescCreate"};
  Imported<decltype(cublasLtMatmulDescDestroy)> destroy_desc{file, "cublasLtMatmulDescDestroy"};
  Imported<decltype(cublasLtMatmulDescSetAttribute)> set_desc{file, "cublasLtMatmulDescSetAttribute"};
  Imported<decltype(cublasLtMatrixLayoutCreate)> create_layout{file, "cublasLtMatrixLayoutCreate"};
  Imported<decltype(cublasLtMatrixLayoutDestroy)> destroy_layout{file, "cublasLtMatrixLayoutDestroy"};
  Imported<decltype(cublasLtMatrixLayoutSetAttribute)> set_layout{file, "cublasLtMatrixLayoutSetAttribute"};
  Imported<decltype(cublasLtMatmulPreferenceCreate)> create_preference{file, "cublasLtMatmulPreferenceCreate"};
  Imported<decltype(cublasLtMatmulPreferenceDestroy)> destroy_preference{file, "cublasLtMatmulPreferenceDestroy"};
  Imported<decltype(cublasLtMatmulPreferenceSetAttribute)> set_preference{file, "cublasLtMatmulPreferenceSetAttribute"};
  Imported<decltype(cublasLtMatmulAlgoGetHeuristic)> heuristic{file, "cublasLtMatmulAlgoGetHeuristic"};
  Imported<decltype(cublasLtMatmulAlgoConfigGetAttribute)> algorithm{file, "cublasLtMatmulAlgoConfigGetAttribute"};
  Imported<decltype(cublasLtMatmul)> matmul{file, "cublasLtMatmul"};
  LibraryState state{file.file(), "", file.why_not()};

  Library() {
    if (!state.why_not.empty()) return;
    const std::size_t v = version.call();
    state.version = fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
    if (v / 10000 != CUBLAS_VER_MAJOR)
      state.why_not = fmt::format("{} is cuBLASLt {}; expected {}, for which this build was made", state.file,
                                  state.version, CUBLAS_VER_MAJOR);
  }

  static Library& get() {
    static auto& library = *new Library;  // never closed: tensors with static lifetime may come after any destructor
    return library;
  }
};

bool has_bias(const Matmul& call) { return call.bias != nullptr && !call.accumulate; }

std::string text(const Matmul& call) {
  return fmt::format("matmul of {} [{},{}] by [{},{}]{}{}{}{}", name(call.dtype), call.m, call.k, call.k, call.n,
                     call.batches == 1 ? "" : fmt::format(" times {}", call.batches),
                     has_bias(call)           ? " with bias"
                     : call.a_sums != nullptr ? " with the bias's gradient"
                                              : "",
                     call.gelu != nullptr ? " and GELU" : "", call.accumulate ? ", added" : "");
}

void check(const Matmul& call, const char* function, cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  throw LibraryFailure{fmt::format("{}: {} returned {} ({})", text(call), function,
                                   Library::get().status_name.call(status), static_cast<int>(status))};
}
template <class F, class... A>
void require(const Matmul& call, const Imported<F>& function, A... arguments) {
  check(call, function.name, function.call(arguments...));
}

/// What is done beside the product. The pointer of all of them is CUBLASLT_MATMUL_DESC_BIAS_POINTER. With a GELU its
/// result is cuBLASLt's, and our c is what it writes down on the way.
cublasLtEpilogue_t epilogue_of(const Matmul& call) {
  if (call.gelu != nullptr) return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
  if (call.a_sums != nullptr) return CUBLASLT_EPILOGUE_BGRADB;
  return has_bias(call) ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}
const void* epilogue_pointer(const Matmul& call) { return call.a_sums != nullptr ? call.a_sums : call.bias; }
void* result_of(const Matmul& call) { return call.gelu != nullptr ? call.gelu : call.c; }

/// Everything that decides which algorithm runs.
struct Key {
  DType dtype;
  bool transpose_a, transpose_b;
  cublasLtEpilogue_t epilogue;
  std::int64_t batches, m, n, k, lda, ldb, ldc, a_batch, b_batch, c_batch;
  std::uint32_t a_alignment, b_alignment, c_alignment, note_alignment;  // bytes
  auto operator<=>(const Key&) const = default;
};

/// Of every matrix of a batch; cuBLASLt assumes 256 unless told less.
std::uint32_t alignment(const void* data, std::int64_t batches, std::int64_t stride, DType dtype) {
  std::uintptr_t bits = reinterpret_cast<std::uintptr_t>(data) | 256;
  if (batches > 1) bits |= static_cast<std::uintptr_t>(stride) * size_of(dtype);
  return std::uint32_t{1} << std::countr_zero(bits);
}

Key key_of(const Matmul& call) {
  return {.dtype = call.dtype,
          .transpose_a = call.transpose_a,
          .transpose_b = call.transpose_b,
          .epilogue = epilogue_of(call),
          .batches = call.batches,
          .m = call.m,
          .n = call.n,
          .k = call.k,
          .lda = call.lda,
          .ldb = call.ldb,
          .ldc = call.ldc,
          .a_batch = call.a_batch,
          .b_batch = call.b_batch,
          .c_batch = call.c_batch,
          .a_alignment = alignment(call.a, call.batches, call.a_batch, call.dtype),
          .b_alignment = alignment(call.b, call.batches, call.b_batch, call.dtype),
          .c_alignment = alignment(result_of(call), call.batches, call.c_batch, call.dtype),
          .note_alignment = alignment(call.gelu != nullptr ? call.c : nullptr, 1, 0, call.dtype)};
}

struct Destroy {
  void operator()(cublasLtMatmulDesc_t p) const { Library::get().destroy_desc.call(p); }
  void operator()(cublasLtMatrixLayout_t p) const { Library::get().destroy_layout.call(p); }
  void operator()(cublasLtMatmulPreference_t p) const { Library::get().destroy_preference.call(p); }
};
template <class Pointer>
using Owned = std::unique_ptr<std::remove_pointer_t<Pointer>, Destroy>;

struct Plan {
  Owned<cublasLtMatmulDesc_t> desc;
  Owned<cublasLtMatrixLayout_t> left, right, result;
  cublasLtMatmulAlgo_t algorithm{};
  std::size_t workspace = 0;
  bool found = false;  // else our own kernel does it
};

struct Types {
  cudaDataType_t data;
  cublasComputeType_t compute;
  cudaDataType_t scale;
};
Types types_of(DType dtype) {
  if (dtype == DType::f64) return {CUDA_R_64F, CUBLAS_COMPUTE_64F, CUDA_R_64F};
  // CUBLAS_COMPUTE_32F is true f32: TF32 has a type of its own, which nobody asks for.
  return {dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUDA_R_32F};
}

/// cuBLASLt's matrices are column-major, so that ours are the transposed of what it sees: c' [n,m] = op(b)' op(a)'. Its
/// left operand is our b, read transposed where ours is; its bias runs along the rows of c', our n, and the sums of its
/// right operand over k are those of our a.
class Planner {
 public:
  Planner(const Matmul& call, cublasLtHandle_t handle) : call_(call), handle_(handle), types_(types_of(call.dtype)) {}

  Plan plan() {
    Plan p;
    cublasLtMatmulDesc_t desc = nullptr;
    require(call_, library_.create_desc, &desc, types_.compute, types_.scale);
    p.desc.reset(desc);
    set(library_.set_desc, desc, CUBLASLT_MATMUL_DESC_TRANSA, call_.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(library_.set_desc, desc, CUBLASLT_MATMUL_DESC_TRANSB, call_.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (const cublasLtEpilogue_t epilogue = epilogue_of(call_); epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
      set(library_.set_desc, desc, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
      set(library_.set_desc, desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, epilogue_pointer(call_));
      if (call_.gelu != nullptr) {
        set(library_.set_desc, desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, call_.c);
        set(library_.set_desc, desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, call_.ldc);
      }
    }
    p.left =
        layout(call_.transpose_b ? call_.k : call_.n, call_.transpose_b ? call_.n : call_.k, call_.ldb, call_.b_batch);
    p.right =
        layout(call_.transpose_a ? call_.m : call_.k, call_.transpose_a ? call_.k : call_.m, call_.lda, call_.a_batch);
    p.result = layout(call_.n, call_.m, call_.ldc, call_.c_batch);
    choose(p);
    return p;
  }

 private:
  template <class F, class Object, class Attribute, class Value>
  void set(const Imported<F>& function, Object object, Attribute attribute, const Value& value) const {
    require(call_, function, object, attribute, &value, sizeof value);
  }

  Owned<cublasLtMatrixLayout_t> layout(std::int64_t rows, std::int64_t columns, std::int64_t ld,
                                       std::int64_t stride) const {
    cublasLtMatrixLayout_t made = nullptr;
    require(call_, library_.create_layout, &made, types_.data, static_cast<std::uint64_t>(rows),
            static_cast<std::uint64_t>(columns), ld);
    Owned<cublasLtMatrixLayout_t> owned(made);
    if (call_.batches > 1) {
      set(library_.set_layout, made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(call_.batches));
      set(library_.set_layout, made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
    }
    return owned;
  }

  void choose(Plan& p) const {
    cublasLtMatmulPreference_t preference = nullptr;
    require(call_, library_.create_preference, &preference);
    const Owned<cublasLtMatmulPreference_t> owned(preference);
    const Key key = key_of(call_);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      set(library_.set_preference, preference, attribute, value);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kReductions);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c_alignment);

    cublasLtMatmulHeuristicResult_t results[kCandidates];
    int count = 0;
    const cublasStatus_t status =
        library_.heuristic.call(handle_, p.desc.get(), p.left.get(), p.right.get(), p.result.get(), p.result.get(),
                                preference, kCandidates, results, &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return;
    check(call_, library_.heuristic.name, status);
    for (int i = 0; i < count && !p.found; ++i) {
      const cublasLtMatmulHeuristicResult_t& result = results[i];
      if (result.state != CUBLAS_STATUS_SUCCESS || result.workspaceSize > kMostWorkspace) continue;
      std::uint32_t reduction = 0;
      std::size_t written = 0;
      require(call_, library_.algorithm, &result.algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction,
              sizeof reduction, &written);
      if ((reduction & ~kReductions) != 0) continue;
      p.algorithm = result.algo;
      p.workspace = result.workspaceSize;
      p.found = true;
    }
  }

  const Matmul& call_;
  const cublasLtHandle_t handle_;
  const Types types_;
  Library& library_ = Library::get();
};

/// A stream's handle and plans. They last as long as the process: a recorded step may come back to any of them, and
/// during the capture of one nothing can be created.
struct Context {
  std::mutex mutex;
  cublasLtHandle_t handle = nullptr;
  std::map<Key, Plan> plans;

  static Context& of(void* stream) {
    static auto& mutex = *new std::mutex;
    static auto& contexts = *new std::map<void*, Context>;
    const std::lock_guard lock(mutex);
    return contexts[stream];
  }

  /// Needs the lock.
  Plan& plan(const Matmul& call) {
    const Key key = key_of(call);
    const auto found = plans.find(key);
    if (found != plans.end()) return found->second;
    if (handle == nullptr) require(call, Library::get().create, &handle);
    return plans.emplace(key, Planner(call, handle).plan()).first->second;
  }
};

/// Whether c lies as cuBLASLt wants what it writes down before the GELU.
bool is_note(const Matmul& call) { return call.ldc % 8 == 0 && reinterpret_cast<std::uintptr_t>(call.c) % 16 == 0; }

bool expressible(const Matmul& call) {
  return call.batches > 0 && call.batches <= INT32_MAX && call.m > 0 && call.n > 0 && call.k > 0 &&
         call.row_lengths == nullptr && (call.gelu == nullptr || is_note(call));
}

// Where the library has no algorithm that gives the sums of op(a) or the GELU too, our own kernels do.
Matmul without_gelu(Matmul call) {
  call.gelu = nullptr;
  return call;
}
BiasGeluForward gelu_of(const Matmul& call) {
  return {.dtype = call.dtype,
          .rows = call.m,
          .width = call.n,
          .x = call.c,
          .bias = nullptr,
          .y = call.gelu,
          .tanh_form = true};
}
Matmul without_sums(Matmul call) {
  call.a_sums = nullptr;
  return call;
}
Reduce sums_of(const Matmul& call) {
  const View a{const_cast<void*>(call.a), call.dtype, 2, {call.k, call.m}, {call.lda, 1}};
  const View sums{call.a_sums, call.dtype, 2, {call.k, call.m}, {0, 1}};
  return {.kind = ReduceKind::sum, .x = a, .y = sums, .scratch = call.scratch};
}

std::size_t scratch_bytes(const At& at, const Matmul& call) {
  if (expressible(call)) {
    Context& context = Context::of(at.stream);
    const std::lock_guard lock(context.mutex);
    if (const Plan& plan = context.plan(call); plan.found) return plan.workspace;
  }
  if (call.gelu != nullptr) return scratch_bytes(at, without_gelu(call));
  if (call.a_sums != nullptr)
    return std::max(scratch_bytes(at, without_sums(call)), entry<At, Reduce>.scratch_bytes(at, sums_of(call)));
  return entry<At, Matmul>.scratch_bytes(at, call);
}

void run(const At& at, const Matmul& call) {
  if (expressible(call)) {
    Context& context = Context::of(at.stream);
    const std::lock_guard lock(context.mutex);
    if (const Plan& plan = context.plan(call); plan.found) {
      Library& library = Library::get();
      if (const void* const pointer = epilogue_pointer(call); pointer != nullptr)  // the plan is of the shape alone
        require(call, library.set_desc, plan.desc.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &pointer, sizeof pointer);
      if (call.gelu != nullptr)
        require(call, library.set_desc, plan.desc.get(), CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &call.c,
                sizeof call.c);
      const double wide[2] = {call.alpha, call.accumulate ? 1.0 : 0.0};
      const float narrow[2] = {static_cast<float>(wide[0]), static_cast<float>(wide[1])};
      const bool is_wide = call.dtype == DType::f64;
      const void* const alpha = is_wide ? static_cast<const void*>(&wide[0]) : &narrow[0];
      const void* const beta = is_wide ? static_cast<const void*>(&wide[1]) : &narrow[1];
      require(call, library.matmul, context.handle, plan.desc.get(), alpha, call.b, plan.left.get(), call.a,
              plan.right.get(), beta, result_of(call), plan.result.get(), result_of(call), plan.result.get(),
              &plan.algorithm, call.scratch, plan.workspace, static_cast<cudaStream_t>(at.stream));
      return;
    }
  }
  if (call.gelu != nullptr) {
    run(at, without_gelu(call));
    entry<At, BiasGeluForward>.run(at, gelu_of(call));
  } else if (call.a_sums != nullptr) {
    run(at, without_sums(call));
    entry<At, Reduce>.run(at, sums_of(call));
  } else {
    entry<At, Matmul>.run(at, call);
  }
}

[[maybe_unused]] const bool entered = (
    library_entry<At, Matmul> = {run, scratch_bytes},
    cublaslt = []() -> const LibraryState& { return Library::get().state; }, true);

}  // namespace
}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
