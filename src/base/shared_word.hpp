// base/shared_word.hpp - one word of shared memory: trivially copyable, every access with its
// memory order written.
//
// compiler_fence() orders two stores of one thread as seen by those who learn of its death from the
// kernel: a process that is killed has executed a prefix of its machine code, and the kernel's exit
// path is a full barrier, so a barrier for the compiler is enough there. Between live threads
// acquire/release does the work.
#pragma once
#include <atomic>
#include <type_traits>

#include "base/race_checker.hpp"

namespace annex {

inline void compiler_fence() noexcept {
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

/// Whether a word is 0, on the fast paths: one instruction, where compilers load and then test. As
/// a load with acquire.
[[gnu::always_inline]] inline bool is_zero(const u32& word) noexcept {
#if defined(__x86_64__) && defined(__GCC_ASM_FLAG_OUTPUTS__) && !defined(ANNEX_IS_CHECKED_FOR_RACES)
  bool is_so;
  asm volatile("cmpl $0, %1" : "=@cce"(is_so) : "m"(word) : "memory");
  return is_so;
#else
  return __atomic_load_n(&word, __ATOMIC_ACQUIRE) == 0;
#endif
}

template <class T>
struct shared_word {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  T value;

  T load(std::memory_order order) const noexcept { return ref().load(order); }
  void store(T v, std::memory_order order) noexcept { ref().store(v, order); }
  bool compare_exchange(T& expected, T desired, std::memory_order success) noexcept {
    return ref().compare_exchange_strong(expected, desired, success, std::memory_order_relaxed);
  }
  T fetch_or(T v, std::memory_order order) noexcept { return ref().fetch_or(v, order); }
  T fetch_and(T v, std::memory_order order) noexcept { return ref().fetch_and(v, order); }
  T fetch_xor(T v, std::memory_order order) noexcept { return ref().fetch_xor(v, order); }
  T fetch_add(T v, std::memory_order order) noexcept { return ref().fetch_add(v, order); }
  T exchange(T v, std::memory_order order) noexcept { return ref().exchange(v, order); }

 private:
  std::atomic_ref<T> ref() const noexcept { return std::atomic_ref<T>(const_cast<T&>(value)); }
};

/// A store that is neither torn nor merged: for plain words that others may look at, or find after
/// our death.
template <class T>
void store_word(T& word, std::type_identity_t<T> value) noexcept {
  // Relaxed: whoever needs an order has a fence or the heap lock.
  __atomic_store(&word, &value, __ATOMIC_RELAXED);
}

}  // namespace annex
