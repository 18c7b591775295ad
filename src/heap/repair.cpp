// heap/repair.cpp - every index of a damaged segment, built anew from the truth. For one who is alone with it.
//
//   truth (kept)                                              index (rebuilt)
//   regions: records, IOVA runs                               which slots are used, have free memory; order and index of runs
//   extents: lengths; holder or record of each                kinds, feet, bins, free and live counts
//   slabs: owner, class, member, free and remote bits         capacity, counts, granule entries, lane and orphan lists
//   magazines: their entries                                  (emptied into the slabs: all threads are dead)
//   zones: records, chains                                    where their extents lie, counts, pages
//   pools: bits, holders                                      counts, caches (emptied)
//   members, threads: who they were                           what they hold, in numbers
//   arena: what all of these occupy                           free lists: the rest
//
// No number is used before it was compared with what it may be (heap/sanity.hpp). Where truth itself is damaged and another
// word still says it (the foot of a free extent its length, a holder its kind), it is taken from there, and said; where
// nothing does, it is left as it is, and the audit afterwards names it. A death in the middle: repair again.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_set>

#include "heap/sanity.hpp"

namespace annex::detail {
namespace {

constexpr size_t most_sentences = 200;

class rebuilder {
 public:
  rebuilder(const segment& s, std::vector<std::string>* changed) : s_(s), h_(s.header()), changed_(*changed) {}

  void run() {
    clear_lock();
    rebuild_regions();
    empty_threads();
    link_slabs();
    rebuild_zones();
    rebuild_members();
    rebuild_arena();
  }

