// The program of the README, word for word; tests/repository compares the two.
#include <cstdio>

#include "engine/ops.h"
#include "engine/optim/optimizer.h"
#include "models/layers.h"

int main() {
  using namespace adjoint;
  Generator random(1);
  Linear layer({random}, 2, 1);
  ParameterSet parameters(layer);
  Adam adam(parameters, {.learning_rate = 0.1});
  const Tensor x = random.normal({64, 2}, 0.0, 1.0), weights = Tensor::from(std::vector<double>{2, -1}, {2, 1});
  const Tensor target = matmul(x, weights) + 0.5;
  Tape tape;
  for (int step = 0; step < 300; ++step) {
    Tensor loss;
    {
      const auto recording = tape.record();
      loss = mean(square(layer.forward(x) - target));
    }
    tape.backward(loss);
    adam.step();
    if (step % 100 == 99) std::printf("step %d: loss %.2e\n", step + 1, loss.item());
  }
}
