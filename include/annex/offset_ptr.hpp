// annex/offset_ptr.hpp - a pointer that means the same in every process, because it says how far
// away its target is.
//
//                 process A              process B
//   offset_ptr    0x7f10'0000'1000       0x7e44'0000'1000
//     + 0x40      0x7f10'0000'1040       0x7e44'0000'1040      the same block, the same distance
//
// Pointer and target must lie in one region (or one array): two regions are not equally far apart
// in two processes. It stands wherever a T* may: made from T*, 0 and nullptr, a random access
// iterator, with the casts under their usual names, and what std::pointer_traits and Boost's
// pointer traits ask of a pointer that is a class. annex/offset_allocator.hpp makes containers out
// of it; docs/containers.md says which ones work.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <type_traits>

namespace annex {

/// What a pointer to void points to: a name for references that nobody can have.
struct no_object;

/// A pointer as a distance; see the top of this file. Any thread may read one that nobody writes.
/// Cost: an addition and a comparison.
template <class T>
class offset_ptr {
 public:
  /// What it points to.
  using element_type = T;
  /// The same without const.
  using value_type = std::remove_cv_t<T>;
  /// In elements.
  using difference_type = std::ptrdiff_t;
  /// Itself.
  using pointer = offset_ptr;
  /// What it points to, by reference.
  using reference = std::conditional_t<std::is_void_v<T>, no_object, T>&;
  /// As a plain pointer's.
  using iterator_category = std::random_access_iterator_tag;
  /// The same to another type.
  template <class U>
  using rebind = offset_ptr<U>;

  /// Null.
  offset_ptr() noexcept = default;
  /// Not explicit, as a T* is not: 0 and nullptr come this way too.
  offset_ptr(T* p) noexcept { set(p); }
  /// To the same target; the distance is another one.
  offset_ptr(const offset_ptr& other) noexcept { set(other.get()); }
  /// To const, to a base, to void.
  template <class U>
  requires std::is_convertible_v<U*, T*> offset_ptr(const offset_ptr<U>& other)
  noexcept { set(other.get()); }
  /// The way back says that it is one.
  template <class U>
  requires(!std::is_convertible_v<U*, T*> && requires(U * u) {
    static_cast<T*>(u);
  }) explicit offset_ptr(const offset_ptr<U>& other) noexcept {
    set(static_cast<T*>(other.get()));
  }
  /// To the same target.
  offset_ptr& operator=(const offset_ptr& other) noexcept {
    set(other.get());
    return *this;
  }
  /// To this target.
  offset_ptr& operator=(T* p) noexcept {
    set(p);
    return *this;
  }

  /// The target's address in this process, or null.
  T* get() const noexcept {
    // 1 is never the distance of an aligned object from this word, so it can mean null.
    if (distance_ == null_distance) return nullptr;
    return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(this) +
                                static_cast<std::uintptr_t>(distance_));
  }
  /// As a plain pointer.
  reference operator*() const noexcept { return *get(); }
  /// As a plain pointer.
  T* operator->() const noexcept { return get(); }
  /// As a plain pointer.
  template <class U = T>
  requires(!std::is_void_v<U>) U& operator[](difference_type i) const noexcept { return get()[i]; }
  /// Whether it is not null.
  explicit operator bool() const noexcept { return distance_ != null_distance; }
  /// Whether it is null.
  bool operator!() const noexcept { return distance_ == null_distance; }

  /// To an object: what std::pointer_traits asks for.
  template <class U>
  requires std::is_same_v<U, T>
  static offset_ptr pointer_to(U& object) noexcept { return offset_ptr(std::addressof(object)); }
  /// static_cast, under the name that Boost's pointer traits look for.
  template <class U>
  static offset_ptr static_cast_from(const offset_ptr<U>& p) noexcept {
    return offset_ptr(static_cast<T*>(p.get()));
  }
  /// const_cast, under the name that Boost's pointer traits look for.
  template <class U>
  static offset_ptr const_cast_from(const offset_ptr<U>& p) noexcept {
    return offset_ptr(const_cast<T*>(p.get()));
  }
#ifdef __cpp_rtti
  /// dynamic_cast, under the name that Boost's pointer traits look for.
  template <class U>
  static offset_ptr dynamic_cast_from(const offset_ptr<U>& p) noexcept {
    return offset_ptr(dynamic_cast<T*>(p.get()));
  }
#endif
  /// reinterpret_cast, under the name that Boost's pointer traits look for.
  template <class U>
  static offset_ptr reinterpret_cast_from(const offset_ptr<U>& p) noexcept {
    return offset_ptr(reinterpret_cast<T*>(p.get()));
  }

