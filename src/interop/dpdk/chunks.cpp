// interop/dpdk/chunks.cpp - memory for the internal heaps: whole blocks of the real heap, as regions.
//
//   native page(s)  │ header │ chunk: a region of the socket's annex heap, 64 KiB granules of IOVA contiguity │
//
// A chunk is 31 × 64 KiB at first, so that it and the real heap's header fill one 2 MiB page; then an eighth of what the
// heap has, up to 64 MiB; a larger request gets a chunk of its size. Every byte lies in memory the real EAL knows: DMA
// mapping, memory events and address queries go on as ever. An empty chunk goes back whole.
// If the process dies between taking a chunk and adding it, the real heap has a live block nobody frees, as when any
// DPDK process dies with memory in its hands.
#include <algorithm>
#include <vector>

#include "base/report.hpp"
#include "heap/local_heap.hpp"
#include "interop/dpdk/drop_in.hpp"

namespace annex::dpdk {
namespace {

constexpr u64 unit = 64 * KiB, first_chunk = 31 * unit, largest_step = 64 * MiB;

}  // namespace

std::vector<iova> iovas_of(const char* base, u64 bytes, u64 page_bytes) {
  std::vector<iova> found;
  found.reserve(bytes / page_bytes);
  const memseg* page = nullptr;
  for (u64 at = 0; at < bytes; at += page_bytes) {
    const char* const where = base + at;
    const bool known = page != nullptr && where >= static_cast<const char*>(page->addr) && where + page_bytes <= static_cast<const char*>(page->addr) + page->len;
    if (!known) page = real().rte_mem_virt2memseg(where, nullptr);
    if (page == nullptr || page->iova == bad_iova) return {};
    found.push_back(iova{page->iova + static_cast<u64>(where - static_cast<const char*>(page->addr))});
  }
  return found;
}

bool served_heap::grow(size_t size_bytes) noexcept {
  const keep_rte_errno untouched;
  u64 total = 0;
  annex.for_each_region([&](const region_summary& r) { total += r.length_bytes; });
  const u64 alignment = std::max<u64>(wanted_alignment, unit);
  const u64 least = align_up(size_bytes, unit) + (alignment > unit ? alignment : 0);
  u64 bytes = std::max(first_chunk, align_down(std::min(total / 8, largest_step), unit));
  if (bytes < least) bytes = least <= first_chunk ? first_chunk : least;
  void* chunk = nullptr;
  const int where = is_without_sockets() ? any_socket : socket;
  for (const bypass around; chunk == nullptr; bytes = std::max(least, align_down(bytes / 2, unit))) {
    chunk = real().rte_zmalloc_socket("annex", bytes, unit, where);
    if (chunk != nullptr || bytes == least) break;
  }
  if (chunk == nullptr) return false;
  const memseg* const page = real().rte_mem_virt2memseg(chunk, nullptr);
  const u64 page_bytes = page != nullptr && page->hugepage_sz >= unit ? unit : limits::smallest_page_bytes;
  std::vector<iova> iovas = iovas_of(static_cast<char*>(chunk), bytes, page_bytes);
  auto added = annex.add_memory({.base = chunk, .length_bytes = bytes, .page_bytes = page_bytes, .page_iovas = iovas, .same_address = true});
  if (!added && !iovas.empty()) added = annex.add_memory({.base = chunk, .length_bytes = bytes, .page_bytes = page_bytes, .same_address = true});
  if (added) return true;
  log(log_level::warn, "DPDK socket {} can't grow by {} bytes: {}", socket, bytes, added.error().message());
  const bypass around;
  real().rte_free(chunk);
  return false;
}

bool served_heap::give_back(u64 keep_bytes) noexcept {
  if (is_external) return false;
  struct chunk { region_id id; void* base; u64 bytes; };
  std::vector<chunk> empty;
  u64 empty_bytes = 0;
  auto look = [&] {
    empty.clear();
    empty_bytes = 0;
    annex.for_each_region([&](const region_summary& r) {
      if (r.base == nullptr || r.free_bytes != r.length_bytes) return;
      empty.push_back({r.id, r.base, r.length_bytes});
      empty_bytes += r.length_bytes;
    });
  };
  if (keep_bytes == 0) annex.internal()->trim_all(true);  // what caches hold looks busy
  look();
  bool any = false;
  std::sort(empty.begin(), empty.end(), [](const chunk& a, const chunk& b) { return a.bytes > b.bytes; });
  for (const chunk& c : empty) {
    if (empty_bytes <= keep_bytes) break;
    if (!annex.remove_memory(c.id)) continue;  // in use again
    const keep_rte_errno untouched;
    const bypass around;
    real().rte_free(c.base);
    empty_bytes -= c.bytes;
    any = true;
  }
  return any;
}

}  // namespace annex::dpdk
