// Sweeps: the exports by themselves, and the command as a user runs it.

#include "apps/common/sweep.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "data/sha256.h"
#include "tests/apps/program.h"

namespace adjoint::app {
namespace {

using nlohmann::json;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
namespace fs = std::filesystem;

SweepResult sample() {
  SweepResult r{"f1", 2, {{"lr", {"1e-3", "3e-4"}}, {"data", {"=cmd()", "</style><script>x"}}}, {}};
  r.points.push_back({{"1e-3", "=cmd()"}, {0.5, 0.7}, {1.5, 2.5}, 1234, ""});
  r.points.push_back({{"3e-4", "</style><script>x"}, {}, {}, 0, "error[E-NUM-001]: step 3, loss is nan"});
  return r;
}

TEST(Sweep, Means_and_standard_deviations_are_of_the_sample) {
  const SweepPoint p = sample().points[0];
  EXPECT_NEAR(p.mean(), 0.6, 1e-15);
  EXPECT_NEAR(p.sd(), 0.1 * std::sqrt(2.0), 1e-15);  // sqrt(((0.1)^2 + (0.1)^2) / (2 - 1))
  EXPECT_NEAR(p.mean_epoch_seconds(), 2.0, 1e-15);
  EXPECT_EQ((SweepPoint{{}, {0.5}, {}, 0, ""}.sd()), 0.0);
}

TEST(Sweep, Csv_fields_are_no_formulas_and_numbers_stay_numbers) {
  for (const auto& [text, field] : {std::pair<const char*, const char*>{"plain", "plain"},
                                    {"=1+1", "'=1+1"},
                                    {"@sum", "'@sum"},
                                    {"+x", "'+x"},
                                    {"-3.5", "-3.5"},
                                    {"+1e-3", "+1e-3"},
                                    {"-3.5x", "'-3.5x"},
                                    {"\tx", "'\tx"},
                                    {"\rx", "\"'\rx\""},
                                    {"\t5", "'\t5"},
                                    {"a,b", "\"a,b\""},
                                    {"say \"x\"", "\"say \"\"x\"\"\""},
                                    {"=\"x\",1", "\"'=\"\"x\"\",1\""},
                                    {"", ""}})
    EXPECT_EQ(csv_field(text), field);
  EXPECT_EQ(sweep_csv(sample()),
            "rank,lr,data,f1_mean,f1_sd,runs,epoch_s,parameters,failure\r\n"
            "1,1e-3,'=cmd(),0.600000,0.141421,2,2.000,1234,\r\n"
            ",3e-4,</style><script>x,,,0,,,\"error[E-NUM-001]: step 3, loss is nan\"\r\n");
}

TEST(Sweep, Page_escapes_values_and_allows_its_own_style_only) {
  const std::string page = sweep_page(sample(), "a <b> & c");
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, HasSubstr("&lt;/style&gt;&lt;script&gt;x"));
  EXPECT_THAT(page, HasSubstr("<h1>a &lt;b&gt; &amp; c</h1>"));
  EXPECT_THAT(page, HasSubstr("default-src 'none'; style-src 'sha256-"));
  EXPECT_THAT(page, Not(ContainsRegex("https?://|style=\"|src=|href=")));
  EXPECT_THAT(page, HasSubstr("0.6000 ± 0.1414"));
  // The policy's hash, decoded, is the SHA-256 of what the style element holds.
  const std::size_t style = page.find("<style>") + 7, hash = page.find("sha256-") + 7;
  const std::string digest = data::sha256(page.substr(style, page.find("</style>") - style));
  const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bits, hex;
  for (std::size_t i = hash; page[i] != '='; ++i)
    for (int k = 5; k >= 0; --k) bits += alphabet.find(page[i]) >> k & 1 ? '1' : '0';
  for (std::size_t i = 0; i + 4 <= 256; i += 4) hex += "0123456789abcdef"[std::stoi(bits.substr(i, 4), nullptr, 2)];
  EXPECT_EQ(hex, digest);
}

class SweepCommand : public adjoint::testing::ProgramTest {
 protected:
  SweepCommand() : ProgramTest("reverse_string") {}

  static constexpr const char* kSmall =
      "sweep --letters abc --min-length 2 --max-length 4 --train-strings 60 --validation-strings 20 --threads 1 "
      "--epochs 2 --out s ";

  std::vector<fs::path> runs() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder_ / "s"))
      if (entry.is_directory()) found.push_back(entry.path());
    std::sort(found.begin(), found.end());
    return found;
  }
};

