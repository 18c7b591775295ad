// heap/snapshot.cpp - the whole heap in one look, which nobody has to stand still for and which
// waits for nobody.
//
//   sequence even? ──▶ regions, extents ──▶ caches ──▶ holders ──▶ zones ──▶ members
//        ▲                                                                      │
//        │ no, and a try is left                                                ▼
//        └────────────────────────────────────────── sequence the same? figures the same?
//
// The heap lock's sequence is odd while somebody has the lock and grows with every holding: tables
// that were read between two looks at the same even number are as one transaction left them. Blocks
// come and go without the lock, so what the caches and bitmaps said is compared with what they say
// at the end. Whatever comes out, it is returned after a few tries: with `changed`, when it is of
// more than one moment.
//
// Processes: takes no lock of the heap and writes nothing into it, so a member that is stopped with
// the lock in its hand, a dead one, or a segment that may only be read make no difference. Nothing
// that is read is believed: regions are looked at through views of this look's own, whose tables
// were compared with the file; chunks are looked for (find_chunk); every list, together with all
// others, ends after a number of steps that the caller's limit gives. A torn or damaged word leads
// to a wrong figure and to `changed` or `problem`, nowhere else.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>

#include "heap/caretaker.hpp"
#include "named/naming.hpp"
#include "named/pool_table.hpp"
#include "platform/files.hpp"
#include "platform/waiting.hpp"

namespace annex::detail {
namespace {

// Longer than a transaction: the next try has a good chance.
constexpr u64 pause_between_tries_ns = 50'000;
// Objects and caches of all pools together: twice what one may have.
constexpr u64 most_pool_steps = u64{1} << 31;
constexpr u32 most_tries = 100;
constexpr u32 nowhere = ~u32{0};

template <class T>
T seen(const T& word) noexcept {
  T value;
  // Relaxed: the sequence tells whether it may be relied on.
  __atomic_load(&word, &value, __ATOMIC_RELAXED);
  return value;
}

// A slab's numbers, read once and found possible: what is counted afterwards stays within them.
struct slab_seen {
  const slab_record* record = nullptr;
  u32 words = 0, capacity = 0, size_class = 0;
  u32 member = 0;
  chunk_ref holdings = 0;

  explicit operator bool() const noexcept { return record != nullptr; }
  u64 live_bits(u32 w) const noexcept {
    const u64* const free_words = reinterpret_cast<const u64*>(record + 1);
    const u64* const remote_words = free_words + 2 * u64{words};
    u64 remote = 0;
    for (u32 half = 0; half < 2; ++half) {
      const u64 word = seen(remote_words[w * 2 + half]);
      if (is_remote_word(word)) remote |= (word & 0xffffffff) << (half * 32);
    }
    const u32 blocks = std::min(capacity - w * 64, 64u);
    return low_bits(blocks) & ~(seen(free_words[w]) | remote);
  }
  /// Those that caches keep included.
  u32 live_blocks() const noexcept {
    u32 live = 0;
    for (u32 w = 0; w < words; ++w)
      live += static_cast<u32>(std::popcount(live_bits(w)));
    return live;
  }
};

slab_seen find_slab(const segment& s, const local_region& region, u32 granule) noexcept {
  const chunk_ref ref = seen(region.extents[granule].record);
  const slab_record* const slab = ref != 0 ? s.find_chunk<slab_record>(ref) : nullptr;
  if (slab == nullptr) return {};
  const slab_seen found{slab,
                        slab->words,
                        slab->capacity,
                        slab->size_class,
                        seen(slab->member),
                        seen(slab->holdings)};
  const bool can_be = found.size_class != 0 && found.size_class < class_count &&
                      found.capacity != 0 && found.words == divide_up(found.capacity, 64) &&
                      seen(slab->region) == region.slot && seen(slab->granule) == granule;
  return can_be && s.find_chunk<slab_record>(ref, slab_record_bytes(found.words)) != nullptr
             ? found
             : slab_seen{};
}

struct piece_seen {
  map_piece piece;
  slab_seen slab;
  u32 live = 0;    // blocks of a slab, those in caches included
  u32 cached = 0;  // in caches
};

// The thread's cache in this slot; null: it has none.
const thread_cache* find_cache(const segment& s, u32 slot) noexcept {
  const chunk_ref ref = seen(s.slot(slot).cache);
  const thread_cache* const c = ref != 0 ? s.find_chunk<thread_cache>(ref) : nullptr;
  return c != nullptr && seen(c->slot) == slot && seen(c->key) != 0 ? c : nullptr;
}

u32 count_in(const thread_cache& c, u32 size_class) noexcept {
  return std::min(c.magazines[size_class].count.load(std::memory_order_relaxed), magazine_slots);
}

// One look. Everything that it finds is its own; the segment is only read.
class look {
 public:
  look(const segment& s, region_views& views, u32 self, const snapshot_options& options,
       heap_snapshot* out)
      : segment_(s),
        views_(views),
        self_(self),
        options_(options),
        out_(*out),
        links_left_(4 * u64{options.most_extents} + 65536) {}

