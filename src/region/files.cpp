// region/files.cpp - see files.hpp.
#include "region/files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/failure.hpp"
#include "platform/directories.hpp"
#include "platform/open_result.hpp"
#include "platform/processes.hpp"
#include "platform/report.hpp"

namespace annex::detail {
namespace {

std::string_view file_of(std::string_view path) noexcept {
  return path.substr(path.rfind('/') + 1);
}
std::pmr::string folder_of(std::string_view path) {
  const size_t slash = path.rfind('/');
  return own_string(slash == 0 ? "/" : path.substr(0, slash));
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
  const std::pmr::string folder = folder_of(path), name = own_string(file_of(path));
  os::file_identity file, there;
  auto give_name = [&](int place) {
    const int why = os::publish_in(fd, place, name.c_str());
    const bool has_it = why == EEXIST && os::identify(fd, &file) == 0 &&
                        os::identify_in(place, name.c_str(), &there) == 0 &&
                        there.device == file.device && there.inode == file.inode;
    return has_it ? 0 : why;
  };
  if (std::string_view(folder) == directory_) {
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
  const std::pmr::string name = own_string(file_of(path));
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

open_directory open_other_place(const region_record& r, std::string_view directory) {
  const std::string_view path = path_in(r);
  if (r.backing != backing_owned || path.empty() || path.front() != '/' ||
      folder_of(path) == directory)
    return {-1, ""};
  const std::pmr::string folder = folder_of(path);
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
  const std::pmr::string name = own_string(file_of(path));
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

}  // namespace annex::detail
