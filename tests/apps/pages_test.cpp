// Pages as a browser shows them. Every test that needs Chromium skips aloud where there is none.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <sstream>

#include "apps/common/attention_page.h"
#include "apps/common/page.h"
#include "apps/common/report_page.h"
#include "tests/apps/common_support.h"
#include "tests/support/paths.h"

namespace adjoint::app {
namespace {

using Json = nlohmann::ordered_json;

std::string chromium() {
  for (const char* name : {"chromium", "chromium-browser", "google-chrome"})
    if (std::system((std::string("command -v ") + name + " > /dev/null 2>&1").c_str()) == 0) return name;
  return "";
}

/// The document after its scripts ran, and what the console said.
struct Shown {
  std::string dom, console;
};

class PageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    browser_ = chromium();
    if (browser_.empty()) GTEST_SKIP() << "no chromium here: apt-get install chromium to run this test";
  }
  Shown show(const std::string& html) const {
    spill(folder_.file("page.html"), html);
    const std::string command = fmt::format(
        "timeout 120 {} --headless --no-sandbox --disable-gpu --disable-background-networking --user-data-dir={} "
        "--enable-logging=stderr --v=0 --virtual-time-budget=20000 --dump-dom file://{} > {} 2> {}",
        browser_, folder_.file("profile"), folder_.file("page.html"), folder_.file("dom"), folder_.file("log"));
    EXPECT_EQ(std::system(command.c_str()), 0) << slurp(folder_.file("log"));
    std::string console;
    std::istringstream lines(slurp(folder_.file("log")));
    for (std::string line; std::getline(lines, line);)
      if (line.find("CONSOLE") != std::string::npos) console += line + "\n";
    return {slurp(folder_.file("dom")), console};
  }

  std::string browser_;
  TempFolder folder_;
};

int count(const std::string& text, const std::string& pattern) {
  const std::regex expression(pattern);
  return static_cast<int>(std::distance(std::sregex_iterator(text.begin(), text.end(), expression), {}));
}

const std::vector<std::string>& payloads() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> list = {"</script><img src=x onerror=alert(1)>",
                                     "<script>alert(1)</script>",
                                     "<img src=x onerror=alert(1)>",
                                     "\"><svg onload=alert(1)>",
                                     "'><svg/onload=alert(1)>",
                                     "<!--<script>",
                                     "--><script>alert(1)</script>",
                                     "<![CDATA[<script>alert(1)</script>]]>",
                                     "javascript:alert(1)",
                                     "<a href=javascript:alert(1)>x</a>",
                                     "<iframe srcdoc='<script>alert(1)</script>'>",
                                     "<object data=javascript:alert(1)>",
                                     "<embed src=x>",
                                     "<base href=//x/>",
                                     "<meta http-equiv=refresh content=0;url=javascript:alert(1)>",
                                     "<link rel=stylesheet href=x>",
                                     "<style>*{display:none}</style>",
                                     "</style><script>alert(1)</script>",
                                     "</title><script>alert(1)</script>",
                                     "<details open ontoggle=alert(1)>",
                                     "<video><source onerror=alert(1)>",
                                     "<audio src onerror=alert(1)>",
                                     "<body onload=alert(1)>",
                                     "<input autofocus onfocus=alert(1)>",
                                     "<select autofocus onfocus=alert(1)>",
                                     "<marquee onstart=alert(1)>",
                                     "<math><mi xlink:href=javascript:alert(1)>",
                                     "<form action=javascript:alert(1)>",
                                     "<button formaction=javascript:alert(1)>",
                                     "<textarea></textarea><script>alert(1)</script>",
                                     "<xmp><p>",
                                     "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
                                     "<template><script>alert(1)</script>",
                                     "<svg><script>alert(1)</script>",
                                     "<svg><animate onbegin=alert(1) attributeName=x>",
                                     "<svg><foreignObject><p>",
                                     "&lt;script&gt;alert(1)&lt;/script&gt;",
                                     "&#60;script&#62;",
                                     "&amp;&lt;",
                                     "\\u003cscript\\u003e",
                                     "\\u0000",
                                     "\\\"</script>",
                                     "\\",
                                     "\"",
                                     "'",
                                     "`${alert(1)}`",
                                     "{{DATA}}",
                                     "{{SCRIPT}}",
                                     "{{constructor.constructor('x')}}",
                                     "\xe2\x80\xa8\xe2\x80\xa9",
                                     "\xe2\x80\xae"
                                     "evil",
                                     "\xe2\x80\x8f\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d",
                                     "\xe6\x97\xa5\xe6\x9c\xac",
                                     "<bdi>",
                                     "</bdi></p>",
                                     "<img src=\"x\" onerror=\"window.hacked=1\">",
                                     "<!DOCTYPE html>",
                                     "<?php echo 1?>",
                                     "<%= 1 %>",
                                     "]]>",
                                     "<x",
                                     "</",
                                     "<",
                                     ">",
                                     "&",
                                     "<script\x0b>alert(1)</script>",
                                     "<img\tsrc=x\tonerror=alert(1)>",
                                     "<sCrIpT>alert(1)</sCrIpT>",
                                     "<<script>alert(1)//<</script>",
                                     "<img src=x:x onerror\n=alert(1)>",
                                     "<p style=background:url(x)>"};
    std::mt19937 random(1);
    for (int i = 0; i < 200; ++i) {  // any code point but NUL, CR (which HTML rewrites) and surrogates
      std::u32string text;
      for (int n = 1 + static_cast<int>(random() % 12); n > 0; --n) {
        const std::uint32_t c = random() % 3 == 0 ? random() % 0x10ffff + 1 : random() % 0x7f + 1;
        text += c == '\r' || (c >= 0xd800 && c < 0xe000) ? U'<' : static_cast<char32_t>(c);
      }
      std::string utf8;
      for (const char32_t c : text) {
        const auto put = [&](std::uint32_t byte) { utf8 += static_cast<char>(byte); };
        if (c < 0x80)
          put(c);
        else if (c < 0x800)
          put(0xc0 | c >> 6), put(0x80 | (c & 63));
        else if (c < 0x10000)
          put(0xe0 | c >> 12), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
        else
          put(0xf0 | c >> 18), put(0x80 | (c >> 12 & 63)), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
      }
      list.push_back(utf8);
    }
    return list;
  }();
  return all;
}

