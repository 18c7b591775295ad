// heap/remains.cpp - see remains.hpp.
#include "heap/remains.hpp"

#include <fmt/format.h>

#include <cstring>
#include <optional>

#include "platform/byte_locks.hpp"
#include "platform/directories.hpp"
#include "platform/files.hpp"
#include "platform/memory.hpp"
#include "shared/header.hpp"
#include "shared/liveness.hpp"
#include "shared/names.hpp"

namespace annex::detail {

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
// the removal. Whoever dies in between leaves a name that leads to a destroyed heap (the next one
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

void finish_destruction(const open_directory& where, std::string_view name) {
  const auto old = open_segment_file(where, name, true);
  if (!old) return;
  os::file_identity identity;
  segment_header h;
  const bool is_ours = os::identify(*old, &identity) == 0 &&
                       copy_header(*old, identity.length_bytes, &h) == 0 &&
                       check_header(h, identity.length_bytes) &&
                       // sync(destroyed): copied by a system call; the records are mapped after it
                       h.state.load(std::memory_order_relaxed) == segment_destroyed;
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
  os::close_file(*old);
}

namespace {

// The number of the heap that has this name now, 0: there is none. Nothing: it can't be told.
std::optional<u64> heap_of_name(const open_directory& where, std::string_view name) {
  const auto file = open_segment_file(where, name, false);
  if (!file) return file.error().code == errc::no_such_heap ? std::optional<u64>(0) : std::nullopt;
  std::optional<u64> id;
  os::file_identity identity;
  segment_header h;
  if (os::identify(*file, &identity) == 0 && copy_header(*file, identity.length_bytes, &h) == 0)
    id = h.heap_id;
  os::close_file(*file);
  return id;
}

}  // namespace

// A creator holds his byte from before his file has a name. So where no byte is held, the heap of
// the file has got the name already or never will; and then it is asked which heap has the name.
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

}  // namespace annex::detail
