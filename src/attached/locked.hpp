// attached/locked.hpp - the door of the heap lock: taken in this thread's name, with what its last
// holder left undone made good.
//
//   locked t(heap);   the lock is ours: t-> is a transaction, *t a tenure (region/tenure.hpp)
//   }                 committed, the lock free; then what was found to be freed twice is said
//
// The process is a member of the heap (membership::ensure_member), or was one and leaves. A thread
// without a cache takes the lock with the slot that it shares with others of this process, and
// waits for them. If the process dies inside, the next one undoes the open transaction and
// completes what was done in the names of caches that were held still.
#pragma once
#include <mutex>
#include <optional>

#include "attached/attachment.hpp"
#include "cache/still.hpp"

namespace annex::detail {

class locked {
 public:
  explicit locked(attachment& heap) noexcept;
  ~locked();
  locked(const locked&) = delete;
  locked& operator=(const locked&) = delete;
  tenure& operator*() noexcept { return *tenure_; }
  tenure* operator->() noexcept { return &*tenure_; }

 private:
  attachment& heap_;
  std::unique_lock<std::mutex> service_;
  std::optional<tenure> tenure_;
};

}  // namespace annex::detail
