// Trains and uses classifiers of headlines, or of any labelled texts.

#include "apps/clickbait/commands.h"
#include "apps/common/command_line.h"
#include "apps/common/main_guard.h"
#include "apps/common/sweep.h"
#include "apps/common/terminal.h"

int main(int argc, char** argv) {
  using namespace adjoint;
  return app::run_program("clickbait", argc, argv, [](int count, char** words) {
    app::CommandLine line("clickbait", "Tell clickbait headlines from others.",
                          {"clickbait train", "clickbait train --model lstm --data FOLDER",
                           "clickbait predict RUN \"You Won't Believe This\""});
    app::OptionTable& train =
        line.command("train", "Train a classifier and keep it in a run folder.",
                     {"clickbait train", "clickbait train --model lstm-encoder --data FOLDER --json",
                      "clickbait train --model attention --data reviews.tsv --columns id,label,text --positive pos"});
    clickbait::add_train_options(train);
    app::OptionTable& sweep =
        line.command("sweep", "Train at each point of a grid of options and rank them; the same command again goes on.",
                     {"clickbait sweep --grid heads=1,2,4 --grid lr=1e-3,3e-4 --seeds 3",
                      "clickbait sweep --grid model=lstm,lstm-encoder --data FOLDER --out sweeps/models",
                      "clickbait sweep --grid hidden=64,128,256 --model lstm --json"});
    app::add_sweep_options(sweep, train);
    app::OptionTable& eval = line.command("eval", "Judge a trained classifier.",
                                          {"clickbait eval runs/mine", "clickbait eval runs/mine --part validation",
                                           "clickbait eval runs/mine --data other.csv --part all --json"});
    clickbait::add_eval_options(eval);
    app::OptionTable& predict = line.command(
        "predict", "Classify headlines.",
        {"clickbait predict runs/mine \"10 Things You Did Not Know\"", "clickbait predict runs/mine < headlines.txt",
         "clickbait predict runs/mine --json \"A headline\""});
    clickbait::add_predict_options(predict);
    app::OptionTable& attention =
        line.command("attention", "Show where a trained classifier looks.",
                     {"clickbait attention runs/mine \"You Won't Believe This\"",
                      "clickbait attention runs/mine \"A headline\" \"Another\" --out page.html",
                      "clickbait attention runs/mine \"A headline\" --format json"});
    clickbait::add_attention_options(attention);
    app::OptionTable& review = line.command(
        "data review", "Show what a data set holds.",
        {"clickbait data review FOLDER", "clickbait data review texts.csv", "clickbait data review FOLDER --json"});
    clickbait::add_review_options(review);

    const app::Invocation call = line.parse(count, words);
    if (!call.help.empty()) {
      app::print_result(call.help);
      return 0;
    }
    if (call.command() == "train") return clickbait::train(call.settings);
    if (call.command() == "sweep") return clickbait::sweep(call.settings, train);
    if (call.command() == "eval") return clickbait::evaluate(call.settings, train);
    if (call.command() == "predict") return clickbait::predict(call.settings, train);
    if (call.command() == "attention") return clickbait::attention(call.settings, train);
    return clickbait::review(call.settings);
  });
}
