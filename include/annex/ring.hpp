// annex/ring.hpp - a bounded queue of handles, any number of producers and consumers in any
// process, none of which can block the others by dying.
//
// Released by anybody while others have it open, it is gone for them: put and take answer as if it
// were full and empty, and is_open() says false; nothing they do reaches a ring that is made later.
// A released ring's memory serves the next ring of its capacity.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/heap.hpp>
#include <annex/ready_event.hpp>

namespace annex {

/// A bounded queue of handles; see the top of this file. Any thread of any process may use one
/// object, but for what is in hand. Copies are handles of the same ring.
class ANNEX_PUBLIC ring {
 public:
  /// No ring: `false`. To be assigned to.
  ring() = default;
  /// Makes an empty ring. capacity: handles, a power of two from 2 to 2^24. Errors: those of
  /// heap::reserve_zone; invalid_argument.
  static result<ring> create(heap&, std::string_view name, std::uint64_t capacity);
  /// The ring of this name, made by any process. Errors: no_such_zone, wrong_kind, read_only,
  /// forked_away.
  static result<ring> open(heap&, std::string_view name);
  /// Ends a ring, for everybody; the handles in it are forgotten. Errors: no_such_zone, wrong_kind,
  /// read_only.
  static result<void> release(heap&, std::string_view name);

  /// Whether a ring was opened; is_open() says whether it is still there.
  explicit operator bool() const noexcept { return table_ != nullptr; }
  /// False: it was never opened, or has been released since.
  bool is_open() const noexcept;
  /// False: full, or released. Handles need not be of this heap; any 64 bits but 0 will do.
  bool put(handle) noexcept;
  /// From the front as many as fit; returns how many.
  std::size_t put(std::span<const handle>) noexcept;
  /// null_handle: empty, or released.
  handle take() noexcept;
  /// As many as there are, up to so many; returns how many.
  std::size_t take(std::span<handle>) noexcept;

  /// The same, but waits, up to so long, for a handle or for room. Zero or less: looks once.
  /// However many wait and whoever is killed, nobody sleeps on when there is something: whoever
  /// adds wakes them; if it dies before it has, they look again by themselves within a tenth of a
  /// second. Whoever adds pays nothing but one load when nobody waits. Errors: deadline_passed,
  /// others_gone (another process had this ring open while this one had, and now no other living
  /// process has the heap attached; noticed within a tenth of a second. A ring that one process
  /// alone ever opened is waited on until the deadline: its own threads may put), no_such_zone
  /// (released), corrupt, forked_away.
  result<handle> take(std::chrono::nanoseconds deadline);
  /// The same for room: waits until the handle could be put. Errors: as take().
  result<void> put(handle, std::chrono::nanoseconds deadline);
  /// Waits as they do, and takes or puts nothing: another one may be faster afterwards.
  result<void> wait_for_handle(std::chrono::nanoseconds deadline) const;
  /// The same for room.
  result<void> wait_for_room(std::chrono::nanoseconds deadline) const;
  /// A descriptor for event loops that is readable when there is a handle. Errors: os_failure,
  /// limit_reached (no thread), no_such_zone (never opened).
  result<ready_event> watch_handles() const;
  /// The same for room.
  result<ready_event> watch_room() const;

  /// Takes up to handles.size() (at most 64 in hand) and remembers them in the segment until
  /// settle(): if this process dies first, recover_in_hand() of another gives them out again. One
  /// thread per ring object. 0: empty, 64 are in hand, or released.
  std::size_t take_in_hand(std::span<handle> handles) noexcept;
  /// What was taken in hand is done with.
  void settle() noexcept;
  /// Takes over what dead members had in hand, as if by take_in_hand(). Settle your own first.
  /// Returns how many.
  std::size_t recover_in_hand(std::span<handle> handles) noexcept;

  /// Handles it can have.
  std::uint64_t capacity() const noexcept;
  /// Handles in it; moves while it is in use.
  std::uint64_t count() const noexcept;

 private:
  std::size_t put_all(const handle* values, std::size_t count) noexcept;
  std::size_t take_all(handle* values, std::size_t count) noexcept;
  std::size_t put_if_open(std::span<const handle> values, std::size_t n) noexcept;
  std::size_t take_if_open(std::span<handle> values, std::size_t n) noexcept;
  std::uint64_t take_remembered() noexcept;
  bool claim_taker() noexcept;
  bool has_handle() const noexcept;
  bool has_room() const noexcept;
  struct waits;
  detail::local_heap* heap_ = nullptr;
  void* table_ = nullptr;
  std::uint64_t capacity_ = 0, incarnation_ = 0;
  std::uint32_t taker_ = 0, changes_at_open_ = 0;
  bool had_others_ = false;
};

}  // namespace annex

#endif
