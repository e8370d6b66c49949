#include "tests/simt/attention_cases.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "kernels/attention.h"
#include "kernels/base/philox.h"
#include "tests/simt/call.h"
#include "tests/simt/values.h"
#include "tests/support/by_library.h"

namespace adjoint::simt::self_test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity(), kNaN = std::numeric_limits<double>::quiet_NaN();

/// Elements in double, as the kernel's dtype holds them, and where (b, h, t, i) lies.
struct Array {
  std::vector<double> values;
  std::int64_t stride[4];

  double at(int b, int h, int t, int i) const {
    return values[static_cast<std::size_t>(b * stride[0] + h * stride[1] + t * stride[2] + i * stride[3])];
  }
};

template <class T>
double rounded(double x) {
  return static_cast<double>(static_cast<T>(static_cast<acc_t<T>>(x)));
}

/// Normally distributed [B, H, T, W]; NaN in gaps and in the positions past `lengths`, which nobody may use.
template <class T>
Array operand(const AttentionCase& c, int positions, int width, const std::vector<std::int32_t>& lengths, Layout layout,
              unsigned seed) {
  Array x;
  const std::int64_t row = width + (layout == Layout::interleaved ? c.gap : 0);
  if (layout == Layout::dense) {
    x.stride[0] = std::int64_t{c.heads} * positions * row, x.stride[1] = positions * row, x.stride[2] = row;
  } else {
    x.stride[0] = std::int64_t{positions} * c.heads * row, x.stride[1] = row, x.stride[2] = c.heads * row;
  }
  x.stride[3] = 1;
  const std::size_t rows = static_cast<std::size_t>(c.batch) * c.heads * positions;
  const std::vector<float> normal = normal_values(rows * (width - c.zero_columns), seed);
  x.values.assign(rows == 0 ? 0 : rows * row - (row - width), kNaN);  // ends with the last element
  std::size_t next = 0;
  for (int b = 0; b < c.batch; ++b)
    for (int h = 0; h < c.heads; ++h)
      for (int t = 0; t < positions; ++t)
        for (int i = 0; i < width; ++i) {
          const double value = i < width - c.zero_columns ? normal[next++] : 0.0;
          const bool counts = lengths.empty() || t < lengths[static_cast<std::size_t>(b)];
          x.values[static_cast<std::size_t>(b * x.stride[0] + h * x.stride[1] + t * x.stride[2] + i)] =
              counts ? rounded<T>(value) : kNaN;
        }
  return x;
}

template <class T>
Array bias_of(const AttentionCase& c) {
  Array x{{}, {0, 0, 0, 0}};
  const int Q = c.queries, K = c.keys;
  std::size_t n = static_cast<std::size_t>(c.batch) * c.heads * Q * K;
  if (c.bias == Bias::full) x.stride[0] = std::int64_t{c.heads} * Q * K, x.stride[1] = Q * K, x.stride[2] = K;
  if (c.bias == Bias::one_row) x.stride[0] = K, n = static_cast<std::size_t>(c.batch) * K;
  x.stride[3] = 1;
  if (c.bias == Bias::transposed) {
    x.stride[0] = std::int64_t{c.heads} * Q * K, x.stride[1] = Q * K, x.stride[2] = 1, x.stride[3] = Q;
  }
  for (float v : normal_values(n, 5)) x.values.push_back(rounded<T>(v));
  if (c.dead_row) {
    for (int b = 0; b < c.batch; ++b)
      for (int h = 0; h < c.heads; ++h)
        for (int s = 0; s < K; ++s)
          x.values[static_cast<std::size_t>(b * x.stride[0] + h * x.stride[1] + x.stride[2] + s * x.stride[3])] =
              -kInfinity;
  }
  return x;
}

double scale_of(const AttentionCase& c) { return c.scale != 0 ? c.scale : 1 / std::sqrt(std::max(c.width, 1)); }

struct Results {
  std::vector<double> y, log_sum_exp, weights, dq, dk, dv, dbias;
};

