// Attention by cuDNN's multi-head attention with its projections left out: one "head" for cuDNN, whose batch is our
// batch times our heads. kernels/cuda/attention_arrangement.h says how lengths and strides are put before it; causality
// is its window of keys. True f32 (no TF32).

#include <algorithm>
#include <compare>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/attention.h"
#include "kernels/copy.h"
#include "kernels/cuda/attention_arrangement.h"
#include "kernels/cuda/cudnn.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

using dnn::Library;
using dnn::Owned;
using dnn::Pieces;
using dnn::require;

/// What a masked key adds to its product with a query: far below any score, also times a scale that is not extreme, and
/// far from overflow.
constexpr double kUnseen = -1e30;

std::string text(const AttentionShape& s) {
  return fmt::format("attention of {} [{},{},{},{}] over {} keys to {} wide", name(s.dtype), s.batch, s.heads,
                     s.queries, s.width, s.keys, s.value_width);
}

/// Whether cuDNN can do it; else our own kernels do, forward and backward alike.
bool expressible(const AttentionShape& s) {
  const auto fits = [](std::int64_t extent) { return extent > 0 && extent < INT32_MAX; };
  return (s.dtype == DType::f32 || s.dtype == DType::f64) && s.bias == nullptr && s.dropout == 0 && s.scale > 1e-6 &&
         s.scale < 1e6 && fits(s.batch) && fits(s.heads) && fits(s.batch * s.heads) && fits(s.queries) &&
         fits(s.keys) && fits(s.width) && fits(s.value_width);
}

/// What decides the plan.
struct Key {
  void* stream;
  DType dtype;
  std::int64_t batch, queries, keys, width, value_width;  // batch: with the heads; width: with the marks
  double scale;
  bool causal;
  auto operator<=>(const Key&) const = default;
};

/// Whether rows carry the mark that tells keys that are seen from others.
bool marked(const AttentionShape& s) { return s.key_lengths != nullptr; }

Key key_of(const At& at, const AttentionShape& s) {
  return {at.stream,     s.dtype, s.batch * s.heads, s.queries, s.keys, s.width + (marked(s) ? 1 : 0),
          s.value_width, s.scale, s.causal};
}

/// Descriptors, windows and sizes.
struct Plan {
  cudnnHandle_t handle = nullptr;
  Owned<cudnnAttnDescriptor_t> attention;
  Owned<cudnnSeqDataDescriptor_t> q, k, v, y;
  std::vector<int> first, end;  // of each query's keys: from the host, also when a recorded step is run again
  std::size_t training_work = 0, reserve = 0, inference_work = 0;  // bytes

