// shared/header_rules.cpp - see header_rules.hpp.
#include "shared/header_rules.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/mend.hpp"
#include "platform/files.hpp"

namespace annex::detail {

bool mend_header(segment_header& h, u64 file_bytes) {
  if (h.state.value != segment_ready && h.state.value != segment_destroyed)
    h.state.value = segment_ready;
  const sealed_bytes first{&h, offsetof(segment_header, state)},
      second{&h.member_limit,
             offsetof(segment_header, lock) - offsetof(segment_header, member_limit)};
  const bool fits =
      mend_by_seal(h.seal, {first, second}, [&] { return seal_of_header(h); }) != mending::failed;
  // What the file's own length says better, as long as it was not cut.
  const bool is_whole = h.arena.top <= file_bytes && file_bytes <= h.reserve_bytes;
  if (is_whole && (h.arena.file_bytes > file_bytes || h.arena.file_bytes < h.arena.top))
    h.arena.file_bytes = file_bytes;
  h.member_records_used.value = std::min(h.member_records_used.value, h.member_limit);
  h.thread_slots_used.value = std::min(h.thread_slots_used.value, h.thread_limit);
  return fits;
}

void find_header(rebuilding& rb) {
  segment_header& h = rb.h;
  h.lock.value = 0;
  h.lock_sequence.value &= ~u64{1};
  segment_header before;  // with what lies between the fields, since bytes are compared
  std::memcpy(static_cast<void*>(&before), &h, sizeof before);
  const bool fits = mend_header(h, rb.s.file_bytes());
  // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): all of it was copied.
  if (fits && std::memcmp(static_cast<const void*>(&before), &h, sizeof before) != 0)
    rb.say("the header: a word of it is right again, by its seal or by the file's length");
}

void count_header(counting& c) {
  const segment_header& h = c.s.header();
  c.out.metadata_bytes = os::allocated_bytes(c.s.fd());
  c.out.misuse_count = h.misuse_count.load(std::memory_order_relaxed);
  c.out.lock_steals = h.lock_steals.load(std::memory_order_relaxed);
  c.out.recovered_threads = h.recovered_threads.load(std::memory_order_relaxed);
}

}  // namespace annex::detail
