// platform/cpu.hpp - the few instructions for which C++ has no word.
//
// Inline, for the paths that count instructions. Beyond x86-64 there are the compiler's own words
// for the same.
#pragma once
#include <array>
#include <bit>

#include "base/race_checker.hpp"
#include "base/units.hpp"

namespace annex::cpu {

/// Tells the CPU that this is a loop that waits: the other thread of the core gets its share.
inline void pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Sixteen bytes at once, if they are as expected; a full barrier. A compare that fails reads
/// nothing back: the caller looks again.
template <class T>
bool compare_and_swap_pair(T& words, T expected, T desired) noexcept {
  static_assert(sizeof(T) == 16 && alignof(T) == 16);
#if defined(__x86_64__) && defined(ANNEX_IS_CHECKED_FOR_RACES)
  // ThreadSanitizer would do it under a lock of its own, which other processes don't have. So it is
  // told what the instruction orders.
  const auto was = std::bit_cast<std::array<u64, 2>>(expected),
             will = std::bit_cast<std::array<u64, 2>>(desired);
  u64 low = was[0], high = was[1];
  bool is_done;
  __tsan_release(&words);
  asm volatile("lock cmpxchg16b %1"
               : "=@ccz"(is_done), "+m"(words), "+a"(low), "+d"(high)
               : "b"(will[0]), "c"(will[1])
               : "memory");
  __tsan_acquire(&words);
  return is_done;
#else
  return __sync_bool_compare_and_swap(reinterpret_cast<unsigned __int128*>(&words),
                                      std::bit_cast<unsigned __int128>(expected),
                                      std::bit_cast<unsigned __int128>(desired));
#endif
}

}  // namespace annex::cpu
