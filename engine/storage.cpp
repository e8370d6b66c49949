#include "engine/storage.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "engine/gpu.h"
#include "engine/scope.h"

namespace adjoint {
namespace {

constexpr std::size_t kAlignment = 64;
static_assert(sizeof(Storage) <= kAlignment);

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kExactByDefault = true;  // a cache would hide overruns and use after release from the sanitizer
#else
constexpr bool kExactByDefault = false;
#endif

// Classes: multiples of 64 bytes up to 1 KiB, then four steps for each doubling, so at most a quarter is wasted.
constexpr std::size_t kSmall = 1024;

std::uint32_t size_class_of(std::size_t bytes) {
  if (bytes <= kSmall) return static_cast<std::uint32_t>(bytes == 0 ? 0 : (bytes - 1) / 64);
  const int log = std::bit_width(bytes - 1) - 1;  // 2^log < bytes <= 2^(log+1)
  const std::size_t step = std::size_t{1} << (log - 2);
  const std::size_t part = (bytes - (std::size_t{1} << log) + step - 1) / step;  // 1..4
  return static_cast<std::uint32_t>(16 + (log - 10) * 4 + part - 1);
}

std::size_t class_bytes(std::uint32_t size_class) {
  if (size_class < 16) return (size_class + 1) * 64;
  const std::uint32_t log = (size_class - 16) / 4 + 10, part = (size_class - 16) % 4 + 1;
  return (std::size_t{1} << log) + part * (std::size_t{1} << (log - 2));
}

thread_local Allocator* scoped_allocator = nullptr;

}  // namespace

// A spin lock: it is held for a few instructions, and an uncontended one costs a few nanoseconds.
struct Allocator::Lock {
  explicit Lock(const Allocator& a) : flag(a.busy_) {
    while (flag.test_and_set(std::memory_order_acquire)) {
    }
  }
  ~Lock() { flag.clear(std::memory_order_release); }
  std::atomic_flag& flag;
};

// What a thread released and may take again without the lock: an op on a few numbers takes about as long as two locks.
// The allocator counts these blocks as handed out; statistics() corrects for them. Only this thread changes its cache;
// the atomics are for statistics().
struct Allocator::ThreadCache {
  static constexpr std::uint32_t kClasses = 32;  // up to 16 KiB
  static constexpr std::size_t kBytes = 512 * 1024;

  enum class State : std::uint8_t { unused, open, closed };

  Storage* free[kClasses] = {};
  std::atomic<std::size_t> bytes = 0;
  std::atomic<std::uint64_t> blocks = 0;
  std::atomic<std::uint64_t> served = 0;
  State state = State::unused;  // closed: the thread ends, and what it releases from now on is for others

