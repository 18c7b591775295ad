// attached/locked.cpp - see locked.hpp.
#include "attached/locked.hpp"

#include "attached/misuse.hpp"
#include "platform/report.hpp"

namespace annex::detail {
namespace {

// In whose name this thread takes the lock: its own slot's, or the one of those without a cache.
lock_identity identity(attachment& heap, std::unique_lock<std::mutex>& service) noexcept {
  if (const thread_cache* c = cache_of(heap.index)) return {c->slot, heap.self.member};
  service = std::unique_lock(heap.service_mutex);
  return {heap.self.slot, heap.self.member};
}

}  // namespace

locked::locked(attachment& heap) noexcept : heap_(heap) {
  ANNEX_ENSURE(heap.self.member != 0);
  tenure_.emplace(heap.seg, identity(heap, service_), heap.views, heap.files);
  if (tenure_->stole() && !heap.seg.is_damaged()) repair_frozen(*tenure_);
  thread_cache* const c = cache_of(heap.index);
  if (c == nullptr) return;
  // Whoever holds a cache still has the heap lock, so nobody holds ours: what else its word says
  // was written by somebody who does not follow the rules, or left in a damaged heap. Without this
  // its thread would wait for the lock for ever.
  if (frozen_of(*c) != frozen_no) take_back(*tenure_, *c);
  if ((c->frozen.load(std::memory_order_relaxed) & frozen_look) != 0) {
    this_thread.pool_number = 0;
    // Others write it under the lock.
    c->frozen.store(c->frozen.load(std::memory_order_relaxed) & ~u32{frozen_look},
                    std::memory_order_relaxed);
  }
}

locked::~locked() {
  const double_frees found = tenure_->found();
  tenure_.reset();
  if (service_) service_.unlock();
  say_doubles(heap_, found);
}

}  // namespace annex::detail
