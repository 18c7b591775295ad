// base/race_checker.hpp - tells the program's race checker (ThreadSanitizer) of hand-overs that it
// can't see.
//
// A program that is built with -fsanitize=thread uses the installed library, which is not: the
// checker sees what the program writes to a block, but neither the compare-and-swap nor the lock by
// which annex passes the block on, and would call the next owner's first write a race. So the
// places where something goes from one thread to another say so:
//
//   passed_on(place)             before the store that commits it: whoever takes over from the
//                                place comes after this
//   taken_over(place)            after it was seen
//   lock_taken, lock_given_back  the heap lock: nearly all slow paths
//   all_taken_over               a recall took what other threads' hits left in their caches
//
// The hits of allocate and free say nothing: what a thread frees and allocates again was its own
// all the time. A place is two numbers and not an address, since one segment may be mapped twice in
// a process. Two places may fall together: then the checker takes too much for ordered, and never
// too little.
// Without a checker each is a load and a branch. A library that is built with the checker shows its
// atomics by itself: it says the heap lock only.
#pragma once
#include "base/units.hpp"

#if defined(__SANITIZE_THREAD__)
#define ANNEX_IS_CHECKED_FOR_RACES 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ANNEX_IS_CHECKED_FOR_RACES 1
#endif
#endif

// Null where the program has no checker. Source: compiler-rt's sanitizer/tsan_interface.h and
// tsan/rtl/tsan_interface_java.h.
extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): the checker's names.
[[gnu::weak, gnu::visibility("default")]] void __tsan_acquire(void* place);
[[gnu::weak, gnu::visibility("default")]] void __tsan_release(void* place);
// After everything that any thread has done so far.
[[gnu::weak, gnu::visibility("default")]] void __tsan_java_finalize();
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)
}

namespace annex::race_checker {

#if defined(ANNEX_IS_CHECKED_FOR_RACES)
inline constexpr bool sees_atomics = true;
#else
inline constexpr bool sees_atomics = false;
#endif

inline constexpr u32 place_bits = 14;
inline char places[1u << place_bits];

inline void* place_of(u64 table, u64 item) noexcept {
  const u64 mixed = (table * 0x9e37'79b9'7f4a'7c15 ^ item) * 0xd6e8'feb8'6659'fd93;
  return &places[mixed >> (64 - place_bits)];
}

inline void lock_taken(u64 heap) noexcept {
  if (__tsan_acquire != nullptr) [[unlikely]]
    __tsan_acquire(place_of(heap, 0));
}
inline void lock_given_back(u64 heap) noexcept {
  if (__tsan_release != nullptr) [[unlikely]]
    __tsan_release(place_of(heap, 0));
}
inline void passed_on(u64 table, u64 item) noexcept {
  if (!sees_atomics && __tsan_release != nullptr) [[unlikely]]
    __tsan_release(place_of(table, item));
}
inline void taken_over(u64 table, u64 item) noexcept {
  if (!sees_atomics && __tsan_acquire != nullptr) [[unlikely]]
    __tsan_acquire(place_of(table, item));
}
inline void all_taken_over() noexcept {
  if (!sees_atomics && __tsan_java_finalize != nullptr) [[unlikely]]
    __tsan_java_finalize();
}

}  // namespace annex::race_checker
