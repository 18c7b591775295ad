// region/local_region.hpp - a region as this process sees it: where it lies and how to get at its
// metadata.
#pragma once
#include <utility>

#include "base/bounded.hpp"
#include "platform/files.hpp"
#include "platform/pinning.hpp"
#include "region/generation.hpp"
#include "region/iova_map.hpp"
#include "region/table_pages.hpp"

namespace annex {

namespace detail {
class local_heap;
}
namespace os {
struct pinned;
}

/// Objects are never returned to the system, so a stale pointer to one may be read; length_bytes is
/// 0 when it is not in use.
struct alignas(64) local_region {
  // One line: all that free() and locate() look at.
  char* base = nullptr;
  u64 length_bytes = 0;
  granule_entry* granule_base = nullptr;  // in the segment; by offsets inside the region only
  u64 heap_number = 0;                    // no two heaps of a process have the same
  u64 entry_base = 0;                     // slot << 48: what a magazine entry begins with
  u64 heap_id = 0;
  u32 granule_mask = 0, granule_shift = 0;
  u32 id = 0;
  u32 iova_run_count = 0;  // as in iovas
  // The second line.
  detail::local_heap* heap = nullptr;
  u32 heap_index = 0;  // of the thread's cache
  u32 slot = 0;
  bounded_table<granule_entry> granules;
  bounded_table<extent_entry> extents;
  // As this process has checked them: the record is not read again for a bound.
  u32 granule_count = 0;
  u64 region_bytes = 0;
  region_record* record = nullptr;
  generations_of_region generations;
  iova_map iovas;
  table_pages tables;
  int fd = -1;
  // The file that fd was opened for: the program may have closed it since.
  u64 fd_device = 0, fd_inode = 0;
  touch access = touch::read_write;
  bool mapped_by_annex = false;
  // 1: attached, and every observer has agreed: all of the above may be read.
  shared_word<u32> usable{0};
  bool observed_removal = false;
  os::pinned* pins = nullptr;  // of a pinned region: this process's
  local_region* next_retired = nullptr;
  shared_word<u32> draining_here{0};  // this process drains it: its own thread tells the observers
};

inline handle handle_at(const local_region& region, u64 offset, u32 generation) noexcept {
  return handle_from(region.slot, region.generations.number(offset, generation));
}
/// The handle of what begins at this byte, or the one that it would get. first: the generation that
/// the place began with; word: where how often it rose is written; null: it has no table.
inline handle handle_by(const local_region& region, u64 offset, u32 first,
                        const u32* word) noexcept {
  if (word == nullptr) return handle_at(region, offset, first);
  // sync(name): as in addressing::resolve().
  const u32 seen = std::atomic_ref(*const_cast<u32*>(word)).load(std::memory_order_acquire);
  return handle_at(region, offset, region.generations.behind(first, count_in(seen)));
}

/// Whether this process may allocate from it.
inline bool is_usable_here(const local_region& region) noexcept {
  return region.usable.load(std::memory_order_acquire) != 0;  // sync(attached)
}
/// What was written of the region before is seen by whoever finds it usable.
inline void make_usable(local_region& region) noexcept {
  region.usable.store(1, std::memory_order_release);  // sync(attached)
}

/// The region's descriptor, if the number still belongs to its file; else -1.
inline int fd_of(const local_region& region) noexcept {
  os::file_identity now;
  const bool is_ours =
      region.fd >= 0 && os::identify(region.fd, &now) == 0 &&
      (region.fd_inode == 0 || (now.device == region.fd_device && now.inode == region.fd_inode));
  return is_ours ? region.fd : -1;
}
/// Takes a descriptor over.
inline void keep_fd(local_region& region, int fd) noexcept {
  os::file_identity now;
  region.fd_device = region.fd_inode = 0;
  if (fd >= 0 && os::identify(fd, &now) == 0) {
    region.fd_device = now.device;
    region.fd_inode = now.inode;
  }
  region.fd = fd;
}
inline void close_fd(local_region& region) noexcept {
  os::close_file_if(std::exchange(region.fd, -1), region.fd_device, region.fd_inode);
}
/// Whether granules first … last can be written without a fault. Most regions were reserved or
/// populated when they were brought; the end of one that fills its file system is taken from it
/// here (docs/design/0010). False: the file system is full.
bool is_backed(const local_region& region, u32 first, u32 last) noexcept;

/// The length of an extent in granules, never beyond the region's end.
inline u32 length_at(const local_region& region, u32 granule) noexcept {
  if (granule >= region.granule_count) return 0;
  // Relaxed: whoever needs more has the heap lock.
  const u32 seen = __atomic_load_n(&region.extents[granule].length, __ATOMIC_RELAXED);
  return seen < region.granule_count - granule ? seen : region.granule_count - granule;
}

/// The granule's word in one load: the fields belong together.
inline granule_entry load_granule(const granule_entry* entry) noexcept {
  u64 word;
  // Relaxed: a live block's slab does not change kind.
  __atomic_load(reinterpret_cast<const u64*>(entry), &word, __ATOMIC_RELAXED);
  return std::bit_cast<granule_entry>(word);
}

}  // namespace annex
