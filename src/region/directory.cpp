// region/directory.cpp - see directory.hpp.
#include "region/directory.hpp"

#include <annex/heap.hpp>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/failure.hpp"
#include "platform/directories.hpp"
#include "platform/open_result.hpp"
#include "platform/processes.hpp"
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

}  // namespace detail
}  // namespace annex
