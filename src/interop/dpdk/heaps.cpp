// interop/dpdk/heaps.cpp - the annex heaps that stand for DPDK's: made or joined on first use,
// found by socket or by address, closed; declared in drop_in.hpp.
//
//   internal_heaps[socket]          never forgotten while the process is served
//   external[socket + probe]        open addressing; forgotten with DPDK's heap
//   by_index[local heap's index]    from a region to its heap
//
// Threads: any; a table's word is looked at without a lock, and changed under open_mutex. The real
// DPDK is never called with it held. Processes: each has tables of its own; what they share is the
// stamp (group.hpp).
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "base/sentence.hpp"
#include "interop/dpdk/drop_in.hpp"
#include "interop/dpdk/group.hpp"
#include "interop/dpdk/say.hpp"
#include "platform/processes.hpp"

namespace annex::dpdk {

constinit std::array<std::atomic<served_heap*>, internal_sockets> internal_heaps{};

namespace {

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
constinit std::atomic<u32> seen_generation{0};

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
  // A chunk goes back to DPDK as soon as nothing is live in it.
  h->inside().blocks.keep_no_large_blocks();
  if (h->inside().here.index < most_heaps)
    // sync(served heap): what was written into it is seen by whoever finds it.
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

}  // namespace

served_heap* internal_heap(int socket) noexcept {
  socket = served_socket(socket);
  if (socket < 0 || socket >= internal_sockets) return nullptr;
  const u32 at = static_cast<u32>(socket);
  // sync(served heap): what it is made of is seen.
  if (served_heap* const known = internal_heaps[at].load(std::memory_order_acquire)) [[likely]]
    return known;
  if (internal_refused[at].load(std::memory_order_relaxed) || !is_known_socket(socket))
    return nullptr;
  std::lock_guard guard(open_mutex);
  // Relaxed: whoever made it had the lock.
  if (served_heap* const known = internal_heaps[at].load(std::memory_order_relaxed)) return known;
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
  // Relaxed: follow_others() acquires it.
  if (group == nullptr || seen_generation.load(std::memory_order_relaxed) ==
                              group->generation.load(std::memory_order_relaxed))
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
  // sync(stamp socket): whoever claims it finds it free.
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

void follow_changes(detail::local_heap& h) noexcept {
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

void begin_following() noexcept {
  seen_generation.store(0);
}

void renew_locks_of_heaps() noexcept {
  new (&looking_mutex) std::mutex;
  new (&open_mutex) std::mutex;
}

void close_heaps() noexcept {
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
  leave_group();
}

}  // namespace annex::dpdk