  Plan(const std::string& call, const Key& key) : handle(dnn::handle_of(call, key.stream)) {
    Library& lib = Library::get();
    const cudnnDataType_t type = dnn::type_of(key.dtype);
    const auto batch = static_cast<int>(key.batch), queries = static_cast<int>(key.queries),
               keys = static_cast<int>(key.keys), width = static_cast<int>(key.width),
               value_width = static_cast<int>(key.value_width);
    attention = dnn::made(call, lib.cudnnCreateAttnDescriptor);
    require(call, lib.cudnnSetAttnDescriptor, attention.get(),
            unsigned{CUDNN_ATTN_QUERYMAP_ALL_TO_ONE | CUDNN_ATTN_DISABLE_PROJ_BIASES}, 1, key.scale, type, type,
            key.dtype == DType::f32 ? CUDNN_FMA_MATH : CUDNN_DEFAULT_MATH, nullptr, nullptr, width, width, value_width,
            0, 0, 0, 0, queries, keys, batch, 1);
    for (auto& [data, time, wide] : {std::tuple{&q, queries, width}, std::tuple{&k, keys, width},
                                     std::tuple{&v, keys, value_width}, std::tuple{&y, queries, value_width}}) {
      *data = dnn::made(call, lib.cudnnCreateSeqDataDescriptor);
      int extents[CUDNN_SEQDATA_DIM_COUNT];
      extents[CUDNN_SEQDATA_BATCH_DIM] = batch;
      extents[CUDNN_SEQDATA_BEAM_DIM] = 1;
      extents[CUDNN_SEQDATA_TIME_DIM] = time;
      extents[CUDNN_SEQDATA_VECT_DIM] = wide;
      const cudnnSeqDataAxis_t axes[] = {CUDNN_SEQDATA_BATCH_DIM, CUDNN_SEQDATA_BEAM_DIM, CUDNN_SEQDATA_TIME_DIM,
                                         CUDNN_SEQDATA_VECT_DIM};
      // Every row is full: what is padding is the device's to know, and may change from call to call.
      const std::vector<int> lengths(static_cast<std::size_t>(batch), time);
      require(call, lib.cudnnSetSeqDataDescriptor, data->get(), type, CUDNN_SEQDATA_DIM_COUNT, extents, axes,
              lengths.size(), lengths.data(), nullptr);
    }
    first.assign(static_cast<std::size_t>(queries), 0);
    // A query that sees no key gets the first one: its output is made 0 afterwards.
    for (int t = 0; t < queries; ++t) end.push_back(key.causal ? std::clamp(t + 1 + keys - queries, 1, keys) : keys);
    std::size_t weights = 0;  // none without projections
    require(call, lib.cudnnGetMultiHeadAttnBuffers, handle, attention.get(), &weights, &training_work, &reserve);
    require(call, lib.cudnnGetMultiHeadAttnBuffers, handle, attention.get(), &weights, &inference_work, nullptr);
  }
};

/// What both directions need: where operands lie for cuDNN, and how they get there.
class Heads {
 protected:
  Heads(const At& at, const AttentionShape& shape, void* scratch)
      : at_(at),
        s_(shape),
        text_(text(shape)),
        plan_(dnn::plan_of<Plan>(text_, key_of(at, shape))),
        width_(s_.width + (marked(s_) ? 1 : 0)),
        first_(s_.causal ? std::max<std::int64_t>(s_.queries - s_.keys, 0) : 0),
        queries_idle_(s_.query_lengths != nullptr || s_.key_lengths != nullptr || first_ > 0),
        q_as_it_is_(!queries_idle_ && dense(s_.q_stride, s_.queries, s_.width)),
        k_as_it_is_(s_.key_lengths == nullptr && dense(s_.k_stride, s_.keys, s_.width)),
        v_as_it_is_(s_.key_lengths == nullptr && dense(s_.v_stride, s_.keys, s_.value_width)),
        pieces_(scratch),
        query_counts_(static_cast<int*>(pieces_.take(static_cast<std::size_t>(rows()) * sizeof(int)))),
        key_counts_(static_cast<int*>(pieces_.take(static_cast<std::size_t>(rows()) * sizeof(int)))),
        q_(q_as_it_is_ ? nullptr : take(s_.queries, width_)),
        k_(k_as_it_is_ ? nullptr : take(s_.keys, width_)),
        v_(v_as_it_is_ ? nullptr : take(s_.keys, s_.value_width)) {}

  std::int64_t rows() const { return s_.batch * s_.heads; }
  void* take(std::int64_t positions, std::int64_t width) {
    return pieces_.take(static_cast<std::size_t>(rows() * positions * width) * size_of(s_.dtype));
  }
  bool dense(const std::int64_t stride[3], std::int64_t positions, std::int64_t width) const {
    return stride[2] == width && stride[1] == positions * width && stride[0] == s_.heads * positions * width;
  }
  template <class Call>
  void call(const Call& it) const {
    entry<At, Call>.run(at_, it);
  }

