// interop/dpdk/group.cpp - see group.hpp.
#include "interop/dpdk/group.hpp"

#include <annex/heap.hpp>

#include <cctype>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "interop/dpdk/say.hpp"
#include "platform/processes.hpp"

namespace annex::dpdk {

constinit stamp* group = nullptr;
constinit bool is_primary = false;

namespace {

constexpr const char* stamp_name = "annex_drop_in";
constexpr u64 stamp_magic = 0x31706d6174736e61;
constexpr u32 stamp_version = 2;

constinit const memzone* group_zone = nullptr;

}  // namespace

stamp_entry* entry_of(int socket, bool claim) noexcept {
  const u32 wanted = static_cast<u32>(socket) + 1;
  for (stamp_entry& e : group->entries) {
    // sync(stamp socket): whoever had the entry before has freed it.
    u32 seen = e.socket_plus_1.load(std::memory_order_acquire);
    if (seen == 0 && claim &&
        e.socket_plus_1.compare_exchange_strong(seen, wanted, std::memory_order_acq_rel))
      return &e;
    if (seen == wanted) return &e;
    if (seen == 0 && !claim) continue;  // entries behind a forgotten one
  }
  return nullptr;
}

std::string base_name_of_group() {
  const char* const directory =
      real().rte_eal_get_runtime_dir != nullptr ? real().rte_eal_get_runtime_dir() : nullptr;
  std::string prefix = directory != nullptr ? directory : "";
  prefix.erase(0, prefix.find_last_of('/') + 1);
  const bool alone = prefix.empty();
  std::string clean = alone ? "rte" : prefix;
  for (char& c : clean)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_' && c != '-') c = '_';
  if (alone) clean = fmt::format("pid{}", os::process_id());
  constexpr size_t room = limits::name_bytes - 1 - 5 - 11;  // "dpdk." and ".2147483647"
  if (clean.size() > room) {
    u64 hash = 0xcbf29ce484222325;
    for (const char c : prefix)
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    clean = fmt::format("{}-{:06x}", clean.substr(0, room - 7), hash & 0xffffff);
  }
  return "dpdk." + clean;
}

void sweep_left_behind(const std::string& of_group) {
  auto there = heap::list();
  if (!there) return;
  for (const heap_summary& h : *there)
    if (h.name.starts_with("dpdk.") && (of_group.empty() || h.name.starts_with(of_group + ".")))
      (void)heap::destroy(h.name);
}

bool join_group() {
  const real_functions& r = real();
  is_primary = r.rte_eal_process_type() == process_primary;
  const bypass around;
  if (is_primary) {
    sweep_left_behind({});
    group_zone = r.rte_memzone_reserve(stamp_name, sizeof(stamp), any_socket, 0);
    if (group_zone == nullptr) {
      say("not serving: DPDK has no memory for a memzone of {} bytes", sizeof(stamp));
      return false;
    }
    group = new (group_zone->addr) stamp;
    std::memset(static_cast<void*>(group), 0, sizeof *group);
    group->version = stamp_version;
    directory().copy(group->directory, sizeof group->directory - 1);
    base_name_of_group().copy(group->base_name, sizeof group->base_name - 1);
    // sync(group): the rest of the stamp comes before.
    __atomic_store_n(&group->magic, stamp_magic, __ATOMIC_RELEASE);
  } else {
    const memzone* const z = r.rte_memzone_lookup(stamp_name);
    if (z == nullptr) {
      say("not serving: the primary of this group is not served; start it with the library too");
      return false;
    }
    group = static_cast<stamp*>(z->addr);
    // sync(group): the rest of the stamp is seen.
    if (__atomic_load_n(&group->magic, __ATOMIC_ACQUIRE) != stamp_magic ||
        group->version != stamp_version) {
      say("not serving: the primary runs another version of this library (stamp {}, here {}); this "
          "process must not free its blocks",
          group->version, stamp_version);
      group = nullptr;
      return false;
    }
    group_zone = z;
    // Where the primary's segments are.
    if (directory() != group->directory) ::setenv("ANNEX_DIR", group->directory, 1);
  }
  return true;
}

void leave_group() noexcept {
  group = nullptr;
  group_zone = nullptr;
}

void free_stamp() noexcept {
  group = nullptr;
  const memzone* const zone = std::exchange(group_zone, nullptr);
  const bypass around;
  real().rte_memzone_free(zone);
}

}  // namespace annex::dpdk