  void take() {
    read_caches(&caches_before_);
    find_members();
    by_slot_.assign(segment_.region_limit(), nullptr);
    for (const u32 slot : used_region_slots(segment_))
      find_region(slot);
    std::sort(regions_.begin(), regions_.end(),
              [](const local_region* a, const local_region* b) { return a->id < b->id; });
    pieces_of_.assign(segment_.region_limit(), {0, 0});
    for (const local_region* region : regions_)
      walk(*region);
    count_caches();
    count_slabs();
    for (const local_region* region : regions_)
      sum_up(*region);
    find_zones();
    give_members();
    sum_up_heap();
  }
  /// Blocks came or went since take() began. Not every one that came and went again.
  bool has_moved() {
    std::vector<u64> now;
    read_caches(&now);
    if (now != caches_before_) return true;
    return std::any_of(pieces_.begin(), pieces_.end(), [](const piece_seen& p) {
      return p.slab && p.slab.live_blocks() != p.live;
    });
  }
  bool is_torn() const noexcept { return is_torn_; }

 private:
  // What of every thread's cache changes with each block that it takes or gets.
  void read_caches(std::vector<u64>* digests) {
    for (u32 i = 0; i < segment_.slots_used(); ++i) {
      u64 digest = segment_.slot(i).state.load(std::memory_order_relaxed);
      if (const thread_cache* c = find_cache(segment_, i))
        for (u32 k = 1; k < class_count; ++k)
          digest = digest * 1'000'003 + count_in(*c, k);
      digests->push_back(digest);
    }
  }

  void find_region(u32 slot) {
    region_record& record = views_.record(slot);
    if (record.state.load(std::memory_order_acquire) < region_active) return;  // sync(published)
    local_region& view = own_views_.emplace_back();
    view.slot = slot;
    load_view(segment_, record, view);
    if (view.id == 0) {
      is_torn_ = true;
      return;
    }
    regions_.push_back(&view);
    by_slot_[slot] = &view;
  }

  void walk(const local_region& region) {
    const u32 first = static_cast<u32>(pieces_.size());
    for (u32 granule = 0; granule < region.granule_count;) {
      if (pieces_.size() >= options_.most_extents) {
        out_.complete = false;
        break;
      }
      const u32 length = seen(region.extents[granule].length);
      if (length == 0 || length > region.granule_count - granule) {
        is_torn_ = true;
        break;
      }
      add_piece(region, granule, length);
      granule += length;
    }
    pieces_of_[region.slot] = {first, static_cast<u32>(pieces_.size())};
  }

  void add_piece(const local_region& region, u32 granule, u32 length) {
    const u8 kind = load_granule(region.granule_base + granule).kind;
    piece_seen& p = pieces_.emplace_back();
    p.piece.region = region_id{region.id};
    p.piece.offset_bytes = u64{granule} << region.granule_shift;
    p.piece.length_bytes =
        std::min(u64{length} << region.granule_shift, region.region_bytes - p.piece.offset_bytes);
    if (kind == granule_large || kind == granule_zone) {
      p.piece.use = kind == granule_large ? map_use::large : map_use::zone;
      p.piece.live_bytes = p.piece.length_bytes;
      p.piece.holder = member_id{seen(region.extents[granule].holder)};
      // The block's own bytes end with the extent.
      const u64 begin = u64{seen(region.extents[granule].lead)} * 64;
      hold(static_cast<u32>(p.piece.holder), 1,
           p.piece.length_bytes - std::min(begin, p.piece.length_bytes));
    } else if (kind == granule_slab || kind == granule_slab_held) {
      p.piece.use = map_use::slab;
      p.slab = find_slab(segment_, region, granule);
      if (!p.slab) {
        is_torn_ = true;
        return;
      }
      p.live = p.slab.live_blocks();
      p.piece.block_bytes = class_bytes[p.slab.size_class];
      p.piece.holder = member_id{p.slab.member};
    } else {
      p.piece.use = map_use::free;
      p.piece.holder = member_id{seen(region.extents[granule].holder)};
      is_torn_ = is_torn_ || kind != granule_free;
    }
  }

