// annex/observer.hpp - code that must agree before memory becomes usable, and is told before it
// goes away.
//
//   add:     on_add(first observer) … on_add(last) → published
//            a refusal undoes the earlier ones in reverse
//   remove:  begin_remove(last) … begin_remove(first)
//            → finish_remove(last) … finish_remove(first) → unmapped
//
// Observers belong to one process. They are called by whichever thread adds, attaches or removes,
// or by the one that annex has for changes that others make. Meanwhile other changes of the heap's
// regions in this process wait; nothing else does. So inside a callback
//   allowed   allocate, free, locate, handles, zones, leases: in memory that is attached already.
//             No region is attached and no memory grown for it
//   refused   adding, removing, attaching and detaching memory of the same heap (by whichever
//             attachment of it), observe(): errors with invalid_argument. Ending an observation of
//             the same heap stops the program
//   never     waiting for a thread that does one of these, and closing the heap
// What is done to other heaps is as outside.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/types.hpp>

namespace annex {

/// What an observer is told about a region. Valid during the call.
struct region_view {
  heap_id heap{};                    ///< whose it is
  region_id region{};                ///< which
  void* base = nullptr;              ///< in this process
  std::size_t length_bytes = 0;      ///< of the region
  std::size_t page_bytes = 0;        ///< what its IOVAs are counted in
  int fd = -1;                       ///< to map or share it, or -1
  std::uint64_t fd_offset = 0;       ///< where the region begins in fd, bytes
  int numa_node = any_node;          ///< or any_node
  touch access = touch::read_write;  ///< none: the CPU may not touch it, base is only a number
  /// Bytes whose IOVAs follow each other.
  struct run {
    std::size_t offset_bytes;  ///< of its first byte in the region
    std::size_t length_bytes;  ///< whole pages
    iova bus_address;          ///< of its first byte
  };
  std::vector<run> runs;  ///< IOVA-contiguous stretches in order; empty: no IOVAs
  /// Remote_address() of its first byte; no other region has it while this one is there.
  std::uint64_t remote_base = 0;
};

/// What begin_remove() found. done: nothing is under way, finish_remove() need not wait. pending:
/// it may have to.
enum class quiesce : std::uint8_t { done, pending };

/// To derive from. One object may observe several heaps; it must outlive its observations.
class observer {
 public:
  /// Its observations must have ended.
  virtual ~observer() = default;
  /// Who it is, for sentences about refusals. Must stay valid as long as the observer.
  virtual std::string_view name() const noexcept = 0;
  /// The region is about to become usable here. An error refuses it: nothing is added. Also called
  /// when a removal that had begun was refused: the region is in use again (the result is then
  /// ignored).
  virtual result<void> on_add(const region_view&) = 0;
  /// No block of the region is live any more: forbid new use. pending: finish_remove may have to
  /// wait.
  virtual quiesce begin_remove(const region_view&) { return quiesce::done; }
  /// Wait for the device until the deadline, then unregister. Called again after an error; must be
  /// idempotent.
  virtual result<void> finish_remove(const region_view&,
                                     std::chrono::steady_clock::time_point deadline) = 0;
};

namespace detail {
class observing;
}

/// Keeps an observer subscribed; destroying it unsubscribes after telling the observer to remove
/// every region.
class ANNEX_PUBLIC observation {
 public:
  /// Of nothing. To be assigned to.
  observation() = default;
  /// other is of nothing afterwards.
  observation(observation&& other) noexcept;
  /// Ends the observation that was here.
  observation& operator=(observation&& other) noexcept;
  /// Ends it: the observer is told to remove every region, in reverse order.
  ~observation();

 private:
  friend class detail::observing;
  struct state;
  explicit observation(state* s) noexcept : state_(s) {}
  void end() noexcept;
  state* state_ = nullptr;
};

/// A claim on a region that keeps it from being removed; given back on destruction or when the
/// process dies.
class ANNEX_PUBLIC lease {
 public:
  /// On nothing: `false`. To be assigned to.
  lease() = default;
  /// other is on nothing afterwards.
  lease(lease&& other) noexcept;
  /// Gives back the lease that was here.
  lease& operator=(lease&& other) noexcept;
  /// Gives it back.
  ~lease();
  /// Whether it holds a region.
  explicit operator bool() const noexcept { return heap_ != nullptr; }

 private:
  friend class detail::observing;
  void give_back() noexcept;
  void* heap_ = nullptr;
  std::uint32_t region_slot_ = 0;
};

}  // namespace annex

#endif
