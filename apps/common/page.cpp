#include "apps/common/page.h"

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

#include "apps/common/metrics.h"
#include "apps/pages/page_files.h"
#include "data/sha256.h"

namespace adjoint::app {
namespace {

/// Replaces each {{NAME}} of the template. What is put in is not looked at again.
std::string filled(std::string_view text, const std::vector<std::pair<std::string_view, std::string_view>>& values) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t open = text.find("{{", at);
    out += text.substr(at, open - at);
    if (open == std::string_view::npos) break;
    const std::size_t close = text.find("}}", open);
    const std::string_view name = text.substr(open + 2, close - open - 2);
    bool found = false;
    for (const auto& [key, value] : values) {
      if (key != name) continue;
      out += value;
      found = true;
    }
    if (!found) throw std::logic_error("page.html: no value for " + std::string(name));
    at = close + 2;
  }
  return out;
}

}  // namespace

std::string html_escaped(std::string_view text) {
  // JSON's writer replaces broken UTF-8; its reader then gives the repaired text back.
  const std::string valid =
      nlohmann::json::parse(nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))
          .get<std::string>();
  std::string out;
  for (const char c : valid) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default:
        (static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n') || c == 0x7f ? out += "\xef\xbf\xbd"
                                                                                      : out += c;
    }
  }
  return out;
}

std::string policy_hash(std::string_view content) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const std::string hex = data::sha256(content);
  std::string out;
  for (std::size_t i = 0; i < hex.size(); i += 6) {  // 24 bits are 6 hexadecimal digits or 4 of base 64
    const std::string part = hex.substr(i, 6);
    const unsigned long bits = std::stoul(part, nullptr, 16) << (4 * (6 - part.size()));
    for (int k = 3; k >= 0; --k) out += kDigits[bits >> (6 * k) & 63];
    if (part.size() < 6) out.back() = '=';  // 32 bytes leave 16 bits: three digits
  }
  return out;
}

std::string json_island(const nlohmann::ordered_json& data) {
  const std::string json = json_text(data);
  std::string out;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const std::string_view rest = std::string_view(json).substr(i);
    if (rest.starts_with("\\u0000")) {
      out += "\\ufffd";
      i += 5;
    } else if (json[i] == '\\') {  // with what it escapes, so that \\u0000 stays text
      out += rest.substr(0, 2);
      ++i;
    } else if (json[i] == '&') {
      out += "\\u0026";
    } else if (json[i] == '<') {
      out += "\\u003c";
    } else if (json[i] == '>') {
      out += "\\u003e";
    } else if (rest.starts_with("\xe2\x80\xa8") || rest.starts_with("\xe2\x80\xa9")) {
      out += rest[2] == '\xa8' ? "\\u2028" : "\\u2029";
      i += 2;
    } else {
      out += json[i];
    }
  }
  return out;
}

std::string page(std::string_view title, std::string_view body, std::string_view script,
                 const nlohmann::ordered_json& data) {
  const std::string whole_script = std::string(pages::common_js) + std::string(script);
  return filled(pages::page_html, {{"TITLE", html_escaped(title)},
                                   {"SCRIPT_HASH", policy_hash(whole_script)},
                                   {"STYLE_HASH", policy_hash(pages::page_css)},
                                   {"STYLE", pages::page_css},
                                   {"BODY", body},
                                   {"DATA", json_island(data)},
                                   {"SCRIPT", whole_script}});
}

}  // namespace adjoint::app
