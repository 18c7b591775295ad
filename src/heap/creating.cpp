// heap/creating.cpp - see creating.hpp.
#include "heap/creating.hpp"

#include <cerrno>
#include <optional>

#include "heap/closing.hpp"
#include "heap/destroying.hpp"
#include "heap/local_heap.hpp"
#include "heap/opening.hpp"
#include "heap/remains.hpp"
#include "platform/directories.hpp"
#include "platform/files.hpp"
#include "platform/memory.hpp"
#include "platform/processes.hpp"
#include "platform/waiting.hpp"
#include "region/room.hpp"
#include "shared/header.hpp"
#include "shared/names.hpp"

namespace annex::detail {
namespace {

constexpr u64 open_patience_ns = 10'000'000'000, open_look_again_ns = 1'000'000;

// The file of a segment on its way to be one, without a name. On failure it is closed.
struct new_file {
  os::open_result file;
  std::optional<open_directory> where;  // none: a private heap
  std::string place = "memory";
};

result<new_file> make_file(const heap_options& options, bool is_private) {
  new_file made;
  if (is_private) {
    made.file = os::create_memory_file("annex-private", 0);
    if (made.file.fd < 0)
      return refuse_path(made.file.error, "can't make memory for the metadata of",
                         "a private heap");
    return made;
  }
  auto opened = open_annex_directory(true);
  if (!opened) return std::unexpected(opened.error());
  made.where.emplace(std::move(*opened));
  made.place = made.where->path();
  made.file = os::create_unnamed_in(made.where->fd(), options.file_mode);
  if (made.file.fd < 0) return refuse_path(made.file.error, "can't make a segment in", made.place);
  return made;
}

// Its tables have pages, and its header says what it is.
result<void> fill_file(const new_file& made, std::string_view name, const heap_options& options,
                       bool is_private) {
  const int fd = made.file.fd;
  const table_plan plan = plan_of(options);
  int short_of = os::set_length(fd, plan.arena_at + spare_file_bytes);
  if (short_of == 0) short_of = os::allocate_range(fd, 0, plan.members_at);
  if (short_of == 0)
    short_of = os::allocate_range(fd, plan.journal_at, plan.arena_at - plan.journal_at);
  if (short_of != 0 && short_of != EOPNOTSUPP)
    return refuse_path(short_of, "can't make a segment in", made.place);
  const auto head = os::map_file(fd, 0, plan.members_at, true, 0);
  if (head.address == nullptr) return refuse_path(head.error, "can't map a segment in", made.place);
  fill_header(*static_cast<segment_header*>(head.address), name, options, is_private);
  os::unmap(head.address, plan.members_at);
  // From now on nobody cuts it: a memory file can be kept from it (one that has a name can't).
  if (is_private) (void)os::seal_length(fd);
  return {};
}

// Another heap has the name, or something else.
std::unexpected<error> refuse_taken_name(const open_directory& where, std::string_view name,
                                         const std::string& segment_name) {
  os::file_identity there;
  if (os::identify_in(where.fd(), segment_name.c_str(), &there) == 0 &&
      there.kind != os::file_kind::regular)
    return refuse_os(errc::name_taken, EEXIST,
                     "{} is {}, and no heap; remove it, or choose another name",
                     where.path_of(segment_name), words_for(there.kind));
  return refuse_os(
      errc::name_taken, EEXIST,
      "a heap named \"{}\" exists in {}; attach to it, destroy it or choose another name", name,
      where.path());
}

// The file of lives first: a heap that can be found has one. Its name has the heap's number in it:
// nobody else's.
result<void> publish(local_heap& made, const open_directory& where, std::string_view name,
                     const std::string& life) {
  attachment& here = made.here;
  const std::string segment_name = std::string(name) + std::string(segment_suffix);
  if (const int why = os::publish_in(here.life.get(), where.fd(), life.c_str()); why != 0)
    return refuse_path(why, "can't publish", here.life.path());
  int why = os::publish_in(here.file.get(), where.fd(), segment_name.c_str());
  if (why == EEXIST) {  // somebody's heap, or one whose destroyer died before it removed the name
    finish_destruction(where, name);
    (void)destroy_heap(name, true);  // left behind by members who are all dead
    why = os::publish_in(here.file.get(), where.fd(), segment_name.c_str());
  }
  if (why == EEXIST) return refuse_taken_name(where, name, segment_name);
  if (why != 0) return refuse_path(why, "can't publish the segment", where.path_of(segment_name));
  here.file.set_path(where.path_of(segment_name));
  return {};
}

}  // namespace

result<local_heap*> create_heap(std::string_view name, const heap_options& options,
                                bool is_private) {
  ANNEX_TRY(check_options(options));
  if (!is_private) ANNEX_TRY(check_heap_name(name));
  const auto file = make_file(options, is_private);
  if (!file) return std::unexpected(file.error());
  if (auto filled = fill_file(*file, name, options, is_private); !filled) {
    os::close_file(file->file.fd);
    return std::unexpected(filled.error());
  }
  const auto& where = file->where;
  auto opened = open_segment(file->file.fd, name, where ? heap_files(name, *where) : heap_files(),
                             {}, arrival::creator);
  if (!opened || is_private) return opened;
  local_heap& made = **opened;
  const std::string life = life_name(name, made.here.seg.header().heap_id);
  if (auto published = publish(made, *where, name, life); !published) {
    os::file_identity lives;
    if (os::identify(made.here.life.get(), &lives) == 0)
      (void)os::remove_in(where->fd(), life.c_str(), lives.device, lives.inode);
    close_heap(&made);
    return std::unexpected(published.error());
  }
  remove_stray_lives(*where, name, life);
  return opened;
}

// Of those who come at once one gives its file the name (os::publish_in: the kernel decides), and
// the others find the name taken and attach. Whoever finds neither a heap to attach to nor a free
// name has met one that is just ending, or one whose destroyer died: attach and create both remove
// what is left of it (finish_destruction). So each round, somebody gets on.
result<local_heap*> open_heap(std::string_view name, const heap_options& options, bool* is_new) {
  if (is_new != nullptr) *is_new = false;
  ANNEX_TRY(check_heap_name(name));
  ANNEX_TRY(check_options(options));
  for (const u64 until = os::now_ns() + open_patience_ns;;) {
    auto attached = attach_heap(name, {}, false, worthless::ended);
    if (attached || attached.error().code != errc::no_such_heap) return attached;
    auto created = create_heap(name, options, false);
    if (created && is_new != nullptr) *is_new = true;
    if (created || created.error().code != errc::name_taken || os::now_ns() > until) return created;
    os::sleep_ns(open_look_again_ns);
  }
}

}  // namespace annex::detail