  piece_seen* piece_at(u32 slot, u64 offset) {
    if (slot >= pieces_of_.size()) return nullptr;
    const auto first = pieces_.begin() + pieces_of_[slot].first,
               last = pieces_.begin() + pieces_of_[slot].second;
    const auto behind = std::upper_bound(
        first, last, offset, [](u64 at, const piece_seen& p) { return at < p.piece.offset_bytes; });
    return behind != first ? &*(behind - 1) : nullptr;
  }

  // Blocks in caches are free, whatever their slab's bitmap says.
  void count_caches() {
    for (u32 i = 0; i < segment_.slots_used(); ++i) {
      const u32 member = member_of_state(segment_.slot(i).state.load(std::memory_order_relaxed));
      const thread_cache* const c = member != 0 ? find_cache(segment_, i) : nullptr;
      if (c == nullptr) continue;
      ++out_.stats.thread_count;
      member_summary* const whose = of(member);
      if (whose != nullptr) ++whose->threads;
      for (u32 k = 1; k < class_count; ++k) {
        const u32 count = count_in(*c, k);
        if (whose != nullptr) whose->cached_bytes += u64{count} * class_bytes[k];
        for (u32 n = 0; n < count; ++n) {
          const u64 entry = seen(c->entries_of(k)[n]);
          piece_seen* const p =
              piece_at(static_cast<u32>(entry >> region_shift), entry & offset_mask);
          if (p != nullptr && p->slab && p->slab.size_class == k && p->cached < p->live)
            ++p->cached;
        }
      }
    }
  }

  void count_slabs() {
    for (piece_seen& p : pieces_) {
      if (!p.slab) continue;
      const u64 block_bytes = p.piece.block_bytes;
      const u32 live = p.live - p.cached;
      p.piece.live_bytes = live * block_bytes;
      p.piece.cached_bytes = (p.slab.capacity - live) * block_bytes;
      u32 of_others = 0;
      for (chunk_ref ref = p.slab.holdings; ref != 0 && of_others < live && may_go_on();) {
        const auto* const holding =
            segment_.find_chunk<holding_record>(ref, holding_record_bytes(p.slab.words));
        if (holding == nullptr || holding->words != p.slab.words) {
          is_torn_ = true;
          break;
        }
        const u64* const bits = reinterpret_cast<const u64*>(holding + 1);
        u32 held = 0;
        for (u32 w = 0; w < p.slab.words; ++w)
          held += static_cast<u32>(
              std::popcount(seen(bits[w]) & ~seen(bits[p.slab.words + w]) & p.slab.live_bits(w)));
        held = std::min(held, live - of_others);
        hold(seen(holding->member), held, held * block_bytes);
        of_others += held;
        ref = seen(holding->next);
      }
      hold(p.slab.member, live - of_others, (live - of_others) * block_bytes);
    }
  }

  void sum_up(const local_region& region) {
    const region_record& r = *region.record;
    region_summary& s = out_.regions.emplace_back();
    s.id = region_id{region.id};
    s.length_bytes = region.region_bytes;
    s.page_bytes = seen(r.page_bytes);
    s.granule_bytes = u64{1} << region.granule_shift;
    s.numa_node = seen(r.numa_node);
    s.access = region.access;
    s.draining = r.state.load(std::memory_order_relaxed) == region_draining;
    const local_region* const here = views_.existing(region.slot);
    if (here != nullptr && here->id == region.id) s.base = here->base;
    s.origin = seen(r.adder_base);
    s.adder = member_id{seen(r.adder)};
    s.iova_runs = region.iovas.run_count;
    if (const auto bus = region.iovas.at(0)) s.first_iova = iova{bus->address};
    if (seen(r.backing) != backing_none) {
      char path[sizeof r.path];
      std::memcpy(path, r.path, sizeof path);
      s.backing = path[0] != '\0' ? std::string(path, ::strnlen(path, sizeof path))
                                  : fmt::format("descriptor {} of process {}",
                                                seen(r.adder_fd_plus_1) - 1, seen(r.adder_process));
    }
    heap_stats& h = out_.stats;
    const auto [first, last] = pieces_of_[region.slot];
    for (u32 i = first; i < last; ++i) {
      const piece_seen& p = pieces_[i];
      if (p.piece.use == map_use::free) {
        s.free_bytes += p.piece.length_bytes;
        s.largest_free_bytes = std::max(s.largest_free_bytes, p.piece.length_bytes);
        ++h.hole_count;
      } else if (p.piece.use != map_use::slab) {
        h.used_bytes += p.piece.length_bytes;
        ++h.live_blocks;
      } else if (p.slab) {
        h.used_bytes += p.piece.live_bytes;
        h.cached_bytes += p.piece.length_bytes - std::min(p.piece.live_bytes, p.piece.length_bytes);
        h.live_blocks += p.live - p.cached;
        ++h.slab_count;
      }
      if (options_.map_pieces) out_.map_pieces.push_back(p.piece);
    }
    ++h.region_count;
    h.total_bytes += s.length_bytes;
    h.free_bytes += s.free_bytes;
    h.largest_free_bytes = std::max(h.largest_free_bytes, s.largest_free_bytes);
  }

