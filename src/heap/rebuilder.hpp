// heap/rebuilder.hpp - the parts of a repair. See repair.cpp for what is truth and what is rebuilt.
//
//   repair.cpp            order, threads, lists of slabs, members, arena
//   repair_extents.cpp    regions, IOVAs, extents, slabs
//   repair_views.cpp      zones, pools, rings
//
// Nothing is handed out on the word of one witness: what may be in use by one and free by another
// stays in use, and doubt() names it. What belongs to nobody that is known is kept for a dead
// member of its own (nobody()), so that `who` lists it and `reap` frees it, once somebody has
// looked.
#pragma once
#include <fmt/format.h>

#include <map>
#include <set>
#include <unordered_set>

#include "heap/sanity.hpp"

namespace annex::detail {

class rebuilder {
 public:
  rebuilder(const segment& s, repair_report* report, bool caches_are_believed)
      : s_(s), h_(s.header()), report_(*report), caches_are_believed_(caches_are_believed) {}
  void run();

 private:
  struct place {
    u32 slot, granule, length;
  };
  struct tally {
    u32 extents = 0, holdings = 0, orphans = 0, objects = 0;
  };
  /// The tables of one region.
  struct tables {
    region_record& r;
    granule_entry* g;
    extent_entry* e;
    u32 slot;
    std::string name;
  };

  // ---- repair.cpp
  template <class... Args>
  void say(fmt::format_string<Args...> format, Args&&... args) {
    if (report_.changed.size() < most_sentences)
      report_.changed.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  /// Names what nothing vouches for.
  template <class... Args>
  void doubt(fmt::format_string<Args...> format, Args&&... args) {
    if (report_.uncertain.size() < most_doubts)
      report_.uncertain.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  template <class T, class V>
  void fix(T& word, V right, std::string_view what) {
    const T value = static_cast<T>(right);
    if (word == value) return;
    say("{}: {} instead of {}", what, value, word);
    word = value;
  }
  template <class T, T most, class V>
  void fix(at_most<T, most>& word, V right, std::string_view what) {
    fix(word.value, right, what);
  }
  template <class T, class V>
  void fix(shared_word<T>& word, V right, std::string_view what) {
    fix(word.value, right, what);
  }
  /// The chunk lies in the arena and is nobody else's; from now on it is taken.
  bool take(chunk_ref ref, u64 bytes);
  bool is_taken(u64 begin, u64 end) const;
  region_record& region(u32 slot) { return s_.at<region_record>(s_.geometry().regions_at)[slot]; }
  /// A dead member for what belongs to nobody that is known.
  u32 nobody();
  bool is_member(u32 id) const noexcept { return id != 0 && id <= s_.member_limit(); }
  void mend_header();
  void mend_arena_top();
  void empty_threads();
  void empty_magazine(thread_cache& c, u32 thread, u32 k);
  void give_back(const thread_cache& c, u32 count, u32 k);
  void link_slabs();
  void rebuild_members();
  void rebuild_arena();
  audit_report inspect_arena() const;

  // ---- repair_extents.cpp
  void find_regions();
  bool mend_region(u32 slot, bool is_counted);
  void rebuild_regions();
  void rebuild_iovas(region_record& r);
  void rebuild_extents(u32 slot);
  u8 kind_in_use(const tables& t, u32 at) const noexcept;
  bool is_free_run(const tables& t, u32 at) const noexcept;
  bool begins_something(const tables& t, u32 at);
  u8 mend_extent(tables& t, u32 at, u32 length);
  void keep_as_block(tables& t, u32 at, u32 length, u32 holder);
  void keep_all(tables& t);
  bool are_bins_right(const tables& t, u64 free_extents) const;
  void rebuild_numbers(region_record& r, u32 slot);
  void rebuild_name(const tables& t, u32 at, u8 kind);
  void forget_table(region_record& r, u32 slot, u32 at, extent_entry& e);
  bool take_words(const region_record& r, u32 slot, chunk_ref ref, u32 count);
  chunk_ref find_slab(u32 slot, u32 granule);
  bool restore_slab(tables& t, u32 at, u32 length);
  bool mend_slab(const tables& t, slab_record* slab, u32 at, u32 length);
  void restore_blocks(const tables& t, slab_record* slab, u32 at);
  void rebuild_holdings(const tables& t, slab_record* slab, u32 at);
  void count_free(slab_record* slab, const std::string& what);

  // ---- repair_views.cpp
  void find_zones();
  void rebuild_zones();
  bool restore_zone(chunk_ref ref);
  void rebuild_spares();
  void number_views();
  void number_zones();
  void number_ring(ring_table& ring);
  void find_lost_rings();
  void keep_zones_without_records();
  bool rebuild_pool(zone_record& z);
  bool rebuild_ring(zone_record& z);

  static constexpr size_t most_sentences = 200, most_doubts = 10'000;
  const segment& s_;
  segment_header& h_;
  repair_report& report_;
  const bool caches_are_believed_;  // the audit found nothing: they are as good as for an attach
  std::map<u64, u64> taken_;        // begin → end, in bytes
  std::map<chunk_ref, place> slabs_, zone_extents_;
  std::map<std::pair<u32, u32>, chunk_ref>
      zones_at_;  // by region slot and granule: what zones say of themselves
  std::map<std::pair<u32, u32>, chunk_ref>
      slabs_at_;  // likewise slabs; found by their seals when they are asked for
  bool slabs_were_searched_ = false;
  std::vector<chunk_ref> zones_;
  std::unordered_set<chunk_ref> zones_seen_;
  std::map<u32, tally> tallies_;
  std::set<u32> usable_;              // slots of regions whose tables were walked
  std::unordered_set<u32> unsealed_;  // slots of regions whose record nothing vouches for
  u32 nobody_ = 0;
};

/// Changes one byte of the header back, or its seal, if that is what was damaged, and what the
/// file's length or the limits tell. True: it fits its seal now, or did.
bool mend_header(segment_header& h, u64 file_bytes);
/// A file that was cut behind the arena's top gets the spare bytes back that no chunk is without.
/// Nothing of a chunk is made up.
void lengthen_behind_the_arena(const segment& s);

}  // namespace annex::detail