 private:
  template <class... Args>
  void say(fmt::format_string<Args...> format, Args&&... args) {
    if (changed_.size() < most_sentences) changed_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  template <class T, class V>
  void fix(T& word, V right, std::string_view what) {
    const T value = static_cast<T>(right);
    if (word == value) return;
    say("{}: {} instead of {}", what, value, word);
    word = value;
  }
  template <class T, class V>
  void fix(shared_word<T>& word, V right, std::string_view what) { fix(word.value, right, what); }
  bool take(chunk_ref ref, u64 bytes) {
    if (!lies_in_arena(s_, ref, bytes)) return false;
    taken_.emplace_back(u64{ref} * chunk_unit_bytes, u64{ref} * chunk_unit_bytes + chunk_bytes(bytes));
    return true;
  }
  region_record& region(u32 slot) { return s_.at<region_record>(h_.regions_at)[slot]; }

  void clear_lock() {
    h_.lock.value = 0;
    h_.lock_sequence.value &= ~u64{1};
  }

  // ---- regions -----------------------------------------------------------------------------------------------------------
  void rebuild_regions() {
    const u32 last = std::min(h_.region_limit, h_.next_region_id <= limits::region_slots ? h_.next_region_id : h_.region_limit);
    u32 count = 0, used_slots = 0;
    std::vector<u64> used(std::size(h_.used_regions)), with_memory(std::size(h_.used_regions));
    for (u32 slot = 0; slot < last; ++slot) {
      region_record& r = region(slot);
      if (r.state.value == region_free) continue;
      used[slot / 64] |= u64{1} << (slot % 64);
      used_slots = slot + 1;
      ++count;
      if (!is_sane_region(s_, r, slot) || !take(r.granules, u64{r.granule_count} * sizeof(granule_entry)) || !take(r.extents, u64{r.granule_count} * sizeof(extent_entry))) continue;
      rebuild_iovas(r);
      if (r.state.value == region_partial) continue;
      usable_.insert(slot);
      rebuild_extents(slot);
      if (r.state.value == region_active && r.free_granules != 0) with_memory[slot / 64] |= u64{1} << (slot % 64);
    }
    for (u32 word = 0; word < used.size(); ++word) {
      fix(h_.used_regions[word], used[word], "the slots with a region");
      fix(h_.free_regions[word], with_memory[word], "the regions with free memory");
    }
    fix(h_.region_slots_used, std::max(h_.region_slots_used <= h_.region_limit ? h_.region_slots_used : 0, used_slots), "the slots that ever had a region");
    fix(h_.region_count, count, "the count of regions");
    if (h_.region_hint >= h_.region_limit) h_.region_hint = 0;
  }

  void rebuild_iovas(region_record& r) {
    if (r.iova_run_count == 0) return;
    const u64 runs_bytes = u64{r.iova_run_count} * sizeof(iova_run), order_bytes = u64{r.iova_run_count} * sizeof(u32);
    if (u64{r.iova_run_count} > r.length_bytes / r.page_bytes || !take(r.iova_runs, runs_bytes) || !are_sane_runs(r, s_.chunk<iova_run>(r.iova_runs))) return;
    const iova_run* runs = s_.chunk<iova_run>(r.iova_runs);
    const auto right = index_runs({runs, runs + r.iova_run_count}, r.length_bytes, r.page_bytes);
    if (!right) return;
    fix(r.iova_index_shift, right->index_shift, fmt::format("region {}: the step of the IOVA index", r.id.value));
    fix(r.lowest_iova, right->lowest, fmt::format("region {}: the lowest IOVA", r.id.value));
    fix(r.highest_iova, right->highest, fmt::format("region {}: the highest IOVA", r.id.value));
    fix(r.longest_run_bytes, right->longest_run_bytes, fmt::format("region {}: the longest IOVA run", r.id.value));
    if (!take(r.iova_order, order_bytes) || !take(r.iova_index, right->index.size() * sizeof(u32))) return;
    auto write = [&](chunk_ref ref, const std::vector<u32>& table, const char* what) {
      if (std::memcmp(s_.chunk<u32>(ref), table.data(), table.size() * sizeof(u32)) == 0) return;
      say("region {}: the {} of its IOVA runs was built anew", r.id.value, what);
      std::copy(table.begin(), table.end(), s_.chunk<u32>(ref));
    };
    write(r.iova_order, right->order, "order");
    write(r.iova_index, right->index, "index");
  }

  // The length that the foot of a free extent, or the next thing that begins, tells. 0: nothing does.
  u32 length_from_the_rest(const region_record& r, const granule_entry* g, const extent_entry* e, u32 at) const {
    for (u32 i = at + 1; i < r.granule_count; ++i) {
      if (g[i].kind == granule_free && e[i].foot == at) return i - at + 1;
      if (g[i].kind != granule_inside && !((g[i].kind == granule_slab || g[i].kind == granule_slab_held) && g[i].distance == i - at)) return i - at;
    }
    return r.granule_count - at;
  }

  void rebuild_extents(u32 slot) {
    region_record& r = region(slot);
    auto* g = s_.chunk<granule_entry>(r.granules);
    auto* e = s_.chunk<extent_entry>(r.extents);
    const std::string name = fmt::format("region {}", r.id.value);
    struct run { u32 at, length; };
    std::vector<run> free_runs;
    u32 free = 0, live = 0, given = 0;
    for (u32 at = 0; at < r.granule_count;) {
      if (e[at].length == 0 || e[at].length > r.granule_count - at) {
        const u32 length = length_from_the_rest(r, g, e, at);
        say("{}: the extent at granule {} had length {}; what lies around it says {}", name, at, e[at].length, length);
        e[at].length = length;
      }
      const u32 length = e[at].length;
      // What it is, its holder and record tell; the kind only says it faster.
      const bool has_record = lies_in_arena(s_, e[at].record, sizeof(slab_record));
      slab_record* slab = has_record ? s_.chunk<slab_record>(e[at].record) : nullptr;
      const bool is_slab = slab != nullptr && slab->granule == at && slab->region == slot && length <= limits::slab_granules && restore_slab(r, slab, g[at], at, length);
      const u8 kind = is_slab ? (slab->holdings != 0 ? granule_slab_held : granule_slab) : e[at].record != 0 ? granule_zone : e[at].holder != 0 ? granule_large : granule_free;
      auto set_kind = [&](u32 granule, u8 right) {
        if (g[granule].kind == right) return;
        say("{}: granule {} has kind {}, not {}", name, granule, right, g[granule].kind);
        g[granule] = granule_entry{no_owner, right, 0, 0, 0};
      };
      if (!is_slab) {
        set_kind(at, kind);
        for (u32 i = 1; i < length && i < 4096; ++i) set_kind(at + i, kind == granule_free && i == length - 1 ? granule_free : granule_inside);
        if (kind == granule_free && length > 1) set_kind(at + length - 1, granule_free);
      } else {
        slabs_.emplace(e[at].record, place{slot, at, length});
        rebuild_holdings(slab);
      }
      if (kind == granule_zone) zone_extents_[e[at].record] = place{slot, at, length};
      if (kind == granule_large) {
        if (e[at].holder > h_.member_limit) {
          say("{}: the block at granule {} was said to be member {}'s, who is nobody; it is listed under member 1", name, at, e[at].holder);
          e[at].holder = 1;
        }
        ++tallies_[e[at].holder].extents;
      }
      if (kind != granule_free) ++live, given = at + length;
      else if (!free_runs.empty() && free_runs.back().at + free_runs.back().length == at) {
        say("{}: the free extents at granules {} and {} touched", name, free_runs.back().at, at);
        g[at] = g[at - 1] = granule_entry{no_owner, granule_inside, 0, 0, 0};
        free_runs.back().length += length;
        free += length;
      } else {
        free_runs.push_back({at, length});
        free += length;
      }
      at += length;
    }
    if (!are_bins_right(r, g, e, free_runs.size())) {
      say("{}: the lists of its {} free extents were built anew", name, free_runs.size());
      std::fill(std::begin(r.bins), std::end(r.bins), no_extent);
      std::fill(std::begin(r.bin_bits), std::end(r.bin_bits), u8{0});
      r.bin_groups = 0;
      for (const run& f : free_runs) {
        const u32 bin = bin_of(f.length), head = r.bins[bin];
        g[f.at] = g[f.at + f.length - 1] = granule_entry{no_owner, granule_free, 0, 0, 0};
        e[f.at].length = f.length;
        e[f.at].previous = no_extent;
        e[f.at].next = head;
        e[f.at + f.length - 1].foot = f.at;
        if (head != no_extent) e[head].previous = f.at;
        r.bins[bin] = f.at;
        r.bin_bits[bin / 8] = static_cast<u8>(r.bin_bits[bin / 8] | 1u << (bin % 8));
        r.bin_groups |= u64{1} << (bin / 8);
      }
    }
    for (const run& f : free_runs) fix(e[f.at + f.length - 1].foot, f.at, fmt::format("{}: the foot of the free extent at granule {}", name, f.at));
    fix(r.free_granules, free, name + ": free granules");
    fix(r.live_extents, live, name + ": live extents");
    if (given > r.first_clean) fix(r.first_clean, given, name + ": memory never given out");
  }

  bool are_bins_right(const region_record& r, const granule_entry* g, const extent_entry* e, u64 free_extents) const {
    u64 listed = 0, groups = 0;
    for (u32 bin = 0; bin < extent_bins; ++bin) {
      u32 previous = no_extent;
      for (u32 at = r.bins[bin]; at != no_extent; at = e[at].next) {
        if (at >= r.granule_count || g[at].kind != granule_free || e[at].length == 0 || bin_of(e[at].length) != bin || e[at].previous != previous || ++listed > free_extents) return false;
        previous = at;
      }
      if (((r.bin_bits[bin / 8] >> (bin % 8) & 1) != 0) != (r.bins[bin] != no_extent)) return false;
      if (r.bins[bin] != no_extent) groups |= u64{1} << (bin / 8);
    }
    return listed == free_extents && groups == r.bin_groups;
  }

  // ---- slabs ---------------------------------------------------------------------------------------------------------------
  // False: it can't be a slab. What follows from place and class is set right.
  bool restore_slab(const region_record& r, slab_record* slab, const granule_entry& first, u32 at, u32 length) {
    u32 size_class = slab->size_class;
    if (size_class == 0 || size_class >= class_count) {
      size_class = first.size_class;
      if ((first.kind != granule_slab && first.kind != granule_slab_held) || size_class == 0 || size_class >= class_count) return false;
      say("region {}: the slab at granule {} had class {}; its granules say {}", r.id.value, at, slab->size_class, size_class);
      slab->size_class = static_cast<u8>(size_class);
    }
    const u64 begin = u64{at} << r.granule_shift, end = std::min(begin + (u64{length} << r.granule_shift), r.length_bytes);
    const u64 capacity = std::min<u64>((end - begin) / class_bytes[size_class], limits::slab_blocks);
    if (capacity == 0) return false;
    fix(slab->capacity, capacity, fmt::format("region {}: the slab at granule {}: its capacity", r.id.value, at));
    fix(slab->words, divide_up(capacity, 64), fmt::format("region {}: the slab at granule {}: its words", r.id.value, at));
    if (!take(s_.ref_of(slab), slab_record_bytes(slab->words))) return false;
    if (slab->lane >= limits::lanes) fix(slab->lane, 0, fmt::format("region {}: the slab at granule {}: its lane", r.id.value, at));
    if (slab->member == 0 || slab->member > h_.member_limit) {
      say("region {}: the slab at granule {} was said to be member {}'s, who is nobody; its blocks are listed under member 1", r.id.value, at, slab->member);
      slab->member = 1;
    }
    for (u32 w = 0; w < slab->words; ++w) {
      fix(slab->free_words()[w], slab->free_words()[w] & slab->valid_bits(w), fmt::format("region {}: the slab at granule {}: free blocks beyond its capacity", r.id.value, at));
      slab->remote_words()[w].value &= slab->valid_bits(w);
    }
    count_free(slab, fmt::format("region {}: the slab at granule {}: its free blocks", r.id.value, at));
    return true;
  }

  // what empty: its magazines have just been emptied into it, so that the numbers changed rightly.
  void count_free(slab_record* slab, const std::string& what) {
    u32 count = 0;
    u64 summary = 0;
    for (u32 w = 0; w < slab->words; ++w) {
      count += static_cast<u32>(std::popcount(slab->free_words()[w]));
      if (slab->free_words()[w] != 0) summary |= u64{1} << w;
    }
    if (!what.empty()) {
      fix(slab->free_count, count, what);
      fix(slab->summary, summary, what + " (which words have some)");
    }
    slab->free_count = count;
    slab->summary = summary;
  }

  void rebuild_holdings(slab_record* slab) {
    u32 steps = 0;
    for (chunk_ref* link = &slab->holdings; *link != 0;) {
      auto* holding = s_.chunk<holding_record>(*link);
      if (!lies_in_arena(s_, *link, holding_record_bytes(slab->words)) || holding->words != slab->words || holding->member == 0 || holding->member > h_.member_limit || ++steps > h_.member_limit) {
        say("a slab of class {} had a record of holders that can't be; the blocks are listed under member {}", slab->size_class, slab->member);
        *link = 0;
        break;
      }
      take(*link, holding_record_bytes(slab->words));
      for (u32 w = 0; w < slab->words; ++w) fix(holding->bits()[w], holding->bits()[w] & slab->valid_bits(w) & ~slab->free_words()[w], "free blocks with a holder");
      ++tallies_[holding->member].holdings;
      link = &holding->next;
    }
  }

  // ---- threads: all dead; what they kept goes back to the slabs ---------------------------------------------------------------
  void empty_threads() {
    u32 used = 0;
    const u32 last = h_.thread_slots_used.value <= h_.thread_limit ? h_.thread_slots_used.value : h_.thread_limit;
    for (u32 i = 0; i < last; ++i) {
      thread_slot& slot = s_.slot(i);
      if (member_of_state(slot.state.value) > h_.member_limit) {
        say("thread {} was said to be member {}'s, who is nobody", i, member_of_state(slot.state.value));
        slot.state.value = slot.state.value >> 16 << 16;
      }
      if (slot.inflight_region_1 > h_.region_limit) fix(slot.inflight_region_1, 0, "a large block on its way");
      if (slot.cache != 0 && !take(slot.cache, sizeof(thread_cache))) {
        say("thread {} had a cache outside the arena", i);
        slot.cache = 0;
      }
      if (slot.state.value != 0 || slot.cache != 0) used = i + 1;
      if (slot.cache == 0) continue;
      auto& c = *s_.chunk<thread_cache>(slot.cache);
      if (c.slot != i) continue;
      for (u32 k = 1; k < class_count; ++k) empty_magazine(c, i, k);
      std::fill(std::begin(c.lanes), std::end(c.lanes), 0);
      std::fill(std::begin(c.used_lanes), std::end(c.used_lanes), 0);
      c.busy.value = c.frozen.value = 0;
    }
    fix(h_.thread_slots_used, std::max(used, last), "the thread slots that were ever used");
  }

  void empty_magazine(thread_cache& c, u32 thread, u32 k) {
    magazine& m = c.magazines[k];
    const u64* const entries = c.entries_of(k);
    u32 n = m.count.value;
    if (n > magazine_slots) {
      say("thread {}: {} entries in the magazine of class {} can't be; the blocks it may have kept stay with their holder", thread, n, k);
      n = 0;
    }
    for (u32 i = 0; i < n; ++i) {
      const auto [slab, index] = usable_.contains(static_cast<u32>(entries[i] >> region_shift))
                                     ? find_cached_block(s_, entries[i], k, [&](chunk_ref ref) { return slabs_.contains(ref); }) : cached_block{nullptr, 0};
      if (slab == nullptr) {
        say("thread {} kept {:#x}, which is no block of class {}", thread, entries[i], k);
        continue;
      }
      const u64 bit = u64{1} << (index % 64);
      if ((slab->free_words()[index / 64] & bit) != 0) say("thread {} kept block {} of a slab of class {}, which was free already", thread, index, k);
      clear_holders(s_, slab, index / 64, bit);
      slab->free_words()[index / 64] |= bit;
    }
    compiler_fence();  // R2: in the slabs before they leave the magazine
    m.count.value = 0;
    m.capacity = std::min(m.capacity, magazine_slots);
    m.block_bytes = class_bytes[k];
    m.divisor = class_divisor[k];
    m.partial = m.empties = 0;
  }

  void link_slabs() {
    std::fill(std::begin(h_.orphans), std::end(h_.orphans), 0);
    for (const auto& [ref, where] : slabs_) {
      auto* slab = s_.chunk<slab_record>(ref);
      const region_record& r = region(where.slot);
      thread_cache* owner = nullptr;
      if (slab->owner < h_.thread_slots_used.value && member_of_state(s_.slot(slab->owner).state.value) != 0 && s_.slot(slab->owner).cache != 0) {
        owner = s_.chunk<thread_cache>(s_.slot(slab->owner).cache);
        if (owner->slot != slab->owner || owner->key == 0) owner = nullptr;
      }
      if (owner == nullptr && slab->owner != no_owner) fix(slab->owner, no_owner, fmt::format("region {}: the slab at granule {}: its owner", r.id.value, where.granule));
      auto* g = s_.chunk<granule_entry>(r.granules) + where.granule;
      const u8 kind = slab->holdings != 0 && owner != nullptr ? granule_slab_held : granule_slab;
      for (u32 i = 0; i < where.length; ++i) {
        const granule_entry right = slab_granule(*slab, i, slab->owner, kind, r.granule_shift);
        if (std::bit_cast<u64>(g[i]) != std::bit_cast<u64>(right) && (g[i].kind != granule_slab_held || kind != granule_slab))
          say("region {}: granule {} names its slab again", r.id.value, where.granule + i);
        g[i] = right;
      }
      count_free(slab, "");
      slab->in_partial = 0;
      if (owner != nullptr) mark_lane(*owner, slab->lane);
      else ++tallies_[slab->member].orphans;
      chunk_ref& head = owner != nullptr ? owner->lanes[slab->lane] : h_.orphans[slab->size_class];
      slab->lane_previous = 0;
      slab->lane_next = head;
      if (head != 0) s_.chunk<slab_record>(head)->lane_previous = ref;
      head = ref;
    }
  }

  // ---- zones, pools, rings ------------------------------------------------------------------------------------------------------
  void rebuild_zones() {
    u32 count = 0;
    u64 pages = 0;
    std::unordered_set<chunk_ref> seen;
    auto restore = [&](chunk_ref ref) {
      auto* z = s_.chunk<zone_record>(ref);
      if (z->type == zone_type::plain && (z->table != 0 || z->table_bytes != 0)) {
        say("a plain zone had a table, which only pools and rings have");
        z->table = 0;
        z->table_bytes = 0;
      }
      if (!is_sane_zone(*z)) return false;
      if (const auto found = zone_extents_.find(ref); found != zone_extents_.end()) {
        const place& p = found->second;
        const region_record& r = region(p.slot);
        const u64 offset = (u64{p.granule} << r.granule_shift) + u64{s_.chunk<extent_entry>(r.extents)[p.granule].lead} * 64;
        const u64 room = std::min((u64{p.granule} + p.length) << r.granule_shift, r.length_bytes) - offset;
        const std::string name = fmt::format("zone \"{}\"", z->name);
        fix(z->region_slot, p.slot, name + ": its region's slot");
        fix(z->granule, p.granule, name + ": its granule");
        fix(z->offset_bytes, offset, name + ": its offset");
        if (z->size_bytes > room) fix(z->size_bytes, room, name + ": its size");
      } else if (z->type != zone_type::ring) {
        return false;
      }
      if (!seen.insert(ref).second) return false;
      take(ref, sizeof(zone_record));
      if (z->type != zone_type::plain && take(z->table, z->table_bytes) && z->table_bytes >= sizeof(pool_table)) {
        if (z->type == zone_type::pool) rebuild_pool(*z);
        else rebuild_ring(*z);
      }
      ++count;
      return true;
    };
    chunk_ref* const buckets = s_.zone_buckets();
    chunk_ref* const end = buckets + limits::zone_buckets;
    for (chunk_ref* used = buckets; (used = std::find_if(used, end, [](chunk_ref head) { return head != 0; })) != end; ++used) {
      const auto bucket = static_cast<u32>(used - buckets);
      pages |= u64{1} << (bucket / (limits::zone_buckets / 64));
      for (chunk_ref* link = used; *link != 0;) {
        if (lies_in_arena(s_, *link, sizeof(zone_record)) && restore(*link)) {
          link = &s_.chunk<zone_record>(*link)->next;
          continue;
        }
        say("the chain of zones {} led to something that is no zone", bucket);
        *link = 0;
      }
    }
    for (const auto& [ref, where] : zone_extents_) {  // in memory, but in no chain
      if (seen.contains(ref) || !lies_in_arena(s_, ref, sizeof(zone_record)) || !restore(ref)) continue;
      auto* z = s_.chunk<zone_record>(ref);
      const u32 bucket = zone_bucket_of(z->name);
      say("zone \"{}\" was in no chain", z->name);
      z->next = s_.zone_buckets()[bucket];
      s_.zone_buckets()[bucket] = ref;
      pages |= u64{1} << (bucket / (limits::zone_buckets / 64));
    }
    fix(h_.zone_count, count, "the count of zones");
    fix(h_.zone_pages.value, h_.zone_pages.value | pages, "the pages of zone chains");
  }

  void rebuild_pool(const zone_record& z) {
    auto* pool = s_.chunk<pool_table>(z.table);
    if (!is_sane_pool(s_, z, *pool)) return;
    u16* const holders = pool->holders(h_.thread_limit);
    pool->only_member = several_members;  // slower, and never wrong
    const std::string name = fmt::format("pool \"{}\"", z.name);
    std::vector<bool> in_cache(pool->object_count);
    std::vector<pool_cache*> kept;
    for (u32 i = 0; i < h_.thread_limit; ++i) {
      chunk_ref& ref = pool->caches()[i];
      if (ref == 0) continue;
      if (!take(ref, sizeof(pool_cache))) {
        say("{}: the cache of thread {} lay outside the arena", name, i);
        ref = 0;
        continue;
      }
      auto* cache = s_.chunk<pool_cache>(ref);
      cache->capacity = pool_cache_slots;
      for (u32 n = 0; n < std::min(cache->count.value, pool_cache_slots); ++n) {
        if (cache->entries[n] / pool->object_bytes >= pool->object_count || cache->entries[n] % pool->object_bytes != 0) say("{}: thread {} kept {:#x}, which is no object", name, i, cache->entries[n]);
        else in_cache[cache->entries[n] / pool->object_bytes] = true;
      }
      kept.push_back(cache);
    }
    u32 in_bits = 0, first = pool->words;
    for (u32 w = 0; w < pool->words; ++w) {
      u64& word = pool->bits()[w];
      word &= low_bits(std::min<u32>(64, pool->object_count - w * 64));
      for (u32 bit = 0; bit < 64 && w * 64 + bit < pool->object_count; ++bit) {
        const u32 object = w * 64 + bit;
        if (in_cache[object]) word |= u64{1} << bit;
        if ((word >> bit & 1) != 0) {
          holders[object] = 0;
        } else if (holders[object] == 0 || holders[object] > h_.member_limit) {
          say("{}: object {} was nowhere; it is in the pool again", name, object);
          holders[object] = 0;
          word |= u64{1} << bit;
        } else {
          ++tallies_[holders[object]].objects;
        }
      }
      in_bits += static_cast<u32>(std::popcount(word));
      if (word != 0) first = std::min(first, w);
    }
    compiler_fence();  // R2: in the bits before they leave the caches
    for (pool_cache* cache : kept) cache->count.value = 0;
    if (std::none_of(in_cache.begin(), in_cache.end(), [](bool b) { return b; })) fix(pool->in_bits, in_bits, name + ": the count of objects in it");
    pool->in_bits.value = in_bits;
    pool->first_word = first;
  }

  void rebuild_ring(const zone_record& z) {
    auto* ring = s_.chunk<ring_table>(z.table);
    if (!is_sane_ring(z, *ring)) return;
    for (ring_taker& taker : ring->takers) {
      if (taker.member.value > h_.member_limit) fix(taker.member, 0, fmt::format("ring \"{}\": a taker", z.name));
      if (taker.count.value > in_hand_limit) fix(taker.count, 0, fmt::format("ring \"{}\": items in hand", z.name));
      if (taker.confirmed.value > in_hand_limit) fix(taker.confirmed, 0, fmt::format("ring \"{}\": items in hand", z.name));
    }
  }

  // ---- members -------------------------------------------------------------------------------------------------------------------
  void rebuild_members() {
    u32 used = h_.member_records_used.value;
    for (const auto& [id, counted] : tallies_)
      if (id <= h_.member_limit) used = std::max(used, id);
    fix(h_.member_records_used, used, "the member records that were ever used");
    for (u32 id = 1; id <= used; ++id) {
      member_record& m = s_.member(id);
      const tally& t = tallies_[id];
      const std::string name = fmt::format("member {}", id);
      const bool holds = t.extents + t.holdings + t.orphans + t.objects != 0;
      // Live is always right: the kernel says that it is gone, and the next attach recovers it.
      if (m.state.value > member_dead || (m.state.value == member_free && holds)) fix(m.state, member_live, name + ": its state");
      fix(m.extents_held, t.extents, name + ": large blocks it holds");
      fix(m.holdings, t.holdings, name + ": slabs it holds blocks in");
      fix(m.slabs_orphaned, t.orphans, name + ": slabs it left behind");
      if (m.state.value == member_dead) m.pool_objects_held = t.objects;
      if (m.region_claims != 0 && !take(m.region_claims, u64{h_.region_limit} * sizeof(region_claim))) fix(m.region_claims, 0, name + ": its claims");
    }
  }

  // ---- the arena: what nobody has is free ------------------------------------------------------------------------------------------
  void rebuild_arena() {
    std::sort(taken_.begin(), taken_.end());
    arena_lists& a = h_.arena;
    const audit_report before = inspect_arena();
    if (before.holds()) return;
    say("the lists of free metadata were built anew");
    std::fill(std::begin(a.small_free), std::end(a.small_free), 0);
    std::fill(std::begin(a.large_free), std::end(a.large_free), 0);
    a.small_top = a.small_end = 0;
    u64 at = h_.arena_at;
    for (const auto& [begin, end] : taken_) {
      if (begin > at) free_space(s_, at, begin);
      at = std::max(at, end);
    }
    if (at < a.top) free_space(s_, at, a.top);
  }
  // By the audit: only its findings about the arena count here.
  audit_report inspect_arena() const {
    audit_report all, arena;
    inspect_segment(s_, {}, true, &all);
    for (const std::string& sentence : all.broken)
      if (sentence.starts_with("A")) arena.broken.push_back(sentence);
    if (arena.holds() && !all.holds()) arena.broken.emplace_back("A2 was not looked at");
    return arena;
  }

  struct place { u32 slot, granule, length; };
  struct tally { u32 extents = 0, holdings = 0, orphans = 0, objects = 0; };
  const segment& s_;
  segment_header& h_;
  std::vector<std::string>& changed_;
  std::vector<std::pair<u64, u64>> taken_;
  std::map<chunk_ref, place> slabs_, zone_extents_;
  std::map<u32, tally> tallies_;
  std::unordered_set<u32> usable_;  // slots of regions whose tables were walked
};

}  // namespace

repair_report rebuild_indexes(const segment& s) {
  repair_report report;
  audit_report before;
  inspect_segment(s, {}, true, &before);
  report.found = before.broken;
  rebuilder(s, &report.changed).run();
  if (std::any_of(report.found.begin(), report.found.end(), [](const std::string& sentence) { return sentence.starts_with("S4"); })) report.changed.emplace_back("the lists of slabs were built anew");
  inspect_segment(s, {}, true, &report.after);
  return report;
}

}  // namespace annex::detail