/// An example whose every text is hostile, and one of the same size whose texts are harmless.
AttentionExample example(const std::vector<std::string>& tokens, const std::string& text, std::size_t layers,
                         std::size_t heads) {
  const std::size_t n = tokens.size();
  const std::vector<double> even(layers * heads * n * n, 1.0 / static_cast<double>(n));
  return {
      .text = text, .predicted = text, .probability = 0.5, .views = {{"Encoder", tokens, tokens, layers, heads, even}}};
}

TEST_F(PageTest, Attention_of_hostile_tokens_has_the_elements_of_harmless_ones) {
  const std::vector<std::string>& hostile = payloads();
  ASSERT_GE(hostile.size(), 260u);
  for (std::size_t begin = 0; begin + 16 <= hostile.size(); begin += 64) {
    const std::vector<std::string> tokens(
        hostile.begin() + static_cast<std::ptrdiff_t>(begin),
        hostile.begin() + static_cast<std::ptrdiff_t>(std::min(begin + 64, hostile.size())));
    const std::vector<std::string> plain(tokens.size(), "x");
    std::string joined;
    for (const std::string& t : tokens) joined += t + " ";
    const Json data = attention_json({example(tokens, joined, 1, 1)}, "");
    const Shown bad = show(attention_page(data));
    const Shown good = show(attention_page(attention_json({example(plain, "x", 1, 1)}, "")));
    EXPECT_EQ(count(bad.dom, "<[a-zA-Z]"), count(good.dom, "<[a-zA-Z]"));
    EXPECT_EQ(count(bad.dom, "<td class=\"cell\""), static_cast<int>(tokens.size() * tokens.size()));
    EXPECT_EQ(bad.console, "");
    for (const std::string& t : tokens)
      EXPECT_NE(bad.dom.find(">" +
                             [&] {
                               std::string s;  // as a browser writes text
                               for (const char c : t)
                                 s += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
                               return s;
                             }() +
                             "</bdi>"),
                std::string::npos)
          << t;
  }
}

TEST_F(PageTest, Report_of_hostile_names_has_the_elements_of_harmless_ones) {
  const auto report = [&](const std::string& text) {
    return report_page(folder_.path(),
                       {{"app", text},
                        {"model", text},
                        {"seed", 1},
                        {"device", text},
                        {"steps", 1},
                        {"parameters", 1},
                        {"ending", text},
                        {"classes", {text, text}},
                        {"test", {{"f1", 0.5}, {"confusion", {{1, 2}, {3, 4}}}}},
                        {"floor", {{"f1", .4}}},
                        {"errors", {{{"truth", text}, {"predicted", text}, {"probability", .1}, {"text", text}}}},
                        {"examples", {{{"input", text}, {"output", text}, {"expected", text}}}}});
  };
  std::string joined;
  for (const std::string& p : payloads()) joined += p + " ";
  const Shown bad = show(report(joined)), good = show(report("x"));
  EXPECT_EQ(count(bad.dom, "<[a-zA-Z]"), count(good.dom, "<[a-zA-Z]"));
  EXPECT_EQ(bad.console, "");
  EXPECT_EQ(count(good.dom, "<td class=\"number\""), 4 + 2 + 1);  // confusion, f1 and floor, probability
}

