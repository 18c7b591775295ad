// heap/observing.hpp - who watches a heap's regions in this process: observers, the thread that
// wakes for them, leases.
//
// Observers are called with memory_mutex held and no other lock. A lease is a count in the member's
// claim on the region, which ends with the member.
#pragma once
#include <thread>

#include "heap/regions.hpp"

namespace annex::detail {

class observing : public part {
 public:
  observing(attachment& heap, membership& member, regions& memory) noexcept
      : part(heap), member_(member), memory_(memory) {}

  result<observation> observe(observer& who);
  void end_observation(observer* who) noexcept;
  result<lease> hold(region_id id);
  void give_back_lease(u32 slot) noexcept;
  void stop_watcher() noexcept;
  /// In a forked child the watcher does not exist: it is forgotten without joining it.
  void become_child() noexcept;

 private:
  void note_observers() noexcept;
  void start_watcher();

  membership& member_;
  regions& memory_;
  std::thread watcher_;
  std::atomic<bool> watcher_stop_{false};
};

}  // namespace annex::detail
