// interop/dpdk/drop_in.cpp - see drop_in.hpp.
#include <fmt/format.h>

#include "interop/dpdk/drop_in.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "base/sentence.hpp"
#include "heap/registry.hpp"
#include "platform/memory.hpp"
#include "platform/numa.hpp"
#include "platform/processes.hpp"
#include "platform/report.hpp"

namespace annex::dpdk {

constinit std::atomic<phase> current_phase{phase::passive};
constinit settings choices;
constinit thread_local u64 wanted_alignment = 0;
constinit std::array<std::atomic<served_heap*>, internal_sockets> internal_heaps{};

namespace {

using detail::local_heap;

// ---- the stamp: in native shared memory, at one address in every process of the group -----------
constexpr const char* stamp_name = "annex_drop_in";
constexpr u64 stamp_magic = 0x31706d6174736e61;
constexpr u32 stamp_version = 2, entry_count = 96;
enum entry_state : u32 { entry_free = 0, entry_making = 1, entry_ready = 2 };
struct stamp_entry {
  std::atomic<u32> socket_plus_1, state;
  u64 heap;
  char name[limits::name_bytes];
  char dpdk_name[heap_name_bytes];  // here, because EAL's own table is behind its memory lock
};
struct stamp {
  u64 magic;
  u32 version;
  std::atomic<u32> generation;  // rises with every entry that becomes ready
  char directory[256], base_name[limits::name_bytes];
  stamp_entry entries[entry_count];
};
static_assert(sizeof(stamp) < 8192);

constinit stamp* group = nullptr;
constinit const memzone* group_zone = nullptr;
constinit bool is_primary = false, memory_is_private = false, no_sockets = false;
constinit std::atomic<u32> seen_generation{0};

// ---- the heaps this process has open ------------------------------------------------------------
// While somebody looks at heaps, or closes one; before open_mutex.
constinit std::mutex looking_mutex;
// While a heap is made or attached; the real DPDK is never called under it.
constinit std::mutex open_mutex;
constexpr u32 external_slots = 64;
constinit std::array<std::atomic<served_heap*>, external_slots> external{};
constexpr u32 most_heaps = 256;
// Local_heap::index() → its served heap.
constinit std::array<std::atomic<served_heap*>, most_heaps> by_index{};
constinit std::array<std::atomic<bool>, internal_sockets> internal_refused{};
constinit std::array<int, internal_sockets> sockets{};
constinit u32 socket_count = 0;

template <class... Args>
void say(fmt::format_string<Args...> format, Args&&... args) noexcept {
  char line[400];
  report_line(write_sentence(line, format, std::forward<Args>(args)...));
}

stamp_entry* entry_of(int socket, bool claim) noexcept {
  const u32 wanted = static_cast<u32>(socket) + 1;
  for (stamp_entry& e : group->entries) {
    // sync(stamp socket): who had the entry before has freed it.
    u32 seen = e.socket_plus_1.load(std::memory_order_acquire);
    if (seen == 0 && claim &&
        e.socket_plus_1.compare_exchange_strong(seen, wanted, std::memory_order_acq_rel))
      return &e;
    if (seen == wanted) return &e;
    if (seen == 0 && !claim) continue;  // entries behind a forgotten one
  }
  return nullptr;
}

// Under open_mutex: this process's view of the socket's heap, made if nobody has and make is set.
served_heap* open_heap(int socket, bool make, const char* dpdk_name) noexcept {
  stamp_entry* const e = entry_of(socket, make);
  if (e == nullptr) return nullptr;
  // sync(stamp): the name and the number of the heap are seen.
  u32 state = e->state.load(std::memory_order_acquire);
  result<heap> opened = std::unexpected(error{errc::no_such_heap, 0, {}});
  if (state == entry_free && make &&
      e->state.compare_exchange_strong(state, entry_making, std::memory_order_acq_rel)) {
    char name[limits::name_bytes] = {};
    write_sentence(name, "{}.{}", group->base_name, socket);
    const heap_options options{.on_misuse = misuse_policy::refuse, .ephemeral = true};
    opened = heap::create(name, options);
    // Of an --in-memory process with the same prefix, or of orphans.
    if (!opened && opened.error().code == errc::name_taken) {
      std::memset(name, 0, sizeof name);
      write_sentence(name, "dpdk.pid{}.{}", os::process_id(), socket);
      opened = heap::create(name, options);
    }
    if (!opened) {
      say("DPDK's socket {} stays with DPDK's own allocator: {}", socket, opened.error().message());
      return nullptr;  // the entry stays "making": everybody stays with the real allocator
    }
    std::memcpy(e->name, name, sizeof name);
    write_sentence(e->dpdk_name, "{}", dpdk_name);
    e->heap = static_cast<u64>(opened->id());
    // sync(stamp): after the name and the number of the heap.
    e->state.store(entry_ready, std::memory_order_release);  // commit
    // sync(stamp generation): after the entry is ready.
    group->generation.fetch_add(1, std::memory_order_acq_rel);
  } else if (state == entry_ready) {
    opened = heap::attach({e->name, ::strnlen(e->name, sizeof e->name)});
    if (opened && static_cast<u64>(opened->id()) != e->heap)
      opened = std::unexpected(error{errc::no_such_heap, 0, {}});
    if (!opened)
      say("can't join heap {} of the primary, though its blocks may come to this process: {}",
          e->name, opened.error().message());
  }
  if (!opened) return nullptr;
  auto served = std::make_unique<served_heap>();
  served->socket = socket;
  served->is_external = socket >= first_external_socket;
  served->stamp_entry = static_cast<u32>(e - group->entries);
  std::copy_n(e->dpdk_name, heap_name_bytes - 1, served->dpdk_name.begin());
  served->annex = std::move(*opened);
  served_heap* const h = served.release();
  if (h->inside().here.index < most_heaps)
    // sync(served heap): what was written into it is seen by who finds it.
    by_index[h->inside().here.index].store(h, std::memory_order_release);
  if (!h->is_external) h->annex.on_shortage([h](size_t bytes) { return h->grow(bytes); });
  h->inside().memory.attach_more();
  return h;
}

served_heap* find_external(int socket) noexcept {
  for (u32 probe = 0; probe < external_slots; ++probe) {
    // sync(served heap): what it is made of is seen.
    served_heap* const h = external[(static_cast<u32>(socket) + probe) % external_slots].load(
        std::memory_order_acquire);
    if (h != nullptr && h->socket == socket) return h;
    if (h == nullptr) return nullptr;
  }
  return nullptr;
}

// dpdk_name: of the heap that is made; null: it is joined, if somebody has made it.
served_heap* open_external(int socket, const char* dpdk_name) noexcept {
  std::lock_guard guard(open_mutex);
  if (served_heap* const known = find_external(socket)) return known;
  std::atomic<served_heap*>* place = nullptr;
  for (u32 probe = 0; probe < external_slots && place == nullptr; ++probe) {
    auto& slot = external[(static_cast<u32>(socket) + probe) % external_slots];
    if (slot.load(std::memory_order_relaxed) == nullptr) place = &slot;
  }
  if (place == nullptr) return nullptr;
  served_heap* const h = open_heap(socket, dpdk_name != nullptr, dpdk_name);
  // sync(served heap): all of it is there.
  if (h != nullptr) place->store(h, std::memory_order_release);
  return h;
}

// "dpdk.<prefix>", shortened so that a socket's number fits behind it; a process whose memory is
// its own adds its number.
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
  new (&looking_mutex) std::mutex;  // whoever held them is not here
  new (&open_mutex) std::mutex;
  if (current_phase.load() == phase::serving && memory_is_private)
    current_phase.store(phase::forked);
}

// Whether what this process writes there stays its own.
bool is_private_mapping(const void* address) {
  const os::mapping_check seen = os::check_mapping(address, 1);
  return seen.mapped && !seen.shared;
}

// Segments of groups whose every process is dead: destroy() refuses the others.
void sweep_left_behind(const std::string& of_group) {
  auto there = heap::list();
  if (!there) return;
  for (const heap_summary& h : *there)
    if (h.name.starts_with("dpdk.") && (of_group.empty() || h.name.starts_with(of_group + ".")))
      (void)heap::destroy(h.name);
}

bool join_group() {
  const real_functions& r = real();
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
    __atomic_store_n(&group->magic, stamp_magic, __ATOMIC_RELEASE);
  } else {
    const memzone* const z = r.rte_memzone_lookup(stamp_name);
    if (z == nullptr) {
      say("not serving: the primary of this group is not served; start it with the library too");
      return false;
    }
    group = static_cast<stamp*>(z->addr);
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

}  // namespace

// ---- life ---------------------------------------------------------------------------------------

void begin_serving() noexcept {
  if (current_phase.load() == phase::serving || os::environment("ANNEX_DPDK") == "off") return;
  const keep_rte_errno untouched;
  if (!is_in_front()) {
    say("not serving: this program's rte_malloc is not the library's (linked statically, behind "
        "librte_eal, or loaded with DEEPBIND)");
    return;
  }
  const real_functions& r = real();
  read_settings();
  is_primary = r.rte_eal_process_type() == process_primary;
  no_sockets = r.rte_eal_has_hugepages() == 0;
  socket_count = std::min<u32>(r.rte_socket_count(), internal_sockets);
  for (u32 i = 0; i < socket_count; ++i)
    sockets[i] = r.rte_socket_id_by_idx(i);
  if (!join_group()) return;
  memory_is_private = is_private_mapping(group);
  seen_generation.store(0);
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
  // sync(phase): the same is seen by who sees this one.
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
  const looking guard_of_lookers;
  std::lock_guard guard(open_mutex);
  auto close = [](std::atomic<served_heap*>& place) {
    served_heap* const h = place.exchange(nullptr);
    if (h == nullptr) return;
    if (h->inside().here.index < most_heaps) by_index[h->inside().here.index].store(nullptr);
    const std::string name(h->annex.name());
    delete h;
    if (is_primary) (void)heap::destroy(name);  // refused while a secondary is attached
  };
  for (auto& h : internal_heaps)
    close(h);
  for (auto& h : external)
    close(h);
  for (auto& refused : internal_refused)
    refused.store(false);
  group = nullptr;
  group_zone = nullptr;
  if (is_primary) sweep_left_behind(group_name);
}

// ---- heaps --------------------------------------------------------------------------------------

int preferred_socket() noexcept {
  if (socket_count <= 1) return socket_count == 1 ? sockets[0] : 0;
  const int here = static_cast<int>(real().rte_socket_id());
  return here >= 0 && here < internal_sockets ? here : sockets[0];
}

bool is_without_sockets() noexcept {
  return no_sockets;
}
bool is_only_socket(int socket) noexcept {
  return socket_count == 1 && sockets[0] == socket;
}

served_heap* internal_heap(int socket) noexcept {
  if (no_sockets) socket = socket_count != 0 ? sockets[0] : 0;
  if (socket < 0 || socket >= internal_sockets) return nullptr;
  const u32 at = static_cast<u32>(socket);
  // sync(served heap): what it is made of is seen.
  if (served_heap* const known = internal_heaps[at].load(std::memory_order_acquire)) [[likely]]
    return known;
  if (internal_refused[at].load(std::memory_order_relaxed) ||
      std::find(sockets.begin(), sockets.begin() + socket_count, socket) ==
          sockets.begin() + socket_count)
    return nullptr;
  std::lock_guard guard(open_mutex);
  if (served_heap* const known = internal_heaps[at].load(std::memory_order_acquire)) return known;
  char dpdk_name[heap_name_bytes] = {};
  write_sentence(dpdk_name, "socket_{}", socket);
  served_heap* const made = open_heap(socket, true, dpdk_name);
  // sync(served heap): all of it is there.
  internal_heaps[at].store(made, std::memory_order_release);
  if (made == nullptr) internal_refused[at].store(true);
  return made;
}

served_heap* external_heap(int socket) noexcept {
  if (served_heap* const known = find_external(socket)) [[likely]]
    return known;
  if (group == nullptr || seen_generation.load(std::memory_order_relaxed) ==
                              group->generation.load(std::memory_order_acquire))
    return nullptr;
  follow_others();
  return find_external(socket);
}

served_heap* make_external_heap(int socket, const char* dpdk_name) noexcept {
  return open_external(socket, dpdk_name);
}

served_heap* known_heap(int socket) noexcept {
  (void)follow_others();
  if (socket >= first_external_socket) return find_external(socket);
  // sync(served heap): what it is made of is seen.
  return socket >= 0 && socket < internal_sockets
             ? internal_heaps[static_cast<u32>(socket)].load(std::memory_order_acquire)
             : nullptr;
}

served_heap* heap_named(const char* dpdk_name) noexcept {
  (void)follow_others();
  struct search {
    const char* name;
    served_heap* found;
  } s{dpdk_name, nullptr};
  for_each_served(
      [](served_heap& h, void* argument) {
        auto& look = *static_cast<search*>(argument);
        const bool is_it = std::strncmp(h.dpdk_name.data(), look.name, heap_name_bytes) == 0;
        // Not one that is gone.
        if (is_it && (look.found == nullptr || look.found->socket < h.socket)) look.found = &h;
      },
      &s);
  return s.found;
}

looking::looking() noexcept {
  looking_mutex.lock();
}
looking::~looking() {
  looking_mutex.unlock();
}

void forget_external_heap(int socket) noexcept {
  const looking guard_of_lookers;
  std::lock_guard guard(open_mutex);
  served_heap* const h = find_external(socket);
  if (h == nullptr) return;
  for (auto& place : external)
    if (place.load() == h) place.store(nullptr);
  // Those behind it in their probe sequences move up.
  std::array<served_heap*, external_slots> rest{};
  for (u32 i = 0; i < external_slots; ++i)
    rest[i] = external[i].exchange(nullptr);
  for (served_heap* other : rest)
    for (u32 probe = 0; other != nullptr && probe < external_slots; ++probe) {
      auto& slot = external[(static_cast<u32>(other->socket) + probe) % external_slots];
      if (slot.load() != nullptr) continue;
      // sync(served heap): as it was.
      slot.store(other, std::memory_order_release);
      break;
    }
  by_index[h->inside().here.index].store(nullptr);
  const std::string name(h->annex.name());
  stamp_entry& e = group->entries[h->stamp_entry];
  delete h;
  // Refused while others are attached: they leave it when they end, and the primary sweeps.
  (void)heap::destroy(name);
  // sync(stamp): we are done with the entry.
  e.state.store(entry_free, std::memory_order_release);
  // sync(stamp socket): who claims it finds it free.
  e.socket_plus_1.store(0, std::memory_order_release);
}

served_heap* owner_of(const void* address) noexcept {
  if (local_region* const region = region_of(address); region != nullptr && region->heap != nullptr)
    follow_changes(*region->heap);
  local_region* const region = region_of(address);
  if (region == nullptr || region->heap == nullptr || region->heap_index >= most_heaps)
    return nullptr;
  // sync(served heap): what it is made of is seen.
  return by_index[region->heap_index].load(std::memory_order_acquire);
}

void follow_changes(local_heap& h) noexcept {
  if (h.memory.has_news()) [[unlikely]] {
    h.memory.synchronize();
    h.memory.attach_more();
  }
}

bool follow_others() noexcept {
  if (group == nullptr) return false;
  bool any = false;
  // sync(stamp generation): the entries up to it are seen as ready.
  const u32 generation = group->generation.load(std::memory_order_acquire);
  if (seen_generation.exchange(generation) != generation)
    for (stamp_entry& e : group->entries) {
      const u32 socket_plus_1 = e.socket_plus_1.load(std::memory_order_acquire);
      // sync(stamp): the name and the number of the heap are seen.
      if (socket_plus_1 == 0 || e.state.load(std::memory_order_acquire) != entry_ready) continue;
      const int socket = static_cast<int>(socket_plus_1 - 1);
      if (socket >= first_external_socket)
        any |= find_external(socket) == nullptr && open_external(socket, nullptr) != nullptr;
      else
        any |= internal_heaps[static_cast<u32>(socket)].load() == nullptr &&
               internal_heap(socket) != nullptr;
    }
  for (auto& place : by_index)
    // sync(served heap): what it is made of is seen.
    if (served_heap* const h = place.load(std::memory_order_acquire);
        h != nullptr && h->inside().memory.has_news()) {
      follow_changes(h->inside());
      any = true;
    }
  return any;
}

void for_each_served(void (*visit)(served_heap&, void*), void* argument) noexcept {
  for (auto& place : by_index)
    // sync(served heap): what it is made of is seen.
    if (served_heap* const h = place.load(std::memory_order_acquire)) visit(*h, argument);
}

bool give_back_everywhere() noexcept {
  bool any = false;
  for (auto& place : internal_heaps)
    // sync(served heap): what it is made of is seen.
    if (served_heap* const h = place.load(std::memory_order_acquire)) any |= h->give_back(0);
  // The stamp goes with the last chunk, so that a clean end leaves no page of ours in use.
  if (current_phase.load() == phase::draining && is_primary && group != nullptr) {
    u64 regions = 0;
    for (auto& place : by_index)
      // sync(served heap): what it is made of is seen.
      if (served_heap* const h = place.load(std::memory_order_acquire); h != nullptr)
        regions += h->annex.stats().region_count;
    if (regions == 0) {
      group = nullptr;
      const memzone* const zone = std::exchange(group_zone, nullptr);
      const bypass around;
      real().rte_memzone_free(zone);
    }
  }
  return any;
}

}  // namespace annex::dpdk
