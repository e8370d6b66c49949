#pragma once
// Memory blocks and the allocators they come from.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/device.h"

namespace adjoint {

class Allocator;

/// A reference-counted block of memory. On the CPU the data follows the header in one block; the header of a GPU's
/// block is on the host.
struct Storage {
  void* data;
  std::size_t bytes;  ///< usable bytes (the size class, at least what was asked for)
  Allocator* allocator;
  std::atomic<std::uint32_t> references;
  std::uint32_t version;  ///< counts writes after creation, so that backward notices a changed saved tensor
  std::uint32_t size_class;
  Device device;
  Storage* next;  ///< in a thread's list of free blocks
};

struct AllocatorStatistics {
  std::size_t in_use = 0;                ///< bytes in live blocks
  std::size_t peak = 0;                  ///< highest in_use since reset_peak, or up to 512 KiB a thread above it
  std::size_t reserved = 0;              ///< bytes taken from the system and not given back
  std::uint64_t allocations = 0;         ///< blocks handed out
  std::uint64_t system_allocations = 0;  ///< of these, how many needed memory from the system
  std::uint64_t live = 0;                ///< blocks handed out and not released
};

/// Hands out blocks by size class and keeps released ones for reuse: a training step must not return memory to the
/// system, where getting it back costs microseconds a page. On a GPU, whose memory is scarcer, it keeps no more than
/// makes 1.5 times the bytes that were live at once. Thread-safe.
class Allocator {
 public:
  /// exact: every block is its own allocation of exactly the size asked for, freed on release (for checkers).
  /// keep_all: a released block may be reused but is never freed before the allocator is (recorded steps).
  explicit Allocator(Device device, bool exact = false, bool keep_all = false);
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  /// A block with one reference. When the system, the device or the limit refuses it, cached blocks are given back,
  /// those of the device's own allocator too, and it is tried once more; then E-MEM-001, on a GPU E-GPU-002.
  Storage* allocate(std::size_t bytes);
  void release(Storage* storage);

  AllocatorStatistics statistics() const;
  void reset_peak();
  /// Gives cached free blocks back to the system; how many bytes.
  std::size_t release_cached();
  /// No more than this many bytes reserved; 0 lifts the limit.
  void set_limit(std::size_t bytes);
  /// Writes `pattern` over every block that is not in `except`, live or free. For Step::verify.
  void fill_blocks(std::uint8_t pattern, const std::vector<const Storage*>& except);
  /// Ends the owner's interest: the allocator deletes itself once its last block is released.
  void orphan();

  /// The process-wide allocator of a device.
  static Allocator& of(Device device);
  /// What this thread allocates from now: the innermost AllocatorScope on that device, else of(device).
  static Allocator& current(Device device);

 private:
  friend class AllocatorScope;
  ~Allocator();
  Storage* try_to_allocate(std::size_t bytes);
  void give_back_for(std::size_t bytes);
  Storage* take_from_system(std::size_t bytes, std::uint32_t size_class);
  void give_to_system(Storage* storage);

  struct Lock;
  struct ThreadCache;
  friend struct ThreadCache;
  static constinit thread_local ThreadCache thread_cache_;
  const Device device_;
  const bool exact_;
  const bool keep_all_;
  bool per_thread_ = false;  // small free blocks lie in lists of each thread, which need no lock
  mutable std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  bool orphaned_ = false;
  std::size_t limit_ = 0;
  AllocatorStatistics statistics_;
  std::vector<std::vector<Storage*>> free_;
  std::vector<Storage*> blocks_;  // every block, if keep_all_
  std::vector<ThreadCache*> thread_caches_;
};

/// Allocations of this thread on the allocator's device come from it while the scope lives.
class AllocatorScope {
 public:
  explicit AllocatorScope(Allocator& allocator);
  ~AllocatorScope();
  AllocatorScope(const AllocatorScope&) = delete;
  AllocatorScope& operator=(const AllocatorScope&) = delete;

 private:
  Allocator* outer_;
};

/// An owning reference to a Storage.
class StorageRef {
 public:
  StorageRef() = default;
  /// Takes over one reference.
  explicit StorageRef(Storage* storage) : storage_(storage) {}
  StorageRef(const StorageRef& other) : storage_(other.storage_) {
    if (storage_ != nullptr) storage_->references.fetch_add(1, std::memory_order_relaxed);
  }
  StorageRef(StorageRef&& other) noexcept : storage_(other.storage_) { other.storage_ = nullptr; }
  StorageRef& operator=(StorageRef other) noexcept {
    Storage* mine = storage_;
    storage_ = other.storage_;
    other.storage_ = mine;
    return *this;
  }
  ~StorageRef() {
    // A block with one reference is ours alone, so the decrement needs no locked instruction.
    if (storage_ != nullptr && (storage_->references.load(std::memory_order_acquire) == 1 ||
                                storage_->references.fetch_sub(1, std::memory_order_acq_rel) == 1)) {
      storage_->allocator->release(storage_);
    }
  }
  Storage* get() const { return storage_; }
  Storage* operator->() const { return storage_; }
  explicit operator bool() const { return storage_ != nullptr; }

 private:
  Storage* storage_ = nullptr;
};

}  // namespace adjoint
