// shared/waiting.cpp - see waiting.hpp.
#include "shared/waiting.hpp"

#include "platform/waiting.hpp"

namespace annex {

void wake_waiters(shared_word<u32>& signal) noexcept {
  u32 seen = signal.load(std::memory_order_relaxed);
  // Whoever clears the mark wakes those who set it; another one who adds finds it cleared, or set
  // anew by whoever looks again.
  while ((seen & somebody_waits) != 0)
    // sync(signal).
    if (signal.compare_exchange(seen, (seen | somebody_waits) + 1, std::memory_order_seq_cst)) {
      os::wake_all(&signal.value);
      return;
    }
}

}  // namespace annex
