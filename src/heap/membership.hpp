// heap/membership.hpp - this process as a member of a heap: joining it, staying one across a fork,
// and leaving.
//
//   door (shared) ──▶ record and byte claimed: joining ──heap lock──▶ inspected, vouched for: live
//                                                                      │
//        free ◀── record, slot given back ◀── caches given back ◀──leave┘
//
// Everybody is seen before he looks whether anybody else is there, and looks while he holds the
// heap lock (docs/design/0012). A death anywhere leaves a record whose byte is free: recovery takes
// it back. Threads: any; what is changed of the process's own is changed under memory_mutex.
#pragma once
#include <mutex>
#include <vector>

#include "attached/locked.hpp"

namespace annex::detail {

// Opener: an attacher who ends a worthless heap.
enum class arrival { creator, attacher, child, opener };
inline bool is_attaching(arrival how) noexcept {
  return how == arrival::attacher || how == arrival::opener;
}

class membership : public part {
 public:
  explicit membership(attachment& heap) noexcept : part(heap) {}

  result<void> join(arrival how);
  /// True: this process is a member. A forked child becomes one here, on first use; false: a
  /// private heap in a child, a reader, or no member record left for the child.
  bool ensure_member() noexcept {
    if (!heap_.forked) [[likely]]
      return self() != 0;
    return join_as_child();
  }
  /// Ends the membership: caches back to their slabs, then slots and record, in this order.
  void leave() noexcept;
  /// In a forked child: leaves the parent's identity alone.
  void become_child() noexcept;

  /// Every attach counts as a member, also one that shares what this process has attached: it holds
  /// a record of its own, which says that this process lives and nothing else.
  result<void> count_share();
  void end_share() noexcept;
  /// From the record that is kept for the one who mends to one that recovery has freed, if any.
  void move_to_a_record_of_its_own() noexcept;

  /// Whether any other process that lives has the heap attached. Asks the kernel about each until
  /// one does.
  bool has_living_others() noexcept;
  /// This thread, or one that is gone, gives its cache back.
  void leave_thread(thread_cache* c) noexcept;

  /// What this member has said of the view's region; null: nothing. Takes no lock: also for whoever
  /// has it, and for readers.
  region_claim* claim_here(const local_region& view) noexcept;
  /// What it does with each region; made on first use. Null: no metadata left.
  region_claim* claims() noexcept;
  /// Its claim on the region in this slot. Null: no metadata left for it.
  region_claim* claim_on(u32 slot) noexcept;

 private:
  bool join_as_child() noexcept;
  result<void> pass_the_door(void** door);
  std::unexpected<error> refuse_claim(const member_claim& claim) const;
  struct verdict {
    bool is_ours = false;
    result<void> done;
  };
  verdict vouch_for_oneself(arrival how);
  result<void> come_alive(tenure& t, arrival how);
  bool vouch_for(const member_claim& claim) noexcept;
  void drop_what_a_child_lacks() noexcept;

  // Not memory_mutex: whoever waits for others, or attaches once more, may be inside a callback.
  std::mutex shares_mutex_;
  std::vector<member_claim> shares_;  // records of further attaches in this process
};

/// The region's id commits: a claim that is half written, or half taken away, is about nothing, and
/// recovery drops the dead's. bits: claim_attached, claim_observed.
void begin_claim(region_claim& claim, u32 id, int fd, u16 bits) noexcept;
void end_claim(region_claim& claim) noexcept;

/// Of a system that refuses the locks by which members show that they live.
std::unexpected<error> refuse_lock(int why, std::string_view name);

}  // namespace annex::detail
