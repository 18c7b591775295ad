// heap/life_file.cpp - see life_file.hpp.
#include "heap/life_file.hpp"

#include <cerrno>

#include "platform/directories.hpp"
#include "platform/files.hpp"
#include "platform/kept_file.hpp"
#include "platform/memory.hpp"
#include "platform/open_result.hpp"
#include "platform/processes.hpp"
#include "shared/names.hpp"

namespace annex::detail {

u32 mode_of_lives(u32 file_mode) noexcept {
  const u32 writers = file_mode & 0222;
  return writers | writers << 1;
}

result<void> make_life_file(attachment& heap, u32 file_mode) {
  const auto where = heap.files.open();
  if (!where) return std::unexpected(where.error());
  const std::string path = where->path_of(life_name(heap.name, heap.seg.header().heap_id));
  const os::open_result made = os::create_unnamed_in(where->fd(), mode_of_lives(file_mode));
  if (made.fd < 0) return refuse_path(made.error, "can't make a file in", where->path());
  heap.life.take(made.fd, path, true);
  return {};
}

namespace {

// Without the file of lives nobody can tell who lives but by the process table, which may know a
// member by an accident only.
result<void> refuse_if_known_to_the_system(const segment& s, std::string_view life_path,
                                           std::string_view name) {
  for (u32 id = 1; id <= s.members_used(); ++id) {
    const member_record& m = s.member(id);
    // sync(member): what the record says is seen.
    if (is_claimed(m.state.load(std::memory_order_acquire)) && m.start_time != 0 &&
        os::start_time(m.process_id) == m.start_time)
      return refuse(errc::heap_in_use,
                    "{}, by which the members of \"{}\" show that they live, is missing, and "
                    "process {} may have it attached: end that process, then try again",
                    life_path, name, m.process_id);
  }
  return {};
}

// A segment was copied here alone, or somebody has removed the file. Whoever holds a byte of the
// old one can't be seen any more: only when no process of the records exists is there nobody to be
// overlooked.
result<void> make_life_file_again(attachment& heap, const open_directory& where,
                                  const std::string& name, u32 file_mode) {
  const std::string path = where.path_of(name);
  ANNEX_TRY(refuse_if_known_to_the_system(heap.seg, path, heap.name));
  const os::open_result made = os::create_unnamed_in(where.fd(), mode_of_lives(file_mode));
  if (made.fd < 0) return refuse_path(made.error, "can't make", path);
  heap.files.give_to_heap(heap.seg, made.fd);
  const int why = os::publish_in(made.fd, where.fd(), name.c_str());
  if (why == EEXIST) {  // another process was faster
    os::close_file(made.fd);
    heap.life.take(os::open_in(where.fd(), name.c_str(), true).fd, path, true);
    return heap.life.is_open() ? result<void>{} : refuse_path(ENOENT, "can't open", path);
  }
  heap.life.take(made.fd, path, true);
  return why == 0 ? result<void>{} : refuse_path(why, "can't make", path);
}

}  // namespace

result<void> open_life_file(attachment& heap, u32 file_mode) {
  const auto where = heap.files.open();
  if (!where && heap.is_read_only()) return {};
  if (!where) return std::unexpected(where.error());
  const std::string name = life_name(heap.name, heap.seg.header().heap_id),
                    path = where->path_of(name);
  const os::open_result file = os::open_in(where->fd(), name.c_str(), !heap.is_read_only());
  if (file.fd >= 0) {
    heap.life.take(file.fd, path, !heap.is_read_only());
    return {};
  }
  if (heap.is_read_only()) return {};  // who lives is then told by the process table
  // Relaxed: nothing is read because of it.
  if (heap.seg.header().state.load(std::memory_order_relaxed) != segment_ready)
    return refuse(errc::no_such_heap, "the heap \"{}\" has been destroyed", heap.name);
  if (file.error == ENOENT) return make_life_file_again(heap, *where, name, file_mode);
  if (file.error == EINVAL)
    return refuse_os(errc::corrupt, EINVAL, "{} is no regular file; remove it, then attach again",
                     path);
  return refuse_path(file.error, "can't open", path);
}

result<void> refuse_if_anybody_may_live(const open_directory& where, std::string_view name, int fd,
                                        const segment_header& h) {
  const auto whole = os::map_file(fd, 0, h.arena_at, false, 0);
  if (whole.address == nullptr) return refuse_path(whole.error, "can't map the segment of", name);
  const os::kept_file file(os::duplicate(fd), {}, false);
  const segment s(whole.address, &file, nullptr, false, segment_geometry(h), h.arena_at);
  const auto known =
      refuse_if_known_to_the_system(s, where.path_of(life_name(name, h.heap_id)), name);
  os::unmap(whole.address, h.arena_at);
  return known;
}

}  // namespace annex::detail
