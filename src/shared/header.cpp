// shared/header.cpp - see header.hpp.
#include "shared/header.hpp"

#include <cerrno>
#include <cstring>

#include "base/limits.hpp"
#include "platform/memory.hpp"
#include "platform/processes.hpp"

namespace annex::detail {

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

table_plan plan_of(const heap_options& o) noexcept {
  return plan_tables(o.member_limit + kept_for_mending, o.thread_limit + kept_for_mending,
                     o.region_limit);
}

void place_tables(segment_header& h, const table_plan& plan) noexcept {
  h.members_at = plan.members_at;
  h.threads_at = plan.threads_at;
  h.regions_at = plan.regions_at;
  h.zone_buckets_at = plan.zone_buckets_at;
  h.journal_at = plan.journal_at;
  h.arena_at = plan.arena_at;
  h.arena.top = plan.arena_at;
  h.arena.file_bytes = plan.arena_at + spare_file_bytes;
}

void fill_header(segment_header& h, std::string_view name, const heap_options& options,
                 bool is_private) noexcept {
  const table_plan plan = plan_of(options);
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
  h.member_limit = options.member_limit + kept_for_mending;
  h.thread_limit = options.thread_limit + kept_for_mending;
  h.region_limit = options.region_limit;
  h.zone_limit = options.zone_limit;
  h.file_mode = options.file_mode;
  place_tables(h, plan);
  h.next_region_id = 1;
  h.state.store(segment_ready, std::memory_order_relaxed);
  h.magic = segment_magic;
  h.seal = seal_of_header(h);
}

int copy_header(int fd, u64 file_bytes, segment_header* h) noexcept {
  if (file_bytes < sizeof(segment_header)) return EINVAL;
  const auto head = os::map_file(fd, 0, sizeof(segment_header), false, 0);
  if (head.address == nullptr) return head.error;
  std::memcpy(static_cast<void*>(h), head.address, sizeof *h);
  os::unmap(head.address, sizeof(segment_header));
  return 0;
}

}  // namespace annex::detail
