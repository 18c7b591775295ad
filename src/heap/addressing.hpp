// heap/addressing.hpp - what a byte is called outside of this process: handles, bus addresses, and
// the way back.
//
//   handles.cpp   address ↔ handle, if it still names the same block  addresses.cpp  IOVA → address
//
// Threads and processes: any. locate() is in api/heap.cpp: it needs no heap.
#pragma once
#include <mutex>

#include "heap/regions.hpp"
#include "named/naming.hpp"
#include "region/bus_index.hpp"

namespace annex::detail {

class addressing : public part {
 public:
  addressing(attachment& heap, membership& member, regions& memory) noexcept
      : part(heap), member_(member), memory_(memory) {}

  handle handle_of(const void* p) noexcept;
  result<void*> resolve(handle h);
  void* address_of(iova address) noexcept;

  /// Around a fork: nobody is in the middle of what a child would find half done.
  void before_fork() noexcept { bus_mutex_.lock(); }
  void after_fork() noexcept { bus_mutex_.unlock(); }

 private:
  bool is_kept(const live_block& b, const naming& n, bool everybody) noexcept;
  bool make_words(local_region& region, u64 offset) noexcept;

  membership& member_;
  regions& memory_;
  bus_index bus_;
  std::mutex bus_mutex_;
};

}  // namespace annex::detail
