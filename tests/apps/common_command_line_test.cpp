#include "apps/common/command_line.h"

#include <nlohmann/json.hpp>

#include "apps/common/config_file.h"
#include "apps/common/shared_options.h"
#include "tests/apps/common_support.h"

namespace adjoint::app {
namespace {

using ::testing::HasSubstr;
using Words = std::vector<std::string>;

CommandLine program() {
  CommandLine line("clickbait", "Classifies headlines.",
                   {"clickbait train", "clickbait predict RUN 'You won’t believe it'", "clickbait train --help"});
  OptionTable& train =
      line.command("train", "Trains a classifier.",
                   {"clickbait train", "clickbait train --model lstm", "clickbait train --config a.json"});
  train.add(choice("model", "logreg", {"logreg", "lstm"}, "what to train"));
  train.add(path("data", "PATH", "headlines"));
  train.add(flag("lower-case", "ignore case", true));
  add_shared(train, {"hidden", "dropout", "epochs", "batch-size", "lr", "seed", "require", "config", "out", "device",
                     "quiet", "dry-run"});
  train.defaults({{"epochs", 7}}).preset("tiny", {{"hidden", 8}, {"epochs", 2}, {"lr", 0.5}});
  line.command("predict", "Classifies.", {"clickbait predict RUN a", "b", "c"})
      .arguments({"RUN HEADLINE...", 1, 3, "a run folder, then headlines"});
  line.command("data review", "Looks at data.", {"a", "b", "c"}).arguments({"PATH", 0, 1, "headlines"});
  return line;
}

Settings train(const Words& words) {
  static const CommandLine line = program();
  Words all = {"train"};
  all.insert(all.end(), words.begin(), words.end());
  return line.parse(all).settings;
}

void expect_cli_error(const Words& words, const std::string& code, const std::string& pattern) {
  const CommandLine line = program();
  expect_error([&] { line.parse(words); }, code, Exit::usage, pattern);
}

TEST(CommandLine, Converts_values_and_tells_where_they_come_from) {
  const Settings s = train({"--hidden", "64", "--lr=3e-4", "-q", "--model", "lstm", "--require", "f1>=0.9", "--require",
                            "loss<1", "--no-lower-case", "--seed", "9223372036854775807"});
  EXPECT_EQ(s.integer("hidden"), 64);
  EXPECT_EQ(s.real("lr"), 3e-4);
  EXPECT_TRUE(s.flag("quiet"));
  EXPECT_FALSE(s.flag("lower-case"));
  EXPECT_FALSE(s.flag("dry-run"));
  EXPECT_EQ(s.text("model"), "lstm");
  EXPECT_EQ(s.list("require"), (Words{"f1>=0.9", "loss<1"}));
  EXPECT_EQ(s.integer("seed"), INT64_MAX);
  EXPECT_EQ(s.integer("epochs"), 7);  // the program's own default
  EXPECT_EQ(s.origin("hidden"), Origin::command_line);
  EXPECT_EQ(s.origin("epochs"), Origin::by_default);
}

TEST(CommandLine, Accepts_the_second_spelling) { EXPECT_EQ(train({"--learning-rate", "0.25"}).real("lr"), 0.25); }

TEST(CommandLine, Names_the_nearest_option_for_an_unknown_one) {
  expect_cli_error({"train", "--hiden", "4"}, "E-CLI-001",
                   "^--hiden: unknown option; did you mean --hidden\\? see 'clickbait train --help'$");
  expect_cli_error({"train", "--hiden=4"}, "E-CLI-001", "^--hiden: unknown option; did you mean --hidden");
  expect_cli_error({"train", "--zzzzzzzzzz"}, "E-CLI-001", "^--zzzzzzzzzz: unknown option; see 'clickbait train");
  expect_cli_error({"train", "-x"}, "E-CLI-001", "^-x: unknown option");
  // Shared, but this program has no such thing.
  expect_cli_error({"train", "--heads", "4"}, "E-CLI-001", "^--heads: unknown option");
}

TEST(CommandLine, Names_the_nearest_command_for_an_unknown_one) {
  expect_cli_error({"tarin", "--lr", "1"}, "E-CLI-001",
                   "^tarin: unknown command; did you mean train\\? expected one of train, predict, data review");
  expect_cli_error({}, "E-CLI-003", "command missing; expected one of train.*see 'clickbait --help'");
  expect_cli_error({"data"}, "E-CLI-003", "command missing");
}

TEST(CommandLine, Says_what_kind_of_value_it_expected) {
  expect_cli_error({"train", "--epochs", "abc"}, "E-CLI-002", "--epochs abc: .*expected an integer in 1\\.\\.");
  expect_cli_error({"train", "--epochs", "99999999999999999999"}, "E-CLI-002", "--epochs.*out of range.*integer");
  expect_cli_error({"train", "--epochs", "0"}, "E-CLI-002", "--epochs 0: out of range");
  expect_cli_error({"train", "--epochs", "2.5"}, "E-CLI-002", "--epochs 2.5: not an integer");
  expect_cli_error({"train", "--epochs", ""}, "E-CLI-002", "--epochs '': not an integer");
  expect_cli_error({"train", "--epochs", "-1"}, "E-CLI-002", "--epochs -1: out of range");
  expect_cli_error({"train", "--lr", "1,5"}, "E-CLI-002", "--lr 1,5: not a number; expected a number in 0\\.\\.1000");
  expect_cli_error({"train", "--lr", "nan"}, "E-CLI-002", "--lr nan: out of range");
  expect_cli_error({"train", "--lr", "1e999"}, "E-CLI-002", "--lr 1e999: out of range");
  expect_cli_error({"train", "--dropout", "1"}, "E-CLI-002", "--dropout 1: out of range.*0\\.\\.0.99");
  expect_cli_error({"train", "--model", "rnn"}, "E-CLI-002", "--model rnn: .*expected one of logreg, lstm");
  expect_cli_error({"train", "--device", "gpu"}, "E-CLI-002", "--device gpu: .*expected auto.cpu.cuda.cuda:N");
  expect_cli_error({"train", "--device", "cuda:"}, "E-CLI-002", "--device cuda:");
  expect_cli_error({"train", "--epochs", "\x1b[31m" + std::string(500, 'x')}, "E-CLI-002", "--epochs .x1b");
  EXPECT_EQ(train({"--device", "cuda:1"}).text("device"), "cuda:1");
}

TEST(CommandLine, Refuses_what_is_missing_repeated_or_too_much) {
  expect_cli_error({"train", "--epochs"}, "E-CLI-003", "--epochs: value missing; expected an integer in 1");
  expect_cli_error({"train", "--lr", "1", "--lr", "2"}, "E-CLI-004", "--lr: given twice \\(1 and 2\\)");
  expect_cli_error({"train", "stray"}, "E-CLI-004", "stray: unexpected argument; expected nothing");
  expect_cli_error({"predict"}, "E-CLI-003", "RUN HEADLINE...: missing; expected a run folder");
  expect_cli_error({"predict", "a", "b", "c", "d"}, "E-CLI-004", "^d: unexpected argument; expected at most 3");
}

TEST(CommandLine, Takes_arguments_as_they_are) {
  const CommandLine line = program();
  // Brackets, the name of a command, and what would be an option.
  const Words words = {"predict", "[OC] a, b [video]", "train", "--", "--lr"};
  const Invocation call = line.parse(words);
  EXPECT_EQ(call.command(), "predict");
  EXPECT_EQ(call.settings.arguments(), (Words{"[OC] a, b [video]", "train", "--lr"}));
  EXPECT_EQ(line.parse({"data", "review", "x.csv"}).command(), "data review");
  EXPECT_EQ(line.parse({"data", "review", "review"}).settings.arguments(), Words{"review"});
  EXPECT_EQ(line.parse({"predict", "-", "-5"}).settings.arguments(), (Words{"-", "-5"}));
}

TEST(CommandLine, Help_begins_with_three_examples_and_shows_every_option) {
  const CommandLine line = program();
  const std::string help = line.parse({"train", "--epochs", "abc", "--help"}).help;  // help wins over errors
  EXPECT_EQ(help.rfind("Examples:\n  clickbait train\n  clickbait train --model lstm\n  clickbait train --config", 0),
            0u)
      << help;
  EXPECT_THAT(help, HasSubstr("Usage: clickbait train [options]\n"));
  EXPECT_THAT(help, HasSubstr("      --model logreg|lstm       what to train (default logreg)\n"));
  EXPECT_THAT(help, HasSubstr("passes over the training data (1..1000000; default 7)"));
  EXPECT_THAT(help,
              HasSubstr("--lr X                    learning rate (also --learning-rate; 0..1000; default 0.001)"));
  EXPECT_THAT(help, HasSubstr("  -q, --quiet"));
  EXPECT_THAT(help, HasSubstr("--no-lower-case"));
  EXPECT_THAT(help, HasSubstr("\nMachine:\n"));
  EXPECT_THAT(help, HasSubstr("--preset none|tiny"));
  for (std::size_t start = 0, end; (end = help.find('\n', start)) != std::string::npos; start = end + 1)
    EXPECT_LE(end - start, 100u) << help.substr(start, end - start);

  const std::string top = line.parse({"--help"}).help;
  EXPECT_EQ(top.rfind("Examples:\n", 0), 0u);
  EXPECT_THAT(top, HasSubstr("data review  Looks at data.\n"));
  EXPECT_THAT(line.parse({"predict", "-h"}).help, HasSubstr("Usage: clickbait predict [options] RUN HEADLINE...\n"));
}

TEST(OptionTable, Rejects_the_programs_own_mistakes) {
  OptionTable table("p", "c", "", {});
  table.add(integer("n", 1, 0, 9, ""));
  EXPECT_THROW(table.add(integer("n", 1, 0, 9, "")), std::logic_error);
  EXPECT_THROW(table.add(integer("m", 10, 0, 9, "")), std::logic_error);
  EXPECT_THROW(table.preset("p", {{"absent", 1}}), std::logic_error);
  EXPECT_THROW(table.defaults({{"n", 99}}), std::logic_error);
  EXPECT_THROW(add_shared(table, {"learning"}), std::logic_error);
  EXPECT_THROW(Settings(table).real("n"), std::logic_error);
  EXPECT_THROW(Settings(table).flag("absent"), std::logic_error);
}

class Config : public ::testing::Test {
 protected:
  Settings read(const std::string& json, Words words = {}) {
    spill(folder_.file("c.json"), json);
    words.insert(words.end(), {"--config", folder_.file("c.json")});
    return train(words);
  }
  void expect_rejected(const std::string& json, const std::string& code, const std::string& pattern) {
    expect_error([&] { read(json); }, code, Exit::usage, pattern);
  }
  TempFolder folder_;
};

TEST_F(Config, Stands_between_preset_and_command_line) {
  const Settings s = read(R"({"preset": "tiny", "learning_rate": 0.25, "batch_size": 16, "require": ["f1>=0.5"]})",
                          {"--batch-size", "8"});
  EXPECT_EQ(s.integer("hidden"), 8);
  EXPECT_EQ(s.origin("hidden"), Origin::preset);
  EXPECT_EQ(s.real("lr"), 0.25);
  EXPECT_EQ(s.origin("lr"), Origin::config);
  EXPECT_EQ(s.integer("batch-size"), 8);
  EXPECT_EQ(s.origin("batch-size"), Origin::command_line);
  EXPECT_EQ(s.integer("seed"), 1);
  EXPECT_EQ(s.origin("seed"), Origin::by_default);
  EXPECT_EQ(s.list("require"), Words{"f1>=0.5"});
  EXPECT_EQ(read("{}", {"--preset", "tiny", "--hidden", "9"}).integer("hidden"), 9);
}

TEST_F(Config, A_runs_config_json_gives_the_same_values_again) {
  const Settings first = train({"--lr", "0.1", "--model", "lstm", "--out", "/tmp/somewhere", "--preset", "tiny"});
  const auto json = nlohmann::json::parse(first.config_json());
  EXPECT_EQ(json["options"]["lr"]["origin"], "command line");
  EXPECT_EQ(json["options"]["lr"]["value"], 0.1);
  EXPECT_EQ(json["options"]["hidden"]["origin"], "preset");
  EXPECT_EQ(json["options"]["batch_size"]["origin"], "default");
  EXPECT_EQ(json["command"], "train");
  const Settings again = read(first.config_json());
  for (const Option& option : first.table().options()) {
    if (option.per_call) continue;
    EXPECT_EQ(nlohmann::json::parse(again.config_json())["options"][option.key()]["value"],
              json["options"][option.key()]["value"])
        << option.name;
  }
  EXPECT_EQ(again.text("out"), "");  // where the first one went is history
}

TEST_F(Config, Unknown_keys_are_errors_with_the_nearest_name) {
  expect_rejected(R"({"learnig_rate": 1})", "E-CONF-001", "c.json:1: learnig_rate: .*did you mean learning_rate\\?");
  expect_rejected("{\n\n\"batch-size\": 1}", "E-CONF-001", "c.json:3: batch-size.*did you mean batch_size");
  expect_rejected(R"({"wholly_unknown_thing": 1})", "E-CONF-001", "expected an option of 'clickbait train --help'");
  expect_rejected(R"({"out": "x"})", "E-CONF-001", "out: not for config files; expected --out on the command line");
}

TEST_F(Config, Repeated_keys_are_errors_with_the_line) {
  expect_rejected("{\"lr\": 1,\n \"seed\": 2,\n \"lr\": 1}", "E-CONF-002", "line 3: duplicate key \"lr\"");
  expect_rejected("{\"lr\": 1,\n \"l\\u0072\": 1}", "E-CONF-002", "line 2: duplicate key \"lr\"");
  expect_rejected(R"({"a": {"b": 1, "b": 2}})", "E-CONF-002", "duplicate key \"b\"");
}

TEST_F(Config, Values_are_checked_per_field) {
  for (const char* bad : {"-1", "0", "1e999", "2.5", "1e2", "\"8\"", "null", "[8]", "true", "99999999999999999999",
                          "18446744073709551615"}) {
    expect_rejected(std::string("{\"batch_size\": ") + bad + "}", "E-CONF-003",
                    "c.json:1: batch_size.*integer in 1\\.\\.");
  }
  expect_rejected("{\n\"lr\": -0.5}", "E-CONF-003", "c.json:2: lr -0.5: out of range; expected a number in 0");
  expect_rejected(R"({"quiet": 1})", "E-CONF-001", "quiet: not for config files");
  expect_rejected(R"({"lower_case": 1})", "E-CONF-003", "lower_case 1: wrong type.*expected true or false");
  expect_rejected(R"({"model": "rnn"})", "E-CONF-003", "model rnn.*one of logreg, lstm");
  expect_rejected(R"({"require": ["a", 1]})", "E-CONF-003", "require");
  EXPECT_EQ(read(R"({"lr": 1})").real("lr"), 1.0);
  EXPECT_EQ(read(R"({"lower_case": false})").flag("lower-case"), false);
}

TEST_F(Config, Paths_stay_inside) {
  EXPECT_EQ(read(R"({"data": "a/../b.csv"})").text("data"), "a/../b.csv");
  for (const char* path : {"/etc/passwd", "../x", "a/../../x", ".."})
    expect_rejected(std::string("{\"data\": \"") + path + "\"}", "E-CONF-003",
                    "data .*give --data on the command line");
  EXPECT_EQ(read(R"({"data": "/a"})", {"--data", "/b"}).text("data"), "/b");
}

TEST_F(Config, Only_strict_json_passes) {
  expect_rejected("{\"lr\": 1,\n}", "E-CONF-004", "line 2, column 1: ");
  expect_rejected("{\"lr\": 1, // x\n}", "E-CONF-004", "line 1, column 1[0-3]: ");
  expect_rejected("{\"lr\": 1\n", "E-CONF-004", "line [12], column [0-9]+: unexpected end of input");
  expect_rejected("[1]", "E-CONF-004", "line 1, column 1: not an object");
  expect_rejected("", "E-CONF-004", "line 1, column 1");
  expect_rejected("{\"lr\": NaN}", "E-CONF-004", "line 1, column");
  expect_rejected("{\"model\": \"\xff\"}", "E-CONF-004", "line 1, column");
  expect_rejected(std::string("{\"lr\": 1}\0garbage", 17), "E-CONF-004", "line 1, column 10: NUL byte");
  expect_rejected("{} x", "E-CONF-004", "line 1, column");
  expect_rejected(std::string(100'000, '['), "E-CONF-004", "nested deeper than 64");
  EXPECT_NO_THROW(parse_config("{\"a\": " + std::string(63, '[') + std::string(63, ']') + "}", "c"));
  expect_error([] { parse_config("{\"a\": " + std::string(64, '[') + std::string(64, ']') + "}", "c"); }, "E-CONF-004",
               Exit::usage, "nested deeper than 64");
}

TEST_F(Config, Must_be_a_readable_file) {
  expect_error([&] { train({"--config", folder_.file("absent.json")}); }, "E-IO-001", Exit::io, "absent.json: No such");
  expect_error([&] { train({"--config", folder_.path()}); }, "E-IO-003", Exit::io, "not a regular file");
}

TEST(Nearest, Counts_a_swap_of_neighbours_as_one_slip) {
  EXPECT_EQ(nearest("rl", {"hidden", "lr"}), "lr");
  EXPECT_EQ(nearest("learnig_rate", {"lr", "learning_rate"}), "learning_rate");
  EXPECT_EQ(nearest("zz", {"hidden", "lr"}), "");
  EXPECT_EQ(nearest(std::string(1 << 20, 'x'), {"lr"}), "");
}

TEST(Sweep, Axes_are_checked_against_the_table) {
  const Settings base = train({});
  const Axis axis = parse_axis(base.table(), "lr=1e-3,3e-4");
  EXPECT_EQ(axis.values, (Words{"1e-3", "3e-4"}));
  EXPECT_EQ(base.with(axis.name, axis.values[1]).real("lr"), 3e-4);
  EXPECT_EQ(base.real("lr"), 1e-3);
  const auto rejected = [&](const char* typed, const char* code, const char* pattern) {
    expect_error([&] { parse_axis(base.table(), typed); }, code, Exit::usage, pattern);
  };
  rejected("lr=1,x", "E-CLI-002", "--lr x: not a number");
  rejected("lr=1,", "E-CLI-002", "--lr '': not a number");
  rejected("lr", "E-CLI-002", "--grid lr: not an axis");
  rejected("hiden=1", "E-CLI-001", "did you mean hidden");
  rejected("quiet=1", "E-CLI-001", "not an option that can be swept");
}

}  // namespace
}  // namespace adjoint::app