TEST_F(SweepCommand, Ranks_points_and_goes_on_where_it_was) {
  const std::string command = std::string(kSmall) + "--grid hidden=8,16 --grid lr=1e-2,1e-4 --seeds 2 --json";
  const adjoint::testing::Outcome first = run(command);
  ASSERT_EQ(first.exit, 0) << first.err;
  const json report = json::parse(first.out);
  ASSERT_EQ(report["points"].size(), 4u);
  double before = 2;
  for (const json& p : report["points"]) {
    ASSERT_EQ(p["runs"].size(), 2u);
    EXPECT_LE(p["mean"].get<double>(), before);
    before = p["mean"].get<double>();
    EXPECT_GT(p["parameters"].get<int>(), 0);
    EXPECT_GT(p["epoch_s"].get<double>(), 0.0);
  }
  ASSERT_EQ(runs().size(), 8u);

  // One run as if killed in the middle: no report. It starts anew; the others are not touched.
  const auto written = [&](const fs::path& run) { return fs::last_write_time(run / "report.json"); };
  std::vector<fs::file_time_type> times;
  for (const fs::path& run : runs()) times.push_back(written(run));
  fs::remove(runs()[3] / "report.json");
  write("s/" + runs()[3].filename().string() + "/left-behind", "x");
  const adjoint::testing::Outcome again = run(command);
  ASSERT_EQ(again.exit, 0) << again.err;
  json a = report, b = json::parse(again.out);
  for (json* j : {&a, &b})
    for (json& p : (*j)["points"]) p.erase("epoch_s");
  EXPECT_EQ(a, b);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(written(runs()[i]) == times[i], i != 3) << i;
  EXPECT_FALSE(fs::exists(runs()[3] / "left-behind"));
  EXPECT_THAT(read("s/sweep.html"), HasSubstr("<svg"));
  EXPECT_EQ(std::count(again.err.begin(), again.err.end(), '\n'), 8);

  // Its runs are runs like any other.
  EXPECT_EQ(run("predict --run " + runs()[0].string() + " abc").exit, 0);
}

TEST_F(SweepCommand, Refuses_bad_axes_before_anything_runs) {
  struct Case {
    const char* arguments;
    const char* pattern;
  };
  for (const Case& c :
       {Case{"--grid heds=1", "E-CLI-001.*heds"}, Case{"--grid lr=fast", "E-CLI-002.*lr fast.*number"},
        Case{"--grid lr", "E-CLI-002.*--grid lr.*NAME=VALUE"}, Case{"", "E-CLI-003.*--grid: missing"},
        Case{"--grid seed=1,2", "E-CLI-002.*--seeds"}, Case{"--grid hidden=8,8", "E-CLI-004.*8.*twice"},
        Case{"--grid hidden=8 --grid hidden=9", "E-CLI-004.*hidden.*twice"}, Case{"--grid out=a,b", "E-CLI-001.*out"},
        Case{"--grid hidden=8,", "E-CLI-002.*hidden"}, Case{"--grid hidden=8 --seeds 0", "E-CLI-002.*--seeds.*1\\.\\."},
        Case{"--grid hidden=7,8 --bidirectional", "E-CONF-00[35].*7"},
        Case{"--grid hidden=8 --dry-run", "E-CLI-001.*dry-run"}}) {
    const adjoint::testing::Outcome r = run(std::string(kSmall) + c.arguments);
    EXPECT_EQ(r.exit, 2) << c.arguments << r.err;
    EXPECT_THAT(r.err, ContainsRegex(c.pattern)) << c.arguments;
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
    EXPECT_FALSE(fs::exists(folder_ / "s")) << c.arguments;
  }
}

TEST_F(SweepCommand, Keeps_out_of_folders_that_are_not_its_own) {
  ASSERT_EQ(run(std::string(kSmall) + "--grid hidden=8").exit, 0);
  const adjoint::testing::Outcome other = run(std::string(kSmall) + "--grid hidden=8 --batch-size 7");
  EXPECT_EQ(other.exit, 2);
  EXPECT_THAT(other.err, ContainsRegex("E-CONF-008.*batch_size.*now 7"));
  const std::string name = runs()[0].filename().string();
  fs::remove_all(folder_ / "s");
  write("s/" + name + "/thesis.txt", "years of work");
  const adjoint::testing::Outcome foreign = run(std::string(kSmall) + "--grid hidden=8");
  EXPECT_EQ(foreign.exit, 4);
  EXPECT_THAT(foreign.err, ContainsRegex("E-IO-007"));
  EXPECT_EQ(read("s/" + name + "/thesis.txt"), "years of work");
}

TEST_F(SweepCommand, Stops_at_a_signal_and_goes_on_afterwards) {
  const std::string command = "sweep --train-strings 500 --epochs 2000 --threads 1 --out s --grid hidden=48,64";
  for (const auto& [signal, exit] : {std::pair{"INT", 130}, std::pair{"TERM", 143}}) {
    adjoint::testing::Outcome stopped;
    for (const char* wait : {"0.7", "4", "20"}) {  // a busy machine may need longer to start the program
      stopped = run(command, "", fmt::format("timeout --preserve-status -s {} {}", signal, wait));
      if (!stopped.err.empty()) break;
    }
    EXPECT_EQ(stopped.exit, exit) << stopped.err;
    EXPECT_THAT(stopped.err, ContainsRegex("stopped at run 1 of 2"));
  }
}

TEST_F(SweepCommand, Goes_on_after_a_run_that_fails) {
  const adjoint::testing::Outcome r =
      run("sweep --train-strings 100 --hidden 8 --epochs 20 --threads 1 --out s --grid weight-decay=1000,0 --optimizer "
          "adamw --lr 1 --json");
  EXPECT_EQ(r.exit, 6) << r.err;
  const json report = json::parse(r.out);
  EXPECT_EQ(report["points"][0]["values"]["weight-decay"], "0");
  EXPECT_EQ(report["points"][1]["runs"].size(), 0u);
  EXPECT_THAT(report["points"][1]["failure"].get<std::string>(), HasSubstr("E-NUM-001"));
}

}  // namespace
}  // namespace adjoint::app