  /// What takes no part becomes zeros; `width` of q or k may be followed by a mark.
  void arrange(ArrangeHeads it, const void* from, const std::int64_t stride[3], std::int64_t width, void* to,
               bool marks) const {
    it.dtype = s_.dtype, it.batch = s_.batch, it.heads = s_.heads, it.width = width;
    it.from = from, it.to = to, it.marked = marks;
    std::copy(stride, stride + 3, it.from_stride);
    call(it);
  }
  void arrange_queries(const void* from, const std::int64_t stride[3], std::int64_t width, void* to,
                       bool marks = false) const {
    arrange(
        {.positions = s_.queries, .lengths = s_.query_lengths, .needed = s_.key_lengths, .first = first_, .within = 1},
        from, stride, width, to, marks);
  }
  /// The same for an array [B,H,Q,V], which is dense.
  void arrange_results(const void* from, void* to) const {
    const std::int64_t row = s_.value_width, stride[] = {s_.heads * s_.queries * row, s_.queries * row, row};
    arrange_queries(from, stride, row, to);
  }
  void arrange_keys(const void* from, const std::int64_t stride[3], std::int64_t width, void* to, bool marks) const {
    arrange({.positions = s_.keys, .lengths = s_.key_lengths, .beyond = kUnseen}, from, stride, width, to, marks);
  }
  void arrange_operands(const void* q, const void* k, const void* v) const {
    for (auto& [counts, count] : {std::pair{query_counts_, s_.queries}, std::pair{key_counts_, s_.keys}})
      call(Fill{.to = View::flat(counts, DType::i32, rows()), .value = static_cast<double>(count)});
    if (!q_as_it_is_) arrange_queries(q, s_.q_stride, s_.width, q_, marked(s_));
    if (!k_as_it_is_) arrange_keys(k, s_.k_stride, s_.width, k_, marked(s_));
    if (!v_as_it_is_) arrange_keys(v, s_.v_stride, s_.value_width, v_, false);
  }

  const At& at_;
  const AttentionShape& s_;
  const std::string text_;
  const Plan& plan_;
  const std::int64_t width_;  // of q and k for cuDNN
  const std::int64_t first_;  // query that sees a key
  const bool queries_idle_;   // whether there may be queries that take no part
  const bool q_as_it_is_, k_as_it_is_, v_as_it_is_;
  Pieces pieces_;
  int *const query_counts_, *const key_counts_;  // the lengths that cuDNN wants on the device beside the host's
  void *const q_, *const k_, *const v_;
};

/// An empty space is none.
void* space(void* p, std::size_t bytes) { return bytes == 0 ? nullptr : p; }

class Forward : Heads {
 public:
  Forward(const At& at, const AttentionForward& call)
      : Heads(at, call.shape, call.scratch),
        call_(call),
        work_bytes_(call.saved != nullptr ? plan_.training_work : plan_.inference_work),
        work_(pieces_.take(work_bytes_)) {}

  std::size_t scratch_bytes() const { return pieces_.taken(); }

  void run() const {
    arrange_operands(call_.q, call_.k, call_.v);
    require(text_, Library::get().cudnnMultiHeadAttnForward, plan_.handle, plan_.attention.get(), -1,
            plan_.first.data(), plan_.end.data(), query_counts_, key_counts_, plan_.q.get(), q_as_it_is_ ? call_.q : q_,
            nullptr, plan_.k.get(), k_as_it_is_ ? call_.k : k_, plan_.v.get(), v_as_it_is_ ? call_.v : v_,
            plan_.y.get(), call_.y, std::size_t{0}, nullptr, work_bytes_, space(work_, work_bytes_),
            call_.saved != nullptr ? plan_.reserve : std::size_t{0}, call_.saved);
    if (queries_idle_) arrange_results(call_.y, call_.y);
  }

 private:
  const AttentionForward& call_;
  const std::size_t work_bytes_;
  void* const work_;
};

class Backward : Heads {
 public:
  Backward(const At& at, const AttentionBackward& call)
      : Heads(at, call.shape, call.scratch),
        call_(call),
        work_(pieces_.take(plan_.training_work)),
        reserve_(pieces_.take(plan_.reserve)),
        dy_(queries_idle_ ? take(s_.queries, s_.value_width) : nullptr),
        dq_(in_place(call.dq, width_ == s_.width) ? call.dq.data : take(s_.queries, width_)),
        dk_(in_place(call.dk, width_ == s_.width) ? call.dk.data : take(s_.keys, width_)),
        dv_(in_place(call.dv, true) ? call.dv.data : take(s_.keys, s_.value_width)) {}

