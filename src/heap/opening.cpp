// heap/opening.cpp - see opening.hpp.
#include "heap/opening.hpp"

#include <cerrno>
#include <cstring>
#include <optional>

#include "care/audit.hpp"
#include "heap/closing.hpp"
#include "heap/life_file.hpp"
#include "heap/local_heap.hpp"
#include "heap/reader.hpp"
#include "heap/registry.hpp"
#include "heap/remains.hpp"
#include "platform/directories.hpp"
#include "platform/files.hpp"
#include "platform/memory.hpp"
#include "platform/open_result.hpp"
#include "platform/waiting.hpp"
#include "region/room.hpp"
#include "shared/header.hpp"
#include "shared/names.hpp"

namespace annex::detail {
namespace {

// The header of a file that may be a segment, copied: what is checked in it is what is used.
result<segment_header> read_header(int fd, std::string_view name, os::file_identity* identity) {
  const std::string_view whose = name.empty() ? "a private heap" : name;
  if (const int why = os::identify(fd, identity); why != 0)
    return refuse_path(why, "can't look at the segment of", whose);
  if (identity->length_bytes < sizeof(segment_header))
    return refuse(errc::corrupt, "the segment of \"{}\" has {} bytes, less than its header", name,
                  identity->length_bytes);
  segment_header h;
  if (const int why = copy_header(fd, identity->length_bytes, &h); why != 0)
    return refuse_path(why, "can't map the segment of", whose);
  if (const int why = os::identify(fd, identity); why != 0)  // it may have grown
    return refuse_path(why, "can't look at the segment of", whose);
  ANNEX_TRY(check_header(h, identity->length_bytes));
  return h;
}

result<void*> map_whole(int fd, const segment_header& h, std::string_view name, bool writable) {
  const std::string_view whose = name.empty() ? "a private heap" : name;
  const auto whole = os::map_file(fd, 0, h.reserve_bytes, writable, 0);
  if (whole.address == nullptr)
    return refuse_os(errc::os_failure, whole.error,
                     "can't reserve {} MiB of address space for the metadata of {}: {}{}; a "
                     "smaller metadata_limit_bytes needs less{}",
                     h.reserve_bytes / MiB, whose, std::strerror(whole.error),
                     remedy_for(whole.error),
                     whole.error == EINVAL ? " (valgrind has room for less than 32 GiB)" : "");
  os::hide_from_leak_search(static_cast<char*>(whole.address) + h.arena_at,
                            h.reserve_bytes - h.arena_at);
  return whole.address;
}

// Joins, takes back what the dead left, and looks at all of it if that was asked for.
result<void> become_member(local_heap& heap, const attach_options& options, arrival how) {
  ANNEX_TRY(heap.membership.join(how));
  if (!is_attaching(how)) return {};
  heap.care.recover();
  heap.membership.move_to_a_record_of_its_own();
  if (!options.verify) return {};
  const auto report = heap.care.audit();
  if (report && !report->holds())
    return refuse(errc::corrupt, "the segment of \"{}\" is damaged: {}", heap.here.name,
                  report->broken.front().substr(0, 120));
  return {};
}

// Everything of this process's that stands between a mapped segment and a heap that can be used.
result<void> set_up(local_heap& heap, const attach_options& options, arrival how, u32 file_mode) {
  attachment& here = heap.here;
  const bool is_private = here.name.empty() && how == arrival::creator;
  if (!here.views.open(here.seg, here.index, here.number, &heap))
    return refuse_path(ENOMEM, "no address space for the region tables of", here.name);
  if (!is_private && how == arrival::creator) ANNEX_TRY(make_life_file(here, file_mode));
  if (!is_private && how != arrival::creator) ANNEX_TRY(open_life_file(here, file_mode));
  if (options.read_only) return look_before_reading(here, options.verify);
  return become_member(heap, options, how);
}

// What this process has attached already, with one more user; null: nothing that could be shared.
result<local_heap*> share(int fd, std::string_view name, const attach_options& options) {
  os::file_identity identity;
  if (os::identify(fd, &identity) != 0) return nullptr;
  local_heap* const ours = registry::share(identity.device, identity.inode, options.read_only);
  if (ours == nullptr) return nullptr;
  auto give_back = [&](std::unexpected<error> e) {
    if (registry::unshare(ours)) tear_down(ours);
    return e;
  };
  if (ours->memory.policy() != options.regions)
    return give_back(refuse(errc::already_attached,
                            "this process has \"{}\" attached already, with the other attach "
                            "policy; use that attachment, or close it first",
                            name));
  if (auto counted = ours->membership.count_share(); !counted)
    return give_back(std::unexpected(counted.error()));
  if (options.foreign_memory) ours->here.files.trust_foreign_memory();
  return ours;
}

}  // namespace

result<local_heap*> open_segment(int fd, std::string_view name, const heap_files& files,
                                 const attach_options& options, arrival how) {
  auto fail = [&](std::unexpected<error> e) {
    os::close_file(fd);
    return e;
  };
  os::file_identity identity;
  const auto h = read_header(fd, name, &identity);
  if (!h) return fail(std::unexpected(h.error()));
  if (h->state.load(std::memory_order_relaxed) != segment_ready) {
    if (!options.read_only)
      if (const auto where = files.open(); where) finish_destruction(*where, name);
    return fail(refuse(errc::no_such_heap, "the heap \"{}\" has been destroyed{}", name,
                       options.read_only ? ", but its file is left; `annex create` or `annex "
                                           "destroy` of this name removes it"
                                         : ""));
  }
  if (is_attaching(how) && (h->options & option_private) != 0)
    return fail(refuse(errc::corrupt,
                       "the header of \"{}\" says that it is a private heap, which has no name",
                       name));
  const auto whole = map_whole(fd, *h, name, !options.read_only);
  if (!whole) return fail(std::unexpected(whole.error()));

  auto* heap = new local_heap;
  attachment& here = heap->here;
  const bool is_private = how == arrival::creator && (h->options & option_private) != 0;
  here.files = files;
  here.files.keep_segment(identity, is_private);
  if (options.foreign_memory) here.files.trust_foreign_memory();
  here.file.take(
      fd,
      is_private || how == arrival::creator ? std::string{} : segment_path(files.directory(), name),
      !options.read_only);
  here.seg = segment(*whole, &here.file, is_private ? nullptr : &here.life, !options.read_only,
                     segment_geometry(*h), h->reserve_bytes);
  here.seg.keep_damage_in(&here.damage);
  here.name = name;
  heap->memory.set_policy(options.regions);
  here.index = registry::enter(heap);
  if (auto ready = set_up(*heap, options, how, identity.mode); !ready) {
    close_heap(heap);
    return std::unexpected(ready.error());
  }
  registry::make_shareable(heap);
  return heap;
}

std::unexpected<error> refuse_without_directory(std::string_view name, const error& why) {
  if (why.code != errc::no_such_heap) return std::unexpected(why);
  return refuse_os(errc::no_such_heap, why.os_errno,
                   "no heap named \"{}\" in {}; `annex ls` shows those there are", name,
                   annex::directory());
}

result<local_heap*> attach_heap(std::string_view name, const attach_options& options,
                                bool as_another_member, worthless left) {
  ANNEX_TRY(check_heap_name(name));
  const auto where = open_annex_directory(false);
  if (!where) return refuse_without_directory(name, where.error());
  const auto file = open_segment_file(*where, name, !options.read_only);
  if (!file) return std::unexpected(file.error());
  if (!as_another_member) {
    auto ours = share(*file, name, options);
    if (!ours || *ours != nullptr) {
      os::close_file(*file);
      return ours;
    }
  }
  return open_segment(*file, name, heap_files(name, *where), options,
                      left == worthless::ended ? arrival::opener : arrival::attacher);
}

}  // namespace annex::detail
