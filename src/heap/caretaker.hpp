// heap/caretaker.hpp - looking after a heap: what caches keep is taken back, the dead are recovered
// and reaped, invariants are checked, and everything can be seen.
//
//   caretaker.cpp   trim, recover, reap, audit: each takes the heap lock and calls src/care/
//   seeing.cpp      figures, regions, zones, blocks, map, members
//   huge_bytes.cpp  huge pages, as the kernel tells of them
//   snapshot.cpp    all of it at once, without any lock (care/look.hpp)
//
// Threads and processes: any, any time. What only reads works from a process that may not write.
#pragma once
#include <functional>
#include <vector>

#include <annex/types.hpp>

#include "heap/membership.hpp"
#include "named/zone_record.hpp"

namespace annex::detail {

class caretaker : public part {
 public:
  caretaker(attachment& heap, membership& member) noexcept : part(heap), member_(member) {}

  /// Free blocks of every thread that can be held still go back to their regions.
  void trim_all(bool recall_everything) noexcept;
  /// Those of this process's threads.
  void trim_own() noexcept;
  /// How many dead members were found.
  size_t recover() noexcept;
  result<size_t> reap(u32 member, const std::function<reap_choice(const block_summary&)>& look);
  /// What a dead member holds, objects of pools included.
  std::vector<block_summary> held_by(u32 member);
  result<audit_report> audit();
  /// A pool needs its objects back from the caches of every thread, if it is the same one still.
  void recall_pool(const zone_record& z, u64 incarnation) noexcept;

  heap_stats stats() noexcept;
  void for_each_region(const std::function<void(const region_summary&)>& visit);
  result<u64> huge_bytes(region_id region);
  void for_each_zone(const std::function<void(const zone_summary&)>& visit);
  result<void> for_each_block(const std::function<void(const block_summary&)>& visit);
  void for_each_map_piece(const std::function<void(const map_piece&)>& visit);
  std::vector<member_summary> members();
  heap_snapshot snapshot(const snapshot_options& options);
  void report_statistics() noexcept;

 private:
  membership& member_;
};

}  // namespace annex::detail
