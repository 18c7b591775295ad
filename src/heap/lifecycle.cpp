// heap/lifecycle.cpp - making, joining, leaving and ending a heap.
//
//   create   an unnamed file is filled and then given its name in one step: a half-made heap is
//            never seen
//   attach   header checked before anything in it is believed; when nobody else is attached, the
//            whole segment
//   close    caches flushed, regions let go, member record freed, byte lock dropped with its
//            mapping
//   destroy  refused while blocks are live or members attached; the state word commits, then the
//            files of its regions go, then the name
//
// A process that dies anywhere in create leaves nothing (the file had no name) or a complete heap;
// in destroy, a heap that is marked destroyed: whoever next attaches, creates or destroys that name
// removes what is left (finish_destruction).
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "care/audit.hpp"
#include "care/repair.hpp"
#include "heap/registry.hpp"
#include "heap/room.hpp"
#include "platform/os.hpp"

namespace annex {

namespace detail {

bool local_heap::is_attaching(arrival how) noexcept {
  return how == arrival::attacher || how == arrival::opener;
}

namespace {

constexpr u64 door_patience_ns = 10'000'000'000, door_look_again_ns = 1'000'000;
constexpr int claim_tries = 100;  // records that others are just giving up

bool is_name_character(char c) noexcept {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '.' || c == '-';
}

result<void> check_options(const heap_options& o) {
  auto check = [](std::string_view what, u64 value, u64 least, u64 most) -> result<void> {
    if (value >= least && value <= most) return {};
    return refuse(errc::invalid_argument, "{} is {}, but must be from {} to {}", what, value, least,
                  most);
  };
  ANNEX_TRY(check("metadata_limit_bytes", o.metadata_limit_bytes, limits::smallest_metadata_limit,
                  limits::largest_metadata_limit));
  ANNEX_TRY(check("member_limit", o.member_limit, 1, limits::largest_member_limit));
  ANNEX_TRY(check("thread_limit", o.thread_limit, 2, limits::largest_thread_limit));
  ANNEX_TRY(check("region_limit", o.region_limit, 1, limits::region_slots));
  ANNEX_TRY(check("zone_limit", o.zone_limit, 1, limits::largest_zone_limit));
  if (o.file_mode < 0400 || o.file_mode > 0777)
    return refuse(errc::invalid_argument, "file_mode is {:#o}, but must be from 0400 to 0777",
                  o.file_mode);
  const u64 tables = plan_tables(o.member_limit + kept_for_mending,
                                 o.thread_limit + kept_for_mending, o.region_limit)
                         .arena_at +
                     spare_file_bytes;
  return check("metadata_limit_bytes (with these member, thread and region limits)",
               o.metadata_limit_bytes, tables + MiB, limits::largest_metadata_limit);
}

std::unexpected<error> refuse_lock(int why, std::string_view name) {
  if (why != EINVAL && why != ENOSYS && why != ENOLCK && why != EPERM && why != EACCES &&
      why != EOPNOTSUPP)
    return refuse_os(errc::os_failure, why,
                     "can't join \"{}\", whose members show by a lock that they live: {}{}", name,
                     std::strerror(why), remedy_for(why));
  return refuse_os(errc::os_failure, why,
                   "can't join \"{}\": its members show that they live by open file description "
                   "locks (F_OFD_SETLK), which were refused here: {}; annex needs Linux 3.15 or "
                   "later, a file system with locks, and a sandbox that lets fcntl through",
                   name, std::strerror(why));
}

// The header as far as it must be right before the segment is mapped as a whole.
result<void> check_header(const segment_header& h, u64 file_bytes) {
  if (h.magic != segment_magic)
    return refuse(errc::corrupt, "the file is no annex segment (magic {:#x})", h.magic);
  if (h.layout_major != layout_major || h.layout_hash != layout_hash())
    return refuse(errc::incompatible_layout,
                  "the segment has layout {}.{} ({:#x}), this library reads {}.{} ({:#x}); use the "
                  "annex that made it, or destroy and create it anew",
                  h.layout_major, h.layout_minor, h.layout_hash, layout_major, layout_minor,
                  layout_hash());
  if (h.seal != seal_of_header(h))
    return refuse(errc::corrupt,
                  "the header's name, options, limits or places are not those it was made with");
  if (const u32 state = h.state.load(std::memory_order_relaxed);
      state != segment_ready && state != segment_destroyed)
    return refuse(errc::corrupt, "the header's state is {:#x}, which is none", state);
  const bool limits_hold = h.member_limit >= 1 + kept_for_mending &&
                           h.member_limit <= limits::largest_member_limit + kept_for_mending &&
                           h.thread_limit >= 2 + kept_for_mending &&
                           h.thread_limit <= limits::largest_thread_limit + kept_for_mending &&
                           h.region_limit >= 1 && h.region_limit <= limits::region_slots &&
                           h.zone_limit >= 1 && h.zone_limit <= limits::largest_zone_limit &&
                           h.reserve_bytes >= limits::smallest_metadata_limit &&
                           h.reserve_bytes <= limits::largest_metadata_limit;
  if (!limits_hold) return refuse(errc::corrupt, "the header's limits are out of range");
  const table_plan plan = plan_tables(h.member_limit, h.thread_limit, h.region_limit);
  if (plan.members_at != h.members_at || plan.threads_at != h.threads_at ||
      plan.regions_at != h.regions_at || plan.zone_buckets_at != h.zone_buckets_at ||
      plan.journal_at != h.journal_at || plan.arena_at != h.arena_at || file_bytes < plan.arena_at)
    return refuse(errc::corrupt,
                  "the header's tables do not lie where its limits put them, or the file of {} "
                  "bytes is cut short",
                  file_bytes);
  const arena_lists& a = h.arena;
  if (a.file_bytes > file_bytes || a.file_bytes > h.reserve_bytes || a.top > a.file_bytes ||
      a.top < plan.arena_at)
    return refuse(errc::corrupt, "the arena ends at {} of {} bytes, the file has {}", a.top,
                  a.file_bytes, file_bytes);
  if (std::memchr(h.name, 0, sizeof h.name) == nullptr)
    return refuse(errc::corrupt, "the name in the header does not end");
  if (h.member_records_used.load(std::memory_order_relaxed) > h.member_limit ||
      h.thread_slots_used.load(std::memory_order_relaxed) > h.thread_limit)
    return refuse(errc::corrupt, "more members or threads than their limits");
  return {};
}

}  // namespace

// Hidden, since it is no concern of people's; no heap's name begins with a dot.
std::string life_name(std::string_view name, u64 heap_id) {
  return fmt::format(".{}.{:016x}.alive", name, heap_id);
}

result<void> check_heap_name(std::string_view name) {
  if (name.empty() || name.size() >= limits::name_bytes || name.front() == '.' ||
      !std::all_of(name.begin(), name.end(), is_name_character))
    return refuse(
        errc::invalid_name,
        "\"{}\" ({} bytes) is no heap name: use 1 to 31 of [A-Za-z0-9_.-], not starting with a dot",
        name.substr(0, 40), name.size());
  return {};
}

result<void> check_zone_name(std::string_view name) {
  if (name.empty() || name.size() >= limits::zone_name_bytes || name.find('\0') != name.npos)
    return refuse(errc::invalid_name, "\"{}\" ({} bytes) is no zone name: use 1 to {} bytes",
                  name.substr(0, 40), name.size(), limits::zone_name_bytes - 1);
  return {};
}

namespace {

// The files annex made for the regions of a heap that is destroyed.
void remove_own_files(const heap_files& files, const open_directory& where,
                      const segment& s) noexcept {
  for (const u32 slot : used_region_slots(s)) {
    region_record r;
    std::memcpy(static_cast<void*>(&r), &s.at<region_record>(s.geometry().regions_at)[slot],
                sizeof r);
    const open_directory other = open_other_place(r, where.path());
    files.remove_memory(&where, &other, s, r);
  }
}

// The name, then the file of lives. One at a time, by the byte for it: while it is held nobody else
// takes this name away, so what the name leads to can't become another heap between the look and
// the removal. Who dies in between leaves a name that leads to a destroyed heap (the next one
// removes it), or a file of lives without a heap (the next heap of the name removes it).
void remove_names(const open_directory& where, std::string_view name,
                  const os::file_identity& identity, const std::string& life, int life_fd) {
  void* mine = nullptr;
  if (life_fd >= 0) {
    const os::life_lock held = os::hold_byte(life_fd, door_position - 1);
    if (held.pin == nullptr) return;  // somebody is at it
    mine = held.pin;
  }
  (void)os::remove_in(where.fd(), (std::string(name) + std::string(segment_suffix)).c_str(),
                      identity.device, identity.inode);
  os::file_identity lives;
  if (os::identify_in(where.fd(), life.c_str(), &lives) == 0)
    (void)os::remove_in(where.fd(), life.c_str(), lives.device, lives.inode);
  os::let_go_of_byte(mine);
}

// Removes what a destroyer that died has left: the files of the regions, then the names. Does
// nothing to a heap in use.
void finish_destruction(const open_directory& where, std::string_view name) {
  const auto old = open_segment_file(where, name, true);
  if (!old) return;
  os::file_identity identity;
  const auto head = os::map_file(*old, 0, sizeof(segment_header), false, 0);
  if (head.address != nullptr && os::identify(*old, &identity) == 0 &&
      identity.length_bytes >= sizeof(segment_header)) {
    segment_header h;  // as it is now: nobody changes it while it is looked at
    std::memcpy(static_cast<void*>(&h), head.address, sizeof h);
    const bool is_ours = check_header(h, identity.length_bytes) &&
                         h.state.load(std::memory_order_acquire) == segment_destroyed;
    if (is_ours) {
      const auto whole = os::map_file(*old, 0, h.arena_at, false, 0);
      if (whole.address != nullptr) {
        heap_files files(name, where);
        files.keep_segment(identity, false);
        const os::kept_file file(os::duplicate(*old), {}, false);
        remove_own_files(
            files, where,
            segment(whole.address, &file, nullptr, false, segment_geometry(h), h.arena_at));
        os::unmap(whole.address, h.arena_at);
      }
      const std::string life = life_name(name, h.heap_id);
      const os::open_result lives = os::open_in(where.fd(), life.c_str(), true);
      remove_names(where, name, identity, life, lives.fd);
      os::close_file(lives.fd);
    }
  }
  if (head.address != nullptr) os::unmap(head.address, sizeof(segment_header));
  os::close_file(*old);
}

// The number of the heap that has this name now, 0: there is none. Nothing: it can't be told.
std::optional<u64> heap_of_name(const open_directory& where, std::string_view name) {
  const auto file = open_segment_file(where, name, false);
  if (!file) return file.error().code == errc::no_such_heap ? std::optional<u64>(0) : std::nullopt;
  std::optional<u64> id;
  os::file_identity identity;
  const auto head = os::map_file(*file, 0, sizeof(segment_header), false, 0);
  if (head.address != nullptr && os::identify(*file, &identity) == 0 &&
      identity.length_bytes >= sizeof(segment_header))
    id = static_cast<const segment_header*>(head.address)->heap_id;
  if (head.address != nullptr) os::unmap(head.address, sizeof(segment_header));
  os::close_file(*file);
  return id;
}

// Files of lives that lead to no heap: their destroyers died before the last step, or their
// creators before the name. A creator holds his byte from before his file has a name. So where no
// byte is held, the heap of the file has got the name already or never will; and then it is asked
// which heap has the name.
void remove_stray_lives(const open_directory& where, std::string_view name,
                        const std::string& own) {
  const std::string begin = fmt::format(".{}.", name);
  constexpr size_t digits_and_end = 16 + std::string_view(".alive").size();
  std::vector<std::string> names;
  (void)os::list_in(where.fd(), &names);
  for (const std::string& file : names) {
    if (!file.starts_with(begin) || !file.ends_with(".alive") ||
        file.size() != begin.size() + digits_and_end || file == own)
      continue;
    const os::open_result lives = os::open_in(where.fd(), file.c_str(), true);
    os::file_identity identity;
    const bool is_nobodys =
        lives.fd >= 0 && os::identify(lives.fd, &identity) == 0 &&
        !os::is_any_byte_locked(lives.fd, door_position - 1, u64{limits::largest_member_limit} + 3);
    if (is_nobodys)
      if (const auto heap = heap_of_name(where, name); heap && life_name(name, *heap) != file)
        (void)os::remove_in(where.fd(), file.c_str(), identity.device, identity.inode);
    os::close_file(lives.fd);
  }
}

// Who may write to the heap may open the file of its members' lives, nobody else.
u32 mode_of_lives(u32 file_mode) noexcept {
  const u32 writers = file_mode & 0222;
  return writers | writers << 1;
}

}  // namespace

result<local_heap*> local_heap::create(std::string_view name, const heap_options& options,
                                       bool is_private) {
  ANNEX_TRY(check_options(options));
  if (!is_private) ANNEX_TRY(check_heap_name(name));
  std::optional<open_directory> where;
  os::open_result file;
  if (is_private) {
    file = os::create_memory_file("annex-private", 0);
    if (file.fd < 0)
      return refuse_path(file.error, "can't make memory for the metadata of", "a private heap");
  } else {
    auto opened = open_annex_directory(true);
    if (!opened) return std::unexpected(opened.error());
    where.emplace(std::move(*opened));
    file = os::create_unnamed_in(where->fd(), options.file_mode);
    if (file.fd < 0) return refuse_path(file.error, "can't make a segment in", where->path());
  }
  const std::string place = where ? where->path() : "memory";
  const u32 member_limit = options.member_limit + kept_for_mending,
            thread_limit = options.thread_limit + kept_for_mending;
  const table_plan plan = plan_tables(member_limit, thread_limit, options.region_limit);
  int short_of = os::set_length(file.fd, plan.arena_at + spare_file_bytes);
  if (short_of == 0) short_of = os::allocate_range(file.fd, 0, plan.members_at);
  if (short_of == 0)
    short_of = os::allocate_range(file.fd, plan.journal_at, plan.arena_at - plan.journal_at);
  if (const int why = short_of; why != 0 && why != EOPNOTSUPP) {
    os::close_file(file.fd);
    return refuse_path(why, "can't make a segment in", place);
  }
  const auto head = os::map_file(file.fd, 0, plan.members_at, true, 0);
  if (head.address == nullptr) {
    os::close_file(file.fd);
    return refuse_path(head.error, "can't map a segment in", place);
  }
  auto& h = *static_cast<segment_header*>(head.address);
  h.layout_major = layout_major;
  h.layout_minor = layout_minor;
  h.layout_hash = layout_hash();
  do
    h.heap_id = os::random_number();
  while (h.heap_id == 0);
  h.reserve_bytes = options.metadata_limit_bytes;
  name.copy(h.name, sizeof h.name - 1);
  h.options = (options.checked ? option_checked : 0u) |
              (options.reclaim_dead ? option_reclaim_dead : 0u) |
              (options.on_misuse == misuse_policy::refuse ? option_refuse_misuse : 0u) |
              (is_private ? option_private : 0u) | (options.ephemeral ? option_ephemeral : 0u);
  h.member_limit = member_limit;
  h.thread_limit = thread_limit;
  h.region_limit = options.region_limit;
  h.zone_limit = options.zone_limit;
  h.file_mode = options.file_mode;
  h.members_at = plan.members_at;
  h.threads_at = plan.threads_at;
  h.regions_at = plan.regions_at;
  h.zone_buckets_at = plan.zone_buckets_at;
  h.journal_at = plan.journal_at;
  h.arena_at = plan.arena_at;
  h.next_region_id = 1;
  h.arena.top = plan.arena_at;
  h.arena.file_bytes = plan.arena_at + spare_file_bytes;
  h.state.store(segment_ready, std::memory_order_relaxed);
  h.magic = segment_magic;
  h.seal = seal_of_header(h);
  os::unmap(head.address, plan.members_at);
  // From now on nobody cuts it: a memory file can be kept from it (one that has a name can't).
  if (is_private) (void)os::seal_length(file.fd);

  // Closes the file when it fails.
  auto opened = open_segment(file.fd, name, where ? heap_files(name, *where) : heap_files(), {},
                             arrival::creator);
  if (!opened || is_private) return opened;
  local_heap& made = **opened;
  auto give_up = [&](std::unexpected<error> e) -> result<local_heap*> {
    os::file_identity lives;
    const std::string life = life_name(name, made.segment_.header().heap_id);
    if (os::identify(made.life_.get(), &lives) == 0)
      (void)os::remove_in(where->fd(), life.c_str(), lives.device, lives.inode);
    made.close();
    return e;
  };
  // The file of lives first: a heap that can be found has one. Its name has the heap's number in
  // it: nobody else's.
  const std::string life = life_name(name, made.segment_.header().heap_id),
                    segment_name = std::string(name) + std::string(segment_suffix);
  if (const int why = os::publish_in(made.life_.get(), where->fd(), life.c_str()); why != 0)
    return give_up(refuse_path(why, "can't publish", made.life_.path()));
  int why = os::publish_in(made.file_.get(), where->fd(), segment_name.c_str());
  if (why == EEXIST) {  // somebody's heap, or one whose destroyer died before it removed the name
    finish_destruction(*where, name);
    (void)destroy(name, true);  // left behind by members who are all dead
    why = os::publish_in(made.file_.get(), where->fd(), segment_name.c_str());
  }
  if (why == EEXIST) {
    os::file_identity there;
    if (os::identify_in(where->fd(), segment_name.c_str(), &there) == 0 &&
        there.kind != os::file_kind::regular)
      return give_up(refuse_os(errc::name_taken, why,
                               "{} is {}, and no heap; remove it, or choose another name",
                               where->path_of(segment_name), words_for(there.kind)));
    return give_up(refuse_os(
        errc::name_taken, why,
        "a heap named \"{}\" exists in {}; attach to it, destroy it or choose another name", name,
        place));
  }
  if (why != 0)
    return give_up(refuse_path(why, "can't publish the segment", where->path_of(segment_name)));
  made.file_.set_path(where->path_of(segment_name));
  remove_stray_lives(*where, name, life);
  return opened;
}

u64 local_heap::next_number() noexcept {
  static std::atomic<u64> numbers{0};
  return numbers.fetch_add(1, std::memory_order_relaxed) + 1;
}

result<local_heap*> local_heap::open_segment(int fd, std::string_view name, const heap_files& files,
                                             const attach_options& options, arrival how) {
  auto fail = [&](std::unexpected<error> e) {
    os::close_file(fd);
    return e;
  };
  const std::string_view whose = name.empty() ? "a private heap" : name;
  os::file_identity identity;
  if (const int why = os::identify(fd, &identity); why != 0)
    return fail(refuse_path(why, "can't look at the segment of", whose));
  if (identity.length_bytes < sizeof(segment_header))
    return fail(refuse(errc::corrupt, "the segment of \"{}\" has {} bytes, less than its header",
                       name, identity.length_bytes));
  const auto head = os::map_file(fd, 0, sizeof(segment_header), false, 0);
  if (head.address == nullptr)
    return fail(refuse_path(head.error, "can't map the segment of", whose));
  segment_header h;
  std::memcpy(static_cast<void*>(&h), head.address, sizeof h);
  os::unmap(head.address, sizeof(segment_header));
  // It may have grown.
  if (const int why = os::identify(fd, &identity); why != 0)
    return fail(refuse_path(why, "can't look at the segment of", whose));
  if (auto checked = check_header(h, identity.length_bytes); !checked)
    return fail(std::unexpected(checked.error()));
  if (h.state.load(std::memory_order_relaxed) != segment_ready) {
    if (!options.read_only)
      if (const auto where = files.open(); where) finish_destruction(*where, name);
    return fail(refuse(
        errc::no_such_heap, "the heap \"{}\" has been destroyed{}", name,
        options.read_only
            ? ", but its file is left; `annex create` or `annex destroy` of this name removes it"
            : ""));
  }
  if (is_attaching(how) && (h.options & option_private) != 0)
    return fail(refuse(errc::corrupt,
                       "the header of \"{}\" says that it is a private heap, which has no name",
                       name));
  const auto whole = os::map_file(fd, 0, h.reserve_bytes, !options.read_only, 0);
  if (whole.address == nullptr)
    return fail(
        refuse_os(errc::os_failure, whole.error,
                  "can't reserve {} MiB of address space for the metadata of {}: {}{}; a smaller "
                  "metadata_limit_bytes needs less{}",
                  h.reserve_bytes / MiB, whose, std::strerror(whole.error), remedy_for(whole.error),
                  whole.error == EINVAL ? " (valgrind has room for less than 32 GiB)" : ""));
  os::hide_from_leak_search(static_cast<char*>(whole.address) + h.arena_at,
                            h.reserve_bytes - h.arena_at);

  auto* heap = new local_heap;
  const bool is_private = how == arrival::creator && (h.options & option_private) != 0;
  heap->files_ = files;
  heap->files_.keep_segment(identity, is_private);
  if (options.foreign_memory) heap->files_.trust_foreign_memory();
  heap->file_.take(
      fd,
      is_private || how == arrival::creator ? std::string{} : segment_path(files.directory(), name),
      !options.read_only);
  heap->segment_ = segment(whole.address, &heap->file_, is_private ? nullptr : &heap->life_,
                           !options.read_only, segment_geometry(h), h.reserve_bytes);
  heap->segment_.keep_damage_in(&heap->damage_);
  heap->name_ = name;
  heap->policy_ = options.regions;
  heap->index_ = registry::enter(heap);
  auto undo = [&](std::unexpected<error> e) {
    heap->close();
    return e;
  };
  if (!heap->views_.open(heap->segment_, heap->index_, heap->number_, heap))
    return undo(refuse_path(ENOMEM, "no address space for the region tables of", name));
  if (!is_private)
    if (auto opened = heap->open_life_file(how, identity.mode); !opened)
      return undo(std::unexpected(opened.error()));
  if (options.read_only) {
    if (auto fit = heap->look_before_reading(options.verify); !fit)
      return undo(std::unexpected(fit.error()));
    return heap;
  }
  if (auto joined = heap->join(how); !joined) return undo(std::unexpected(joined.error()));
  if (is_attaching(how)) {
    heap->recover();
    heap->move_to_a_record_of_its_own();
    if (options.verify) {
      const auto report = heap->audit();
      if (report && !report->holds())
        return undo(refuse(errc::corrupt, "the segment of \"{}\" is damaged: {}", name,
                           report->broken.front().substr(0, 120)));
    }
  }
  heap->seen_epoch_ = 0;
  return heap;
}

// The file in which members lock their bytes. Who may write to the heap may open it, nobody else.
result<void> local_heap::open_life_file(arrival how, u32 file_mode) {
  const auto where = files_.open();
  if (!where && is_read_only()) return {};
  if (!where) return std::unexpected(where.error());
  const std::string name = life_name(name_, segment_.header().heap_id), path = where->path_of(name);
  if (how == arrival::creator) {
    const os::open_result made = os::create_unnamed_in(where->fd(), mode_of_lives(file_mode));
    if (made.fd < 0) return refuse_path(made.error, "can't make a file in", where->path());
    life_.take(made.fd, path, true);
    return {};
  }
  const os::open_result file = os::open_in(where->fd(), name.c_str(), !is_read_only());
  if (file.fd >= 0) {
    life_.take(file.fd, path, !is_read_only());
    return {};
  }
  if (is_read_only()) return {};  // who lives is then told by the process table
  if (segment_.header().state.load(std::memory_order_acquire) != segment_ready)
    return refuse(errc::no_such_heap, "the heap \"{}\" has been destroyed", name_);
  if (file.error == ENOENT) return make_life_file_again(*where, name, file_mode);
  if (file.error == EINVAL)
    return refuse_os(errc::corrupt, EINVAL, "{} is no regular file; remove it, then attach again",
                     path);
  return refuse_path(file.error, "can't open", path);
}

namespace {

// Without the file of lives nobody can tell who lives but by the process table, which may know a
// member by an accident only.
result<void> refuse_if_known_to_the_system(const segment& s, std::string_view life_path,
                                           std::string_view name) {
  for (u32 id = 1; id <= s.members_used(); ++id) {
    const member_record& m = s.member(id);
    if (is_claimed(m.state.load(std::memory_order_acquire)) && m.start_time != 0 &&
        os::start_time(m.process_id) == m.start_time)
      return refuse(errc::heap_in_use,
                    "{}, by which the members of \"{}\" show that they live, is missing, and "
                    "process {} may have it attached: end that process, then try again",
                    life_path, name, m.process_id);
  }
  return {};
}

// The same for repair, which has nothing mapped yet.
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

}  // namespace

// A segment was copied here alone, or somebody has removed the file. Who holds a byte of the old
// one can't be seen any more: only when no process of the records exists is there nobody to be
// overlooked.
result<void> local_heap::make_life_file_again(const open_directory& where, const std::string& name,
                                              u32 file_mode) {
  const std::string path = where.path_of(name);
  ANNEX_TRY(refuse_if_known_to_the_system(segment_, path, name_));
  const os::open_result made = os::create_unnamed_in(where.fd(), mode_of_lives(file_mode));
  if (made.fd < 0) return refuse_path(made.error, "can't make", path);
  files_.give_to_heap(segment_, made.fd);
  const int why = os::publish_in(made.fd, where.fd(), name.c_str());
  if (why == EEXIST) {  // another process was faster
    os::close_file(made.fd);
    life_.take(os::open_in(where.fd(), name.c_str(), true).fd, path, true);
    return life_.is_open() ? result<void>{} : refuse_path(ENOENT, "can't open", path);
  }
  life_.take(made.fd, path, true);
  return why == 0 ? result<void>{} : refuse_path(why, "can't make", path);
}

// A dead process left a change half done. A reader does not undo it in the file, but in a copy of
// the few pages that this takes: its mapping becomes a private one. What it shows is the heap as it
// was before that change; attach again to see what comes after.
result<void> local_heap::look_at_a_copy() {
  const u64 bytes = align_up(segment_.file_bytes(), os::page_bytes());
  if (const int why = os::map_file_again(segment_.base(), segment_.fd(), bytes, true); why != 0)
    return refuse_path(why, "can't look at a copy of the segment of", name_);
  const bool undone = undo_journal_in_copy(segment_);
  (void)os::forbid_writing(segment_.base(), bytes);
  if (!undone)
    return refuse(
        errc::corrupt,
        "the segment of \"{}\" is damaged: its journal has entries that no transaction makes",
        name_);
  log(log_level::info,
      "a dead process left a change of \"{}\" half done: it is shown as it was before; attach it "
      "writable once to complete it",
      name_);
  return {};
}

// For who only reads: nothing is completed in the file and nothing locked. What nobody alive
// vouches for is inspected as it lies; who comes meanwhile and changes something is seen alive
// afterwards, and has inspected it himself.
result<void> local_heap::look_before_reading(bool verify) {
  for (int looks = 0;; ++looks) {
    const bool is_vouched = is_vouched_for(segment_, 0),
               is_half_done = segment_.log().count.load(std::memory_order_acquire) != 0 &&
                              segment_.header().lock.load(std::memory_order_relaxed) != 0;
    if (is_vouched && !verify) return {};
    const bool died_with_lock = segment_.header().lock.load(std::memory_order_relaxed) != 0;
    if (!is_vouched && is_half_done) ANNEX_TRY(look_at_a_copy());
    audit_report report;
    inspect_segment(segment_, {}, !is_vouched, &report, died_with_lock);
    if (report.holds()) return {};
    if (looks == 2 || is_vouched || !is_vouched_for(segment_, 0))
      return refuse(errc::corrupt, "the segment of \"{}\" is damaged: {}", name_,
                    report.broken.front().substr(0, 120));
    if (const int why =
            os::map_file_again(segment_.base(), segment_.fd(),
                               align_up(segment_.file_bytes(), os::page_bytes()), false);
        why != 0)
      return refuse_path(why, "can't map the segment of", name_);
  }
}

// Keeps repair out for as long as the claim is new. Several come in at once; they meet again at the
// heap lock.
result<void> local_heap::pass_the_door(void** door) {
  for (const u64 until = os::now_ns() + door_patience_ns;;) {
    const os::life_lock held = os::hold_byte(life_.get(), door_position, true);
    *door = held.pin;
    if (held.pin != nullptr) return {};
    if (held.error != EAGAIN) return refuse_lock(held.error, name_);
    if (os::now_ns() > until)
      return refuse(errc::heap_in_use,
                    "\"{}\" is being repaired by another process; try again when it is done",
                    name_);
    os::sleep_ns(door_look_again_ns);
  }
}

// Becomes a member. It is visible as one before it looks whether anybody else is (joining), and it
// looks while it holds the heap lock: so of two who come at once the first inspects and the second
// sees it alive, and nobody changes anything meanwhile. A death in here leaves a record whose byte
// is free: recovery takes it back.
result<void> local_heap::join(arrival how) {
  if (!os::prepare_process_barrier())
    segment_.header().no_barrier.store(1, std::memory_order_relaxed);
  void* door = nullptr;
  // A forked child as well: repair goes by locked bytes.
  if (how != arrival::creator && segment_.has_life_file()) ANNEX_TRY(pass_the_door(&door));
  membership claim;
  for (int tries = 0; claim.member == 0 && tries < claim_tries; ++tries) {
    if (tries != 0) os::sleep_ns(door_look_again_ns);
    claim = claim_membership(segment_, is_attaching(how));
    if (claim.error != 0 || how == arrival::child) break;
  }
  if (claim.member == 0) {
    os::let_go_of_byte(door);
    if (claim.error == ENOSPC)
      return refuse_os(errc::limit_reached, ENOSPC, "no room for another member of \"{}\": {}{}",
                       name_, std::strerror(ENOSPC), remedy_for(ENOSPC));
    if (claim.error != 0) return refuse_lock(claim.error, name_);
    return refuse(errc::limit_reached,
                  "\"{}\" has room for {} members and {} threads and all are taken; close some, "
                  "reap dead ones, or create it with higher limits",
                  name_, segment_.member_limit() - kept_for_mending,
                  segment_.thread_limit() - kept_for_mending);
  }
  member_ = claim.member;
  service_slot_ = claim.slot;
  life_pin_ = claim.life;
  result<void> fit;
  bool is_ours = false;
  {
    transaction t(segment_, {service_slot_, member_});
    // Not if whoever freed the record died before that was sure, and it was undone just now.
    is_ours = segment_.member(member_).state.load(std::memory_order_acquire) == member_joining;
    if (is_ours) fit = come_alive(t, how);
  }
  os::let_go_of_byte(door);
  if (is_ours && fit) return {};
  give_up_membership(segment_, claim);
  member_ = 0;
  service_slot_ = no_owner;
  life_pin_ = nullptr;
  return is_ours ? fit : join(how);
}

// Under the heap lock; what a dead holder left open has been undone.
result<void> local_heap::come_alive(transaction& t, arrival how) {
  segment_header& h = segment_.header();
  if (h.state.load(std::memory_order_acquire) != segment_ready)
    return refuse(errc::no_such_heap, "the heap \"{}\" has been destroyed", name_);
  const bool is_vouched = how == arrival::creator || is_vouched_for(segment_, member_);
  // The first of those who open it at once ends it, the others see that it has ended; then one of
  // them creates it anew.
  if (how == arrival::opener && !is_vouched && has_option(option_ephemeral)) {
    h.state.store(segment_destroyed, std::memory_order_release);  // commit
    return refuse(errc::no_such_heap, "the heap \"{}\" was ephemeral, and all its members are gone",
                  name_);
  }
  if (is_attaching(how) &&
      (!is_vouched || segment_.is_damaged() || h.damaged.load(std::memory_order_relaxed) != 0)) {
    segment_header now;
    std::memcpy(static_cast<void*>(&now), &h, sizeof now);
    ANNEX_TRY(check_header(now, segment_.file_bytes()));
    if (segment_geometry(now) != segment_.geometry())
      return refuse(errc::corrupt, "the header of \"{}\" has changed while it was opened", name_);
    audit_report report;
    inspect_segment(segment_, {}, !is_vouched, &report, t.stole());
    if (!report.holds())
      return refuse(errc::corrupt, "the segment of \"{}\" is damaged: {}", name_,
                    report.broken.front().substr(0, 120));
    if (!is_vouched) {
      h.damaged.store(0, std::memory_order_relaxed);
      damage_.store(0, std::memory_order_relaxed);
    }
  }
  if (t.stole() || !is_vouched) repair_frozen(t);
  segment_.member(member_).state.store(member_live, std::memory_order_release);  // commit
  return {};
}

// Under the heap lock, so that what freed the record has happened for good. False: it had not; the
// claim is given up.
bool local_heap::vouch_for(const membership& claim) noexcept {
  member_record& m = segment_.member(claim.member);
  if (m.state.load(std::memory_order_acquire) != member_joining) {
    give_up_membership(segment_, claim);
    return false;
  }
  m.state.store(member_live, std::memory_order_release);  // commit
  return true;
}

// Every attach counts as a member, also one that shares what this process has attached: it holds a
// record of its own, which says that this process lives and nothing else.
result<void> local_heap::count_share() {
  if (is_read_only()) return {};
  std::lock_guard guard(memory_mutex_);
  const membership claim = claim_record(segment_);
  if (claim.member == 0 && claim.error == 0)
    return refuse(errc::limit_reached,
                  "\"{}\" has room for {} members and all are taken; close some, reap dead ones, "
                  "or create it with higher limits",
                  name_, segment_.member_limit() - kept_for_mending);
  if (claim.member == 0) return refuse_lock(claim.error, name_);
  locked t(*this);
  if (!vouch_for(claim)) return refuse_lock(EAGAIN, name_);
  shares_.push_back(claim);
  return {};
}

void local_heap::end_share() noexcept {
  std::lock_guard guard(memory_mutex_);
  if (shares_.empty()) return;
  give_up_membership(segment_, shares_.back());
  shares_.pop_back();
}

// From the record that is kept for the one who mends to one that recovery has freed, if any.
void local_heap::move_to_a_record_of_its_own() noexcept {
  if (!is_mender()) return;
  const membership claim = claim_membership(segment_, false);
  if (claim.member == 0) return;
  const membership kept{member_, service_slot_, life_pin_, 0};
  {
    transaction t(segment_, {kept.slot, kept.member});
    if (t.stole() && !segment_.is_damaged()) repair_frozen(t);
    if (!vouch_for(claim)) return;
  }
  member_ = claim.member;
  service_slot_ = claim.slot;
  life_pin_ = claim.life;
  give_up_membership(segment_, kept);
}

namespace {

std::unexpected<error> refuse_without_directory(std::string_view name, const error& why) {
  if (why.code != errc::no_such_heap) return std::unexpected(why);
  return refuse_os(errc::no_such_heap, why.os_errno,
                   "no heap named \"{}\" in {}; `annex ls` shows those there are", name,
                   annex::directory());
}

}  // namespace

result<local_heap*> local_heap::attach(std::string_view name, const attach_options& options,
                                       bool as_another_member, worthless left) {
  ANNEX_TRY(check_heap_name(name));
  const auto where = open_annex_directory(false);
  if (!where) return refuse_without_directory(name, where.error());
  const auto file = open_segment_file(*where, name, !options.read_only);
  if (!file) return std::unexpected(file.error());
  os::file_identity identity;
  if (!as_another_member && os::identify(*file, &identity) == 0)
    if (local_heap* const ours =
            registry::share(identity.device, identity.inode, options.read_only)) {
      os::close_file(*file);
      if (ours->policy_ != options.regions) {
        if (registry::unshare(ours)) ours->tear_down();
        return refuse(errc::already_attached,
                      "this process has \"{}\" attached already, with the other attach policy; use "
                      "that attachment, or close it first",
                      name);
      }
      if (auto counted = ours->count_share(); !counted) {
        if (registry::unshare(ours)) ours->tear_down();
        return std::unexpected(counted.error());
      }
      if (options.foreign_memory) ours->files_.trust_foreign_memory();
      return ours;
    }
  return open_segment(*file, name, heap_files(name, *where), options,
                      left == worthless::ended ? arrival::opener : arrival::attacher);
}

// Of those who come at once one gives its file the name (os::publish_in: the kernel decides), and
// the others find the name taken and attach. Who finds neither a heap to attach to nor a free name
// has met one that is just ending, or one whose destroyer died: attach and create both remove what
// is left of it (finish_destruction). So each round, somebody gets on.
result<local_heap*> local_heap::open(std::string_view name, const heap_options& options,
                                     bool* is_new) {
  if (is_new != nullptr) *is_new = false;
  ANNEX_TRY(check_heap_name(name));
  ANNEX_TRY(check_options(options));
  for (const u64 until = os::now_ns() + door_patience_ns;;) {
    auto attached = attach(name, {}, false, worthless::ended);
    if (attached || attached.error().code != errc::no_such_heap) return attached;
    auto created = create(name, options, false);
    if (created && is_new != nullptr) *is_new = true;
    if (created || created.error().code != errc::name_taken || os::now_ns() > until) return created;
    os::sleep_ns(door_look_again_ns);
  }
}

void local_heap::close() noexcept {
  if (!registry::unshare(this)) return end_share();
  tear_down();
}

void local_heap::tear_down() noexcept {
  const bool joined = member_ != 0 && !forked_ && !is_read_only();
  if (joined && os::environment("ANNEX_STATS") == "1") report_statistics();
  if (registry::is_program_ending()) {
    // Threads may be at work still, and destructors may free blocks later: nothing is taken from
    // under them.
    if (joined) trim_own();
    return;
  }
  stop_watcher();
  if (joined) synchronize();
  close_regions();
  const std::vector<thread_cache*> caches = registry::forget_heap(index_);
  registry::wait_for_leaving_threads(this);
  if (joined && !segment_.is_damaged()) leave();
  registry::leave(index_);
  os::unmap(segment_.base(), segment_.mapped_bytes());
  if (!forked_) os::let_go_of_byte(life_pin_);
  delete this;
}

void local_heap::report_statistics() noexcept {
  const heap_stats s = stats();
  report_line(fmt::format(
      "statistics of heap {}: {} bytes in {} regions, {} used in {} blocks, {} cached, {} free "
      "(largest {}), metadata {}",
      name_.empty() ? "(private)" : name_, s.total_bytes, s.region_count, s.used_bytes,
      s.live_blocks, s.cached_bytes, s.free_bytes, s.largest_free_bytes, s.metadata_bytes));
}

// Ends the membership: caches back to their slabs, then lock, slot and record, in this order.
void local_heap::leave() noexcept {
  {
    locked t(*this);
    for (u32 i = 0; i < segment_.slots_used(); ++i)
      if (member_of_state(segment_.slot(i).state.load(std::memory_order_relaxed)) == member_ &&
          i != service_slot_)
        recover_thread(*t, i, false);
    recover_member(*t, member_, false);
  }
  if (has_option(option_private)) return;
  // Only now: while the lock was ours, the slot and the record had to say so. Dying before either
  // store leaves a slot or a record of a dead member, which recover_dead() frees. Others may have
  // done so already: hence compare and swap.
  thread_slot& service = segment_.slot(service_slot_);
  u64 mine = service.state.load(std::memory_order_relaxed);
  if (member_of_state(mine) == member_)
    service.state.compare_exchange(mine, mine >> 16 << 16, std::memory_order_release);
  note_free_slot(segment_, service_slot_);
  member_record& m = segment_.member(member_);
  u32 dead = member_dead;
  if (m.extents_held == 0 && m.holdings == 0 && m.slabs_orphaned == 0 && m.pool_objects_held == 0)
    m.state.compare_exchange(dead, member_free, std::memory_order_release);
}

bool local_heap::can_be_shared() const noexcept {
  return !forked_ && !has_option(option_private);
}

void local_heap::before_fork() noexcept {
  bus_mutex_.lock();
  views_.before_fork();
}

void local_heap::after_fork() noexcept {
  views_.after_fork();
  bus_mutex_.unlock();
}

void local_heap::become_child() noexcept {
  forked_ = true;
  watcher_stop_ = true;
  // The watcher thread does not exist here: forget it without joining.
  new (&watcher_) std::thread;
  // Other threads may have held these; what they were changing is looked through by
  // drop_what_a_child_lacks().
  new (&memory_mutex_) std::mutex;
  new (&service_mutex_) std::mutex;
  new (&observers_) observer_list;
  member_ = 0;
  service_slot_ = no_owner;
  life_pin_ = nullptr;  // the parent's: its mapping is not inherited
  shares_.clear();
  found_ = {};
}

// Regions that this process does not have although its parent did: mappings that are not inherited
// (MADV_DONTFORK, as RDMA libraries set it), that became a copy (MAP_PRIVATE), or that another
// thread was just attaching or detaching. Under memory_mutex_.
void local_heap::drop_what_a_child_lacks() noexcept {
  for (u32 slot = 0; slot < views_.local_slots(); ++slot) {
    local_region* const view = views_.existing(slot);
    if (view == nullptr || view->base == nullptr) continue;
    const bool half_done = !is_usable_here(*view) || address_index::find(view->base) != view;
    const os::mapping_check there = os::check_mapping(view->base, view->length_bytes);
    const bool lost = view->access == touch::read_write && (!there.mapped || !there.shared);
    if (!half_done && !lost) continue;
    if (lost)
      log(log_level::warn,
          "region {} of heap {} is left unattached in this forked child: its memory is {}",
          view->id, name_,
          there.mapped ? "private, so that the child has a copy of it"
                       : "not mapped here (MADV_DONTFORK?)");
    address_index::leave(view->base);
    views_.set_base(*view, nullptr, 0);
    view->pins = nullptr;
    close_fd(*view);
    views_.drop(*view);
  }
}

bool local_heap::ensure_member() noexcept {
  if (!forked_) [[likely]]
    return member_ != 0;
  if (has_option(option_private) || is_read_only()) return false;
  std::lock_guard guard(memory_mutex_);
  if (!forked_) return true;
  drop_what_a_child_lacks();
  if (!join(arrival::child)) return false;
  forked_ = false;
  for (u32 slot = 0; slot < views_.local_slots(); ++slot)
    if (local_region* view = views_.existing(slot); view != nullptr && view->base != nullptr)
      if (region_claim* const claim = claim_on(slot)) {
        claim->region.store(view->id, std::memory_order_relaxed);
        claim->attached.store(claim_attached, std::memory_order_release);
      }
  return true;
}

result<void> local_heap::destroy(std::string_view name, bool only_ephemeral) {
  auto opened =
      attach(name, {.read_only = false, .regions = attach_policy::manual, .verify = false}, true);
  if (!opened) return std::unexpected(opened.error());
  local_heap* const heap = *opened;
  if (only_ephemeral && !heap->has_option(option_ephemeral)) {
    heap->close();
    return refuse(errc::name_taken, "\"{}\" is a heap that outlives its members", name);
  }
  const auto where = heap->files_.open();  // now: once the heap has ended its names must go
  if (!where) {
    heap->close();
    return std::unexpected(where.error());
  }
  segment_header& h = heap->segment_.header();
  result<void> done;
  {
    locked t(*heap);
    heap->recover_dead(*t);
    std::vector<u32> others;  // processes: one may be several members
    // Who is joining waits for the lock, and then sees that the heap has ended.
    for (u32 m = 1; m <= heap->segment_.members_used(); ++m)
      if (m != heap->member_ &&
          heap->segment_.member(m).state.load(std::memory_order_acquire) == member_live &&
          is_member_alive(heap->segment_, m)) {
        const u32 process = heap->segment_.member(m).process_id;
        if (std::find(others.begin(), others.end(), process) == others.end())
          others.push_back(process);
      }
    u64 live = 0;
    frozen_caches frozen = heap->freeze_all(*t);
    for (const u32 slot : used_region_slots(heap->segment_)) {
      if (heap->views_.record(slot).state.load(std::memory_order_relaxed) == region_free) continue;
      if (heap->has_live_blocks(*t, slot, &frozen)) ++live;
    }
    heap->thaw(frozen);
    if (!others.empty()) {
      const std::string more =
          others.size() == 1 ? "" : fmt::format(" and {} more", others.size() - 1);
      done = refuse(errc::heap_in_use, "\"{}\" is attached in process {}{}; close it there first",
                    name, others.front(), more);
    } else if ((live != 0 || h.zone_count != 0) && !heap->has_option(option_ephemeral)) {
      done = refuse(errc::blocks_live,
                    "\"{}\" still has live blocks in {} regions and {} zones; free them, or `annex "
                    "reap` dead members first",
                    name, live, h.zone_count);
    } else {
      h.state.store(segment_destroyed, std::memory_order_release);  // commit
      remove_own_files(heap->files_, *where, heap->segment_);
      remove_names(*where, name, heap->files_.segment_file(), life_name(name, h.heap_id),
                   heap->life_.get());
    }
  }
  const std::string own = life_name(name, h.heap_id);
  heap->close();
  if (done) remove_stray_lives(*where, name, own);
  return done;
}

result<repair_report> local_heap::repair(std::string_view name) {
  ANNEX_TRY(check_heap_name(name));
  const auto where = open_annex_directory(false);
  if (!where) return refuse_without_directory(name, where.error());
  const auto opened = open_segment_file(*where, name, true);
  if (!opened) return std::unexpected(opened.error());
  const std::string path = segment_path(where->path(), name);
  const os::open_result file{*opened, 0};
  auto work = [&]() -> result<repair_report> {
    os::file_identity identity;
    if (const int why = os::identify(file.fd, &identity); why != 0)
      return refuse_path(why, "can't look at the segment of", name);
    if (identity.length_bytes < sizeof(segment_header))
      return refuse(errc::corrupt,
                    "the segment of \"{}\" has {} bytes, less than its header; nothing can be "
                    "rebuilt from it",
                    name, identity.length_bytes);
    const auto head = os::map_file(file.fd, 0, sizeof(segment_header), false, 0);
    if (head.address == nullptr) return refuse_path(head.error, "can't map the segment of", name);
    segment_header h;
    std::memcpy(static_cast<void*>(&h), head.address, sizeof h);
    os::unmap(head.address, sizeof(segment_header));
    (void)mend_header(h, identity.length_bytes);  // a copy: the rest of it is checked first
    ANNEX_TRY(check_header(h, identity.length_bytes));
    if (h.state.load(std::memory_order_relaxed) != segment_ready)
      return refuse(errc::no_such_heap, "the heap \"{}\" has been destroyed", name);
    const std::string life = where->path_of(life_name(name, h.heap_id)),
                      life_file = life_name(name, h.heap_id);
    os::kept_file segment_file(os::duplicate(file.fd), path, true),
        lives(os::open_in(where->fd(), life_file.c_str(), true).fd, life, true);
    if (!lives.is_open()) {
      ANNEX_TRY(refuse_if_anybody_may_live(*where, name, file.fd, h));
      const os::open_result made =
          os::create_in(where->fd(), life_file.c_str(), mode_of_lives(identity.mode));
      if (made.fd < 0) return refuse_path(made.error, "can't make", life);
      lives.take(made.fd, life, true);
    }
    // The door keeps those who come out; who is a member already must go first.
    const os::life_lock door = os::hold_byte(lives.get(), door_position);
    if (door.pin == nullptr && door.error != EAGAIN) return refuse_lock(door.error, name);
    if (door.pin == nullptr)
      return refuse(
          errc::heap_in_use,
          "\"{}\" is being attached or repaired by another process; try again when it is done",
          name);
    const auto whole = os::map_file(file.fd, 0, h.reserve_bytes, true, 0);
    if (whole.address == nullptr) {
      os::let_go_of_byte(door.pin);
      return refuse_path(whole.error, "can't reserve the address space of the segment of", name);
    }
    const segment s(whole.address, &segment_file, &lives, true, segment_geometry(h),
                    h.reserve_bytes);
    result<repair_report> done;
    u32 member = 0;
    if (os::is_any_byte_locked(lives.get(), life_position_of(1), h.member_limit))
      for (u32 id = 1; id <= h.member_limit && member == 0; ++id)
        if (is_member_alive(s, id)) member = id;
    if (member != 0) {
      done = refuse(errc::heap_in_use,
                    "\"{}\" is attached by member {} (process {}); repair needs it alone: end that "
                    "process first",
                    name, member, s.member(member).process_id);
    } else {
      // Only who died with the lock left anything open: a count without one is damage, and what is
      // old in the journal stays there.
      if (s.header().lock.load(std::memory_order_relaxed) != 0)
        (void)undo_journal(s);
      else
        s.log().count.store(0, std::memory_order_relaxed);
      lengthen_behind_the_arena(s);
      segment_header now;
      std::memcpy(static_cast<void*>(&now), &s.header(), sizeof now);
      (void)mend_header(now, s.file_bytes());
      if (auto still = check_header(now, s.file_bytes()); !still)
        done = std::unexpected(still.error());
      else
        done = rebuild_indexes(s);
      if (done && done->after.holds()) s.header().damaged.store(0, std::memory_order_relaxed);
    }
    os::unmap(whole.address, h.reserve_bytes);
    os::let_go_of_byte(door.pin);
    return done;
  }();
  os::close_file(file.fd);
  return work;
}

}  // namespace detail
}  // namespace annex
