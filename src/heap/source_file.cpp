// heap/source_file.cpp - see source_file.hpp.
#include "heap/source_file.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <annex/heap.hpp>

#include "platform/directories.hpp"
#include "platform/files.hpp"
#include "region/room.hpp"

namespace annex::detail {
namespace {

using source = memory_source::kind;

// A file that was made under this path, and is not wanted after all.
void remove_at(const std::string& path, const os::file_identity& made) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == path.npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const os::open_result place = os::open_place(directory.c_str(), os::links::followed);
  if (place.fd >= 0)
    (void)os::remove_in(place.fd, path.substr(slash == path.npos ? 0 : slash + 1).c_str(),
                        made.device, made.inode);
  os::close_file(place.fd);
}

}  // namespace

source_file::~source_file() {
  if (!is_kept_) put_right();
  os::close_file(file_.fd);
}

void source_file::put_right() const noexcept {
  os::file_identity now;
  if (is_longer_ && os::identify(file_.fd, &now) == 0 && now.length_bytes == end())
    (void)os::set_length(file_.fd, identity_.length_bytes);
  if (is_named_ && os::identify(file_.fd, &now) == 0)
    (void)os::remove_in(home_->fd(), owned_path_.substr(owned_path_.rfind('/') + 1).c_str(),
                        now.device, now.inode);
  if (is_made_here_) remove_at(m_.path, identity_);
}

u64 source_file::huge_page_bytes() const noexcept {
  return m_.from == source::hugetlb ? m_.page_bytes : 0;
}

std::unexpected<error> source_file::refused(int why, std::string_view doing) const {
  const u64 huge = huge_page_bytes();
  if (huge != 0 && (why == ENOMEM || why == ENODEV || why == ENOSPC))
    return refuse_hugepages(why, m_.length_bytes, huge);
  const errc code = why == EACCES || why == EPERM                     ? errc::permission
                    : why == ENODEV || why == ENOSYS                  ? errc::not_supported
                    : why == ENOMEM || why == ENOSPC || why == EDQUOT ? errc::out_of_memory
                                                                      : errc::os_failure;
  const std::string from = m_.from == source::shared && !is_private_ ? directory() : m_.path;
  return refuse_os(code, why, "can't {} {} bytes ({} byte pages){}{}: {}{}", doing, m_.length_bytes,
                   m_.page_bytes, from.empty() ? "" : " of ", from, std::strerror(why),
                   remedy_for(why));
}

result<void> source_file::open() {
  switch (m_.from) {
    case source::anonymous: return {};
    case source::hugetlb:
    case source::shared:
      if (m_.from == source::hugetlb && m_.path.empty())
        file_ = os::create_memory_file("annex-hugetlb", huge_page_bytes());
      else if (is_private_)
        file_ = os::create_memory_file("annex-memory", huge_page_bytes());
      else
        ANNEX_TRY(make_own());
      break;
    case source::file: open_or_make(); break;
    case source::device: file_ = os::open_file(m_.path.c_str(), true); break;
    case source::descriptor:
      file_.fd = os::duplicate(m_.fd);
      if (file_.fd < 0) file_.error = errno;
      break;
  }
  if (is_there()) return {};
  return refused(file_.error, m_.from == source::shared ? "make a file for" : "open");
}

void source_file::open_or_make() noexcept {
  file_ = os::open_file(m_.path.c_str(), true);
  is_made_here_ = file_.error == ENOENT;
  if (file_.fd < 0)
    file_ = os::open_or_create(m_.path.c_str(), is_private_ ? 0600 : files_.new_mode(segment_));
}

// Next to the segment, or on the given hugetlbfs.
result<void> source_file::find_home() {
  if (m_.path.empty()) {
    auto own = files_.open();
    if (!own) return std::unexpected(own.error());
    home_.emplace(std::move(*own));
    return {};
  }
  const os::open_result given = os::open_place(m_.path.c_str(), os::links::followed);
  if (given.fd < 0) return refused(given.error, "open");
  // The path in its record is not followed through links.
  const std::string without_links = os::path_of(given.fd);
  home_.emplace(given.fd, without_links.empty() ? m_.path : without_links);
  if (os::is_hugetlbfs(given.fd)) return {};
  return refuse(errc::not_supported,
                "{} is no hugetlbfs, which hugepages need; mount one (mount -t hugetlbfs "
                "none DIRECTORY), or bring memory without hugepages",
                m_.path);
}

// A file of its own, so that it outlives every process.
result<void> source_file::make_own() {
  ANNEX_TRY(find_home());
  const std::string name = files_.new_name();
  owned_path_ = home_->path_of(name);
  if (owned_path_.size() >= limits::path_bytes)
    return refuse(errc::invalid_argument,
                  "{} has {} characters, but a path may have {} here; use a directory with a "
                  "shorter path",
                  owned_path_.substr(0, 60), owned_path_.size(), limits::path_bytes - 1);
  file_ = os::create_unnamed_in(home_->fd(), files_.new_mode(segment_));
  if (file_.error == EOPNOTSUPP || file_.error == EISDIR) {
    file_ = os::create_in(home_->fd(), name.c_str(), files_.new_mode(segment_));
    is_named_ = file_.fd >= 0;
  }
  if (file_.fd >= 0) files_.give_to_heap(segment_, file_.fd);
  return {};
}

result<void> source_file::identify() {
  if (!is_there()) return {};
  if (const int why = os::identify(file_.fd, &identity_); why != 0) return refused(why, "look at");
  const bool is_device = identity_.kind == os::file_kind::character_device ||
                         identity_.kind == os::file_kind::block_device;
  if (identity_.kind == os::file_kind::regular || (is_device && m_.from != source::file)) return {};
  return refuse(errc::wrong_memory, "{} is {}; bring a file, or a device as kind::device",
                m_.from == source::descriptor ? fmt::format("descriptor {}", m_.fd) : m_.path,
                words_for(identity_.kind));
}

result<void> source_file::set_length() {
  if (!is_too_short()) return {};
  if (const int why = os::set_length(file_.fd, end()); why != 0) return refused(why, "make");
  is_longer_ = true;
  return {};
}

void source_file::seal_length() const noexcept {
  const bool is_of_annex = m_.from == source::hugetlb || m_.from == source::shared;
  if (is_there() && owned_path_.empty() && is_of_annex) (void)os::seal_length(file_.fd);
}

}  // namespace annex::detail
