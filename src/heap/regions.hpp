// heap/regions.hpp - the life of regions: brought or added, attached by other processes, drained,
// removed.
//
//   adding.cpp     a range the caller has, checked and published
//   bring.cpp      memory made for it, from a file or not (source_file.cpp)
//   attaching.cpp  in other processes: mapped, or checked by hand
//   detaching.cpp  let go of in this process
//   in_step.cpp    what came and went elsewhere, followed here
//   draining.cpp   until nothing is live, then removed
//   pinning.cpp, populate.cpp   pages that stay, pages that are there
//
// Threads: any. Changes are made under memory_mutex; observers are called with it held and no other
// lock, so a callback that changes the regions of the same heap is refused.
#pragma once
#include <functional>

#include <annex/observer.hpp>
#include <annex/types.hpp>

#include "heap/caretaker.hpp"
#include "heap/membership.hpp"
#include "observer/observer_list.hpp"
#include "platform/pinning.hpp"

namespace annex::detail {

class regions : public part {
 public:
  regions(attachment& heap, membership& member, caretaker& care) noexcept
      : part(heap), member_(member), care_(care) {}

  /// How the memory of a region came about, besides what memory_range says.
  struct provenance {
    bool mapped_by_annex = false;
    std::string owned_path;  // of a file that annex made and that goes with the region
    // Of a range that is pinned already; taken over, unless it is refused.
    os::pinned* pins = nullptr;
    bool physical = false;  // its IOVAs are where its pages are
    // Not ~0: its tables are taken from the file system at once, and of the memory what lies behind
    // when it is given out.
    u64 sure_bytes = ~u64{0};
  };
  result<region_id> add_memory(const memory_range& range, const provenance& from);
  result<region_id> add_memory(const memory_range& range);
  result<region_id> bring_memory(const memory_source& source);
  result<void> remove_memory(region_id id, std::chrono::nanoseconds deadline, bool wait);
  result<void> cancel_drain(region_id id);
  /// base: null: the region is mapped by what its record says.
  result<void> attach_memory(region_id id, void* base);
  result<void> detach_memory(region_id id);
  result<void> prefault(region_id id, unsigned threads,
                        const std::function<void(u64, u64)>& progress);

  /// In step with the region table: what is gone is let go of, what observers wait for is attached.
  void synchronize() noexcept;
  /// Regions came or went since the last synchronize().
  bool has_news() const noexcept {
    // sync(epoch): as in synchronize().
    return seen_epoch_.load(std::memory_order_relaxed) !=
           segment_.header().region_epoch.load(std::memory_order_acquire);
  }
  /// Attaches what can be attached automatically; true when anything new came.
  bool attach_more() noexcept;
  result<local_region*> ensure_attached(u32 slot);
  /// Whether another live member has the region attached.
  bool is_attached_elsewhere(region_id id) noexcept;
  /// The region of a heap that has a single one; else 0.
  region_id only_region() noexcept;

  attach_policy policy() const noexcept { return policy_; }
  void set_policy(attach_policy policy) noexcept { policy_ = policy; }
  observer_list& observers() noexcept { return observers_; }
  /// What this member's claims say of a region that it has: attached, and whether observers watch.
  u16 attached_bits() const noexcept;
  /// Unmaps everything, as the heap is closed.
  void close_regions() noexcept;
  /// In a forked child: observers are the parent's.
  void become_child() noexcept { new (&observers_) observer_list; }

 private:
  class addition;  // adding.cpp: one region on its way in
  class bringing;  // bring.cpp: memory that is made for one
  class arrival;   // attaching.cpp: one region on its way into this process
  class removal;   // draining.cpp: one region on its way out
  u32 find_region_id(u64 length_bytes) noexcept;
  result<local_region*> attach_slot(u32 slot, void* base_by_hand);
  result<int> open_memory(const region_record& r, u32 slot) noexcept;
  static result<void> check_length(const local_region& view) noexcept;
  result<void> check_physical(const local_region& view, void* base) noexcept;
  void detach_view(local_region& view) noexcept;
  bool may_leave_to_drainer(const local_region& view) noexcept;
  bool leave_to_drainer(local_region& view) noexcept;
  bool stop_serving_here(local_region& view) noexcept;
  result<void> check_removable(u32 slot);
  std::string who_holds(u32 slot);
  void discard_retired() noexcept;

  membership& member_;
  caretaker& care_;
  attach_policy policy_ = attach_policy::automatic;
  observer_list observers_;
  std::atomic<u32> seen_epoch_{0};
};

/// Of what changes the heap's regions, or who observes them: inside a callback of one of its
/// observers this thread has memory_mutex already. Errors: invalid_argument.
inline result<void> refuse_in_callback(const attachment& heap, std::string_view what) {
  if (!is_inside_callback_of(heap.id())) return {};
  return refuse(errc::invalid_argument,
                "\"{}\": {} inside a callback of one of its observers would wait for itself; do it "
                "when the callback has returned",
                heap.name, what);
}

/// Populates and pins; refuses with what is wrong.
result<os::pinned*> pin_memory(void* base, u64 bytes, touch access, unsigned threads,
                               const std::function<void(u64, u64)>& progress);

}  // namespace annex::detail
