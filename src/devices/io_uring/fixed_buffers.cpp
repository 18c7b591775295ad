// devices/io_uring/fixed_buffers.cpp - the table of fixed buffers, in a ring of our own and in
// every ring of the program.
//
//   on_add        slots found → registered in our ring (pinned) → in every ring: cloned, or
//                 registered again with a tag → found
//   begin_remove  no longer found → out of every ring's table; operations under way keep the pages
//   finish_remove tags: our ring's and each tagged ring's, which say that the last operation is
//                 over → slots free
//
// Our own ring submits nothing: it is the one that pins, and the source of clones. A cloned table
// has no tags: an operation under way on a cloned ring keeps the pages pinned until it ends, but
// nobody is told. A program that frees blocks only when their operations are complete never
// notices.
// If the process dies the kernel drops its rings, tables and pins; other processes have their own.
#include <annex/devices/io_uring.hpp>

#include <liburing.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <vector>

#include "base/failure.hpp"
#include "devices/region_table.hpp"

namespace annex {
namespace {

constexpr unsigned most_slots = 16384;  // the kernel's
// A tag: the program's bits | number of the ring | slot.
constexpr unsigned ring_shift = 14, tag_bits = 24;
constexpr u64 most_piece_bytes = GiB;

// Newer than Debian 12's headers.
struct clone_request {
  u32 source_fd, flags, source_offset, target_offset, count, padding[3];
};
static_assert(sizeof(clone_request) == 32);
constexpr unsigned register_clone_buffers = 30;
constexpr u32 replace_in_target = 2;

int clone_table(int target, int source, u32 first, u32 count, bool replace) noexcept {
  clone_request request{.source_fd = static_cast<u32>(source),
                        .flags = replace ? replace_in_target : 0,
                        .source_offset = first,
                        .target_offset = first,
                        .count = count,
                        .padding = {}};
  const long done = ::syscall(SYS_io_uring_register, target, register_clone_buffers, &request, 1);
  return done < 0 ? errno : 0;
}

// 0, or why not.
int set_slot(::io_uring& ring, unsigned slot, void* base, u64 bytes, u64 tag) noexcept {
  ::iovec piece{base, bytes};
  __u64 tags = tag;
  const int done = ::io_uring_register_buffers_update_tag(&ring, slot, &piece, &tags, 1);
  return done == 1 ? 0 : done < 0 ? -done : EFAULT;
}

std::unexpected<error> cannot_pin(int why, const region_view& region) {
  if (why == ENOMEM) {
    ::rlimit limit{};
    ::getrlimit(RLIMIT_MEMLOCK, &limit);
    return refuse_os(errc::out_of_memory, why,
                     "io_uring can't pin {} bytes: the locked-memory limit is {} bytes; raise it "
                     "(ulimit -l) or grant CAP_IPC_LOCK",
                     region.length_bytes, limit.rlim_cur);
  }
  if (why == EFAULT || why == EOPNOTSUPP)
    return refuse_os(errc::not_supported, why,
                     "the kernel can't pin region {}: it is not mapped readable and writable, or "
                     "is a disk file mapped shared; bring anonymous, shared or hugetlb memory",
                     static_cast<u32>(region.region));
  return refuse_os(errc::os_failure, why, "io_uring refused region {} of {} bytes: {}",
                   static_cast<u32>(region.region), region.length_bytes, std::strerror(why));
}

}  // namespace

struct fixed_buffers::state {
  fixed_buffers_options options;
  ::io_uring own{};
  heap_id observed{};
  devices::region_table first_slots;
  mutable std::mutex mutex;
  std::condition_variable tag_came;
  struct member {
    ::io_uring* ring;
    ring_mode mode;
    u32 number;                // in its tags; our own ring's is 0
    std::vector<bool> tagged;  // slots whose tag is to come
  };
  std::vector<member> rings;
  u32 next_number = 0;
  std::vector<bool> own_tagged;
  struct slot {
    bool used = false;
    void* base = nullptr;
    std::atomic<u64> bytes{0};
  };
  std::vector<slot> slots;
  struct leaving {
    region_id region;
    u32 first, count;
  };
  std::vector<leaving> removals;