Results reference(const AttentionCase& c, const Array& q, const Array& k, const Array& v, const Array& bias,
                  const Array& dy, PhiloxState random) {
  const int B = c.batch, H = c.heads, Q = c.queries, K = c.keys, D = c.width, V = c.value_width;
  const std::size_t heads = static_cast<std::size_t>(B) * H;
  Results r{std::vector<double>(heads * Q * V), std::vector<double>(heads * Q, -kInfinity),
            std::vector<double>(heads * Q * K), std::vector<double>(heads * Q * D),
            std::vector<double>(heads * K * D), std::vector<double>(heads * K * V),
            std::vector<double>(heads * Q * K)};
  std::vector<double> p(K), dp(K), keep(K);
  for (int b = 0; b < B; ++b)
    for (int h = 0; h < H; ++h)
      for (int t = 0; t < Q; ++t) {
        const std::size_t head = static_cast<std::size_t>(b) * H + h, row = head * Q + t;
        if (!c.query_lengths.empty() && t >= c.query_lengths[b]) continue;
        const int keys = c.key_lengths.empty() ? K : c.key_lengths[b];
        const int seen = c.causal ? std::clamp(t + 1 + K - Q, 0, keys) : keys;
        double highest = -kInfinity, total = 0;
        for (int s = 0; s < seen; ++s) {
          p[s] = 0;
          for (int i = 0; i < D; ++i) p[s] += q.at(b, h, t, i) * k.at(b, h, s, i);
          p[s] = p[s] * scale_of(c) + (c.bias == Bias::none ? 0.0 : bias.at(b, h, t, s));
          highest = std::max(highest, p[s]);
        }
        if (highest == -kInfinity) continue;
        for (int s = 0; s < seen; ++s) total += p[s] = std::exp(p[s] - highest);
        r.log_sum_exp[row] = highest + std::log(total);
        double delta = 0;
        for (int s = 0; s < seen; ++s) {
          p[s] /= total;
          r.weights[row * K + s] = p[s];
          const std::uint32_t word = philox_word(random.key, random.counter, row * K + s);
          keep[s] = c.dropout > 0 ? (philox_uniform(word) >= c.dropout ? 1 / (1 - c.dropout) : 0) : 1;
          dp[s] = 0;
          for (int i = 0; i < V; ++i) {
            r.y[row * V + i] += p[s] * keep[s] * v.at(b, h, s, i);
            r.dv[(head * K + s) * V + i] += p[s] * keep[s] * dy.at(b, h, t, i);
            dp[s] += dy.at(b, h, t, i) * v.at(b, h, s, i);
          }
          dp[s] *= keep[s];
          delta += p[s] * dp[s];
        }
        for (int s = 0; s < seen; ++s) {
          const double ds = p[s] * (dp[s] - delta);
          r.dbias[row * K + s] = ds;
          for (int i = 0; i < D; ++i) {
            r.dq[row * D + i] += scale_of(c) * ds * k.at(b, h, s, i);
            r.dk[(head * K + s) * D + i] += scale_of(c) * ds * q.at(b, h, t, i);
          }
        }
      }
  return r;
}

template <class T>
std::vector<T> stored(const std::vector<double>& values) {
  std::vector<T> out;
  out.reserve(values.size());
  for (double v : values) out.push_back(static_cast<T>(static_cast<acc_t<T>>(v)));
  return out;
}

/// A gradient's buffer: poison, or numbers to add to; missing if not wanted.
template <class T>
struct Gradient {
  std::unique_ptr<Buffer<T>> buffer;
  std::vector<double> before;

  Gradient(const AttentionCase& c, char letter, std::size_t n, const char* name, unsigned seed) : before(n, 0.0) {
    if (c.gradients.find(letter) == std::string::npos) return;
    if (testing::by_library && letter == 'b' && c.bias == Bias::none) return;
    if (!c.accumulate) {
      buffer = std::make_unique<Buffer<T>>(n, name);
      return;
    }
    const std::vector<float> values = normal_values(n, seed);
    for (std::size_t i = 0; i < n; ++i) before[i] = rounded<T>(values[i]);
    buffer = std::make_unique<Buffer<T>>(stored<T>(before), name);
  }
  GradOut out(const AttentionCase& c) const {
    return buffer == nullptr ? GradOut{} : GradOut{buffer->get(), c.accumulate};
  }
};

class Comparison {
 public:
  explicit Comparison(double tolerance) : tolerance_(tolerance) {}

  template <class T>
  void add(const char* what, const Buffer<T>& got, const std::vector<double>& want) {
    const std::vector<T> values = got.host();
    double size = 1;
    for (double w : want) {
      if (std::isfinite(w)) size = std::max(size, std::abs(w));
    }
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double value = static_cast<double>(values[i]);
      double error = value == want[i] ? 0.0 : std::abs(value - want[i]) / size;
      if (std::isnan(error)) error = kInfinity;
      largest_ = std::max(largest_, error);
      if (!(error <= tolerance_) && text_.empty()) {
        text_ = std::string(what) + "[" + std::to_string(i) + "] is " + std::to_string(value) + ", expected " +
                std::to_string(want[i]) + "; " + std::to_string(error / tolerance_) + " times the tolerance";
      }
    }
  }
  template <class T>
  void add(const char* what, const Gradient<T>& got, std::vector<double> want) {
    if (got.buffer == nullptr) return;
    for (std::size_t i = 0; i < want.size(); ++i) want[i] += got.before[i];
    add(what, *got.buffer, want);
  }
  const std::string& text() const { return text_; }
  double largest() const { return largest_; }

 private:
  double tolerance_, largest_ = 0;
  std::string text_;
};

