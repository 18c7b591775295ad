// observer/observer_list.hpp - the observers of one heap in one process, asked in order, undone in
// reverse.
//
// Threads: the list is copied before anyone is called, so callbacks may allocate, free and look up.
// The caller keeps other changes of the heap's regions away meanwhile.
#pragma once
#include <memory>
#include <mutex>

#include <annex/observer.hpp>

#include "base/failure.hpp"
#include "region/local_region.hpp"

namespace annex {

/// An observer that is told of a removal nobody waits for (a veto undone, close, detach) gets this
/// long.
inline constexpr std::chrono::seconds detach_time{10};

class observer_list {
 public:
  void append(observer* who);
  void erase(observer* who);
  bool empty() const;

  /// All must agree; after a refusal those that had agreed are told to let go again. Errors:
  /// vetoed.
  result<void> agree(const region_view& region);
  /// begin for all, then finish for all. Errors: deadline_passed, naming the observer; those before
  /// it have let go.
  result<void> let_go(const region_view& region, std::chrono::steady_clock::time_point deadline);

  static result<void> ask(observer& who, const region_view& region);
  static result<void> dismiss(observer& who, const region_view& region,
                              std::chrono::steady_clock::time_point deadline);

 private:
  std::vector<observer*> copy() const;
  mutable std::mutex mutex_;
  std::vector<observer*> observers_;
};

/// What observers are shown of a region.
region_view view_for_observers(const local_region& region);

/// True while this thread is inside a callback of an observer.
bool is_inside_callback() noexcept;
/// The same, of an observer of this heap.
bool is_inside_callback_of(heap_id heap) noexcept;

}  // namespace annex