  explicit state(const fixed_buffers_options& o)
      : options(o), own_tagged(o.slots), slots(o.slots) {}

  std::optional<u32> find_free(u32 count) const {
    for (u32 first = 0, run = 0; first + run < slots.size();) {
      if (slots[first + run].used)
        first += run + 1, run = 0;
      else if (++run == count)
        return first;
    }
    return {};
  }

  int register_in(member& m, u32 first, u32 count) {
    if (m.mode == ring_mode::cloned)
      return clone_table(m.ring->ring_fd, own.ring_fd, first, count, true);
    for (u32 i = first; i < first + count; ++i) {
      if (const int why =
              set_slot(*m.ring, i, slots[i].base, slots[i].bytes.load(std::memory_order_relaxed),
                       options.tags | m.number << ring_shift | i);
          why != 0)
        return why;
      m.tagged[i] = true;
    }
    return 0;
  }

  // The slots leave every table; their tags come when the last operation is over.
  void take_out(u32 first, u32 count) {
    for (const member& m : rings)
      for (u32 i = first; i < first + count; ++i)
        (void)set_slot(*m.ring, i, nullptr, 0, 0);
    for (u32 i = first; i < first + count; ++i)
      if (slots[i].base != nullptr) (void)set_slot(own, i, nullptr, 0, 0);
  }