  /// As a plain pointer.
  offset_ptr& operator+=(difference_type n) noexcept {
    set(get() + n);
    return *this;
  }
  /// As a plain pointer.
  offset_ptr& operator-=(difference_type n) noexcept {
    set(get() - n);
    return *this;
  }
  /// As a plain pointer.
  offset_ptr& operator++() noexcept {
    return *this += 1;
  }
  /// As a plain pointer.
  offset_ptr& operator--() noexcept {
    return *this -= 1;
  }
  /// As a plain pointer.
  offset_ptr operator++(int) noexcept {
    offset_ptr before(*this);
    ++*this;
    return before;
  }
  /// As a plain pointer.
  offset_ptr operator--(int) noexcept {
    offset_ptr before(*this);
    --*this;
    return before;
  }
  /// As a plain pointer.
  friend offset_ptr operator+(const offset_ptr& p, difference_type n) noexcept {
    return offset_ptr(p.get() + n);
  }
  /// As a plain pointer.
  friend offset_ptr operator+(difference_type n, const offset_ptr& p) noexcept {
    return offset_ptr(p.get() + n);
  }
  /// As a plain pointer.
  friend offset_ptr operator-(const offset_ptr& p, difference_type n) noexcept {
    return offset_ptr(p.get() - n);
  }
  /// How many elements lie between; both point into one array.
  friend difference_type operator-(const offset_ptr& a, const offset_ptr& b) noexcept {
    return a.get() - b.get();
  }
  /// As a plain pointer.
  friend bool operator==(const offset_ptr& a, const offset_ptr& b) noexcept {
    return a.get() == b.get();
  }
  /// As a plain pointer.
  friend auto operator<=>(const offset_ptr& a, const offset_ptr& b) noexcept {
    return std::compare_three_way{}(a.get(), b.get());
  }
  /// Each points where the other did.
  friend void swap(offset_ptr& a, offset_ptr& b) noexcept {
    T* const before = a.get();
    a.set(b.get());
    b.set(before);
  }
  /// What Boost's hash finds; see std::hash below.
  friend std::size_t hash_value(const offset_ptr& p) noexcept {
    return std::hash<T*>{}(p.get());
  }

 private:
  static constexpr std::ptrdiff_t null_distance = 1;
  void set(T* p) noexcept {
    const std::uintptr_t distance =
        reinterpret_cast<std::uintptr_t>(p) - reinterpret_cast<std::uintptr_t>(this);
    distance_ = p == nullptr ? null_distance : static_cast<std::ptrdiff_t>(distance);
  }
  std::ptrdiff_t distance_ = null_distance;
};

// ---- the casts of std::shared_ptr, found by argument --------------------------------------------
/// static_cast, found by argument as for std::shared_ptr.
template <class T, class U>
offset_ptr<T> static_pointer_cast(const offset_ptr<U>& p) noexcept {
  return offset_ptr<T>::static_cast_from(p);
}
/// const_cast, found by argument as for std::shared_ptr.
template <class T, class U>
offset_ptr<T> const_pointer_cast(const offset_ptr<U>& p) noexcept {
  return offset_ptr<T>::const_cast_from(p);
}
#ifdef __cpp_rtti
/// dynamic_cast, found by argument as for std::shared_ptr.
template <class T, class U>
offset_ptr<T> dynamic_pointer_cast(const offset_ptr<U>& p) noexcept {
  return offset_ptr<T>::dynamic_cast_from(p);
}
#endif
/// reinterpret_cast, found by argument as for std::shared_ptr.
template <class T, class U>
offset_ptr<T> reinterpret_pointer_cast(const offset_ptr<U>& p) noexcept {
  return offset_ptr<T>::reinterpret_cast_from(p);
}

}  // namespace annex

/// Of the address in this process: not for the keys of a table that several processes look into.
template <class T>
struct std::hash<annex::offset_ptr<T>> {
  /// Of the address here.
  std::size_t operator()(const annex::offset_ptr<T>& p) const noexcept {
    return std::hash<T*>{}(p.get());
  }
};

#endif
