// heap/lifecycle.cpp - making, joining, leaving and ending a heap.
//
//   create   an unnamed file is filled and then given its name in one step: a half-made heap is never seen
//   attach   header checked before anything in it is believed; when nobody else is attached, the whole segment
//   close    caches flushed, regions let go, member record freed, byte lock dropped with the descriptor
//   destroy  refused while blocks are live or members attached; the state word commits, then the files of its regions go,
//            then the name
//
// A process that dies anywhere in create leaves nothing (the file had no name) or a complete heap; in destroy, a heap that
// is marked destroyed: whoever next attaches, creates or destroys that name removes what is left (finish_destruction).
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "heap/registry.hpp"
#include "platform/os.hpp"

namespace annex {

std::string directory() {
  std::string place = os::environment("ANNEX_DIR");
  if (!place.empty()) return place;
  place = os::environment("XDG_RUNTIME_DIR");
  if (!place.empty()) return place + "/annex";
  return "/dev/shm/annex-" + std::to_string(os::user_id());
}

namespace detail {
namespace {

constexpr std::string_view suffix = ".annex";
constexpr int first_comer_patience_ms = 10'000;

bool is_name_character(char c) noexcept {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
}

result<void> check_options(const heap_options& o) {
  auto check = [](std::string_view what, u64 value, u64 least, u64 most) -> result<void> {
    if (value >= least && value <= most) return {};
    return refuse(errc::invalid_argument, "{} is {}, but must be from {} to {}", what, value, least, most);
  };
  ANNEX_TRY(check("metadata_limit_bytes", o.metadata_limit_bytes, limits::smallest_metadata_limit, limits::largest_metadata_limit));
  ANNEX_TRY(check("member_limit", o.member_limit, 1, limits::largest_member_limit));
  ANNEX_TRY(check("thread_limit", o.thread_limit, 2, limits::largest_thread_limit));
  ANNEX_TRY(check("region_limit", o.region_limit, 1, limits::region_slots));
  ANNEX_TRY(check("zone_limit", o.zone_limit, 1, limits::largest_zone_limit));
  ANNEX_TRY(check("file_mode", o.file_mode, 0400, 0777));
  const u64 tables = plan_tables(o.member_limit, o.thread_limit, o.region_limit).arena_at;
  return check("metadata_limit_bytes (with these member, thread and region limits)", o.metadata_limit_bytes, tables + MiB, limits::largest_metadata_limit);
}

std::unexpected<error> refuse_path(int why, std::string_view doing, std::string_view path) {
  const errc code = why == EACCES || why == EPERM || why == EROFS ? errc::permission : errc::os_failure;
  return refuse_os(code, why, "{} {}: {}", doing, path, std::strerror(why));
}

// The header as far as it must be right before the segment is mapped as a whole.
result<void> check_header(const segment_header& h, u64 file_bytes) {
  if (h.magic != segment_magic) return refuse(errc::corrupt, "the file is no annex segment (magic {:#x})", h.magic);
  if (h.layout_major != layout_major || h.layout_hash != layout_hash())
    return refuse(errc::incompatible_layout, "the segment has layout {}.{} ({:#x}), this library reads {}.{} ({:#x}); use the annex that made it, or destroy and create it anew",
                  h.layout_major, h.layout_minor, h.layout_hash, layout_major, layout_minor, layout_hash());
  const bool limits_hold = h.member_limit >= 1 && h.member_limit <= limits::largest_member_limit && h.thread_limit >= 2 &&
                           h.thread_limit <= limits::largest_thread_limit && h.region_limit >= 1 && h.region_limit <= limits::region_slots &&
                           h.zone_limit >= 1 && h.zone_limit <= limits::largest_zone_limit &&
                           h.reserve_bytes >= limits::smallest_metadata_limit && h.reserve_bytes <= limits::largest_metadata_limit;
  if (!limits_hold) return refuse(errc::corrupt, "the header's limits are out of range");
  const table_plan plan = plan_tables(h.member_limit, h.thread_limit, h.region_limit);
  if (plan.members_at != h.members_at || plan.threads_at != h.threads_at || plan.regions_at != h.regions_at || plan.zone_buckets_at != h.zone_buckets_at ||
      plan.journal_at != h.journal_at || plan.arena_at != h.arena_at || file_bytes < plan.arena_at)
    return refuse(errc::corrupt, "the header's tables do not lie where its limits put them, or the file of {} bytes is cut short", file_bytes);
  const arena_lists& a = h.arena;
  if (a.file_bytes > file_bytes || a.file_bytes > h.reserve_bytes || a.top > a.file_bytes || a.top < plan.arena_at)
    return refuse(errc::corrupt, "the arena ends at {} of {} bytes, the file has {}", a.top, a.file_bytes, file_bytes);
  if (std::memchr(h.name, 0, sizeof h.name) == nullptr) return refuse(errc::corrupt, "the name in the header does not end");
  if (h.member_records_used.load(std::memory_order_relaxed) > h.member_limit || h.thread_slots_used.load(std::memory_order_relaxed) > h.thread_limit) return refuse(errc::corrupt, "more members or threads than their limits");
  return {};
}

}  // namespace

result<void> check_heap_name(std::string_view name) {
  if (name.empty() || name.size() >= limits::name_bytes || name.front() == '.' || !std::all_of(name.begin(), name.end(), is_name_character))
    return refuse(errc::invalid_name, "\"{}\" ({} characters) is no heap name: use 1 to 31 of [A-Za-z0-9_.-], not starting with a dot", name.substr(0, 40), name.size());
  return {};
}

result<void> check_zone_name(std::string_view name) {
  if (name.empty() || name.size() >= limits::zone_name_bytes || name.find('\0') != name.npos)
    return refuse(errc::invalid_name, "\"{}\" ({} bytes) is no zone name: use 1 to {} bytes", name.substr(0, 40), name.size(), limits::zone_name_bytes - 1);
  return {};
}

namespace {

// The files annex made for the regions of a heap that is destroyed.
void remove_owned_files(const segment& s) noexcept {
  for (const u32 slot : used_region_slots(s)) {
    const region_record& r = s.at<region_record>(s.header().regions_at)[slot];
    if (std::memchr(r.path, 0, sizeof r.path) != nullptr) remove_owned_file(r);
  }
}

// Removes what a destroyer that died has left: the files of the regions, then the name. Does nothing to a heap in use.
// One at a time, by the first comer's byte; the name goes only while it belongs to the file that was looked at.
void finish_destruction(const std::string& path) {
  const os::open_result old = os::open_file(path.c_str(), true);
  if (old.fd < 0) return;
  os::file_identity identity;
  const auto head = os::map_file(old.fd, 0, sizeof(segment_header), false, 0);
  if (head.address != nullptr && os::identify(old.fd, &identity) == 0 && identity.length_bytes >= sizeof(segment_header)) {
    const auto& h = *static_cast<segment_header*>(head.address);
    const bool is_ours = check_header(h, identity.length_bytes) && h.state.load(std::memory_order_acquire) == segment_destroyed;
    if (is_ours && os::lock_byte(old.fd, member_lock_position) == 0) {
      const u64 bytes = identity.length_bytes;
      const auto whole = os::map_file(old.fd, 0, bytes, false, 0);
      if (whole.address != nullptr) remove_owned_files(segment(whole.address, old.fd, false));
      if (whole.address != nullptr) os::unmap(whole.address, bytes);
      os::remove_file_if(path.c_str(), identity.device, identity.inode);
    }
  }
  if (head.address != nullptr) os::unmap(head.address, sizeof(segment_header));
  os::close_file(old.fd);
}

}  // namespace

std::string segment_path(std::string_view name) { return directory() + "/" + std::string(name) + std::string(suffix); }

result<local_heap*> local_heap::create(std::string_view name, const heap_options& options, bool is_private) {
  ANNEX_TRY(check_options(options));
  if (!is_private) ANNEX_TRY(check_heap_name(name));
  const std::string place = directory();
  os::open_result file;
  if (is_private) {
    file = os::create_memory_file("annex-private", 0);
    if (file.fd < 0) return refuse_path(file.error, "can't make memory for the metadata of", "a private heap");
  } else {
    if (const int why = os::make_directory(place.c_str(), 0700); why != 0) return refuse_path(why, "can't make the annex directory", place);
    file = os::create_unnamed(place.c_str(), options.file_mode);
    if (file.fd < 0) return refuse_path(file.error, "can't make a segment in", place);
  }
  const table_plan plan = plan_tables(options.member_limit, options.thread_limit, options.region_limit);
  int short_of = os::set_length(file.fd, plan.arena_at);
  if (short_of == 0) short_of = os::allocate_range(file.fd, 0, plan.members_at);
  if (short_of == 0) short_of = os::allocate_range(file.fd, plan.journal_at, plan.arena_at - plan.journal_at);
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
  do h.heap_id = os::random_number(); while (h.heap_id == 0);
  h.reserve_bytes = options.metadata_limit_bytes;
  name.copy(h.name, sizeof h.name - 1);
  h.options = (options.checked ? option_checked : 0u) | (options.reclaim_dead ? option_reclaim_dead : 0u) |
              (options.on_misuse == misuse_policy::refuse ? option_refuse_misuse : 0u) | (is_private ? option_private : 0u) |
              (options.ephemeral ? option_ephemeral : 0u);
  h.member_limit = options.member_limit;
  h.thread_limit = options.thread_limit;
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
  h.arena.top = h.arena.file_bytes = plan.arena_at;
  h.state.store(segment_ready, std::memory_order_relaxed);
  h.magic = segment_magic;
  os::unmap(head.address, plan.members_at);

  auto opened = open_segment(file.fd, name, {}, true);  // closes the file when it fails
  if (!opened || is_private) return opened;
  const std::string path = segment_path(name);
  int why = os::publish_file(file.fd, path.c_str());
  if (why == EEXIST) {  // somebody's heap, or one whose destroyer died before it removed the name
    finish_destruction(path);
    (void)destroy(name, true);  // left behind by members who are all dead
    why = os::publish_file(file.fd, path.c_str());
  }
  if (why != 0) {
    (*opened)->close();
    if (why == EEXIST) return refuse_os(errc::name_taken, why, "a heap named \"{}\" exists in {}; attach to it, destroy it or choose another name", name, place);
    return refuse_path(why, "can't publish the segment", path);
  }
  return opened;
}

u64 local_heap::next_number() noexcept {
  static std::atomic<u64> numbers{0};
  return numbers.fetch_add(1, std::memory_order_relaxed) + 1;
}

result<local_heap*> local_heap::open_segment(int fd, std::string_view name, const attach_options& options, bool created) {
  auto fail = [&](std::unexpected<error> e) {
    os::close_file(fd);
    return e;
  };
  os::file_identity identity;
  if (const int why = os::identify(fd, &identity); why != 0) return fail(refuse_path(why, "can't look at the segment of", name));
  if (identity.length_bytes < sizeof(segment_header)) return fail(refuse(errc::corrupt, "the segment of \"{}\" has {} bytes, less than its header", name, identity.length_bytes));
  const auto head = os::map_file(fd, 0, sizeof(segment_header), false, 0);
  if (head.address == nullptr) return fail(refuse_path(head.error, "can't map the segment of", name));
  segment_header h;
  std::memcpy(&h, head.address, sizeof h);
  os::unmap(head.address, sizeof(segment_header));
  if (const int why = os::identify(fd, &identity); why != 0) return fail(refuse_path(why, "can't look at the segment of", name));  // it may have grown
  if (auto checked = check_header(h, identity.length_bytes); !checked) return fail(std::unexpected(checked.error()));
  if (h.state.load(std::memory_order_relaxed) != segment_ready) {
    finish_destruction(segment_path(name));
    return fail(refuse(errc::no_such_heap, "the heap \"{}\" has been destroyed", name));
  }
  const auto whole = os::map_file(fd, 0, h.reserve_bytes, !options.read_only, 0);
  if (whole.address == nullptr)
    return fail(refuse_path(whole.error, "can't reserve the address space of the segment (metadata_limit_bytes) of", name));

  auto* heap = new local_heap;
  heap->segment_ = segment(whole.address, fd, !options.read_only);
  heap->name_ = name;
  heap->policy_ = options.regions;
  heap->index_ = registry::enter(heap);
  auto undo = [&](std::unexpected<error> e) {
    heap->close();
    return e;
  };
  if (!heap->views_.open(heap->segment_, heap->index_, heap->number_, heap)) return undo(refuse(errc::os_failure, "no address space for the region tables of \"{}\"", name));
  if (!created) {
    // Nobody alive vouches for the segment: what the last one left open is undone, then everything is inspected.
    auto anybody = [&] {
      for (u32 m = 1; m <= h.member_records_used.load(std::memory_order_relaxed); ++m)
        if (!is_member_gone(heap->segment_, m, 0)) return true;
      return false;
    };
    bool alone = !anybody();
    bool first = false;  // one first comer at a time; it keeps the byte, which nobody asks for while somebody is a member
    for (int waits = 0; alone && !options.read_only && !first; ++waits) {
      const int why = os::lock_byte(fd, member_lock_position);
      first = why == 0;
      if (first) break;
      if (why != EAGAIN) return undo(refuse_path(why, "can't lock the segment of", name));
      if (waits == first_comer_patience_ms) return undo(refuse(errc::heap_in_use, "\"{}\" is being looked at or repaired by another process; try again when it is done", name));
      os::sleep_ns(1'000'000);
      alone = !anybody();
    }
    if (alone && first) undo_journal(heap->segment_);
    if (alone || options.verify) {
      audit_report report;
      if (options.read_only && heap->segment_.log().count.load(std::memory_order_acquire) != 0)
        return undo(refuse(errc::corrupt, "a dead process left a change of \"{}\" half done; attach it writable once to complete it", name));
      inspect_segment(heap->segment_, {}, alone, &report);
      if (!report.holds()) return undo(refuse(errc::corrupt, "the segment of \"{}\" is damaged: {}", name, report.broken.front().substr(0, 120)));
    }
  }
  if (options.read_only) return heap;
  if (!heap->join())
    return undo(refuse(errc::limit_reached, "\"{}\" has room for {} members and {} threads and all are taken; close some, reap dead ones, or create it with higher limits",
                       name, h.member_limit, h.thread_limit));
  if (!created) {
    heap->recover();
    bool destroyed = false;
    {
      locked t(*heap);  // a destroyer looks for members and decides under the lock: it saw us, or we see what it did
      destroyed = heap->segment_.header().state.load(std::memory_order_acquire) != segment_ready;
    }
    if (destroyed) return undo(refuse(errc::no_such_heap, "the heap \"{}\" has been destroyed", name));
  }
  heap->seen_epoch_ = 0;
  return heap;
}

// Becomes a member and gets the slot that threads without a cache lock with.
bool local_heap::join() noexcept {
  if (!os::prepare_process_barrier()) segment_.header().no_barrier.store(1, std::memory_order_relaxed);
  member_ = claim_member(segment_);
  if (member_ == 0) return false;
  service_slot_ = claim_thread_slot(segment_, member_);
  if (service_slot_ != no_owner) return true;
  segment_.member(member_).state.store(member_free, std::memory_order_release);  // it holds nothing yet
  member_ = 0;
  return false;
}

result<local_heap*> local_heap::attach(std::string_view name, const attach_options& options) {
  ANNEX_TRY(check_heap_name(name));
  const std::string path = segment_path(name);
  const os::open_result file = os::open_file(path.c_str(), !options.read_only);
  if (file.error == ENOENT || file.error == ENOTDIR)
    return refuse_os(errc::no_such_heap, file.error, "no heap named \"{}\" in {}; `annex ls` shows those there are", name, directory());
  if (file.fd < 0) return refuse_path(file.error, "can't open", path);
  return open_segment(file.fd, name, options, false);
}

void local_heap::close() noexcept {
  stop_watcher();
  const bool joined = member_ != 0 && !forked_ && !is_read_only();
  if (joined) synchronize();
  if (joined && os::environment("ANNEX_STATS") == "1") {
    const heap_stats s = stats();
    report_line(fmt::format("statistics of heap {}: {} bytes in {} regions, {} used in {} blocks, {} cached, {} free (largest {}), metadata {}",
                                           name_.empty() ? "(private)" : name_, s.total_bytes, s.region_count, s.used_bytes, s.live_blocks, s.cached_bytes, s.free_bytes, s.largest_free_bytes, s.metadata_bytes));
  }
  close_regions();
  const std::vector<thread_cache*> caches = registry::forget_heap(index_);
  if (joined && !has_option(option_private)) {
    locked t(*this);
    for (u32 i = 0; i < segment_.header().thread_slots_used.load(std::memory_order_relaxed); ++i)
      if (member_of_state(segment_.slot(i).state.load(std::memory_order_relaxed)) == member_ && i != service_slot_) recover_thread(*t, i, false);
    recover_member(*t, member_, false);
  }
  if (joined && !has_option(option_private)) {
    // Only now: while the lock was ours, the slot and the record had to say so. Dying before either store leaves a slot or
    // a record of a dead member, which recover_dead() frees. Others may have done so already: hence compare and swap.
    thread_slot& service = segment_.slot(service_slot_);
    u64 mine = service.state.load(std::memory_order_relaxed);
    if (member_of_state(mine) == member_) service.state.compare_exchange(mine, mine >> 16 << 16, std::memory_order_release);
    member_record& m = segment_.member(member_);
    u32 dead = member_dead;
    if (m.extents_held == 0 && m.holdings == 0 && m.slabs_orphaned == 0 && m.pool_objects_held == 0) m.state.compare_exchange(dead, member_free, std::memory_order_release);
  }
  registry::leave(index_);
  const u64 bytes = segment_.header().reserve_bytes;
  os::unmap(segment_.base(), bytes);
  os::close_file(segment_.fd());
  delete this;
}

void local_heap::become_child() noexcept {
  forked_ = true;
  watcher_stop_ = true;
  // The watcher thread does not exist here: forget it without joining.
  new (&watcher_) std::thread;
  new (&memory_mutex_) std::mutex;
  new (&service_mutex_) std::mutex;
  new (&observers_) observer_list;
  if (!has_option(option_private)) {
    // A descriptor of our own: the inherited one would keep the parent's byte locked after its death.
    const os::open_result own = os::reopen(segment_.fd(), segment_.writable());
    os::close_file(segment_.fd());
    segment_ = segment(segment_.base(), own.fd, segment_.writable());
  } else {
    os::close_file(segment_.fd());
    segment_ = segment(segment_.base(), -1, segment_.writable());
  }
  member_ = 0;
  service_slot_ = no_owner;
}

bool local_heap::ensure_member() noexcept {
  if (!forked_) [[likely]] return member_ != 0;
  if (has_option(option_private) || is_read_only() || segment_.fd() < 0) return false;
  std::lock_guard guard(memory_mutex_);
  if (!forked_) return true;
  if (!join()) return false;
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
  auto opened = attach(name, {.read_only = false, .regions = attach_policy::manual, .verify = false});
  if (!opened) return std::unexpected(opened.error());
  local_heap* const heap = *opened;
  if (only_ephemeral && !heap->has_option(option_ephemeral)) {
    heap->close();
    return refuse(errc::name_taken, "\"{}\" is a heap that outlives its members", name);
  }
  segment_header& h = heap->segment_.header();
  result<void> done;
  {
    locked t(*heap);
    heap->recover_dead(*t);
    u32 others = 0, first_other = 0;
    for (u32 m = 1; m <= h.member_records_used.load(std::memory_order_relaxed); ++m)
      if (m != heap->member_ && !is_member_gone(heap->segment_, m, heap->member_)) {
        ++others;
        if (first_other == 0) first_other = heap->segment_.member(m).process_id;
      }
    u64 live = 0;
    frozen_caches frozen = heap->freeze_all(*t);
    for (const u32 slot : used_region_slots(heap->segment_)) {
      if (heap->views_.record(slot).state.load(std::memory_order_relaxed) == region_free) continue;
      if (heap->has_live_blocks(*t, slot, &frozen)) ++live;
    }
    heap->thaw(frozen);
    if (others != 0) {
      done = refuse(errc::heap_in_use, "\"{}\" has {} other members, among them process {}; close it there first", name, others, first_other);
    } else if ((live != 0 || h.zone_count != 0) && !heap->has_option(option_ephemeral)) {
      done = refuse(errc::blocks_live, "\"{}\" still has live blocks in {} regions and {} zones; free them, or `annex reap` dead members first", name, live, h.zone_count);
    } else {
      h.state.store(segment_destroyed, std::memory_order_release);  // commit
      remove_owned_files(heap->segment_);
      os::remove_file(segment_path(name).c_str());
    }
  }
  heap->close();
  return done;
}

result<repair_report> local_heap::repair(std::string_view name) {
  ANNEX_TRY(check_heap_name(name));
  const std::string path = segment_path(name);
  const os::open_result file = os::open_file(path.c_str(), true);
  if (file.error == ENOENT || file.error == ENOTDIR) return refuse_os(errc::no_such_heap, file.error, "no heap named \"{}\" in {}; `annex ls` shows those there are", name, directory());
  if (file.fd < 0) return refuse_path(file.error, "can't open", path);
  auto work = [&]() -> result<repair_report> {
    os::file_identity identity;
    if (const int why = os::identify(file.fd, &identity); why != 0) return refuse_path(why, "can't look at the segment of", name);
    if (identity.length_bytes < sizeof(segment_header)) return refuse(errc::corrupt, "the segment of \"{}\" has {} bytes, less than its header; nothing can be rebuilt from it", name, identity.length_bytes);
    const auto head = os::map_file(file.fd, 0, sizeof(segment_header), false, 0);
    if (head.address == nullptr) return refuse_path(head.error, "can't map the segment of", name);
    segment_header h;
    std::memcpy(&h, head.address, sizeof h);
    os::unmap(head.address, sizeof(segment_header));
    ANNEX_TRY(check_header(h, identity.length_bytes));
    if (h.state.load(std::memory_order_relaxed) != segment_ready) return refuse(errc::no_such_heap, "the heap \"{}\" has been destroyed", name);
    // The first comer's byte keeps those who find nobody out; who is a member already must go first.
    if (os::lock_byte(file.fd, member_lock_position) != 0) return refuse(errc::heap_in_use, "\"{}\" is being attached or repaired by another process; try again when it is done", name);
    const auto whole = os::map_file(file.fd, 0, h.reserve_bytes, true, 0);
    if (whole.address == nullptr) return refuse_path(whole.error, "can't reserve the address space of the segment of", name);
    const segment s(whole.address, file.fd, true);
    result<repair_report> done;
    u32 member = 0;
    for (u32 id = 1; id <= h.member_limit && member == 0; ++id)
      if (os::is_byte_locked(file.fd, member_lock_position + id)) member = id;
    if (member != 0) {
      done = refuse(errc::heap_in_use, "\"{}\" is attached by member {} (process {}); repair needs it alone: end that process first", name, member, s.member(member).process_id);
    } else {
      undo_journal(s);
      done = rebuild_indexes(s);
    }
    os::unmap(whole.address, h.reserve_bytes);
    return done;
  }();
  os::close_file(file.fd);
  return work;
}

result<std::vector<heap_summary>> local_heap::list() {
  std::vector<heap_summary> heaps;
  for (const std::string& file : os::list_directory(directory().c_str())) {
    if (!file.ends_with(suffix)) continue;
    const std::string name = file.substr(0, file.size() - suffix.size());
    auto opened = attach(name, {.read_only = true, .regions = attach_policy::manual, .verify = false});
    if (!opened && opened.error().code == errc::corrupt) {  // perhaps only what a dead process left half done
      if (auto writable = attach(name, {.read_only = false, .regions = attach_policy::manual, .verify = false})) (*writable)->close();
      opened = attach(name, {.read_only = true, .regions = attach_policy::manual, .verify = false});
    }
    if (!opened) continue;  // destroyed meanwhile, not ours to read, or no heap
    const heap_stats s = (*opened)->stats();
    heaps.push_back({name, (*opened)->id(), s.total_bytes, s.used_bytes, s.metadata_bytes, static_cast<u32>(s.region_count),
                     static_cast<u32>(s.zone_count), static_cast<u32>(s.member_count)});
    (*opened)->close();
  }
  std::sort(heaps.begin(), heaps.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return heaps;
}

}  // namespace detail
}  // namespace annex
