// tests/bus_index_test.cpp - from a bus address to a byte among regions whose IOVAs lie among each
// other, beside a map that knows every page (region/bus_index.hpp, region/iova_map.hpp).
#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "bare_segment.hpp"
#include "region/iova_map.hpp"

namespace annex {
namespace {

using bus = in_own_directory;

TEST_F(bus, an_address_leads_to_its_region_whichever_come_and_go) {
  const u32 seed = a_seed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  constexpr u64 page = 4096, pages = 8, regions = 40;
  heap h = heap_with(0);
  mapped_memory m(regions * pages * page, PROT_NONE);
  std::map<u64, char*> model;  // page of the bus → address
  std::map<char*, std::pair<region_id, std::vector<iova>>> there;
  for (int step = 0; step < 300; ++step) {
    char* const base = m.data() + random() % regions * pages * page;
    if (const auto found = there.find(base); found != there.end()) {
      must(h.remove_memory(found->second.first));
      for (const iova at : found->second.second)
        model.erase(static_cast<u64>(at));
      there.erase(found);
    } else {
      // Far from all others, or among them.
      const u64 from = random() % 4 == 0 ? (1 + random() % 1000) * GiB : 0;
      const u64 spread = random() % 3 == 0 ? pages : 400;
      std::vector<iova> iovas;
      while (iovas.size() < pages)
        if (const iova at{from + random() % spread * page};
            std::find(iovas.begin(), iovas.end(), at) == iovas.end())
          iovas.push_back(at);
      const auto added = h.add_memory(
          {.base = base, .length_bytes = pages * page, .page_iovas = iovas, .access = touch::none});
      const bool is_free = std::none_of(iovas.begin(), iovas.end(), [&](iova at) {
        return model.contains(static_cast<u64>(at));
      });
      ASSERT_EQ(added.has_value(), is_free) << step;
      if (!added) {
        EXPECT_EQ(added.error().code, errc::iova_overlap);
        continue;
      }
      for (u64 i = 0; i < pages; ++i)
        model[static_cast<u64>(iovas[i])] = base + i * page;
      there[base] = {*added, iovas};
    }
    for (int n = 0; n < 50; ++n) {
      u64 at = random() % (400 * page);
      if (n % 2 == 0 && !model.empty())
        at = std::next(model.begin(), static_cast<long>(random() % model.size()))->first +
             random() % page;
      const auto found = model.find(at / page * page);
      char* const right = found != model.end() ? found->second + at % page : nullptr;
      ASSERT_EQ(h.address_of(iova{at}), right) << step;
    }
  }
  expect_sound(h);
}

TEST(iova_maps, share_what_comparing_every_page_finds) {
  const u32 seed = a_seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  constexpr u64 page = 4096;
  auto some_pages = [&](u64 count, u64 of) {
    std::vector<iova> iovas;
    std::vector<bool> taken(of);
    while (iovas.size() < count)
      if (const u64 at = random() % of; !taken[at]) {
        taken[at] = true;
        iovas.push_back(iova{at * page});
      }
    return iovas;
  };
  for (int round = 0; round < 500; ++round) {
    const u64 of = 2000, counts[] = {1, 3, 40, 400};
    const auto a = some_pages(counts[random() % 4], of), b = some_pages(counts[random() % 4], of);
    const auto mine = must(make_iova_tables(a, page)), other = must(make_iova_tables(b, page));
    const iova_map map{mine.runs.data(),  mine.index.data(),
                       mine.order.data(), static_cast<u32>(mine.runs.size()),
                       mine.index_shift,  a.size() * page};
    const bool any = std::any_of(
        a.begin(), a.end(), [&](iova at) { return std::find(b.begin(), b.end(), at) != b.end(); });
    const auto shared = map.shared_with(sorted_spans(other, b.size() * page));
    ASSERT_EQ(shared.has_value(), any) << round;
    if (shared) {
      EXPECT_TRUE(map.overlaps(shared->address, shared->bytes)) << round;
    }
  }
}

}  // namespace
}  // namespace annex
