#pragma once
// The one writer of pages for browsers. A page is a constant frame, style and script (apps/common/pages), and data: the
// data can neither become markup nor run, and the page makes no request of any kind.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace adjoint::app {

/// Text for an element or an attribute. Control bytes and broken UTF-8 become U+FFFD.
std::string html_escaped(std::string_view text);
/// SHA-256 as a content security policy spells it.
std::string policy_hash(std::string_view content);
/// JSON for a <script type="application/json">, with & < > U+2028 U+2029 as escapes and NUL as U+FFFD.
std::string json_island(const nlohmann::ordered_json& data);

/// The page whose body is `body` and whose script is `script` after the common one; both are constants.
std::string page(std::string_view title, std::string_view body, std::string_view script,
                 const nlohmann::ordered_json& data);

}  // namespace adjoint::app