  void note_tag(u64 tag) {
    const u64 index = tag & (most_slots - 1),
              number = tag >> ring_shift & ((1u << (tag_bits - ring_shift)) - 1);
    if (index >= slots.size()) return;
    if (number == 0) own_tagged[index] = false;
    for (member& m : rings)
      if (m.number == number && m.mode == ring_mode::tagged) m.tagged[index] = false;
    tag_came.notify_all();
  }
  void collect_own_tags() {
    for (::io_uring_cqe* completion = nullptr; ::io_uring_peek_cqe(&own, &completion) == 0;) {
      note_tag(completion->user_data);
      ::io_uring_cqe_seen(&own, completion);
    }
  }
  u32 tags_awaited(u32 first, u32 count) const {
    u32 awaited = 0;
    for (u32 i = first; i < first + count; ++i) {
      awaited += own_tagged[i] ? 1u : 0u;
      for (const member& m : rings)
        awaited += m.mode == ring_mode::tagged && m.tagged[i] ? 1u : 0u;
    }
    return awaited;
  }
  void free_slots(u32 first, u32 count) {
    for (u32 i = first; i < first + count; ++i) {
      slots[i].used = false;
      slots[i].base = nullptr;
      slots[i].bytes.store(0, std::memory_order_relaxed);
    }
  }
};

fixed_buffers::fixed_buffers(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}

fixed_buffers::~fixed_buffers() {
  for (const auto& m : state_->rings)
    ::io_uring_unregister_buffers(m.ring);
  ::io_uring_queue_exit(&state_->own);
}

result<std::unique_ptr<fixed_buffers>> fixed_buffers::create(const fixed_buffers_options& o) {
  if (o.slots == 0 || o.slots > most_slots)
    return refuse(errc::invalid_argument, "{} slots are no table: use 1 to {}", o.slots,
                  most_slots);
  if (!is_power_of_two(o.piece_bytes) || o.piece_bytes < limits::smallest_page_bytes ||
      o.piece_bytes > most_piece_bytes)
    return refuse(errc::invalid_argument,
                  "pieces of {} bytes can't be registered: use a power of two from {} to {}",
                  o.piece_bytes, limits::smallest_page_bytes, most_piece_bytes);
  if ((o.tags & ((1u << tag_bits) - 1)) != 0)
    return refuse(errc::invalid_argument,
                  "tags {:#x}: the low {} bits are the slot's and the ring's and must be 0", o.tags,
                  tag_bits);
  auto s = std::make_unique<state>(o);
  if (const int why = -::io_uring_queue_init(8, &s->own, 0); why != 0)
    return refuse_os(why == ENOSYS || why == EPERM ? errc::not_supported : errc::os_failure, why,
                     "no io_uring here: {}; needs Linux 5.19, and kernel.io_uring_disabled = 0",
                     std::strerror(why));
  if (const int why = -::io_uring_register_buffers_sparse(&s->own, o.slots); why != 0) {
    ::io_uring_queue_exit(&s->own);
    return refuse_os(errc::not_supported, why,
                     "a table of {} fixed buffers is refused: {}; needs Linux 5.19", o.slots,
                     std::strerror(why));
  }
  return std::unique_ptr<fixed_buffers>(new fixed_buffers(std::move(s)));
}

result<void> fixed_buffers::add_ring(::io_uring& ring, ring_mode mode) {
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  if (std::any_of(s.rings.begin(), s.rings.end(), [&](const auto& m) { return m.ring == &ring; }))
    return refuse(errc::invalid_argument, "the ring (descriptor {}) is in already", ring.ring_fd);
  constexpr u32 most_rings = (1u << (tag_bits - ring_shift)) - 1;
  if (s.next_number == most_rings && mode == ring_mode::tagged)
    return refuse(errc::limit_reached, "{} tagged rings have come and gone; make a new table",
                  most_rings);
  state::member m{&ring, mode, mode == ring_mode::tagged ? ++s.next_number : 0,
                  std::vector<bool>(s.slots.size())};
  int why = mode == ring_mode::cloned ? clone_table(ring.ring_fd, s.own.ring_fd, 0, 0, false)
                                      : -::io_uring_register_buffers_sparse(&ring, s.options.slots);
  if (why == EBUSY)
    return refuse_os(errc::invalid_argument, why,
                     "the ring (descriptor {}) has fixed buffers already; unregister them first",
                     ring.ring_fd);
  if (why == EEXIST)
    return refuse_os(errc::not_supported, why,
                     "the ring (descriptor {}) is another thread's alone "
                     "(IORING_SETUP_SINGLE_ISSUER); add it from there",
                     ring.ring_fd);
  if (why == EINVAL && mode == ring_mode::cloned)
    return refuse_os(
        errc::not_supported, why,
        "this kernel does not clone tables of fixed buffers (Linux 6.13); use ring_mode::tagged");
  if (why != 0)
    return refuse_os(errc::os_failure, why,
                     "the ring (descriptor {}) refused a table of {} buffers: {}", ring.ring_fd,
                     s.options.slots, std::strerror(why));
  if (mode == ring_mode::tagged)
    for (u32 i = 0; i < s.slots.size() && why == 0; ++i)
      if (s.slots[i].base != nullptr) why = s.register_in(m, i, 1);
  if (why != 0) {
    ::io_uring_unregister_buffers(&ring);
    return refuse_os(why == ENOMEM ? errc::out_of_memory : errc::os_failure, why,
                     "the ring (descriptor {}) can't have the buffers: {}; a tagged ring pins "
                     "again: raise the locked-memory limit, or clone",
                     ring.ring_fd, std::strerror(why));
  }
  s.rings.push_back(std::move(m));
  return {};
}

result<void> fixed_buffers::remove_ring(::io_uring& ring) {
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  const auto at =
      std::find_if(s.rings.begin(), s.rings.end(), [&](const auto& m) { return m.ring == &ring; });
  if (at == s.rings.end())
    return refuse(errc::invalid_argument, "the ring (descriptor {}) is none of ours", ring.ring_fd);
  ::io_uring_unregister_buffers(&ring);
  s.rings.erase(at);
  s.tag_came.notify_all();
  return {};
}

std::optional<fixed_buffer> fixed_buffers::find(const void* block) const noexcept {
  const state& s = *state_;
  const auto place = heap::locate(block);
  if (!place || place->heap != s.observed) return {};
  const auto first = s.first_slots.find(place->region);
  if (!first) return {};
  const u64 piece = place->offset_bytes / s.options.piece_bytes,
            in_piece = place->offset_bytes % s.options.piece_bytes;
  const u32 index = *first + static_cast<u32>(piece);
  return fixed_buffer{index, s.slots[index].bytes.load(std::memory_order_relaxed) - in_piece};
}

bool fixed_buffers::complete(const ::io_uring_cqe& completion) noexcept {
  state& s = *state_;
  if (completion.user_data >> tag_bits != s.options.tags >> tag_bits) return false;
  std::lock_guard guard(s.mutex);
  s.note_tag(completion.user_data);
  return true;
}

unsigned fixed_buffers::slots_used() const noexcept {
  std::lock_guard guard(state_->mutex);
  return static_cast<unsigned>(std::count_if(state_->slots.begin(), state_->slots.end(),
                                             [](const auto& slot) { return slot.used; }));
}

std::string_view fixed_buffers::name() const noexcept {
  return "io_uring";
}

result<void> fixed_buffers::on_add(const region_view& region) {
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  if (s.observed != heap_id{} && s.observed != region.heap)
    return refuse(errc::invalid_argument, "this table is another heap's; make one for each heap");
  if (region.access == touch::none)
    return refuse(errc::not_supported,
                  "region {} may not be touched by the CPU: the kernel can't pin it",
                  static_cast<u32>(region.region));
  const u64 piece_bytes = s.options.piece_bytes;
  const u32 count = static_cast<u32>(divide_up(region.length_bytes, piece_bytes));
  const auto first = s.find_free(count);
  if (!first)
    return refuse(errc::limit_reached,
                  "{} bytes need {} of the table's {} slots in a row, which are not free; create "
                  "it with more slots (up to {})",
                  region.length_bytes, count, s.options.slots, most_slots);
  int why = 0;
  u32 done = 0;
  for (; done < count && why == 0; ++done) {
    auto& slot = s.slots[*first + done];
    const u64 begin = done * piece_bytes,
              bytes = std::min<u64>(piece_bytes, region.length_bytes - begin);
    void* const base = static_cast<char*>(region.base) + begin;
    why = set_slot(s.own, *first + done, base, bytes, s.options.tags | (*first + done));
    if (why != 0) break;
    slot.used = true;
    slot.base = base;
    slot.bytes.store(bytes, std::memory_order_relaxed);
    s.own_tagged[*first + done] = true;
  }
  for (size_t i = 0; i < s.rings.size() && why == 0; ++i)
    why = s.register_in(s.rings[i], *first, count);
  if (why != 0) {
    s.take_out(*first, done);
    // Nothing was handed out, so nothing is under way: our ring's tags are there at once, other
    // rings' are not waited for.
    s.collect_own_tags();
    for (auto& m : s.rings)
      for (u32 i = *first; i < *first + done; ++i)
        m.tagged[i] = false;
    s.free_slots(*first, done);
    return cannot_pin(why, region);
  }
  s.observed = region.heap;
  s.first_slots.enter(region.region, *first);
  return {};
}

quiesce fixed_buffers::begin_remove(const region_view& region) {
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  const auto first = s.first_slots.find(region.region);
  if (!first) return quiesce::done;
  s.first_slots.leave(region.region);
  const u32 count = static_cast<u32>(divide_up(region.length_bytes, s.options.piece_bytes));
  s.take_out(*first, count);
  s.removals.push_back({region.region, *first, count});
  s.collect_own_tags();
  return s.tags_awaited(*first, count) == 0 ? quiesce::done : quiesce::pending;
}

result<void> fixed_buffers::finish_remove(const region_view& region,
                                          std::chrono::steady_clock::time_point deadline) {
  state& s = *state_;
  std::unique_lock guard(s.mutex);
  for (auto at = s.removals.begin(); at != s.removals.end();) {
    if (at->region != region.region) {
      ++at;
      continue;
    }
    const auto [id, first, count] = *at;
    for (;;) {
      s.collect_own_tags();
      const u32 awaited = s.tags_awaited(first, count);
      if (awaited == 0) break;
      if (std::chrono::steady_clock::now() >= deadline)
        return refuse(errc::deadline_passed,
                      "operations on region {} are still under way, or their completions were not "
                      "handed to fixed_buffers::complete: {} of its tags have not come",
                      static_cast<u32>(id), awaited);
      s.tag_came.wait_for(guard, std::chrono::milliseconds(1));
    }
    s.free_slots(first, count);
    at = std::find_if(s.removals.begin(), s.removals.end(),
                      [&](const auto& r) { return r.region == id && r.first == first; });
    at = s.removals.erase(at);
  }
  return {};
}

}  // namespace annex