template <class T>
Comparison compare(const AttentionCase& c) {
  using A = acc_t<T>;
  const int B = c.batch, H = c.heads, Q = c.queries, K = c.keys, D = c.width, V = c.value_width;
  const std::size_t heads = static_cast<std::size_t>(B) * H;
  const Array q = operand<T>(c, Q, D, c.query_lengths, c.layout, 1),
              k = operand<T>(c, K, D, c.key_lengths, c.layout, 2), v = operand<T>(c, K, V, c.key_lengths, c.layout, 3),
              dy = operand<T>(c, Q, V, c.query_lengths, Layout::dense, 4), bias = bias_of<T>(c);
  const PhiloxState state{.key = 7, .counter = 11};

  Buffer<T> dev_q(stored<T>(q.values), "q"), dev_k(stored<T>(k.values), "k"), dev_v(stored<T>(v.values), "v");
  Buffer<T> dev_bias(stored<T>(bias.values), "bias"), dev_dy(stored<T>(dy.values), "dy");
  Buffer<std::int32_t> key_lengths(c.key_lengths, "key_lengths"), query_lengths(c.query_lengths, "query_lengths");
  Buffer<PhiloxState> random(std::vector<PhiloxState>{state}, "random");
  Buffer<T> y(heads * Q * V, "y"), weights(heads * Q * K, "weights");
  Buffer<A> log_sum_exp(heads * Q, "log_sum_exp");
  Gradient<T> dq(c, 'q', heads * Q * D, "dq", 21), dk(c, 'k', heads * K * D, "dk", 22),
      dv(c, 'v', heads * K * V, "dv", 23), dbias(c, 'b', heads * Q * K, "dbias", 24);

  AttentionShape shape{.dtype = dtype_of<T>,
                       .batch = B,
                       .heads = H,
                       .queries = Q,
                       .keys = K,
                       .width = D,
                       .value_width = V,
                       .q_stride = {q.stride[0], q.stride[1], q.stride[2]},
                       .k_stride = {k.stride[0], k.stride[1], k.stride[2]},
                       .v_stride = {v.stride[0], v.stride[1], v.stride[2]},
                       .scale = scale_of(c),
                       .causal = c.causal,
                       .key_lengths = c.key_lengths.empty() ? nullptr : key_lengths.get(),
                       .query_lengths = c.query_lengths.empty() ? nullptr : query_lengths.get(),
                       .dropout = c.dropout,
                       .random = c.dropout > 0 ? random.get() : nullptr};
  if (c.bias != Bias::none) {
    shape.bias = dev_bias.get();
    std::copy(bias.stride, bias.stride + 4, shape.bias_stride);
  }
  const AttentionShape weights_shape = shape;
  shape.by_library = testing::by_library;
  AttentionForward forward{
      .shape = shape, .q = dev_q, .k = dev_k, .v = dev_v, .y = y, .log_sum_exp = log_sum_exp, .saved = nullptr};
  const std::size_t saved_bytes =
      testing::by_library ? library_entry<At, AttentionForward>.saved_bytes(At{}, forward) : 0;
  Buffer<unsigned char> saved(saved_bytes, "saved");
  if (saved_bytes != 0) {
    run_call(forward);  // as where no backward follows
    forward.saved = saved;
  }
  run_call(forward);
  run_call(AttentionBackward{.shape = shape,
                             .q = dev_q,
                             .k = dev_k,
                             .v = dev_v,
                             .y = y,
                             .log_sum_exp = log_sum_exp,
                             .saved = forward.saved,
                             .dy = dev_dy,
                             .dq = dq.out(c),
                             .dk = dk.out(c),
                             .dv = dv.out(c),
                             .dbias = dbias.out(c)});
  run_call(AttentionWeights{.shape = weights_shape, .q = dev_q, .k = dev_k, .weights = weights});

  // Relative to the largest number of its kind, since ds = P (dP - delta) cancels. f64 and f32: a few dozen roundings,
  // of sums of up to 130 products. bf16 rounds y, and P and ds before their products with v, k and q: 2^-9 each, in
  // sums of which some ten terms count.
  const double tolerance = std::is_same_v<T, double> ? 1e-14 : std::is_same_v<T, float> ? 3e-6 : 0.015;
  const Results want = reference(c, q, k, v, bias, dy, state);
  Comparison comparison(tolerance);
  comparison.add("y", y, want.y);
  if (saved_bytes == 0) comparison.add("log_sum_exp", log_sum_exp, want.log_sum_exp);
  comparison.add("weights", weights, want.weights);
  comparison.add("dq", dq, want.dq);
  comparison.add("dk", dk, want.dk);
  comparison.add("dv", dv, want.dv);
  comparison.add("dbias", dbias, want.dbias);
  return comparison;
}

Comparison compare(const AttentionCase& c, DType dtype) {
  return visit_float(dtype, [&](auto type) { return compare<typename decltype(type)::type>(c); });
}

}  // namespace

std::string attention_difference(const AttentionCase& c, DType dtype) { return compare(c, dtype).text(); }

double attention_error(const AttentionCase& c, DType dtype) { return compare(c, dtype).largest(); }

}  // namespace adjoint::simt::self_test
