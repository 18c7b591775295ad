// cache/moving.hpp - a magazine says that blocks of it may be in two places.
//
// Refill and flush move blocks between a magazine and the bitmaps of its slabs, and a death may
// come in between (rule R2): the word that is left says that what is found twice is no mistake of
// the program. The caller has the right to the cache (rule C1 of thread_cache.hpp).
#pragma once
#include "cache/thread_cache.hpp"

namespace annex {

// While blocks of the magazine may be in two places (rule R2). doubles(): where to count those that
// were free already; if somebody died doing the same, they are no mistakes.
class moving_scope {
 public:
  moving_scope(magazine& m, u32* doubles) noexcept
      : magazine_(m), doubles_(m.moving == 0 ? doubles : &not_counted_) {
    store_word(m.moving, 1);
    compiler_fence();
  }
  ~moving_scope() {
    compiler_fence();
    store_word(magazine_.moving, 0);
  }
  moving_scope(const moving_scope&) = delete;
  moving_scope& operator=(const moving_scope&) = delete;
  u32* doubles() noexcept { return doubles_; }

 private:
  magazine& magazine_;
  u32 not_counted_ = 0;
  u32* doubles_;
};

}  // namespace annex
