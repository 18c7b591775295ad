// annex/devices/io_uring.hpp - every region of a heap as fixed buffers of io_uring rings (library
// annex_io_uring).
//
//   region                 │ piece 0: up to 1 GiB │ piece 1 │ …
//   slot of the table        first                  first+1        the same in every ring
//
// A fixed buffer is pinned and mapped for the kernel once, not at every operation. A block of the
// heap is then read or written by IORING_OP_READ_FIXED and WRITE_FIXED with the slot that find()
// names. An operation must not cross the end of a piece: clip it to contiguous_bytes.
//
//   auto buffers = must(annex::fixed_buffers::create());
//   auto seen = must(heap.observe(*buffers));      // regions that are there, then those that come
//   must(buffers->add_ring(ring));
//   auto slot = buffers->find(block);              // a few ns
//   io_uring_prep_read_fixed(sqe, fd, block, bytes, offset, slot->index);
//
// Source: io_uring_register(2); kernel 6.13 or newer for cloned rings, 5.19 for tagged ones.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/observer.hpp>

#include <memory>
#include <optional>

struct io_uring;
struct io_uring_cqe;

namespace annex {

/// How a ring gets the table.
/// cloned: from annex's own ring; the pages are pinned once, whatever the number of rings. tagged:
/// registered for itself, so that the kernel says when the last operation on a removed region is
/// over; pinned, and counted, once more.
enum class ring_mode : std::uint8_t { cloned, tagged };

/// Where an address lies in the table.
struct fixed_buffer {
  unsigned index;                ///< buf_index of the operation
  std::size_t contiguous_bytes;  ///< from the block's address on
};

/// How large the table is, and how its pieces are cut.
struct fixed_buffers_options {
  unsigned slots = 1024;                           ///< pieces in the table, up to 16384
  std::size_t piece_bytes = std::size_t{1} << 30;  ///< power of two, one page to 1 GiB
  /// User_data of a tagged ring's completions that are ours begin like this; low 24 bits 0.
  std::uint64_t tags = 0xa99e000000000000;
};

/// Observes one heap, in one process. Threads: any; add_ring and remove_ring register on the ring,
/// which a ring set up with IORING_SETUP_SINGLE_ISSUER allows its own thread only. A process that
/// dies takes its registrations with it; others' stay.
class ANNEX_PUBLIC fixed_buffers final : public observer {
 public:
  /// Errors: invalid_argument, not_supported (no io_uring, or forbidden), os_failure.
  static result<std::unique_ptr<fixed_buffers>> create(const fixed_buffers_options& options = {});
  /// Its observation must have ended, and every ring been removed.
  ~fixed_buffers() override;

  /// The ring must have no buffers of its own, and must outlive its membership. Errors:
  /// invalid_argument (it has), not_supported (cloned on an old kernel: use tagged), out_of_memory
  /// (RLIMIT_MEMLOCK), os_failure.
  result<void> add_ring(::io_uring& ring, ring_mode mode = ring_mode::cloned);
  /// Before io_uring_queue_exit. Errors: invalid_argument (no ring of ours).
  result<void> remove_ring(::io_uring& ring);

  /// Where an address lies in the table; nothing for memory of no region that is registered.
  /// Wait-free.
  std::optional<fixed_buffer> find(const void* block) const noexcept;
  /// A tagged ring's completion is handed over here first; true: it was a tag of ours, the program
  /// ignores it.
  bool complete(const ::io_uring_cqe& completion) noexcept;
  /// Slots in use.
  unsigned slots_used() const noexcept;

  /// As observer::name().
  std::string_view name() const noexcept override;
  result<void> on_add(const region_view& region) override;
  quiesce begin_remove(const region_view& region) override;
  result<void> finish_remove(const region_view& region,
                             std::chrono::steady_clock::time_point deadline) override;

 private:
  struct state;
  explicit fixed_buffers(std::unique_ptr<state> s) noexcept;
  std::unique_ptr<state> state_;
};

}  // namespace annex

#endif
