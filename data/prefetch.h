#pragma once
// Makes batches in a thread of its own, some ahead of their use.

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

namespace adjoint::data {

/// `next()` gives what `make()` returns, in order; `make` runs in one background thread, at most `depth` (at least 1)
/// finished results ahead, until it returns nothing. An exception of `make` comes out of `next` after the results
/// before it.
template <class T>
class Prefetch {
 public:
  Prefetch(std::function<std::optional<T>()> make, size_t depth)
      : make_(std::move(make)), depth_(std::max<size_t>(depth, 1)), thread_([this] { run(); }) {}
  ~Prefetch() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;

  /// Waits for the next result; nothing at the end, also when called again.
  std::optional<T> next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || ended_; });
    if (ready_.empty()) {
      if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
      return std::nullopt;
    }
    std::optional<T> out = std::move(ready_.front());
    ready_.pop_front();
    lock.unlock();
    changed_.notify_all();
    return out;
  }

 private:
  void run() {
    std::exception_ptr failure;
    try {
      while (std::optional<T> made = make_()) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stopped_ || ready_.size() < depth_; });
        if (stopped_) return;
        ready_.push_back(std::move(*made));
        lock.unlock();
        changed_.notify_all();
      }
    } catch (...) {
      failure = std::current_exception();
    }
    {
      const std::lock_guard lock(mutex_);
      failure_ = failure;
      ended_ = true;
    }
    changed_.notify_all();
  }

  std::function<std::optional<T>()> make_;
  const size_t depth_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> ready_;
  std::exception_ptr failure_;
  bool ended_ = false, stopped_ = false;
  std::thread thread_;  // last: it uses everything above
};

}  // namespace adjoint::data
