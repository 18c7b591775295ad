// region/files.cpp - see files.hpp.
#include "region/files.hpp"

#include <fmt/format.h>
#include <annex/heap.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/failure.hpp"
#include "platform/directories.hpp"
#include "platform/open_result.hpp"
#include "platform/processes.hpp"
#include "platform/report.hpp"
#include "region/room.hpp"

namespace annex {
namespace {

// Relative ANNEX_DIRs, and what they meant when this process first met them: chdir() changes
// nothing. Never freed, no lock: a forked child goes on with it.
struct known_place {
  std::string given, absolute;
  known_place* next;
};
std::atomic<known_place*> known_places{nullptr};

std::string absolute(const std::string& given) {
  if (given.front() == '/') return given;
  auto find = [&]() -> const known_place* {
    // sync(known place).
    for (known_place* k = known_places.load(std::memory_order_acquire); k != nullptr; k = k->next)
      if (k->given == given) return k;
    return nullptr;
  };
  if (const known_place* known = find()) return known->absolute;
  const std::string here = os::current_directory();
  if (here.empty()) return given;
  auto* made =
      new known_place{given, here + "/" + given, known_places.load(std::memory_order_relaxed)};
  // sync(known place).
  while (!known_places.compare_exchange_weak(made->next, made, std::memory_order_release,
                                             std::memory_order_relaxed)) {}
  return made->absolute;
}

struct chosen_directory {
  std::string path;
  bool is_named;  // by this user: nobody else could have
};

chosen_directory choose_directory() {
  if (const std::string place = os::environment("ANNEX_DIR"); !place.empty())
    return {absolute(place), true};
  const std::string place = os::environment("XDG_RUNTIME_DIR");
  // A relative one is to be ignored, its standard says.
  if (!place.empty() && place.front() == '/') return {place + "/annex", false};
  return {"/dev/shm/annex-" + std::to_string(os::user_id()), false};
}

constexpr u32 others_may_write = 022, is_sticky = 01000;

}  // namespace

std::string directory() {
  return choose_directory().path;
}

namespace detail {
namespace {

// And what leads to it, when the user named it; else what leads there has to be there.
int make_directory(const chosen_directory& place) {
  if (place.is_named)
    for (size_t slash = place.path.find('/', 1); slash != place.path.npos;
         slash = place.path.find('/', slash + 1))
      // A failure shows at the last one.
      (void)os::make_directory(place.path.substr(0, slash).c_str(), 0700);
  return os::make_directory(place.path.c_str(), 0700);
}

// A directory that annex chose by itself: others know the name as well, and may have been there
// first.
result<void> check_own_directory(const os::file_identity& there, const std::string& path) {
  if (const u32 us = os::user_id(); there.owner != us)
    return refuse(
        errc::permission,
        "the annex directory {} belongs to user {}, not to user {}, who runs this: nothing is made "
        "or opened there; remove it, or set ANNEX_DIR to a directory of yours",
        path, there.owner, us);
  if ((there.mode & others_may_write) != 0)
    return refuse(errc::permission,
                  "others may write to the annex directory {} (mode {:o}): nothing is made or "
                  "opened there; chmod go-w it, or name it in ANNEX_DIR if you mean to share it",
                  path, there.mode);
  const std::string above = path.substr(0, path.rfind('/'));
  const os::open_result parent =
      os::open_place(above.empty() ? "/" : above.c_str(), os::links::followed);
  os::file_identity p;
  const bool is_known = parent.fd >= 0 && os::identify(parent.fd, &p) == 0;
  os::close_file(parent.fd);
  const bool can_be_swapped =
      is_known && (p.mode & is_sticky) == 0 &&
      ((p.mode & others_may_write) != 0 || (p.owner != 0 && p.owner != os::user_id()));
  if (can_be_swapped)
    return refuse(errc::permission,
                  "{}, where the annex directory lies, may be written to by others (user {}, mode "
                  "{:o}), who could put another in its place; chmod go-w it, or set ANNEX_DIR",
                  above, p.owner, p.mode);
  return {};
}

std::string_view file_of(std::string_view path) noexcept {
  return path.substr(path.rfind('/') + 1);
}
std::string folder_of(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == 0 ? "/" : std::string(path.substr(0, slash));
}
std::string_view path_in(const region_record& r) noexcept {
  return {r.path, ::strnlen(r.path, sizeof r.path)};
}

bool is_same_file(const os::file_identity& file, const region_record& r) noexcept {
  return file.device == r.device && file.inode == r.inode;
}

bool can_be_mapped(const os::file_identity& file) noexcept {
  return file.kind == os::file_kind::regular || file.kind == os::file_kind::character_device ||
         file.kind == os::file_kind::block_device;
}

// Everybody who may write to the segment may read and write the file.
bool may_be_opened_by_all_writers(const os::file_identity& segment,
                                  const os::file_identity& file) noexcept {
  const bool by_all = (file.mode & 06) == 06;
  const bool by_the_group = by_all || (file.group == segment.group && (file.mode & 060) == 060);
  if ((segment.mode & 02) != 0) return by_all;
  if ((segment.mode & 020) != 0) return by_the_group;
  return by_all || file.owner == segment.owner;
}

}  // namespace

std::unexpected<error> refuse_path(int why, std::string_view doing, std::string_view path) {
  const errc code =
      why == EACCES || why == EPERM || why == EROFS ? errc::permission : errc::os_failure;
  return refuse_os(code, why, "{} {}: {}{}", doing, path.empty() ? "a private heap" : path,
                   std::strerror(why), remedy_for(why));
}

std::string_view words_for(os::file_kind kind) noexcept {
  switch (kind) {
    case os::file_kind::regular: return "a file";
    case os::file_kind::directory: return "a directory";
    case os::file_kind::link: return "a symbolic link";
    case os::file_kind::pipe: return "a pipe";
    case os::file_kind::socket: return "a socket";
    case os::file_kind::character_device:
    case os::file_kind::block_device: return "a device";
    case os::file_kind::other: break;
  }
  return "no file";
}

bool is_own_name(std::string_view file, std::string_view heap) noexcept {
  constexpr size_t digits = 16;
  if (file.size() != heap.size() + segment_suffix.size() + 1 + digits || !file.starts_with(heap))
    return false;
  file.remove_prefix(heap.size());
  if (!file.starts_with(segment_suffix) || file[segment_suffix.size()] != '.') return false;
  file.remove_prefix(segment_suffix.size() + 1);
  return std::all_of(file.begin(), file.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

result<open_directory> open_annex_directory(bool make) {
  const chosen_directory place = choose_directory();
  if (place.path.front() != '/')
    return refuse(
        errc::os_failure,
        "ANNEX_DIR is \"{}\", and the folder it is relative to is gone; set an absolute path",
        place.path);
  const os::links links = place.is_named ? os::links::followed : os::links::not_last;
  const char* const path = place.path.c_str();
  os::open_result found = os::open_place(path, links);
  if (found.error == ENOENT && make) {
    if (const int why = make_directory(place); why != 0)
      return refuse_path(why, "can't make the annex directory", place.path);
    found = os::open_place(path, links);
  }
  if (found.error == ENOENT)
    return refuse_os(errc::no_such_heap, ENOENT,
                     "there is no annex directory {} yet; making a heap makes it", place.path);
  if (found.error == ENOTDIR || found.error == ELOOP)
    return refuse_os(errc::permission, found.error,
                     "the annex directory {} is no directory{}; remove it, or set ANNEX_DIR to a "
                     "directory of yours",
                     place.path, place.is_named ? "" : ", or a link to one");
  if (found.fd < 0) return refuse_path(found.error, "can't open the annex directory", place.path);
  open_directory directory(found.fd, place.path);
  os::file_identity there;
  if (const int why = os::identify(found.fd, &there); why != 0)
    return refuse_path(why, "can't look at the annex directory", place.path);
  if (!place.is_named) ANNEX_TRY(check_own_directory(there, place.path));
  return directory;
}

result<int> open_segment_file(const open_directory& where, std::string_view name, bool writable) {
  const std::string file = std::string(name) + std::string(segment_suffix),
                    path = where.path_of(file);
  os::file_identity there;
  int why = os::identify_in(where.fd(), file.c_str(), &there);
  if (why == ENOENT)
    return refuse_os(errc::no_such_heap, why,
                     "no heap named \"{}\" in {}; `annex ls` shows those there are", name,
                     where.path());
  if (why == 0 && there.kind != os::file_kind::regular)
    return refuse(errc::corrupt, "{} is {}, and no heap; remove it, or choose another name", path,
                  words_for(there.kind));
  os::open_result opened;
  if (why == 0) opened = os::open_in(where.fd(), file.c_str(), writable);
  if (opened.fd >= 0) return opened.fd;
  if (why == 0) why = opened.error;
  if (why == ENOENT)
    return refuse_os(errc::no_such_heap, why,
                     "no heap named \"{}\" in {}; `annex ls` shows those there are", name,
                     where.path());
  if (why == EACCES)
    return refuse_os(errc::permission, why,
                     "can't open {}: {} (user {}, mode {:o}); ask its owner for the heap's "
                     "file_mode, or attach it read-only",
                     path, std::strerror(why), there.owner, there.mode);
  return refuse_path(why, "can't open", path);
}

// ---- what a heap knows of its files -------------------------------------------------------------

heap_files::heap_files(std::string_view heap, const open_directory& where)
    : heap_(heap), directory_(where.path()) {
  os::file_identity there;
  if (os::identify(where.fd(), &there) != 0) return;
  device_ = there.device;
  inode_ = there.inode;
}

heap_files& heap_files::operator=(const heap_files& other) noexcept {
  heap_ = other.heap_;
  directory_ = other.directory_;
  device_ = other.device_;
  inode_ = other.inode_;
  segment_ = other.segment_;
  is_private_ = other.is_private_;
  is_trusting_.store(other.is_trusting_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  return *this;
}

void heap_files::keep_segment(const os::file_identity& segment, bool is_private) noexcept {
  segment_ = segment;
  is_private_ = is_private;
}

result<open_directory> heap_files::open() const {
  if (directory_.empty()) return refuse(errc::not_supported, "a private heap has no directory");
  const os::open_result found = os::open_place(directory_.c_str(), os::links::followed);
  if (found.fd < 0) return refuse_path(found.error, "can't open the annex directory", directory_);
  open_directory directory(found.fd, directory_);
  os::file_identity there;
  if (const int why = os::identify(found.fd, &there); why != 0)
    return refuse_path(why, "can't look at the annex directory", directory_);
  if (inode_ != 0 && (there.device != device_ || there.inode != inode_))
    return refuse(errc::os_failure,
                  "{} is not the directory any more in which \"{}\" was opened; attach the heap "
                  "where it lies now",
                  directory_, heap_);
  return directory;
}

// Modes and owners change: as they are now, while the descriptor is ours.
os::file_identity heap_files::segment_now(const segment& s) const noexcept {
  os::file_identity now;
  const int fd = s.fd();
  const bool is_it = fd >= 0 && os::identify(fd, &now) == 0 && now.device == segment_.device &&
                     now.inode == segment_.inode;
  return is_it ? now : segment_;
}

bool heap_files::believes_record(const segment& s) const noexcept {
  if (is_private_ || is_trusting_.load(std::memory_order_relaxed)) return true;
  const os::file_identity now = segment_now(s);
  return now.owner == os::user_id() && (now.mode & others_may_write) == 0;
}

std::string_view heap_files::what_speaks_against_own(const segment& s,
                                                     const os::file_identity& file) const noexcept {
  if (file.kind != os::file_kind::regular) return "it is no regular file";
  if (believes_record(s)) return {};
  if (file.links != 1) return "it has a second name";
  if (!may_be_opened_by_all_writers(segment_now(s), file))
    return "not everybody who may write to this heap may write to the file: it can't be theirs";
  return {};
}

std::string_view heap_files::what_speaks_against_foreign(
    const segment& s, const os::file_identity& file) const noexcept {
  if (!can_be_mapped(file)) return "it is no file or device that can be mapped";
  if (believes_record(s)) return {};
  const os::file_identity now = segment_now(s);
  if ((now.mode & others_may_write) != 0)
    return "others may write to this heap, and may have put it there";
  if (file.owner != now.owner) return "it belongs to another user than the heap";
  return {};
}

void heap_files::give_to_heap(const segment& s, int fd) const noexcept {
  os::file_identity file;
  const os::file_identity now = segment_now(s);
  if (is_private_ || os::identify(fd, &file) != 0) return;
  if (file.owner != now.owner && os::user_id() == 0 && os::give_file(fd, now.owner, now.group) == 0)
    return;
  // Where this user is in the group.
  if (file.group != now.group) (void)os::give_file(fd, ~u32{0}, now.group);
}

std::string heap_files::new_name() const {
  return fmt::format("{}{}.{:016x}", heap_, segment_suffix, os::random_number());
}

int heap_files::publish(int fd, const std::string& path) const noexcept {
  const std::string folder = folder_of(path), name(file_of(path));
  os::file_identity file, there;
  auto give_name = [&](int place) {
    const int why = os::publish_in(fd, place, name.c_str());
    const bool has_it = why == EEXIST && os::identify(fd, &file) == 0 &&
                        os::identify_in(place, name.c_str(), &there) == 0 &&
                        there.device == file.device && there.inode == file.inode;
    return has_it ? 0 : why;
  };
  if (folder == directory_) {
    const auto own = open();
    return own ? give_name(own->fd()) : own.error().os_errno != 0 ? own.error().os_errno : ENOENT;
  }
  const os::open_result place = os::open_place(folder.c_str(), os::links::none);
  const int why = place.fd >= 0 ? give_name(place.fd) : place.error;
  os::close_file(place.fd);
  return why;
}

namespace {

// A shortage of this process's own, which says nothing of the file.
int shortage_in(int why) noexcept {
  return why == EMFILE || why == ENFILE || why == ENOMEM ? why : 0;
}

}  // namespace

heap_files::opened heap_files::open_memory(const segment& s, const region_record& r,
                                           bool writable) const {
  const std::string_view path = path_in(r);
  if (path.empty() || path.front() != '/') return {};
  const std::string name(file_of(path));
  const bool has_own_name = r.backing == backing_owned && is_own_name(name, heap_);
  opened result;
  auto try_in = [&](int place, bool is_own) {
    const os::open_result file = os::point_at(place, name.c_str());
    os::file_identity found;
    result.error = shortage_in(file.fd < 0 ? file.error : 0);
    if (file.fd >= 0 && os::identify(file.fd, &found) == 0 && is_same_file(found, r)) {
      result.against =
          is_own ? what_speaks_against_own(s, found) : what_speaks_against_foreign(s, found);
      const os::open_result memory =
          result.against.empty() ? os::reopen(file.fd, writable) : os::open_result{};
      result.fd = memory.fd;
      result.error = shortage_in(memory.error);
    }
    os::close_file(file.fd);
    return result.fd >= 0 || !result.against.empty();
  };
  if (has_own_name) {
    const auto own = open();
    if (own && try_in(own->fd(), true)) return result;
    if (!own) result.error = shortage_in(own.error().os_errno);
  }
  const os::open_result place = os::open_place(folder_of(path).c_str(), os::links::none);
  if (place.fd < 0 && result.error == 0) result.error = shortage_in(place.error);
  if (place.fd >= 0) try_in(place.fd, has_own_name && os::is_hugetlbfs(place.fd));
  os::close_file(place.fd);
  return result;
}

heap_files::opened heap_files::open_memory_of(const segment& s, const region_record& r, u32 process,
                                              u32 fd, bool writable) const {
  const os::open_result file = os::point_at_descriptor(process, fd);
  os::file_identity found;
  opened result;
  if (file.fd >= 0 && os::identify(file.fd, &found) == 0 && is_same_file(found, r)) {
    result.against = what_speaks_against_foreign(s, found);
    const u32 whose = os::owner_of_process(process);
    if (result.against.empty() && !believes_record(s) && whose != segment_now(s).owner &&
        whose != os::user_id())
      result.against = "the process that has it is another user's";
    if (result.against.empty()) result.fd = os::reopen(file.fd, writable).fd;
  }
  os::close_file(file.fd);
  return result;
}

open_directory open_other_place(const region_record& r, const std::string& directory) {
  const std::string_view path = path_in(r);
  if (r.backing != backing_owned || path.empty() || path.front() != '/' ||
      folder_of(path) == directory)
    return {-1, {}};
  const std::string folder = folder_of(path);
  return {os::open_place(folder.c_str(), os::links::none).fd, folder};
}

result<heap_files::places> heap_files::places_of(const region_record& r) const {
  places in;
  if (r.backing != backing_owned || is_private_) return in;
  auto own = open();
  if (!own) return std::unexpected(own.error());
  in.own.emplace(std::move(*own));
  in.other.emplace(open_other_place(r, directory_));
  return in;
}

void heap_files::remove_memory(const open_directory* own, const open_directory* other,
                               const segment& s, const region_record& r) const noexcept {
  const std::string_view path = path_in(r);
  if (r.backing != backing_owned || path.size() == sizeof r.path || path.empty() ||
      path.front() != '/')
    return;
  const std::string name(file_of(path));
  auto leave = [&](std::string_view why) {
    log(log_level::warn,
        "a file is left where it is: {}; remove it yourself if it was memory of \"{}\": {}", why,
        heap_, path);
  };
  if (!is_own_name(name, heap_)) return leave("annex does not give such names");
  os::file_identity found;
  auto is_in = [&](const open_directory* place) {
    if (place == nullptr || place->fd() < 0) return false;
    const int why = os::identify_in(place->fd(), name.c_str(), &found);
    if (why != 0 && why != ENOENT) leave(std::strerror(why));
    return why == 0 && is_same_file(found, r);
  };
  auto remove_from = [&](const open_directory& place) {
    if (const int why = os::remove_in(place.fd(), name.c_str(), r.device, r.inode);
        why != 0 && why != ENOENT)
      leave(std::strerror(why));
  };
  if (is_in(own)) {
    remove_from(*own);
  } else if (is_in(other)) {
    if (!os::is_hugetlbfs(other->fd()))
      leave("it lies neither in the annex directory nor on a hugetlbfs");
    else if (const auto against = what_speaks_against_own(s, found); !against.empty())
      leave(against);
    else
      remove_from(*other);
  }
}

}  // namespace detail
}  // namespace annex
