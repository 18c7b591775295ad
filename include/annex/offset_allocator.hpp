// annex/offset_allocator.hpp - the allocator of containers that lie in a heap and are used by
// several processes.
//
//   region 1                                    region 2
//   ┌ container ┐        ┌ buffer ┐
//   │ allocator │ ──────▶│        │              never: its distance is another one in each process
//   └───────────┘        └────────┘
//
//   auto zone = heap.reserve_zone("numbers", {.size_bytes = sizeof(numbers)}).value();
//   auto* shared = new (zone.address) numbers(annex::offset_allocator<int>(heap));
//   // and in another process:
//   auto* shared = static_cast<numbers*>(heap.find_zone("numbers").value().address);
//
// Blocks come from one region, or not at all (std::bad_alloc; heap::last_failure() says why):
//
//   An allocator that lies in a region, as its container's does, takes them from that region.
//   One on the stack or elsewhere takes them from the region it was made with, or copied from;
//   where the heap has a single region, from that one.
//
// A container is copied, assigned and (when both lie in one region) moved and swapped between
// regions as usual: elements go over one by one where blocks can't. What would take blocks along
// into another region, a move constructor or a swap, stops the program with a report: the standard
// leaves those no way to refuse.
// The heap is found by its id, so a container works in every process that has it attached.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <type_traits>

#include <annex/heap.hpp>
#include <annex/offset_ptr.hpp>

namespace annex {

/// Where an allocator's blocks must lie: the part of it that does not depend on T.
class ANNEX_PUBLIC offset_home {
 public:
  /// Where the container lies itself, else the heap's only region.
  explicit offset_home(const heap& h) noexcept;
  /// In this region, unless it lies in one itself.
  offset_home(const heap& h, region_id region) noexcept;
  /// The region that the address lies in.
  offset_home(const heap& h, const void* beside) noexcept;
  /// For a container that begins with nothing, or with copies: it gets blocks where it lies itself.
  offset_home(const offset_home& other) noexcept;
  /// For a container that takes over blocks: they must be where it lies.
  offset_home(offset_home&& other) noexcept;
  /// A home stays where it is; its heap becomes the other's.
  offset_home& operator=(const offset_home& other) noexcept;
  ~offset_home() = default;

  /// What a copy of the container begins with: where it lies, else where the original's blocks do.
  struct of_a_copy {};
  /// What a copy of a container begins with.
  offset_home(const offset_home& original, of_a_copy) noexcept;
  /// Throws std::bad_alloc: the interface of containers has no other way to refuse.
  void* allocate(std::size_t size_bytes, std::size_t align_bytes);
  /// Before two containers exchange their blocks.
  static void check_swap(offset_home& a, offset_home& b) noexcept;

  /// The heap that blocks come from.
  heap_id heap_of() const noexcept { return heap_; }
  /// 0: not known yet.
  region_id region() const noexcept { return region_; }
  /// Of equal ones the containers may take each other's blocks.
  friend bool operator==(const offset_home& a, const offset_home& b) noexcept {
    if (a.heap_ != b.heap_ || a.region_ != b.region_) return false;
    if (a.is_hint_) a.is_hint_ = false;
    if (b.is_hint_) b.is_hint_ = false;
    return true;
  }

