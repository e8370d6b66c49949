#pragma once
// Attention weights for people and for other programs: adjoint.attention version 1, BertViz, a page, text.

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "apps/common/options.h"

namespace adjoint::app {

/// Weights of one kind. Rows are the left tokens, which look; columns the right ones, which are looked at.
struct AttentionView {
  std::string name;  // Encoder, Decoder or Cross
  std::vector<std::string> left, right;
  std::size_t layers = 0, heads = 0;
  std::vector<double> weights;  // [layers, heads, left, right]
};

struct AttentionExample {
  std::string text, predicted;
  std::optional<double> probability;
  std::vector<AttentionView> views;
};

/// adjoint.attention version 1. Throws E-NUM-002 for weights that are not finite or rows that do not sum to 1 within
/// 1e-4, E-DATA-011 for more than 512 tokens.
nlohmann::ordered_json attention_json(const std::vector<AttentionExample>& examples,
                                      const std::string& checkpoint_sha256);
/// The params object of BertViz's head view, for the first example.
nlohmann::ordered_json bertviz_params(const std::vector<AttentionExample>& examples);
std::string attention_page(const nlohmann::ordered_json& attention);

/// --format and --out.
void add_attention_output(OptionTable& table);
/// Writes the examples as --format says: html into --out, `page` if that is not given; the others into --out or to
/// stdout.
void write_attention(const Settings& settings, const std::vector<AttentionExample>& examples,
                     const std::string& model_file, const std::string& page);

}  // namespace adjoint::app