TEST_F(PageTest, A_planted_script_is_blocked) {
  std::string html = attention_page(attention_json({example({"a", "b"}, "a b", 2, 3)}, ""));
  html.replace(html.find("</body>"), 0,
               "<script>document.body.append(document.createElement('hr'))</script><img src=file:///x.png>");
  const Shown shown = show(html);
  EXPECT_EQ(count(shown.dom, "<hr>"), 0);
  EXPECT_NE(shown.console.find("Content Security Policy"), std::string::npos) << shown.console;
  EXPECT_EQ(count(shown.dom, "<td class=\"cell\""), 4);  // ours still ran
  EXPECT_EQ(count(shown.dom, "<canvas"), 6);             // layers x heads
  EXPECT_EQ(count(shown.dom, "<polyline"), 4);           // weights above the cut
}

TEST(Page, Makes_no_request_and_escapes_its_data) {
  const std::string html = attention_page(attention_json({example({"</script>", "&"}, "\xe2\x80\xa8", 1, 1)}, ""));
  EXPECT_EQ(count(html, "https?://(?!www\\.w3\\.org/2000/svg)"), 0);
  EXPECT_EQ(count(html, "</script>"), 2);  // of the data and of the script
  EXPECT_EQ(json_island(Json("<&>\xe2\x80\xa8\xe2\x80\xa9")), "\"\\u003c\\u0026\\u003e\\u2028\\u2029\"");
  EXPECT_EQ(json_island(Json(std::string("\\u0000\0", 7))), "\"\\\\u0000\\ufffd\"");
  EXPECT_EQ(html_escaped("<a href='\"&\x01\xff"), "&lt;a href=&#39;&quot;&amp;\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(Page, Spells_hashes_as_a_policy_does) {
  EXPECT_EQ(policy_hash(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
}

TEST(AttentionJson, Refuses_what_is_no_distribution_and_too_many_tokens) {
  AttentionExample bad = example({"a", "b"}, "a b", 1, 1);
  bad.views[0].weights[1] = 0.6;
  expect_error([&] { attention_json({bad}, ""); }, "E-NUM-002", Exit::numeric, "row 0.*1.1");
  bad.views[0].weights[1] = std::nan("");
  expect_error([&] { attention_json({bad}, ""); }, "E-NUM-002", Exit::numeric, "nan");
  expect_error([] { attention_json({example(std::vector<std::string>(513, "a"), "a", 1, 1)}, ""); }, "E-DATA-011",
               Exit::data, "513 tokens.*512");
}

TEST(AttentionJson, Is_shown_by_BertViz) {
  const char* venv = std::getenv("ADJOINT_PEERS_VENV");
  const std::string python = venv != nullptr ? std::string(venv) + "/bin/python3" : "python3";
  if (std::system((python + " -c 'import bertviz' 2>/dev/null").c_str()) != 0)
    GTEST_SKIP() << python << " has no bertviz here: set ADJOINT_PEERS_VENV to an environment that has it";
  TempFolder folder;
  AttentionExample e = example({"a", "b", "c"}, "a b c", 2, 3);
  e.views.push_back({"Cross", {"x?"}, {"a", "b", "c"}, 2, 3, std::vector<double>(18, 1.0 / 3)});
  spill(folder.file("a.json"), attention_json({e}, "").dump());
  spill(folder.file("show.py"), R"(
import json, re, sys
sys.path.insert(0, sys.argv[1])
from bertviz_view import show
for view in ("head", "model"):
    html = show(sys.argv[2], view=view, html_action="return").data
    params = json.loads(re.search(r'const params = (\{.*\}); // HACK', html).group(1))
    assert [v["name"] for v in params["attention"]] == ["Encoder", "Cross"], params
    assert len(params["attention"][0]["attn"]) == 2 and len(params["attention"][1]["attn"][0]) == 3
    if view == "head":
        print(json.dumps(sorted(params)))
)");
  EXPECT_EQ(std::system(fmt::format("{} {} {}/tools {} > {}", python, folder.file("show.py"),
                                    testing_support::source_dir(), folder.file("a.json"), folder.file("keys"))
                            .c_str()),
            0);
  std::vector<std::string> ours;
  const Json params = bertviz_params({e});
  for (const auto& [key, value] : params.items()) ours.push_back(key);
  std::sort(ours.begin(), ours.end());
  EXPECT_EQ(Json::parse(slurp(folder.file("keys"))).get<std::vector<std::string>>(), ours);
}

}  // namespace
}  // namespace adjoint::app
