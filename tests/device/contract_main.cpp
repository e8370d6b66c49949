// Runs the tests of the kernels' contracts on a device. They make their arrays on the host; here operator new gives
// memory of the driver that a GPU reads where it lies, so that a byte past an array's end is seen as on the CPU.

#include <gtest/gtest.h>

#include <bit>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>

#include "kernels/base/gpu_api.h"

namespace {

/// Blocks of powers of two from one large block, which is never given back.
class Arena {
 public:
  void begin(void* memory, std::size_t bytes) {
    first_ = static_cast<char*>(memory);
    next_ = first_;
    end_ = first_ + bytes;
  }
  bool has(const void* p) const { return p >= first_ && p < end_; }
  bool ready() const { return first_ != nullptr; }

  void* take(std::size_t bytes) {
    const std::size_t size_class = std::bit_width((bytes + kHeader - 1) | 0xff);
    const std::lock_guard lock(mutex_);
    Block* block = free_[size_class];
    if (block != nullptr) {
      free_[size_class] = block->next;
    } else {
      const std::size_t size = std::size_t{1} << size_class;
      if (size > static_cast<std::size_t>(end_ - next_)) return nullptr;
      block = reinterpret_cast<Block*>(next_);
      next_ += size;
    }
    block->size_class = size_class;
    return reinterpret_cast<char*>(block) + kHeader;
  }
  void give_back(void* p) {
    auto* block = reinterpret_cast<Block*>(static_cast<char*>(p) - kHeader);
    const std::lock_guard lock(mutex_);
    block->next = free_[block->size_class];
    free_[block->size_class] = block;
  }

 private:
  static constexpr std::size_t kHeader = 256;  // device memory is aligned to it
  struct Block {
    std::size_t size_class;
    Block* next;
  };
  std::mutex mutex_;
  char *first_ = nullptr, *next_ = nullptr, *end_ = nullptr;
  Block* free_[64] = {};
};
constinit Arena arena;

}  // namespace

void* operator new(std::size_t bytes) {
  void* p = arena.ready() ? arena.take(bytes) : std::malloc(bytes + (bytes == 0));
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void operator delete(void* p) noexcept {
  if (arena.has(p)) {
    arena.give_back(p);
  } else {
    std::free(p);
  }
}
void operator delete(void* p, std::size_t) noexcept { operator delete(p); }

int main(int argc, char** argv) {
  using namespace adjoint;
  ::testing::InitGoogleTest(&argc, argv);
  if (argc > 1) {
    std::fprintf(stderr, "%s: unknown option; expected GoogleTest's own\n", argv[1]);
    return 2;
  }
  GpuApi* const api = simt::api != nullptr ? simt::api : cuda::api;
  int count = 0;
  GpuProperties properties{};
  int status = api->device_count(&count);
  if (status == 0 && count > 0) status = api->properties(0, &properties);
  if (status != 0 || count == 0) {
    std::fprintf(stderr, "no CUDA device (%s)\n", status != 0 ? api->error_text(status) : "the driver found none");
    return 7;
  }
  if (!api->runs_on(properties.compute_capability)) {
    std::fprintf(stderr, "the device is sm_%d; this build has %s\n", properties.compute_capability,
                 api->architectures());
    return 7;
  }
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  void* memory = nullptr;
  if ((status = api->set_device(0)) != 0 || (status = api->allocate_host(&memory, kBytes)) != 0) {
    std::fprintf(stderr, "no host memory that the device reads: %s\n", api->error_text(status));
    return 7;
  }
  arena.begin(memory, kBytes);
  return RUN_ALL_TESTS();
}
