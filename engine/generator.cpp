#include "engine/generator.h"

#include <cstring>

#include "engine/launch.h"
#include "kernels/random.h"

namespace adjoint {

Generator::Generator(std::uint64_t seed, Device device) {
  const PhiloxState start{seed, 0};
  state_ = Tensor::empty({static_cast<std::int64_t>(sizeof start)}, DType::u8, device);
  state_.write(std::as_bytes(std::span(&start, 1)));
}

Generator::Generator(const Tensor& state) : state_(Tensor::empty_like(state)) { state_.copy_from(state); }

Tensor Generator::draw(std::int64_t elements) {
  Tensor drawn = Tensor::empty(state_.shape(), DType::u8, state_.device());
  launch(state_.device(), RandomAdvance{.state = state_.data_as<PhiloxState>(),
                                        .saved = drawn.data_as<PhiloxState>(),
                                        .blocks = static_cast<std::uint64_t>(elements + 3) / 4});
  return drawn;
}

Tensor Generator::uniform(const Shape& shape, double low, double high, DType dtype) {
  Tensor y = Tensor::empty(shape, dtype, device());
  const Tensor state = draw(y.count());
  launch(device(), RandomFill{.kind = RandomKind::uniform,
                              .dtype = dtype,
                              .n = y.count(),
                              .state = philox_state(state),
                              .y = y.data(),
                              .a = low,
                              .b = high});
  return y;
}

Tensor Generator::normal(const Shape& shape, double mean, double stddev, DType dtype) {
  Tensor y = Tensor::empty(shape, dtype, device());
  const Tensor state = draw(y.count() + 1);  // pairs of words: an odd count uses half of the last pair
  launch(device(), RandomFill{.kind = RandomKind::normal,
                              .dtype = dtype,
                              .n = y.count(),
                              .state = philox_state(state),
                              .y = y.data(),
                              .a = mean,
                              .b = stddev});
  return y;
}

}  // namespace adjoint