 private:
  region_id region_here(region_id otherwise) const noexcept;
  heap_id heap_;
  region_id region_{};
  mutable bool is_hint_ = false;  // outside the heap: for a copy, which has no blocks there yet
};

/// Whether a container's node links by plain pointers, which mean nothing in another process:
/// standard libraries before they took pointers that are classes.
template <class T>
concept plainly_linked = requires(T& node) {
  requires std::is_pointer_v<std::remove_cvref_t<decltype(node._M_next)>>;
}
|| requires(T& node) {
  requires std::is_pointer_v<std::remove_cvref_t<decltype(node._M_nxt)>>;
}
|| requires(T& node) {
  requires std::is_pointer_v<std::remove_cvref_t<decltype(node._M_left)>>;
};

/// Allocator of containers in a heap that several processes use: its pointers are offset_ptr. See
/// the top of this file, and docs/containers.md. Any thread may use it; the container around it is
/// not locked.
template <class T>
class offset_allocator {
 public:
  /// What it allocates.
  using value_type = T;
  /// Means the same in every process.
  using pointer = offset_ptr<T>;
  /// The same, to const.
  using const_pointer = offset_ptr<const T>;
  /// The same, to anything.
  using void_pointer = offset_ptr<void>;
  /// The same, to anything const.
  using const_void_pointer = offset_ptr<const void>;
  /// Counts elements.
  using size_type = std::size_t;
  /// Between pointers, in elements.
  using difference_type = std::ptrdiff_t;
  /// An assigned container keeps its place, and so its allocator.
  using propagate_on_container_copy_assignment = std::false_type;
  /// The same: elements move one by one where blocks can't.
  using propagate_on_container_move_assignment = std::false_type;
  /// Swapped containers exchange their blocks, which swap() checks.
  using propagate_on_container_swap = std::true_type;
  /// Blocks of two regions can't be exchanged.
  using is_always_equal = std::false_type;
  /// The same for another type.
  template <class U>
  struct rebind {
    /// Of the other type.
    using other = offset_allocator<U>;
  };

  /// Blocks where the container lies itself, else in the heap's only region.
  explicit offset_allocator(const heap& h) noexcept : home_(h) {}
  /// For containers outside the heap: blocks in this region. Where the allocator lies in a region
  /// itself, that one counts.
  offset_allocator(const heap& h, region_id region) noexcept : home_(h, region) {}
  /// The same, in the region of an address.
  offset_allocator(const heap& h, const void* beside) noexcept : home_(h, beside) {}
  /// For another type, with the same home.
  template <class U>
  offset_allocator(const offset_allocator<U>& other) noexcept : home_(other.home()) {
    static_assert(!(std::is_same_v<U, bool> && std::is_same_v<T, unsigned long>),
                  "std::vector<bool> keeps plain pointers, which mean nothing in another process: "
                  "use std::vector<char> or "
                  "boost::container::vector<bool> (docs/containers.md)");
  }

  /// n elements, not constructed. Throws std::bad_alloc: heap::last_failure() says why.
  [[nodiscard]] pointer allocate(std::size_t n) {
    static_assert(!std::is_pointer_v<T>,
                  "a plain pointer means nothing in another process: keep annex::offset_ptr. If it "
                  "is the container itself "
                  "that keeps them (std::unordered_map and its kin), use boost::unordered_map "
                  "(docs/containers.md)");
    static_assert(!plainly_linked<T>,
                  "this standard library's container links its nodes by plain pointers, which mean "
                  "nothing in another "
                  "process: use Boost.Container's or boost::unordered_map (docs/containers.md)");
    static_assert(!std::is_polymorphic_v<T>,
                  "an object with virtual functions keeps a plain pointer to them, which means "
                  "nothing in another process");
    if (n > static_cast<std::size_t>(-1) / sizeof(T)) throw_bad_alloc();
    return pointer(static_cast<T*>(home_.allocate(n * sizeof(T), alignof(T))));
  }
  /// Frees what allocate() gave, in whatever process.
  void deallocate(const pointer& p, std::size_t) noexcept {
    heap::free(const_cast<std::remove_cv_t<T>*>(p.get()));
  }
  /// What a copy of the container begins with: where it lies, else where the original's blocks do.
  offset_allocator select_on_container_copy_construction() const noexcept {
    return offset_allocator(home_, offset_home::of_a_copy{});
  }

  /// The heap that blocks come from.
  heap_id where() const noexcept { return home_.heap_of(); }
  /// The region that blocks come from; 0: not known yet.
  region_id region() const noexcept { return home_.region(); }
  /// The part that does not depend on T.
  const offset_home& home() const noexcept { return home_; }
  /// Equal ones may take each other's blocks.
  template <class U>
  friend bool operator==(const offset_allocator& a, const offset_allocator<U>& b) noexcept {
    return a.home() == b.home();
  }
  /// Stops the program with a report where two containers of different regions are swapped.
  friend void swap(offset_allocator& a, offset_allocator& b) noexcept {
    offset_home::check_swap(a.home_, b.home_);
  }

 private:
  offset_allocator(const offset_home& original, offset_home::of_a_copy copy) noexcept
      : home_(original, copy) {}
  offset_home home_;
};

}  // namespace annex

#endif