  template <class T>
  static void add(std::atomic<T>& counter, T value) {
    counter.store(counter.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
  }

  Storage* take(std::uint32_t size_class) {
    if (size_class >= kClasses || free[size_class] == nullptr) return nullptr;
    Storage* const storage = free[size_class];
    free[size_class] = storage->next;
    add(bytes, -storage->bytes);
    add(blocks, ~std::uint64_t{0});
    add(served, std::uint64_t{1});
    return storage;
  }
  bool put(Storage* storage) {
    if (storage->size_class >= kClasses || bytes.load(std::memory_order_relaxed) >= kBytes) return false;
    if (state != State::open) {
      if (state == State::closed) return false;
      open(*storage->allocator);
    }
    storage->next = free[storage->size_class];
    free[storage->size_class] = storage;
    add(bytes, storage->bytes);
    add(blocks, std::uint64_t{1});
    return true;
  }
  void open(Allocator& allocator);
  /// Hands all blocks to the allocator.
  void clear(Allocator& allocator) {
    for (Storage*& list : free)
      while (Storage* const storage = list) {
        list = storage->next;
        --allocator.statistics_.live;
        allocator.statistics_.in_use -= storage->bytes;
        allocator.free_[storage->size_class].push_back(storage);
      }
    bytes.store(0, std::memory_order_relaxed);
    blocks.store(0, std::memory_order_relaxed);
  }
};

constinit thread_local Allocator::ThreadCache Allocator::thread_cache_;

void Allocator::ThreadCache::open(Allocator& allocator) {
  // A cache with a destructor would have to be looked up through a function at each use; this one closes it.
  struct Closer {
    explicit Closer(Allocator& a) : allocator(a) {
      const Lock lock(allocator);
      allocator.thread_caches_.push_back(&thread_cache_);
      thread_cache_.state = State::open;
    }
    ~Closer() {
      const Lock lock(allocator);
      thread_cache_.clear(allocator);
      thread_cache_.state = State::closed;
      allocator.statistics_.allocations += thread_cache_.served;
      std::erase(allocator.thread_caches_, &thread_cache_);
    }
    Allocator& allocator;
  };
  static thread_local const Closer closer(allocator);
}

Allocator::Allocator(Device device, bool exact, bool keep_all)
    : device_(device), exact_((exact || kExactByDefault) && !keep_all), keep_all_(keep_all), free_(16 + 4 * 40) {}

Allocator::~Allocator() {
  release_cached();
  for (Storage* block : blocks_) give_to_system(block);
}

Storage* Allocator::take_from_system(std::size_t bytes, std::uint32_t size_class) {
  if (limit_ != 0 && statistics_.reserved + bytes > limit_) return nullptr;
  const bool on_host = device_.type == DeviceType::cpu;
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, kAlignment + (on_host ? bytes : 0)) != 0) return nullptr;
  void* data = static_cast<char*>(memory) + kAlignment;
  if (!on_host) {
    data = nullptr;
    try {
      data = Gpu::of(device_).allocate(bytes);
    } catch (...) {
      std::free(memory);
      throw;
    }
    if (data == nullptr) {
      std::free(memory);
      return nullptr;
    }
  }
  statistics_.reserved += bytes;
  ++statistics_.system_allocations;
  auto* storage = new (memory) Storage{};
  storage->data = data;
  storage->bytes = bytes;
  storage->allocator = this;
  storage->size_class = size_class;
  storage->device = device_;
  return storage;
}

void Allocator::give_to_system(Storage* storage) {
  statistics_.reserved -= storage->bytes;
  if (device_.type != DeviceType::cpu) Gpu::of(device_).release(storage->data);
  std::free(storage);
}

// What is reserved stays within 6/5 of the peak in bytes of classes, which are at most 5/4 of the bytes asked for.
void Allocator::give_back_for(std::size_t bytes) {
  const std::size_t most = std::max(statistics_.peak, statistics_.in_use + bytes) / 5 * 6;
  for (std::size_t size_class = free_.size(); size_class-- > 0;) {
    std::vector<Storage*>& free = free_[size_class];
    while (!free.empty()) {
      if (statistics_.reserved + bytes <= most) return;
      give_to_system(free.back());
      free.pop_back();
    }
  }
}

Storage* Allocator::try_to_allocate(std::size_t bytes) {
  const std::uint32_t size_class = size_class_of(bytes);
  const Lock lock(*this);
  std::vector<Storage*>& free = free_[size_class];
  Storage* storage = nullptr;
  if (!free.empty()) {
    storage = free.back();
    free.pop_back();
  } else {
    const std::size_t wanted = exact_ ? bytes : class_bytes(size_class);
    if (device_.type != DeviceType::cpu && !keep_all_) give_back_for(wanted);
    storage = take_from_system(wanted, size_class);
    if (storage == nullptr) return nullptr;
    if (keep_all_) blocks_.push_back(storage);
  }
  ++statistics_.allocations;
  ++statistics_.live;
  statistics_.in_use += storage->bytes;
  statistics_.peak = std::max(statistics_.peak, statistics_.in_use);
  storage->references.store(1, std::memory_order_relaxed);
  storage->version = 0;
  return storage;
}