  std::size_t scratch_bytes() const { return pieces_.taken(); }

  void run() const {
    arrange_operands(call_.q, call_.k, call_.v);
    if (queries_idle_) arrange_results(call_.dy, dy_);
    // cuDNN writes into it, and a second backward starts from the same.
    const auto flat = [&](void* p) { return View::flat(p, DType::u8, static_cast<std::int64_t>(plan_.reserve)); };
    call(Copy{.from = flat(const_cast<void*>(call_.saved)), .to = flat(reserve_)});
    require(text_, Library::get().cudnnMultiHeadAttnBackwardData, plan_.handle, plan_.attention.get(),
            plan_.first.data(), plan_.end.data(), query_counts_, key_counts_, plan_.y.get(),
            queries_idle_ ? dy_ : call_.dy, plan_.q.get(), dq_, q_as_it_is_ ? call_.q : q_, plan_.k.get(), dk_,
            k_as_it_is_ ? call_.k : k_, plan_.v.get(), dv_, v_as_it_is_ ? call_.v : v_, std::size_t{0}, nullptr,
            plan_.training_work, space(work_, plan_.training_work), plan_.reserve, reserve_);
    bring_back(dq_, call_.dq, s_.queries, s_.width, width_);
    bring_back(dk_, call_.dk, s_.keys, s_.width, width_);
    bring_back(dv_, call_.dv, s_.keys, s_.value_width, s_.value_width);
  }

 private:
  /// Whether cuDNN may write a gradient where it is wanted. It writes all of them, wanted or not.
  static bool in_place(const GradOut& gradient, bool same_width) {
    return gradient.data != nullptr && !gradient.accumulate && same_width;
  }
  void bring_back(void* from, const GradOut& to, std::int64_t positions, std::int64_t width,
                  std::int64_t from_width) const {
    if (to.data == nullptr || to.data == from) return;
    View source = View::flat(from, s_.dtype, rows() * positions * width), target = source;
    source.rank = target.rank = 2;
    source.shape[0] = target.shape[0] = rows() * positions;
    source.shape[1] = target.shape[1] = width;
    source.stride[0] = from_width, target.stride[0] = width;
    source.stride[1] = target.stride[1] = 1;
    target.data = to.data;
    call(Copy{.from = source, .to = target, .accumulate = to.accumulate});
  }

  const AttentionBackward& call_;
  void *const work_, *const reserve_, *const dy_, *const dq_, *const dk_, *const dv_;
};

std::size_t scratch_bytes(const At& at, const AttentionForward& call) {
  return expressible(call.shape) ? Forward(at, call).scratch_bytes()
                                 : entry<At, AttentionForward>.scratch_bytes(at, call);
}
std::size_t scratch_bytes(const At& at, const AttentionBackward& call) {
  return expressible(call.shape) ? Backward(at, call).scratch_bytes()
                                 : entry<At, AttentionBackward>.scratch_bytes(at, call);
}
std::size_t saved_bytes(const At& at, const AttentionForward& call) {
  return expressible(call.shape) ? dnn::plan_of<Plan>(text(call.shape), key_of(at, call.shape)).reserve : 0;
}
void run(const At& at, const AttentionForward& call) {
  expressible(call.shape) ? Forward(at, call).run() : entry<At, AttentionForward>.run(at, call);
}
void run(const At& at, const AttentionBackward& call) {
  expressible(call.shape) ? Backward(at, call).run() : entry<At, AttentionBackward>.run(at, call);
}

[[maybe_unused]] const bool entered = (library_entry<At, AttentionForward> = {run, scratch_bytes, saved_bytes},
                                       library_entry<At, AttentionBackward> = {run, scratch_bytes, nullptr}, true);

}  // namespace
}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
