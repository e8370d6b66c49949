// Trains a sequence-to-sequence model to reverse strings, and shows what its attention does.

#include "apps/common/command_line.h"
#include "apps/common/main_guard.h"
#include "apps/common/sweep.h"
#include "apps/common/terminal.h"
#include "apps/reverse_string/commands.h"

int main(int argc, char** argv) {
  using namespace adjoint;
  return app::run_program("reverse_string", argc, argv, [](int count, char** words) {
    app::CommandLine line(
        "reverse_string", "Learn to reverse strings with an LSTM encoder and decoder and attention.",
        {"reverse_string train", "reverse_string predict abcd hgfe", "reverse_string attention abcdefgh"});
    app::OptionTable& train = line.command("train", "Train a model and keep it in a run folder.",
                                           {"reverse_string train", "reverse_string train --attention none --epochs 20",
                                            "reverse_string train --preset practical10 --bidirectional --json"});
    reverse_string::add_train_options(train);
    app::OptionTable& sweep =
        line.command("sweep", "Train at each point of a grid of options and rank them; the same command again goes on.",
                     {"reverse_string sweep --grid hidden=32,64,128 --seeds 3",
                      "reverse_string sweep --grid attention=none,dot --grid lr=1e-3,4e-3 --out sweeps/attention",
                      "reverse_string sweep --grid batch-size=16,64 --epochs 4 --json"});
    app::add_sweep_options(sweep, train);
    app::OptionTable& predict = line.command("predict", "Reverse strings with a trained model.",
                                             {"reverse_string predict abcd hgfe", "echo abcd | reverse_string predict",
                                              "reverse_string predict --run runs/mine --json abcd"});
    reverse_string::add_predict_options(predict);
    app::OptionTable& attention =
        line.command("attention", "Show where a trained model looks while it writes.",
                     {"reverse_string attention abcdefgh", "reverse_string attention --run runs/mine abcd",
                      "reverse_string attention abcd --format text"});
    reverse_string::add_attention_options(attention);

    const app::Invocation call = line.parse(count, words);
    if (!call.help.empty()) {
      app::print_result(call.help);
      return 0;
    }
    if (call.command() == "train") return reverse_string::train(call.settings);
    if (call.command() == "sweep") return reverse_string::sweep(call.settings, train);
    if (call.command() == "predict") return reverse_string::predict(call.settings, train);
    return reverse_string::attention(call.settings, train);
  });
}
