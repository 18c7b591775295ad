// annex/pool.hpp - objects of one size under a name, with a cache per thread, usable from several
// processes.
//
// The pool's memory is a zone of its heap; which objects are free is written in the heap's segment,
// so a pool works in memory the CPU can't touch, and what a killed process kept in its caches or in
// its hands comes back.
//
// Released by anybody while others have it open (no object is out then), it is gone for them:
// take() says nullptr, give() is a mistake (heap_options::on_misuse), is_open() says false; nothing
// they do reaches what is made later. A handle must not outlive its heap. In a forked child of a
// private heap nothing is taken, and giving does nothing: the objects are the parent's.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <new>
#include <utility>

#include <annex/heap.hpp>
#include <annex/ready_event.hpp>

namespace annex {

/// What a pool's objects are like.
struct pool_options {
  std::size_t object_bytes = 0;       ///< of each object; 1 byte or more, rounded up to align_bytes
  std::uint32_t object_count = 0;     ///< 1 to 2^30
  std::size_t align_bytes = 64;       ///< of every object
  std::uint32_t cache_objects = 256;  ///< per thread, up to 512; 0: none
  /// Every object lies in one IOVA run: the whole pool does where there is such a run, else the
  /// objects are laid out so that none crosses a page. Then, and with a boundary, each takes the
  /// power of two from its size on.
  bool iova_contiguous = false;
  int numa_node = any_node;  ///< preferred
  /// Power of two, at least object_bytes: no object crosses a multiple of it, of its address or, if
  /// iova_contiguous, of its IOVA; 0: none.
  std::size_t boundary_bytes = 0;
  /// No byte of an object has a higher IOVA; other than no_iova: iova_contiguous.
  iova highest_iova = no_iova;
};

struct pool_access;

/// Untyped pool. Handle of this process; closing it changes nothing.
class ANNEX_PUBLIC raw_pool {
 public:
  /// No pool: `false`. To be assigned to. Copies are handles of the same pool.
  raw_pool() = default;
  /// Makes a pool, all of whose objects are free. Errors: those of heap::reserve_zone;
  /// invalid_argument.
  static result<raw_pool> create(heap&, std::string_view name, const pool_options&);
  /// The pool of this name, made by any process. Errors: no_such_zone, wrong_kind, cannot_attach,
  /// read_only, forked_away.
  static result<raw_pool> open(heap&, std::string_view name);
  /// Ends a pool, for everybody. Errors: no_such_zone, wrong_kind, blocks_live (objects are out),
  /// read_only, heap_in_use (a thread is in the middle of an operation on it, and stopped).
  static result<void> release(heap&, std::string_view name);

  /// Whether a pool was opened; is_open() says whether it is still there.
  explicit operator bool() const noexcept { return table_ != nullptr; }
  /// False: it was never opened, or has been released since.
  bool is_open() const noexcept;
  /// nullptr: every object is out, the pool has been released, or this thread can have no cache
  /// (heap_options::thread_limit, no metadata left).
  void* take() noexcept;
  /// The same, but waits, up to so long, for an object that somebody gives back. Zero or less:
  /// looks once. Whoever gives an object back wakes a waiter. If it dies first, or leaves what it
  /// had, waiters look again by themselves within a tenth of a second. Giving costs one more load
  /// when nobody waits.
  /// Objects in the hands of dead members come back when those are reaped. Errors: deadline_passed,
  /// others_gone (another process had this pool open while this one had, and now no other living
  /// process has the heap attached), no_such_zone (released, or never opened), limit_reached (this
  /// thread can have no cache), corrupt, forked_away.
  result<void*> take(std::chrono::nanoseconds deadline);
  /// Waits as it does, and takes nothing: another one may be faster afterwards.
  result<void> wait_for_object(std::chrono::nanoseconds deadline) const;
  /// A descriptor for event loops that is readable when there is an object. Errors: os_failure,
  /// limit_reached (no thread), no_such_zone (never opened).
  result<ready_event> watch_objects() const;
  /// As many as there are, up to objects.size(); returns how many.
  std::size_t take_bulk(std::span<void*> objects) noexcept;
  /// Of this pool, from any thread or process. Anything else is a mistake
  /// (heap_options::on_misuse), found at once; so is giving twice, found at once by a checked heap
  /// or when nothing was given in between, else when the object leaves the cache: out of a cache of
  /// this process it is a mistake like the others, out of another's it is counted
  /// (heap_stats::misuse_count).
  void give(void* object) noexcept;
  /// Gives each as give() does.
  void give_bulk(std::span<void* const> objects) noexcept;

  /// All objects, free or out.
  std::uint32_t object_count() const noexcept;
  /// Of each, as asked for.
  std::size_t object_bytes() const noexcept;
  /// In the pool or in caches; waits for the heap lock.
  std::uint32_t free_count() const noexcept;

 private:
  friend struct pool_access;
  detail::local_heap* heap_ = nullptr;
  void* table_ = nullptr;
  char* base_ = nullptr;
  std::size_t take_more(std::span<void*> objects) noexcept;
  void give_each(std::span<void* const> objects) noexcept;
  void give_odd(const void* address, bool has_cache) noexcept;
  const void* record_ = nullptr;
  std::uint64_t incarnation_ = 0;  // of the pool; its record has another one once it is released
  std::uint64_t number_ = ~std::uint64_t{0};  // of this opening: no two of a process are alike
  std::uint64_t stride_ = 0, reciprocal_ = 0, bytes_ = 0;
  std::uint32_t count_ = 0, capacity_ = 0;
  bool has_single_bit_ = false, had_others_ = false;
  std::uint32_t changes_at_open_ = 0;
};

/// A pool of T: take constructs, give destroys.
template <class T>
class pool {
 public:
  /// Makes a pool of objects aligned to T or 64 bytes. Errors: those of raw_pool::create.
  static result<pool> create(heap& h, std::string_view name, std::uint32_t object_count) {
    auto raw = raw_pool::create(h, name,
                                {.object_bytes = sizeof(T),
                                 .object_count = object_count,
                                 .align_bytes = alignof(T) > 64 ? alignof(T) : 64});
    if (!raw) return std::unexpected(raw.error());
    return pool(*raw);
  }
  /// The pool of this name. Errors: those of raw_pool::open; wrong_kind (its objects are smaller
  /// than T).
  static result<pool> open(heap& h, std::string_view name) {
    auto raw = raw_pool::open(h, name);
    if (!raw) return std::unexpected(raw.error());
    if (raw->object_bytes() < sizeof(T)) {
      error e{errc::wrong_kind, 0, "the pool's objects are smaller than the type"};
      return std::unexpected(e);
    }
    return pool(*raw);
  }
  /// An object, constructed from args; nullptr as raw_pool::take().
  template <class... Args>
  T* take(Args&&... args) {
    void* object = raw_.take();
    return object != nullptr ? ::new (object) T(std::forward<Args>(args)...) : nullptr;
  }
  /// Destroys it and gives it back; from any thread or process.
  void give(T* object) {
    object->~T();
    raw_.give(object);
  }
  /// The pool underneath.
  raw_pool& raw() noexcept { return raw_; }

 private:
  explicit pool(raw_pool raw) noexcept : raw_(raw) {}
  raw_pool raw_;
};

}  // namespace annex

#endif
