#pragma once
// The LSTM written plainly from its formulas, in double: what the kernels are held to.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace adjoint::lstm_reference {

/// A call of both directions, in the words of the contract.
struct Case {
  std::int64_t batch, time, input, hidden;
  std::vector<std::int32_t> lengths = {};  // empty: null
  bool reverse = false;
  bool bias = true, h0 = true, c0 = true;
  bool dy = true, dh_n = true, dc_n = true;
  bool time_major = false;
  bool half = false;          // y is the second half of rows that are 2H wide
  std::int64_t alphabet = 0;  // inputs are that many different rows; 0: all differ

  std::int64_t length(std::int64_t b) const { return lengths.empty() ? time : lengths[static_cast<std::size_t>(b)]; }
  std::int64_t x_at(std::int64_t b, std::int64_t t) const {
    return (time_major ? t * batch + b : b * time + t) * input;
  }
  std::int64_t y_at(std::int64_t b, std::int64_t t) const {
    return (time_major ? t * batch + b : b * time + t) * hidden * (half ? 2 : 1) + (half ? hidden : 0);
  }
  std::int64_t x_size() const { return batch * time * input; }
  std::int64_t y_size() const { return batch * time * hidden * (half ? 2 : 1); }

  std::string text() const {
    std::string s = "B" + std::to_string(batch) + " T" + std::to_string(time) + " I" + std::to_string(input) + " H" +
                    std::to_string(hidden) + " lengths";
    for (const std::int32_t n : lengths) s += " " + std::to_string(n);
    if (alphabet > 0) s += " alphabet " + std::to_string(alphabet);
    for (const auto& [set, name] : {std::pair{reverse, " reverse"},
                                    {!bias, " no bias"},
                                    {!h0, " no h0"},
                                    {!c0, " no c0"},
                                    {!dy, " no dy"},
                                    {!dh_n, " no dh_n"},
                                    {!dc_n, " no dc_n"},
                                    {time_major, " time-major"},
                                    {half, " half"}})
      if (set) s += name;
    return s;
  }
};

/// Arrays by the names of the contract.
template <class S>
using Arrays = std::map<std::string, std::vector<S>>;

inline std::vector<std::pair<std::string, std::int64_t>> input_sizes(const Case& c) {
  const std::int64_t gates = 4 * c.hidden, state = c.batch * c.hidden;
  return {{"x", c.x_size()}, {"w_ih", gates * c.input}, {"w_hh", gates * c.hidden},
          {"b_ih", gates},   {"b_hh", gates},           {"h0", state},
          {"c0", state},     {"dy", c.y_size()},        {"dh_n", state},
          {"dc_n", state}};
}
inline std::vector<std::pair<std::string, std::int64_t>> gradient_sizes(const Case& c) {
  const std::int64_t gates = 4 * c.hidden, state = c.batch * c.hidden;
  return {{"dx", c.x_size()}, {"dw_ih", gates * c.input}, {"dw_hh", gates * c.hidden},
          {"db_ih", gates},   {"db_hh", gates},           {"dh0", state},
          {"dc0", state}};
}

inline double sigmoid(double v) { return 1.0 / (1.0 + std::exp(-v)); }

