// heap/repairing.cpp - see repairing.hpp.
#include "heap/repairing.hpp"

#include <cerrno>
#include <cstring>

#include "care/repair.hpp"
#include "heap/life_file.hpp"
#include "heap/membership.hpp"
#include "heap/opening.hpp"
#include "platform/byte_locks.hpp"
#include "platform/directories.hpp"
#include "platform/files.hpp"
#include "platform/kept_file.hpp"
#include "platform/memory.hpp"
#include "platform/open_result.hpp"
#include "shared/header.hpp"
#include "shared/names.hpp"

namespace annex::detail {
namespace {

// Let go of at the end of the scope.
struct held_door {
  void* pin;
  ~held_door() { os::let_go_of_byte(pin); }
};
struct mapped_segment {
  void* address;
  u64 bytes;
  ~mapped_segment() { os::unmap(address, bytes); }
};
struct open_file {
  int fd;
  ~open_file() { os::close_file(fd); }
};

// A copy of the header, mended as far as its seal tells how.
result<segment_header> mended_header(int fd, std::string_view name,
                                     const os::file_identity& identity) {
  if (identity.length_bytes < sizeof(segment_header))
    return refuse(errc::corrupt,
                  "the segment of \"{}\" has {} bytes, less than its header; nothing can be "
                  "rebuilt from it",
                  name, identity.length_bytes);
  segment_header h;
  if (const int why = copy_header(fd, identity.length_bytes, &h); why != 0)
    return refuse_path(why, "can't map the segment of", name);
  (void)mend_header(h, identity.length_bytes);
  ANNEX_TRY(check_header(h, identity.length_bytes));
  if (h.state.load(std::memory_order_relaxed) != segment_ready)
    return refuse(errc::no_such_heap, "the heap \"{}\" has been destroyed", name);
  return h;
}

// A living member; 0: none.
u32 living_member(const segment& s, int life_fd) {
  if (!os::is_any_byte_locked(life_fd, life_position_of(1), s.member_limit())) return 0;
  for (u32 id = 1; id <= s.member_limit(); ++id)
    if (is_member_alive(s, id)) return id;
  return 0;
}

// Alone with the segment.
result<repair_report> rebuild(const segment& s) {
  // Only whoever died with the lock left anything open: a count without one is damage, and what is
  // old in the journal stays there.
  if (s.header().lock.load(std::memory_order_relaxed) != 0)
    (void)undo_journal(s);
  else
    s.log().count.store(0, std::memory_order_relaxed);
  lengthen_behind_the_arena(s);
  segment_header now;
  std::memcpy(static_cast<void*>(&now), &s.header(), sizeof now);
  (void)mend_header(now, s.file_bytes());
  ANNEX_TRY(check_header(now, s.file_bytes()));
  repair_report done = rebuild_indexes(s);
  if (done.after.holds()) s.header().damaged.store(0, std::memory_order_relaxed);
  return done;
}

}  // namespace

result<repair_report> repair_heap(std::string_view name) {
  ANNEX_TRY(check_heap_name(name));
  const auto where = open_annex_directory(false);
  if (!where) return refuse_without_directory(name, where.error());
  const auto opened = open_segment_file(*where, name, true);
  if (!opened) return std::unexpected(opened.error());
  const open_file file{*opened};
  os::file_identity identity;
  if (const int why = os::identify(file.fd, &identity); why != 0)
    return refuse_path(why, "can't look at the segment of", name);
  const auto h = mended_header(file.fd, name, identity);
  if (!h) return std::unexpected(h.error());
  const std::string life_file = life_name(name, h->heap_id), life = where->path_of(life_file);
  const os::kept_file segment_file(os::duplicate(file.fd), segment_path(where->path(), name), true);
  os::kept_file lives(os::open_in(where->fd(), life_file.c_str(), true).fd, life, true);
  if (!lives.is_open()) {
    ANNEX_TRY(refuse_if_anybody_may_live(*where, name, file.fd, *h));
    const os::open_result made =
        os::create_in(where->fd(), life_file.c_str(), mode_of_lives(identity.mode));
    if (made.fd < 0) return refuse_path(made.error, "can't make", life);
    lives.take(made.fd, life, true);
  }
  const os::life_lock held = os::hold_byte(lives.get(), door_position);
  if (held.pin == nullptr && held.error != EAGAIN) return refuse_lock(held.error, name);
  if (held.pin == nullptr)
    return refuse(
        errc::heap_in_use,
        "\"{}\" is being attached or repaired by another process; try again when it is done", name);
  const held_door door{held.pin};
  const auto whole = os::map_file(file.fd, 0, h->reserve_bytes, true, 0);
  if (whole.address == nullptr)
    return refuse_path(whole.error, "can't reserve the address space of the segment of", name);
  const mapped_segment mapped{whole.address, h->reserve_bytes};
  const segment s(whole.address, &segment_file, &lives, true, segment_geometry(*h),
                  h->reserve_bytes);
  if (const u32 member = living_member(s, lives.get()); member != 0)
    return refuse(errc::heap_in_use,
                  "\"{}\" is attached by member {} (process {}); repair needs it alone: end that "
                  "process first",
                  name, member, s.member(member).process_id);
  return rebuild(s);
}

}  // namespace annex::detail
