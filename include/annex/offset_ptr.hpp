// annex/offset_ptr.hpp - a pointer that means the same in every process, because it says how far away its target is.
//
//                 process A              process B
//   offset_ptr    0x7f10'0000'1000       0x7e44'0000'1000
//     + 0x40      0x7f10'0000'1040       0x7e44'0000'1040      the same block, the same distance
//
// Pointer and target must lie in one region (or one array). offset_allocator makes containers that lie in a heap and are
// used by several processes: it finds the heap by its id, so a container works wherever the heap is attached.
#pragma once
#include <compare>
#include <cstddef>
#include <iterator>
#include <memory>
#include <new>
#include <type_traits>

#include <annex/heap.hpp>

namespace annex {

template <class T>
class offset_ptr {
 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  using difference_type = std::ptrdiff_t;
  using pointer = offset_ptr;
  using reference = std::add_lvalue_reference_t<T>;
  using iterator_category = std::random_access_iterator_tag;
  template <class U>
  using rebind = offset_ptr<U>;

  offset_ptr() noexcept = default;
  offset_ptr(std::nullptr_t) noexcept {}
  explicit offset_ptr(T* p) noexcept { set(p); }
  offset_ptr(const offset_ptr& other) noexcept { set(other.get()); }
  template <class U>
    requires std::is_convertible_v<U*, T*>
  offset_ptr(const offset_ptr<U>& other) noexcept { set(other.get()); }
  template <class U>
    requires(!std::is_convertible_v<U*, T*> && requires(U* u) { static_cast<T*>(u); })
  explicit offset_ptr(const offset_ptr<U>& other) noexcept { set(static_cast<T*>(other.get())); }
  offset_ptr& operator=(const offset_ptr& other) noexcept { set(other.get()); return *this; }
  offset_ptr& operator=(std::nullptr_t) noexcept { distance_ = null_distance; return *this; }
  offset_ptr& operator=(T* p) noexcept { set(p); return *this; }

  T* get() const noexcept {
    // 1 is never the distance of an aligned object from this word, so it can mean null.
    return distance_ == null_distance ? nullptr : reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(this) + static_cast<std::uintptr_t>(distance_));
  }
  reference operator*() const noexcept { return *get(); }
  T* operator->() const noexcept { return get(); }
  template <class U = T>
    requires(!std::is_void_v<U>)
  U& operator[](difference_type i) const noexcept { return get()[i]; }
  explicit operator bool() const noexcept { return distance_ != null_distance; }

  template <class U>
    requires std::is_same_v<U, T>
  static offset_ptr pointer_to(U& object) noexcept { return offset_ptr(std::addressof(object)); }

  offset_ptr& operator+=(difference_type n) noexcept { set(get() + n); return *this; }
  offset_ptr& operator-=(difference_type n) noexcept { set(get() - n); return *this; }
  offset_ptr& operator++() noexcept { return *this += 1; }
  offset_ptr& operator--() noexcept { return *this -= 1; }
  offset_ptr operator++(int) noexcept { offset_ptr before(*this); ++*this; return before; }
  offset_ptr operator--(int) noexcept { offset_ptr before(*this); --*this; return before; }
  friend offset_ptr operator+(const offset_ptr& p, difference_type n) noexcept { return offset_ptr(p.get() + n); }
  friend offset_ptr operator+(difference_type n, const offset_ptr& p) noexcept { return offset_ptr(p.get() + n); }
  friend offset_ptr operator-(const offset_ptr& p, difference_type n) noexcept { return offset_ptr(p.get() - n); }
  friend difference_type operator-(const offset_ptr& a, const offset_ptr& b) noexcept { return a.get() - b.get(); }
  friend bool operator==(const offset_ptr& a, const offset_ptr& b) noexcept { return a.get() == b.get(); }
  friend auto operator<=>(const offset_ptr& a, const offset_ptr& b) noexcept { return std::compare_three_way{}(a.get(), b.get()); }

 private:
  static constexpr std::ptrdiff_t null_distance = 1;
  void set(T* p) noexcept {
    distance_ = p == nullptr ? null_distance : static_cast<std::ptrdiff_t>(reinterpret_cast<std::uintptr_t>(p) - reinterpret_cast<std::uintptr_t>(this));
  }
  std::ptrdiff_t distance_ = null_distance;
};

/// Allocates from the attached heap of this id; null when it is not attached in this process or has no room.
ANNEX_PUBLIC void* allocate_in(heap_id id, std::size_t size_bytes, std::size_t align_bytes) noexcept;

template <class T>
class offset_allocator {
 public:
  using value_type = T;
  using pointer = offset_ptr<T>;
  using const_pointer = offset_ptr<const T>;
  using void_pointer = offset_ptr<void>;
  using const_void_pointer = offset_ptr<const void>;
  using size_type = std::size_t;
  using difference_type = std::ptrdiff_t;

  explicit offset_allocator(const heap& h) noexcept : heap_(h.id()) {}
  template <class U>
  offset_allocator(const offset_allocator<U>& other) noexcept : heap_(other.where()) {}

  pointer allocate(std::size_t n) {
    if (n <= static_cast<std::size_t>(-1) / sizeof(T))
      if (void* block = allocate_in(heap_, n * sizeof(T), alignof(T))) return pointer(static_cast<T*>(block));
    throw std::bad_alloc();  // the interface of containers has no other way
  }
  void deallocate(pointer p, std::size_t) noexcept { heap::free(const_cast<std::remove_cv_t<T>*>(p.get())); }
  heap_id where() const noexcept { return heap_; }
  template <class U>
  friend bool operator==(const offset_allocator& a, const offset_allocator<U>& b) noexcept { return a.where() == b.where(); }

 private:
  heap_id heap_;
};

}  // namespace annex