/// The formulas of the contract and their derivatives, one example and one step after the other.
inline Arrays<double> reference(const Case& c, const Arrays<double>& in) {
  const std::int64_t I = c.input, H = c.hidden;
  const auto at = [](const std::vector<double>& a, std::int64_t i) { return a[static_cast<std::size_t>(i)]; };
  const std::vector<double>&x = in.at("x"), &w_ih = in.at("w_ih"), &w_hh = in.at("w_hh"), &b_ih = in.at("b_ih"),
        &b_hh = in.at("b_hh");
  Arrays<double> out;
  for (const auto& [name, size] : gradient_sizes(c)) out[name].assign(static_cast<std::size_t>(size), 0.0);
  out["y"].assign(static_cast<std::size_t>(c.y_size()), 0.0);
  out["h_n"].assign(static_cast<std::size_t>(c.batch * H), 0.0);
  out["c_n"] = out["h_n"];
  struct Step {
    std::vector<double> i, f, g, o, c, h;
  };
  for (std::int64_t b = 0; b < c.batch; ++b) {
    Step start{{}, {}, {}, {}, std::vector<double>(static_cast<std::size_t>(H)), {}};
    start.h = start.c;
    for (std::int64_t u = 0; u < H; ++u) {
      if (c.h0) start.h[static_cast<std::size_t>(u)] = at(in.at("h0"), b * H + u);
      if (c.c0) start.c[static_cast<std::size_t>(u)] = at(in.at("c0"), b * H + u);
    }
    std::vector<Step> steps{start};
    std::vector<std::int64_t> times{-1};
    for (std::int64_t k = 0; k < c.length(b); ++k) {
      const std::int64_t t = c.reverse ? c.length(b) - 1 - k : k;
      const Step& before = steps.back();
      Step now;
      for (std::int64_t u = 0; u < H; ++u) {
        double z[4];
        for (std::int64_t q = 0; q < 4; ++q) {
          const std::int64_t row = q * H + u;
          z[q] = c.bias ? at(b_ih, row) + at(b_hh, row) : 0.0;
          for (std::int64_t k2 = 0; k2 < I; ++k2) z[q] += at(x, c.x_at(b, t) + k2) * at(w_ih, row * I + k2);
          for (std::int64_t k2 = 0; k2 < H; ++k2) z[q] += at(before.h, k2) * at(w_hh, row * H + k2);
        }
        now.i.push_back(sigmoid(z[0]));
        now.f.push_back(sigmoid(z[1]));
        now.g.push_back(std::tanh(z[2]));
        now.o.push_back(sigmoid(z[3]));
        now.c.push_back(now.f.back() * at(before.c, u) + now.i.back() * now.g.back());
        now.h.push_back(now.o.back() * std::tanh(now.c.back()));
        out["y"][static_cast<std::size_t>(c.y_at(b, t) + u)] = now.h.back();
      }
      steps.push_back(now);
      times.push_back(t);
    }
    std::vector<double> dh(static_cast<std::size_t>(H)), dc = dh;
    for (std::int64_t u = 0; u < H; ++u) {
      const std::size_t i = static_cast<std::size_t>(b * H + u), v = static_cast<std::size_t>(u);
      out["h_n"][i] = steps.back().h[v];
      out["c_n"][i] = steps.back().c[v];
      dh[v] = c.dh_n ? in.at("dh_n")[i] : 0.0;
      dc[v] = c.dc_n ? in.at("dc_n")[i] : 0.0;
    }
    for (std::size_t s = steps.size() - 1; s > 0; --s) {
      const Step &now = steps[s], &before = steps[s - 1];
      const std::int64_t t = times[s];
      std::vector<double> dz(static_cast<std::size_t>(4 * H));
      for (std::int64_t u = 0; u < H; ++u) {
        const std::size_t v = static_cast<std::size_t>(u);
        if (c.dy) dh[v] += at(in.at("dy"), c.y_at(b, t) + u);
        const double tanh_c = std::tanh(now.c[v]);
        dc[v] += dh[v] * now.o[v] * (1.0 - tanh_c * tanh_c);
        dz[v] = dc[v] * now.g[v] * now.i[v] * (1.0 - now.i[v]);
        dz[static_cast<std::size_t>(H + u)] = dc[v] * before.c[v] * now.f[v] * (1.0 - now.f[v]);
        dz[static_cast<std::size_t>(2 * H + u)] = dc[v] * now.i[v] * (1.0 - now.g[v] * now.g[v]);
        dz[static_cast<std::size_t>(3 * H + u)] = dh[v] * tanh_c * now.o[v] * (1.0 - now.o[v]);
        dc[v] *= now.f[v];
      }
      std::fill(dh.begin(), dh.end(), 0.0);
      for (std::int64_t row = 0; row < 4 * H; ++row) {
        const double d = at(dz, row);
        double *dw_ih = out["dw_ih"].data() + row * I, *dw_hh = out["dw_hh"].data() + row * H;
        double* dx = out["dx"].data() + c.x_at(b, t);
        out["db_ih"][static_cast<std::size_t>(row)] += d;
        out["db_hh"][static_cast<std::size_t>(row)] += d;
        for (std::int64_t k = 0; k < I; ++k) {
          dw_ih[k] += d * at(x, c.x_at(b, t) + k);
          dx[k] += d * at(w_ih, row * I + k);
        }
        for (std::int64_t k = 0; k < H; ++k) {
          dw_hh[k] += d * at(before.h, k);
          dh[static_cast<std::size_t>(k)] += d * at(w_hh, row * H + k);
        }
      }
    }
    for (std::int64_t u = 0; u < H; ++u) {
      out["dh0"][static_cast<std::size_t>(b * H + u)] = dh[static_cast<std::size_t>(u)];
      out["dc0"][static_cast<std::size_t>(b * H + u)] = dc[static_cast<std::size_t>(u)];
    }
  }
  return out;
}

}  // namespace adjoint::lstm_reference
