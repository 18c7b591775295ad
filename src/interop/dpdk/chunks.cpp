// interop/dpdk/chunks.cpp - memory for the internal heaps: whole blocks of the real heap, as
// regions.
//
//   native page(s)  │ header │ chunk: a region of the socket's annex heap │
//                              in granules of 64 KiB, each contiguous in IOVAs
//
// The first chunk is there when serving begins (ANNEX_DPDK_RESERVE). Then one is at least 31 × 64
// KiB, so that it and the real heap's header fill one 2 MiB page, and an eighth of what the heap
// has, up to 64 MiB; a larger request gets a chunk of its size. A chunk is zeros when it comes:
// what was never handed out needs no clearing. Every byte lies in memory the real EAL knows: DMA
// mapping, memory events and address queries go on as ever. An empty chunk goes back whole.
// If the process dies between taking a chunk and adding it, the real heap has a live block nobody
// frees, as when any DPDK process dies with memory in its hands.
#include <algorithm>
#include <vector>

#include "heap/local_heap.hpp"
#include "interop/dpdk/drop_in.hpp"
#include "platform/numa.hpp"
#include "platform/report.hpp"

namespace annex::dpdk {

constinit thread_local u64 wanted_alignment = 0;

namespace {

constexpr u64 unit = 64 * KiB, smallest_chunk = 31 * unit, largest_step = 64 * MiB;

// What the kernel has left of these pages. 0: not hugepages, or not known.
u64 free_hugepage_bytes(u64 page_bytes) {
  return os::hugepages_of(page_bytes).free_pages * page_bytes;
}

// Of the first list of the socket's own memory.
u64 native_page_bytes_of_socket(int socket) {
  struct looked_for {
    int socket;
    u64 page_bytes;
  } wanted{socket, limits::smallest_page_bytes};
  real().rte_memseg_list_walk(
      [](const memseg_list* list, void* argument) {
        auto* const w = static_cast<looked_for*>(argument);
        if (list->external != 0 || list->socket_id != w->socket) return 0;
        w->page_bytes = list->page_sz;
        return 1;
      },
      &wanted);
  return wanted.page_bytes;
}

}  // namespace

std::vector<iova> iovas_of(const char* base, u64 bytes, u64 page_bytes) {
  std::vector<iova> found;
  found.reserve(bytes / page_bytes);
  const memseg* page = nullptr;
  for (u64 at = 0; at < bytes; at += page_bytes) {
    const char* const where = base + at;
    const bool known = page != nullptr && where >= static_cast<const char*>(page->addr) &&
                       where + page_bytes <= static_cast<const char*>(page->addr) + page->len;
    if (!known) page = real().rte_mem_virt2memseg(where, nullptr);
    if (page == nullptr || page->iova == bad_iova) return {};
    found.push_back(
        iova{page->iova + static_cast<u64>(where - static_cast<const char*>(page->addr))});
  }
  return found;
}

bool served_heap::grow(size_t size_bytes) noexcept {
  u64 total = 0;
  annex.for_each_region([&](const region_summary& r) { total += r.length_bytes; });
  const u64 alignment = std::max<u64>(wanted_alignment, unit);
  const u64 least = align_up(size_bytes, unit) + (alignment > unit ? alignment : 0);
  const u64 usual = std::max(smallest_chunk, align_down(std::min(total / 8, largest_step), unit));
  return add_chunk(least, std::max(least, usual));
}

void served_heap::grow_ahead(u64 bytes) noexcept {
  socket_stats real_heap{};
  {
    const bypass around;
    if (real().rte_malloc_get_socket_stats(is_without_sockets() ? 0 : socket, &real_heap) != 0)
      return;
  }
  const u64 page = native_page_bytes_of_socket(socket),
            fitting = align_down(
                std::min(bytes, (real_heap.heap_freesz_bytes + free_hugepage_bytes(page)) / 8),
                unit);
  if (fitting >= smallest_chunk) (void)add_chunk(smallest_chunk, fitting);
}

bool served_heap::add_chunk(u64 least, u64 bytes) noexcept {
  const keep_rte_errno untouched;
  // An attempt that fails halfway costs the mapping of all the pages there were: for a large chunk,
  // room is made before.
  const u64 page = native_page_bytes.load(std::memory_order_relaxed);
  if (least > largest_step && page != 0) {
    const u64 there = free_hugepage_bytes(page), needed = align_up(least + unit, page) + page;
    if (there < needed) (void)give_back(0, needed - there);
  }
  void* chunk = nullptr;
  // An explicit socket waits for EAL's memory lock even where there is room; any socket only where
  // there is none.
  const int where = is_without_sockets() || is_only_socket(socket) ? any_socket : socket;
  for (const bypass around; chunk == nullptr;
       bytes = std::max(least, align_down(bytes / 2, unit))) {
    chunk = real().rte_zmalloc_socket("annex", bytes, unit, where);
    if (chunk != nullptr || bytes == least) break;
  }
  if (chunk == nullptr) return false;
  const memseg* const segment = real().rte_mem_virt2memseg(chunk, nullptr);
  if (segment != nullptr) native_page_bytes.store(segment->hugepage_sz, std::memory_order_relaxed);
  const u64 page_bytes =
      segment != nullptr && segment->hugepage_sz >= unit ? unit : limits::smallest_page_bytes;
  std::vector<iova> iovas = iovas_of(static_cast<char*>(chunk), bytes, page_bytes);
  auto added = annex.add_memory({.base = chunk,
                                 .length_bytes = bytes,
                                 .page_bytes = page_bytes,
                                 .page_iovas = iovas,
                                 .contents = fill::is_zero,
                                 .same_address = true});
  if (!added && !iovas.empty())
    added = annex.add_memory({.base = chunk,
                              .length_bytes = bytes,
                              .page_bytes = page_bytes,
                              .contents = fill::is_zero,
                              .same_address = true});
  if (added) {
    if (first_chunk_ == region_id{}) first_chunk_ = *added;
    return true;
  }
  log(log_level::warn, "DPDK socket {} can't grow by {} bytes: {}", socket, bytes,
      added.error().message());
  const bypass around;
  real().rte_free(chunk);
  return false;
}

bool served_heap::give_back(u64 keep_bytes, u64 enough_bytes) noexcept {
  if (is_external) return false;
  struct chunk {
    region_id id;
    void* base;
    u64 bytes;
  };
  std::vector<chunk> empty;
  u64 empty_bytes = 0, small_bytes = 0;
  if (keep_bytes == 0) inside().care.trim_all(true);  // what caches hold looks busy
  annex.for_each_region([&](const region_summary& r) {
    if (r.base == nullptr || r.free_bytes != r.length_bytes ||
        (r.id == first_chunk_ && keep_bytes != 0))
      return;
    empty.push_back({r.id, r.base, r.length_bytes});
    empty_bytes += r.length_bytes;
    if (r.length_bytes <= largest_step) small_bytes += r.length_bytes;
  });
  u64 given_bytes = 0;
  // The largest are worth most: what a large block needs in one piece, and the dearest to map;
  // usual ones are a quarter of what is kept at most. The first one is there for the next small
  // blocks.
  std::sort(empty.begin(), empty.end(), [&](const chunk& a, const chunk& b) {
    return std::pair(a.id == first_chunk_, a.bytes) < std::pair(b.id == first_chunk_, b.bytes);
  });
  for (const chunk& c : empty) {
    const bool is_small = c.bytes <= largest_step;
    if (given_bytes >= enough_bytes ||
        (empty_bytes <= keep_bytes && !(is_small && small_bytes > keep_bytes / 4)))
      break;
    if (!annex.remove_memory(c.id)) continue;  // in use again
    const keep_rte_errno untouched;
    const bypass around;
    real().rte_free(c.base);
    empty_bytes -= c.bytes;
    if (is_small) small_bytes -= c.bytes;
    given_bytes += c.bytes;
  }
  return given_bytes != 0;
}

}  // namespace annex::dpdk
