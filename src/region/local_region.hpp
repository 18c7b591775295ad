// region/local_region.hpp - a region as this process sees it: where it lies and how to get at its metadata.
#pragma once
#include "region/iova_map.hpp"
#include "region/table_pages.hpp"

namespace annex {

namespace detail { class local_heap; }
namespace os { struct pinned; }

/// Objects are never returned to the system, so a stale pointer to one may be read; length_bytes is 0 when it is not in use.
struct alignas(64) local_region {
  // One line: all that free() and locate() look at.
  char* base = nullptr;
  u64 length_bytes = 0;
  granule_entry* granules = nullptr;   // in the segment
  u64 heap_number = 0;                 // no two heaps of a process have the same
  u64 entry_base = 0;                  // slot << 48: what a magazine entry begins with
  u64 heap_id = 0;
  u32 granule_mask = 0, granule_shift = 0;
  u32 id = 0;
  u32 iova_run_count = 0;              // as in iovas
  // The second line.
  detail::local_heap* heap = nullptr;
  u32 heap_index = 0;                  // of the thread's cache
  u32 slot = 0;
  extent_entry* extents = nullptr;
  region_record* record = nullptr;
  iova_map iovas;
  table_pages tables;
  int fd = -1;
  touch access = touch::read_write;
  bool mapped_by_annex = false;
  bool joining = false;                // observers are being asked: not to be allocated from yet
  bool observed_removal = false;
  os::pinned* pins = nullptr;          // of a pinned region: this process's
  shared_word<u32> draining_here{0};   // this process drains it: its own thread tells the observers
};

/// The granule's word in one load: the fields belong together.
inline granule_entry load_granule(const granule_entry* entry) noexcept {
  u64 word;
  __atomic_load(reinterpret_cast<const u64*>(entry), &word, __ATOMIC_RELAXED);  // relaxed: a live block's slab does not change kind
  return std::bit_cast<granule_entry>(word);
}

}  // namespace annex
