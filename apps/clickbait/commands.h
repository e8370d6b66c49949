#pragma once
// The program's commands.

#include "apps/common/options.h"

namespace adjoint::clickbait {

void add_train_options(app::OptionTable& table);
int train(const app::Settings& settings);

int sweep(const app::Settings& settings, const app::OptionTable& train_table);

void add_eval_options(app::OptionTable& table);
int evaluate(const app::Settings& settings, const app::OptionTable& train_table);

void add_predict_options(app::OptionTable& table);
int predict(const app::Settings& settings, const app::OptionTable& train_table);

void add_attention_options(app::OptionTable& table);
int attention(const app::Settings& settings, const app::OptionTable& train_table);

void add_review_options(app::OptionTable& table);
int review(const app::Settings& settings);

}  // namespace adjoint::clickbait
