// annex/devices/vhost_user.hpp - a vhost-user back end (a switch's port, a disk) on the memory of a
// heap (library annex_vhost_user).
//
//   heap                                          back end (another process)
//   region: fd, offset, IOVAs  ── memory table ─▶ mapped there; its guest address is the IOVA,
//                                                 or this process's address where there is none
//   block: a ring ─────────── address here ─────▶ where entries lie
//   block: a buffer ───────── device_address() ─▶ what entries say
//
// The annex process is the front end (in QEMU's terms: the guest). The back end gets a region
// before its first block is handed out and lets go of it, and says so, before it is unmapped. Two
// styles of back end, asked first: the whole table at each change (up to 8 entries), or slots (as
// many as it says).
// Source: QEMU's docs/interop/vhost-user.rst; virtio 1.2, split rings.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/heap.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace annex {

/// What to agree on with the back end.
struct vhost_user_options {
  /// Virtio feature bits of the device to ask for; those it does not offer are left out.
  std::uint64_t device_features = 0;
  std::chrono::milliseconds patience{5000};  ///< for an answer of the back end
};

/// Observes one heap, in one process. Threads: any; messages go one at a time. A process that dies
/// closes the connection, and the back end unmaps.
class ANNEX_PUBLIC vhost_user final : public observer {
 public:
  /// Connects to the back end's socket and agrees on features. Errors: invalid_argument (no such
  /// socket, path too long), not_supported (the back end can't acknowledge: nobody would know when
  /// memory may go), os_failure.
  static result<std::unique_ptr<vhost_user>> connect(const std::string& socket_path,
                                                     const vhost_user_options& options = {});
  /// Closes the connection; the back end unmaps. Its queues and its observation must have ended.
  ~vhost_user() override;

  std::uint64_t features() const noexcept;  ///< agreed upon
  /// The most entries the back end's table may have.
  unsigned most_entries() const noexcept;
  /// How many entries its table has now: one for each run of IOVAs.
  unsigned entries() const noexcept;
  bool has_slots() const noexcept;  ///< false: the whole table goes over at each change
  /// What the back end calls this byte; nothing for memory it does not have. Contiguous there as
  /// far as location::contiguous_bytes says.
  std::optional<std::uint64_t> device_address(const void* byte) const noexcept;
  /// The device's configuration space. Errors: not_supported, os_failure.
  result<void> read_config(std::size_t offset_bytes, std::span<std::byte> into);
  /// False: the back end is gone.
  bool is_connected() const noexcept;

  /// As observer::name().
  std::string_view name() const noexcept override;
  result<void> on_add(const region_view& region) override;
  result<void> finish_remove(const region_view& region,
                             std::chrono::steady_clock::time_point deadline) override;

  struct state;  // of this library; its queues use it

 private:
  friend class vhost_queue;
  explicit vhost_user(std::unique_ptr<state> s) noexcept;
  std::unique_ptr<state> state_;
};

/// One queue of the device. One thread at a time.
class ANNEX_PUBLIC vhost_queue {
 public:
  /// A buffer of a request.
  struct segment {
    void* data;           ///< in a block of the heap
    std::uint32_t bytes;  ///< its length
    bool device_writes;   ///< false: the device reads it
  };
  /// Takes the ring out of the heap and hands it to the back end. entries: a power of two up to
  /// 32768. Errors: invalid_argument, out_of_memory, os_failure.
  static result<vhost_queue> start(vhost_user&, heap&, unsigned index, unsigned entries);
  /// What is moved from may be destroyed or assigned to, no more.
  vhost_queue(vhost_queue&&) noexcept;
  /// Stops the queue it had, as the destructor does.
  vhost_queue& operator=(vhost_queue&&) noexcept;
  /// Stops the queue: the back end lets go of everything under way.
  ~vhost_queue();

  /// A request of several buffers, those the device reads first. False: the ring is full. Errors:
  /// foreign_handle (a buffer the back end does not have, or one that is not contiguous there),
  /// invalid_argument (no segments, or more than entries).
  result<bool> submit(std::span<const segment> request, std::uint64_t cookie);
  /// Calls done for each request the device has finished: the cookie, and how many bytes it wrote.
  /// Returns how many.
  std::size_t poll(const std::function<void(std::uint64_t cookie, std::uint32_t bytes)>& done);
  /// Requests the device has not finished.
  std::size_t under_way() const noexcept;
  /// Becomes readable when the device has finished something.
  int call_descriptor() const noexcept;

 private:
  struct state;
  explicit vhost_queue(std::unique_ptr<state> s) noexcept;
  std::unique_ptr<state> state_;
};

}  // namespace annex

#endif
