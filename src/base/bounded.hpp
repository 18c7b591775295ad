// base/bounded.hpp - numbers and tables that are never read beyond their bounds, whatever lies in
// shared memory.
//
// Between a check and the use of a word of the segment another process may change it. So the bound
// is part of the type: each time it is read it is compared anew, and what can't be reads as 0.
//
//   at_most<T, most>     a word of the segment whose values go up to `most`; bounded_word<T, most>:
//                        with orders of memory
//   bounded_table<T>     a table of the segment with as many entries as this process once checked;
//                        what lies behind is an entry that belongs to nobody
#pragma once
#include <type_traits>

#include "base/shared_word.hpp"
#include "base/units.hpp"

namespace annex {

template <class T, T most>
struct at_most {
  static_assert(std::is_unsigned_v<T>);
  T value;

  at_most() = default;
  constexpr at_most(T v) noexcept : value(v) {}
  operator T() const noexcept {
    // Relaxed: whoever needs an order has the heap lock or a fence.
    const T seen = __atomic_load_n(&value, __ATOMIC_RELAXED);
    return seen <= most ? seen : T{0};
  }
};

/// The same for a word with orders of memory.
template <class T, T most>
struct bounded_word : shared_word<T> {
  T load(std::memory_order order) const noexcept {
    const T seen = shared_word<T>::load(order);
    return seen <= most ? seen : T{0};
  }
};

/// Zeros that nobody relies on: where a table is read or written behind its end. The thread
/// remembers that it was there.
[[gnu::cold]] void* entry_of_nobody(u64 bytes) noexcept;
/// Whether this thread was there since it was asked last.
bool has_been_at_nobodys() noexcept;

template <class T>
class bounded_table {
 public:
  bounded_table() = default;
  bounded_table(T* entries, u64 count) noexcept : entries_(entries), count_(count) {}
  T& operator[](u64 index) const noexcept {
    if (index < count_) [[likely]]
      return entries_[index];
    return *static_cast<T*>(entry_of_nobody(sizeof(T)));
  }
  T* data() const noexcept { return entries_; }
  u64 size() const noexcept { return count_; }

 private:
  T* entries_ = nullptr;
  u64 count_ = 0;
};

}  // namespace annex
