// interop/dpdk/drop_in.cpp - see drop_in.hpp: when serving begins and ends, with which settings,
// and when memory goes back. heaps.cpp has the heaps, group.cpp the stamp, sockets.cpp the sockets,
// chunks.cpp the memory.
#include "interop/dpdk/drop_in.hpp"

#include <cstdlib>
#include <string>

#include "interop/dpdk/group.hpp"
#include "interop/dpdk/say.hpp"
#include "platform/memory.hpp"
#include "platform/numa.hpp"
#include "platform/processes.hpp"

namespace annex::dpdk {

constinit std::atomic<phase> current_phase{phase::passive};
constinit settings choices;

namespace {

constinit bool memory_is_private = false;

void read_settings() {
  const std::string what = os::environment("ANNEX_DPDK"), keep = os::environment("ANNEX_DPDK_KEEP"),
                    reserve = os::environment("ANNEX_DPDK_RESERVE");
  choices.large_blocks = what != "small";
  choices.external_heaps = what != "small" && what != "internal";
  choices.clear = os::environment("ANNEX_DPDK_CLEAR") != "0";
  if (!keep.empty()) choices.keep_bytes = std::strtoull(keep.c_str(), nullptr, 0);
  if (!reserve.empty()) choices.reserve_bytes = std::strtoull(reserve.c_str(), nullptr, 0);
}

void in_forked_child() {
  renew_locks_of_heaps();
  if (current_phase.load() == phase::serving && memory_is_private)
    current_phase.store(phase::forked);
}

// Whether what this process writes there stays its own.
bool is_private_mapping(const void* address) {
  const os::mapping_check seen = os::check_mapping(address, 1);
  return seen.mapped && !seen.shared;
}

}  // namespace

void begin_serving() noexcept {
  if (current_phase.load() == phase::serving || os::environment("ANNEX_DPDK") == "off") return;
  const keep_rte_errno untouched;
  if (!is_in_front()) {
    say("not serving: this program's rte_malloc is not the library's (linked statically, behind "
        "librte_eal, or loaded with DEEPBIND)");
    return;
  }
  read_settings();
  look_at_sockets();
  if (!join_group()) return;
  memory_is_private = is_private_mapping(group);
  begin_following();
  static const bool once = (os::at_fork(nullptr, nullptr, in_forked_child), true);
  (void)once;
  // sync(phase): the group, its sockets and the settings come before.
  current_phase.store(phase::serving, std::memory_order_release);
  follow_others();
  // Making the heap and its first chunk takes longer than all of the first blocks.
  if (is_primary && choices.reserve_bytes != 0)
    if (served_heap* const first = internal_heap(preferred_socket()))
      first->grow_ahead(choices.reserve_bytes);
  if (os::environment("ANNEX_DPDK_SAY") == "1")
    say("serving {} process {}, heaps {}.* in {}", is_primary ? "primary" : "secondary",
        os::process_id(), group->base_name, group->directory);
}

void explain_failed_start(bool wants_hugepages) noexcept {
  if (os::environment("ANNEX_DPDK_SAY") != "1") return;
  const bool has_none =
      os::hugepages_of(2 * MiB).free_pages == 0 && os::hugepages_of(1 * GiB).free_pages == 0;
  if (!wants_hugepages || !has_none) return say("DPDK did not start; it has said why above");
  say("DPDK did not start, and no hugepages are free here: reserve some (`annex doctor hugepages` "
      "says how), or give EAL --no-huge, and -m with the MiB it may have");
}

#ifndef ANNEX_DPDK_STATIC
// `annex run` became this program, and can't say it any more.
[[gnu::constructor]] static void say_what_has_no_dpdk() noexcept {
  if (os::environment("ANNEX_DPDK_SAY") != "1" ||
      os::environment("ANNEX_DPDK_ASKED") != std::to_string(os::process_id()))
    return;
  if (real().rte_eal_init != nullptr) return;
  say("this program is not linked with DPDK's shared libraries: unless it loads them later, or "
      "starts one that is, nothing is served (a program that links DPDK statically needs "
      "libannex_dpdk.a)");
}
#endif

void begin_draining() noexcept {
  if (current_phase.load() != phase::serving) return;
  // sync(phase): the same is seen by whoever sees this one.
  current_phase.store(phase::draining, std::memory_order_release);
  if (!is_primary) return;
  give_back_everywhere();
}

void end_serving() noexcept {
  // sync(phase): as above.
  const phase before = current_phase.exchange(phase::over, std::memory_order_acq_rel);
  if (before != phase::draining) {
    current_phase.store(before);
    return;
  }
  const std::string group_name = base_name_of_group();
  close_heaps();
  if (is_primary) sweep_left_behind(group_name);
}

bool give_back_everywhere() noexcept {
  bool any = false;
  for (auto& place : internal_heaps)
    // sync(served heap): what it is made of is seen.
    if (served_heap* const h = place.load(std::memory_order_acquire)) any |= h->give_back(0);
  // The stamp goes with the last chunk, so that a clean end leaves no page of ours in use.
  if (current_phase.load() == phase::draining && is_primary && group != nullptr) {
    u64 regions = 0;
    for_each_served(
        [](served_heap& h, void* sum) { *static_cast<u64*>(sum) += h.annex.stats().region_count; },
        &regions);
    if (regions == 0) free_stamp();
  }
  return any;
}

}  // namespace annex::dpdk