  void find_zones() {
    for_each_zone_bucket(segment_, [&](chunk_ref chain) {
      for (chunk_ref ref = chain; ref != 0 && may_go_on();) {
        const auto* const z = segment_.find_chunk<zone_record>(ref);
        if (z == nullptr) {
          is_torn_ = true;
          return;
        }
        add_zone(*z);
        ref = seen(z->next);
      }
    });
    std::sort(out_.zones.begin(), out_.zones.end(),
              [](const zone_summary& a, const zone_summary& b) { return a.name < b.name; });
  }

  void add_zone(const zone_record& z) {
    zone_summary& s = out_.zones.emplace_back();
    char name[sizeof z.name];
    std::memcpy(name, z.name, sizeof name);
    s.name.assign(name, ::strnlen(name, sizeof name));
    s.size_bytes = seen(z.size_bytes);
    const zone_type type = seen(z.type);
    s.kind = type == zone_type::pool ? "pool" : type == zone_type::ring ? "ring" : "zone";
    if (type == zone_type::pool) count_pool(z);
    s.committed = z.state.load(std::memory_order_acquire) == zone_committed;
    s.generation = seen(z.generation);
    const u32 maker = seen(z.maker);
    s.maker = member_id{maker};
    s.maker_process_id = static_cast<int>(seen(z.maker_process));
    // A record that has another process by now is not the maker's.
    const member_summary* const member = of(maker);
    s.maker_alive = member != nullptr && member->alive &&
                    member->process_id == s.maker_process_id &&
                    seen(segment_.member(maker).start_time) == seen(z.maker_start_time);
    const u32 slot = seen(z.region_slot);
    if (slot == no_region) return;
    const local_region* const region = slot < by_slot_.size() ? by_slot_[slot] : nullptr;
    const u64 offset = seen(z.offset_bytes);
    const u32 granule = seen(z.granule);
    if (region == nullptr || granule >= region->granule_count ||
        s.size_bytes > region->region_bytes || offset > region->region_bytes - s.size_bytes) {
      is_torn_ = true;
      return;
    }
    s.where = handle_at(*region, offset, annex::count_in(seen(region->extents[granule].name)));
  }

  // What members have of a pool's objects: not what their caches keep. Its bytes are the pool's
  // zone.
  void count_pool(const zone_record& z) {
    const known_pool pool = look_for_pool_table(segment_, seen(z.table), seen(z.table_bytes));
    if (!pool) {
      is_torn_ = true;
      return;
    }
    const u64 steps = u64{pool.object_count} + segment_.slots_used();
    if (steps > pool_steps_left_) {
      out_.complete = false;
      return;
    }
    pool_steps_left_ -= steps;
    std::vector<u64> out(u64{segment_.members_used()} + 1);
    const u16* const holders = pool.holders(segment_.thread_limit());
    for (u32 i = 0; i < pool.object_count; ++i)
      if (const u32 member = seen(holders[i]); member != 0 && member < out.size()) ++out[member];
    for (u32 i = 0; i < segment_.slots_used(); ++i) {
      const chunk_ref ref = seen(pool.caches()[i]);
      const auto* const kept = ref != 0 ? segment_.find_chunk<pool_cache>(ref) : nullptr;
      const u32 member = member_of_state(segment_.slot(i).state.load(std::memory_order_acquire));
      if (kept != nullptr && member < out.size())
        out[member] -= std::min<u64>(out[member], entries_in(*kept));
    }
    for (u32 member = 1; member < std::min(out.size(), held_blocks_.size()); ++member)
      held_blocks_[member] += out[member];
  }

