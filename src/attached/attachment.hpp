// attached/attachment.hpp - one heap as this process has it: its segment, its regions here, its
// files, and who this process is in it.
//
// Everything that is done to a heap is a function of one of these. It has no locks of the heap in
// it; those of this process are taken in this order: memory_mutex (regions come and go; held during
// observers' callbacks), service_mutex (threads without a cache share one thread slot), the heap
// lock (attached/locked.hpp), which is shared and outlives its holder.
#pragma once
#include <atomic>
#include <mutex>
#include <string>

#include "base/failure.hpp"
#include "platform/kept_file.hpp"
#include "region/files.hpp"
#include "region/region_views.hpp"
#include "shared/liveness.hpp"

namespace annex::detail {

struct attachment {
  attachment() = default;
  attachment(const attachment&) = delete;
  attachment& operator=(const attachment&) = delete;

  annex::segment seg;
  region_views views;
  std::string name;  // empty: a private heap
  u32 index = 0;     // of this process's heaps; used again when this one is closed
  const u64 number = next_number();
  heap_files files;
  os::kept_file file, life;  // the segment; the file of lives beside it
  std::atomic<u32> damage{0};
  member_claim self;    // member 0: none (a reader, or a forked child before its first use)
  bool forked = false;  // this is a child, and has not become a member of its own yet
  std::mutex memory_mutex, service_mutex;

  heap_id id() const noexcept { return heap_id{seg.header().heap_id}; }
  bool is_read_only() const noexcept { return !seg.writable(); }
  bool has_option(segment_option option) const noexcept {
    return (seg.header().options & option) != 0;
  }
  /// In the room that is kept for the one who mends: everything but holding blocks.
  bool is_mender() const noexcept { return is_record_of_mender(seg, self.member); }
  /// Of a heap that this process has found damaged, nothing is changed any more: it is repaired
  /// when everybody has closed it. Errors: corrupt.
  result<void> refuse_if_damaged() const;

 private:
  /// 1, 2, …: unlike an index, never used again by this process.
  static u64 next_number() noexcept;
};

/// What every part of a heap works on.
class part {
 public:
  part(const part&) = delete;
  part& operator=(const part&) = delete;

 protected:
  explicit part(attachment& heap) noexcept
      : heap_(heap), segment_(heap.seg), views_(heap.views), name_(heap.name), files_(heap.files) {}
  ~part() = default;
  bool is_read_only() const noexcept { return heap_.is_read_only(); }
  bool has_option(segment_option option) const noexcept { return heap_.has_option(option); }
  bool is_mender() const noexcept { return heap_.is_mender(); }
  result<void> refuse_if_damaged() const { return heap_.refuse_if_damaged(); }
  u32 self() const noexcept { return heap_.self.member; }

  attachment& heap_;
  const segment& segment_;
  region_views& views_;
  const std::string& name_;
  heap_files& files_;
};

}  // namespace annex::detail
