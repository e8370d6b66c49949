#pragma once
// --objective lm: a next-word language model of the training texts.

#include "apps/common/training_run.h"

namespace adjoint::clickbait {

app::Trained language_model_trained(const app::Settings& settings);

}  // namespace adjoint::clickbait