  void find_members() {
    index_.assign(u64{segment_.member_limit()} + 1, nowhere);
    held_blocks_.assign(index_.size(), 0);
    held_bytes_.assign(index_.size(), 0);
    for (u32 id = 1; id <= segment_.members_used(); ++id) {
      const member_record& m = segment_.member(id);
      const u32 state = m.state.load(std::memory_order_acquire);
      out_.stats.member_count += state == member_live;
      if (state == member_free) continue;
      index_[id] = static_cast<u32>(out_.members.size());
      member_summary& s = out_.members.emplace_back();
      s.id = member_id{id};
      s.process_id = static_cast<int>(seen(m.process_id));
      char program[sizeof m.program];
      std::memcpy(program, m.program, sizeof program);
      s.program.assign(program, ::strnlen(program, sizeof program));
      s.alive = !is_member_gone(segment_, id, self_);
      s.self = id == self_;
    }
  }
  member_summary* of(u32 id) noexcept {
    return id < index_.size() && index_[id] < out_.members.size() ? &out_.members[index_[id]]
                                                                  : nullptr;
  }
  void hold(u32 member, u64 blocks, u64 bytes) noexcept {
    if (member == 0 || member >= held_blocks_.size()) return;
    held_blocks_[member] += blocks;
    held_bytes_[member] += bytes;
  }
  void give_members() {
    for (member_summary& m : out_.members) {
      m.held_blocks = held_blocks_[static_cast<u32>(m.id)];
      m.held_bytes = held_bytes_[static_cast<u32>(m.id)];
    }
  }

  void sum_up_heap() {
    const segment_header& h = segment_.header();
    out_.stats.zone_count = out_.zones.size();
    out_.stats.metadata_bytes = os::allocated_bytes(segment_.fd());
    out_.stats.misuse_count = h.misuse_count.load(std::memory_order_relaxed);
    out_.stats.lock_steals = h.lock_steals.load(std::memory_order_relaxed);
    out_.stats.recovered_threads = h.recovered_threads.load(std::memory_order_relaxed);
  }

  // Links of all lists together: a damaged one may lead in circles.
  bool may_go_on() noexcept {
    if (links_left_ == 0) {
      out_.complete = false;
      return false;
    }
    --links_left_;
    return true;
  }

  const segment& segment_;
  region_views& views_;
  const u32 self_;
  const snapshot_options& options_;
  heap_snapshot& out_;
  u64 links_left_, pool_steps_left_ = most_pool_steps;
  bool is_torn_ = false;
  std::deque<local_region> own_views_;
  std::vector<const local_region*> regions_, by_slot_;  // the first by id
  std::vector<piece_seen> pieces_;
  std::vector<std::pair<u32, u32>> pieces_of_;  // by slot: first, behind the last
  std::vector<u64> caches_before_;
  std::vector<u32> index_;  // of a member in out_.members
  std::vector<u64> held_blocks_, held_bytes_;
};

// Who has the heap lock; 0: nobody, or nobody who is known.
u32 holder_of_lock(const segment& s) noexcept {
  const u32 holder = s.header().lock.load(std::memory_order_relaxed) & ~lock_waiters;
  return holder != 0 && holder - 1 < s.slots_used()
             ? member_of_state(s.slot(holder - 1).state.load(std::memory_order_relaxed))
             : 0;
}

}  // namespace

heap_snapshot caretaker::snapshot(const snapshot_options& options) {
  const shared_word<u64>& sequence = segment_.header().lock_sequence;
  heap_snapshot out;
  for (u32 tries = 1;; ++tries) {
    out = {};
    out.tries = tries;
    // sync(sequence): what was changed before is seen.
    const u64 before = sequence.load(std::memory_order_acquire);
    const u32 had_it = holder_of_lock(segment_);
    look now(segment_, views_, self(), options, &out);
    now.take();
    const bool moved = now.has_moved();
    // sync(sequence): if a change was seen, so is its odd number.
    std::atomic_thread_fence(std::memory_order_acquire);
    const u64 after = sequence.load(std::memory_order_relaxed);
    const bool is_held = before % 2 != 0, is_still = before == after;
    out.sequence = after;
    out.changed = is_held || !is_still || moved;
    if (is_held && is_still && holder_of_lock(segment_) == had_it)
      out.lock_holder = member_id{had_it};
    if (segment_.is_damaged() || (now.is_torn() && is_still && !is_held && out.complete))
      out.problem = fmt::format(
          "\"{}\" has words that can't be; close it everywhere, then `annex check --repair` it",
          name_);
    else if (!out.complete)
      out.problem = fmt::format(
          "\"{}\" has more than {} extents; the figures are those of the first ones. Ask with a "
          "higher limit (most_extents)",
          name_, options.most_extents);
    out.changed = out.changed || now.is_torn();
    // A few tries and no more: a holder that is stopped may have the lock for ever.
    if (!out.changed || tries >= std::clamp(options.tries, 1u, most_tries)) break;
    os::sleep_ns(pause_between_tries_ns);
  }
  out.taken_ns = os::now_ns();
  return out;
}

}  // namespace annex::detail
