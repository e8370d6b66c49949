#include "apps/common/shared_options.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <stdexcept>

#include "engine/gpu.h"
#include "engine/launch.h"

namespace adjoint::app {
namespace {

bool is_device(std::string_view text) {
  if (text == "auto" || text == "cpu" || text == "cuda") return true;
  if (text == "simt") return simt::api != nullptr;  // programs of the tests, linked with the executor
  if (!text.starts_with("cuda:") || text.size() > 7) return false;
  text.remove_prefix(5);
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

constexpr std::int64_t kMany = 1'000'000'000;

std::vector<Option> shared_options() {
  std::vector<Option> all;
  const auto group = [&all](const char* heading, std::vector<Option> options) {
    for (Option& option : options) {
      option.group = heading;
      all.push_back(std::move(option));
    }
  };
  group("Model", {integer("embedding", 64, 1, 65536, "width of the word vectors"),
                  integer("hidden", 128, 1, 65536, "width of the hidden layers"),
                  integer("layers", 1, 1, 256, "layers, or blocks of the encoder"),
                  integer("heads", 4, 1, 1024, "attention heads; must divide the width"),
                  integer("intermediate", 256, 1, 1 << 20, "width inside the feed-forward layers"),
                  real("dropout", 0.0, 0, 0.99, "share of activations dropped in training"),
                  choice("activation", "gelu", {"gelu", "gelu-tanh", "relu", "tanh"}, "of the feed-forward layers"),
                  choice("norm", "pre", {"pre", "post"}, "layer norm before or after each sublayer"),
                  choice("residual", "on", {"on", "off"}, "add each sublayer's input to its output"),
                  choice("positions", "learned", {"learned", "sinusoidal", "none"}, "positional encoding"),
                  path("embeddings", "FILE", "word vectors to start from (GloVe text)"),
                  flag("freeze-embeddings", "do not train the word vectors; words that FILE lacks have zeros"),
                  path("init-from", "RUN", "take the weights that fit from another run")});
  group("Training",
        {integer("epochs", 10, 1, 1'000'000, "passes over the training data"),
         integer("max-steps", 0, 0, kMany, "stop after so many steps, 0 for no limit"),
         real("max-time", 0, 0, 1e9, "stop after so many seconds, 0 for no limit"),
         integer("batch-size", 32, 1, 1 << 20, "examples a step"),
         choice("optimizer", "adam", {"adam", "adamw", "sgd"}, "how gradients become updates"),
         real("lr", 1e-3, 0, 1000, "learning rate").with_alias("learning-rate"),
         choice("schedule", "constant", {"constant", "linear", "cosine"}, "learning rate after the warm-up"),
         integer("warmup", 0, 0, kMany, "steps over which the learning rate rises"),
         real("weight-decay", 0, 0, 1000, "pull of the weights towards zero"),
         real("clip", 0, 0, 1e9, "largest norm of the gradient, 0 for no limit"),
         integer("early-stop", 0, 0, 1'000'000, "stop after so many evaluations without a gain, 0 for never"),
         list("require", "METRIC>=X", "exit with 8 unless the result meets this; may be repeated")});
  group("Run",
        {path("config", "FILE.json", "read options from a file, or from a run's config.json").for_this_call(),
         text("name", "NAME", "end of the run folder's name").for_this_call(),
         path("out", "DIR", "folder of the run, instead of runs/PROGRAM/DATE-NAME").for_this_call(),
         path("resume", "RUN", "go on with an interrupted run").for_this_call(),
         integer("save-every", 0, 0, kMany, "steps between checkpoints, 0 for each epoch"),
         integer("keep", 2, 1, 1000, "checkpoints kept"),
         flag("dry-run", "show configuration, parameters and memory, run one batch, write nothing").for_this_call(),
         flag("overfit-batch", "train on the first batch only: its loss must fall to almost nothing").for_this_call(),
         flag("profile", "print time, bandwidth and share of each operation").for_this_call(),
         integer("seed", 1, 0, INT64_MAX, "of everything random")});
  group("Machine", {text("device", "auto|cpu|cuda|cuda:N", "where to compute", "auto").accepting(is_device),
                    choice("gemm-backend", "auto", {"auto", "own", "cublaslt"},
                           "who multiplies matrices on a GPU; auto: cuBLASLt where it is found"),
                    choice("lstm-backend", "own", {"own", "cudnn"}, "who runs LSTMs on a GPU"),
                    choice("attention-backend", "own", {"own", "cudnn"}, "who computes attention on a GPU"),
                    integer("threads", 0, 0, kMostThreads, "CPU threads, 0 for all cores"),
                    text("cpu-level", "auto|LEVEL", "processor level of the CPU kernels, as x86-64-v3", "auto")});
  group("Output", {choice("progress", "auto", {"auto", "bar", "plain", "none"}, "progress on stderr").for_this_call(),
                   choice("color", "auto", {"auto", "always", "never"}, "auto respects NO_COLOR").for_this_call(),
                   flag("quiet", "print the result only").with_letter('q').for_this_call(),
                   flag("verbose", "print more on the way").with_letter('v').for_this_call(),
                   flag("json", "print the result as JSON").for_this_call()});
  group("Sweep", {list("grid", "OPTION=VALUE,VALUE", "an axis of the sweep; may be repeated"),
                  integer("seeds", 1, 1, 10000, "runs of each point, with different seeds")});
  return all;
}

}  // namespace

void add_shared(OptionTable& table, const std::vector<std::string_view>& names) {
  static const std::vector<Option> all = shared_options();
  for (const std::string_view name : names)
    if (std::none_of(all.begin(), all.end(), [&](const Option& option) { return option.name == name; }))
      throw std::logic_error("not a shared option: " + std::string(name));
  for (const Option& option : all)
    if (std::find(names.begin(), names.end(), option.name) != names.end()) table.add(option);
}

}  // namespace adjoint::app