Storage* Allocator::allocate(std::size_t bytes) {
  if (per_thread_) {
    if (Storage* const storage = thread_cache_.take(size_class_of(bytes))) {
      storage->references.store(1, std::memory_order_relaxed);
      storage->version = 0;
      return storage;
    }
  }
  if (Storage* const storage = try_to_allocate(bytes)) [[likely]]
    return storage;
  Allocator& shared = of(device_);
  std::size_t given_back = release_cached();
  if (&shared != this) given_back += shared.release_cached();
  if (given_back != 0)
    if (Storage* const storage = try_to_allocate(bytes)) return storage;
  constexpr double kMiB = 1024.0 * 1024.0;
  std::size_t in_use = statistics().in_use;
  if (&shared != this) in_use += shared.statistics().in_use;
  const std::string path = ScopeName::path();
  const bool on_host = device_.type == DeviceType::cpu;
  throw Error(
      on_host ? "E-MEM-001" : "E-GPU-002", on_host ? Exit::memory : Exit::device,
      fmt::format("{}: requested {:.1f} MiB, in use {:.1f} MiB, limit {}; in an op {}; try a smaller --batch-size",
                  text(device_), static_cast<double>(bytes) / kMiB, static_cast<double>(in_use) / kMiB,
                  limit_ == 0 ? on_host ? "the system's" : "the device's"
                              : fmt::format("{:.1f} MiB", static_cast<double>(limit_) / kMiB),
                  path.empty() ? "outside of layers" : fmt::format("of layer '{}'", path)));
}

void Allocator::release(Storage* storage) {
  if (per_thread_ && thread_cache_.put(storage)) return;
  bool last = false;
  {
    const Lock lock(*this);
    --statistics_.live;
    statistics_.in_use -= storage->bytes;
    if (exact_) {
      give_to_system(storage);
    } else {
      free_[storage->size_class].push_back(storage);
    }
    last = orphaned_ && statistics_.live == 0;
  }
  if (last) delete this;
}

AllocatorStatistics Allocator::statistics() const {
  const Lock lock(*this);
  AllocatorStatistics s = statistics_;
  for (const ThreadCache* cache : thread_caches_) {
    s.in_use -= cache->bytes;
    s.live -= cache->blocks;
    s.allocations += cache->served;
  }
  return s;
}

void Allocator::reset_peak() {
  const Lock lock(*this);
  statistics_.peak = statistics_.in_use;
}

std::size_t Allocator::release_cached() {
  if (keep_all_) return 0;
  const Lock lock(*this);
  const std::size_t before = statistics_.reserved;
  if (per_thread_) thread_cache_.clear(*this);
  for (std::vector<Storage*>& list : free_) {
    for (Storage* storage : list) give_to_system(storage);
    list.clear();
  }
  return before - statistics_.reserved;
}

void Allocator::set_limit(std::size_t bytes) {
  const Lock lock(*this);
  limit_ = bytes;
}

void Allocator::fill_blocks(std::uint8_t pattern, const std::vector<const Storage*>& except) {
  const Lock lock(*this);
  for (Storage* block : blocks_) {
    if (std::find(except.begin(), except.end(), block) != except.end()) continue;
    if (device_.type == DeviceType::cpu) {
      std::memset(block->data, pattern, block->bytes);
    } else {
      Gpu::of(device_).fill(block->data, pattern, block->bytes);
    }
  }
}

void Allocator::orphan() {
  bool last = false;
  {
    const Lock lock(*this);
    orphaned_ = true;
    last = statistics_.live == 0;
  }
  if (last) delete this;
}

Allocator& Allocator::of(Device device) {
  // Never destroyed: tensors with static lifetime may be released after any destructor of ours would have run.
  static Allocator* const cpu = [] {
    auto* allocator = new Allocator({DeviceType::cpu, 0});
    allocator->per_thread_ = !allocator->exact_;
    return allocator;
  }();
  static Allocator* const simt = new Allocator({DeviceType::simt, 0}, true);
  if (device.type == DeviceType::cpu) return *cpu;
  if (device.type == DeviceType::simt) return *simt;
  static std::atomic<Allocator*> cuda[256] = {};
  std::atomic<Allocator*>& of_index = cuda[device.index];
  if (Allocator* const found = of_index.load(std::memory_order_acquire); found != nullptr) return *found;
  Gpu::of(device);  // throws if there is no such device
  Allocator* made = new Allocator(device);
  Allocator* expected = nullptr;
  if (of_index.compare_exchange_strong(expected, made, std::memory_order_acq_rel)) return *made;
  made->orphan();
  return *expected;
}

Allocator& Allocator::current(Device device) {
  if (scoped_allocator != nullptr && scoped_allocator->device_ == device) return *scoped_allocator;
  return of(device);
}

AllocatorScope::AllocatorScope(Allocator& allocator) : outer_(scoped_allocator) { scoped_allocator = &allocator; }
AllocatorScope::~AllocatorScope() { scoped_allocator = outer_; }

}  // namespace adjoint
