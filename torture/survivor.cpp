// torture/survivor.cpp - see survivor.hpp.
#include "survivor.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <utility>

#include "heap/local_heap.hpp"

namespace annex::torture {
namespace {

constexpr int place_shift = 44;
constexpr std::uint64_t is_place = std::uint64_t{1} << 63;
constexpr std::size_t most_past = 20'000;

constexpr std::size_t sizes[] = {64,   64,    64,    64,     200,    1000,
                                 5000, 20000, 65536, 100000, 300000, 2000};
constexpr std::size_t iova_region_bytes = 2 << 20;

std::size_t size_of(int index) {
  return sizes[static_cast<std::size_t>(index) % std::size(sizes)];
}

std::uint64_t place_in(std::uint64_t slot, std::uint64_t offset) {
  return is_place | slot << place_shift | offset;
}

std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

}  // namespace

std::string where_we_are;

void fail(const std::string& what) {
  std::fprintf(stderr, "\nFAILED in %s: %s\n", where_we_are.c_str(), what.c_str());
  std::fflush(stderr);
  std::abort();
}

survivor::survivor(const heap_options& options) {
  char name[] = "/dev/shm/annex-torture-XXXXXX";
  directory_ = ::mkdtemp(name);
  ::setenv("ANNEX_DIR", directory_.c_str(), 1);
  void* shared =
      ::mmap(nullptr, sizeof(books), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  book_ = new (shared) books{};
  heap_ = must(heap::create(heap_name, options));
  must(heap_.bring_memory({.length_bytes = 4 << 20}));   // granules of 4 KiB
  must(heap_.bring_memory({.length_bytes = 40 << 20}));  // of 64 KiB
  const int fd = ::memfd_create("scattered", 0);
  if (fd < 0 || ::ftruncate(fd, iova_region_bytes) != 0) fail("no memfd");
  void* base = ::mmap(nullptr, iova_region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  std::vector<iova> iovas;
  // Runs of 64 pages.
  for (std::size_t i = 0; i < iova_region_bytes / 4096; ++i)
    iovas.push_back(iova{0x100000000 + i * 4096 + i / 64 * 0x1000000});
  must(heap_.add_memory(
      {.base = base, .length_bytes = iova_region_bytes, .page_iovas = iovas, .fd = fd}));
  ::close(fd);
  blocks_.resize(survivor_blocks);
  lent_.resize(survivor_blocks);
  set_the_scene();
}

survivor::~survivor() {
  for (auto& entry : book_->survivor)
    if (const std::uint64_t block = entry.exchange(0)) heap::free(at_place(heap_, block));
  heap_.trim();
  if (const heap_stats s = heap_.stats(); s.live_blocks != 0 || s.free_bytes != s.total_bytes) {
    heap_.for_each_map_piece([](const map_piece& p) {
      if (p.use != map_use::free)
        fmt::print(stderr,
                   "  region {} offset {:#x} use {} length {} blocks of {}: {} live, {} cached; "
                   "holder {}\n",
                   static_cast<unsigned>(p.region), p.offset_bytes, static_cast<int>(p.use),
                   p.length_bytes, p.block_bytes, p.live_bytes, p.cached_bytes,
                   static_cast<unsigned>(p.holder));
    });
    fail(fmt::format("at the end {} blocks are live and {} of {} bytes free", s.live_blocks,
                     s.free_bytes, s.total_bytes));
  }
  std::vector<region_id> regions;
  heap_.for_each_region([&](const region_summary& r) { regions.push_back(r.id); });
  for (const region_id r : regions)
    must(heap_.drain_memory(r, std::chrono::seconds(5)));
  heap_ = heap{};
  must(heap::destroy(heap_name));
  if (!std::filesystem::is_empty(directory_)) fail("files were left in " + directory_);
  std::filesystem::remove_all(directory_);
  ::munmap(book_, sizeof(books));
}

void survivor::set_the_scene() {
  for (int i = 0; i < survivor_blocks; ++i) {
    if (book_->survivor[i].load() != 0) continue;
    blocks_[static_cast<std::size_t>(i)] = heap_.allocate(size_of(i));
    if (blocks_[static_cast<std::size_t>(i)] == nullptr)
      fail("the survivor got no block: " + std::string(heap::last_failure().message()));
    std::memset(blocks_[static_cast<std::size_t>(i)], i + 1, size_of(i));
    lent_[static_cast<std::size_t>(i)] = blocks_[static_cast<std::size_t>(i)];
    book_->survivor[i] = place_of(heap_, blocks_[static_cast<std::size_t>(i)]);
  }
  for (auto& entry : book_->victim)
    entry = 0;
  book_->victims = 0;
  book_->victim_member = 0;
  book_->names = 0;
}

void survivor::name_blocks() {
  for (int i = 0; i < survivor_blocks; ++i) {
    const handle name = heap_.handle_of(blocks_[static_cast<std::size_t>(i)]);
    if (name == null_handle) fail("a block of the survivor's got no handle");
    book_->survivors_name[i] = static_cast<std::uint64_t>(name);
  }
}

void survivor::forget(std::atomic<std::uint64_t>& name) {
  if (const std::uint64_t past = name.exchange(0)) past_.push_back(handle{past});
}

// Once the dead are reaped: nothing of the victim's is left.
void survivor::check_names() {
  for (std::uint32_t i = 0; i < book_->names.load(); ++i)
    forget(book_->named[i].name);
  book_->names = 0;
  for (const handle past : past_)
    if (const auto found = heap_.resolve(past))
      fail(fmt::format("handle {:#x} of a block that was freed leads to {}",
                       static_cast<std::uint64_t>(past), *found));
  if (past_.size() > most_past) past_.erase(past_.begin(), past_.begin() + most_past / 2);
}

void survivor::go_on_at_once() {
  auto timed = [&](auto work) {
    const std::uint64_t before = now_ns();
    work();
    longest_wait_ns_ = std::max(longest_wait_ns_, now_ns() - before);
  };
  void* small = nullptr;
  void* large = nullptr;
  timed([&] { small = heap_.allocate(64); });
  timed([&] { large = heap_.allocate(150000); });
  if (small == nullptr || large == nullptr)
    fail("the survivor can't go on: " + std::string(heap::last_failure().message()));
  timed([&] { heap::free(large); });
  timed([&] { heap::free(small); });
  timed([&] { (void)heap_.recover(); });
}

void survivor::check_books(std::uint64_t held_in_hand) {
  std::map<std::uint64_t, std::uint32_t> live;
  must(heap_.for_each_block([&](const block_summary& b) {
    if (b.kind != block_kind::zone) live[place_of(heap_, b)] = static_cast<std::uint32_t>(b.holder);
  }));
  const auto me = static_cast<std::uint32_t>(heap_.self());
  for (int i = 0; i < survivor_blocks; ++i) {
    const std::uint64_t block = book_->survivor[i].load();
    void* const lent = std::exchange(lent_[static_cast<std::size_t>(i)],
                                     block != 0 ? blocks_[static_cast<std::size_t>(i)] : nullptr);
    if (block == 0) {
      // Crossed out, and perhaps not freed: it was in the dead one's hands, nobody else will free
      // it.
      const auto found = lent != nullptr ? live.find(place_of(heap_, lent)) : live.end();
      if (found == live.end() || found->second != me) {
        forget(book_->survivors_name[i]);
        continue;
      }
      heap::free(lent);
      forget(book_->survivors_name[i]);
      live.erase(found);
      if (held_in_hand-- == 0) fail("an operation that frees nothing crossed a block out");
      continue;
    }
    const auto found = live.find(block);
    if (found == live.end())
      fail(fmt::format("the survivor's block {:#x} is not live any more", block));
    if (found->second != me)
      fail(fmt::format("the survivor's block {:#x} is listed under member {}", block,
                       found->second));
    const auto* bytes = static_cast<const unsigned char*>(blocks_[static_cast<std::size_t>(i)]);
    if (!std::all_of(bytes, bytes + size_of(i), [&](unsigned char c) { return c == i + 1; }))
      fail(fmt::format("the survivor's block {:#x} was written to", block));
    if (const std::uint64_t name = book_->survivors_name[i].load();
        name != 0 &&
        heap_.resolve(handle{name}).value_or(nullptr) != blocks_[static_cast<std::size_t>(i)])
      fail(fmt::format("handle {:#x} does not lead to the survivor's block {:#x}", name, block));
    live.erase(found);
  }
  for (std::uint32_t i = 0; i < book_->names.load(); ++i) {
    const std::uint64_t name = book_->named[i].name.load(), place = book_->named[i].place.load();
    if (place != 0 && heap_.resolve(handle{name}).value_or(nullptr) != at_place(heap_, place))
      fail(fmt::format("handle {:#x} does not lead to the victim's block {:#x}", name, place));
  }
  for (std::uint32_t i = 0; i < book_->victims.load(); ++i) {
    const std::uint64_t block = book_->victim[i].load();
    if (block == 0) continue;
    const auto found = live.find(block);
    if (found == live.end()) fail(fmt::format("the victim's block {:#x} is not live", block));
    if (found->second != book_->victim_member.load())
      fail(fmt::format("the victim's block {:#x} is listed under member {}", block, found->second));
    live.erase(found);
  }
  if (live.size() > held_in_hand)
    fail(
        fmt::format("{} blocks are in nobody's book, {} can have been in the victim's hands; the "
                    "first is {:#x} of member {}",
                    live.size(), held_in_hand, live.begin()->first, live.begin()->second));
  for (const auto& [block, holder] : live)
    if (holder == me && held_in_hand == 0)
      fail(fmt::format("block {:#x} is listed under the survivor, who does not have it", block));
}

void survivor::check_after_death(std::uint64_t held_in_hand) {
  auto sound = [&](const char* when) {
    const audit_report report = must(heap_.audit());
    if (!report.holds()) fail(fmt::format("{}: {}", when, report.broken.front()));
    if (!report.exact) fail(fmt::format("{}: a cache could not be held still", when));
  };
  sound("after the death");
  check_books(held_in_hand);
  for (const member_summary& m : heap_.members())
    // Refused when reaping another one has freed the last of its blocks.
    if (!m.alive) (void)heap_.reap(m.id);
  for (const member_summary& m : heap_.members())
    if (!m.alive)
      fail(fmt::format("member {} was reaped and is still listed", static_cast<unsigned>(m.id)));
  if (++deaths_ % 4 == 0) {  // not always: caches that are full have deaths to survive too
    heap_.trim();
    heap_.for_each_map_piece([](const map_piece& p) {
      if (p.use == map_use::slab && p.live_bytes == 0)
        fail(fmt::format("a slab of blocks of {} bytes in region {} is empty, and stays",
                         p.block_bytes, static_cast<unsigned>(p.region)));
    });
  }
  check_names();
  sound("after reaping");
  const heap_stats s = heap_.stats();
  if (s.misuse_count != 0)
    fail(fmt::format("{} blocks are said to have been freed twice; nobody did", s.misuse_count));
  std::uint64_t mine = s.zone_count;
  for (const auto& entry : book_->survivor)
    mine += entry.load() != 0;
  std::uint64_t rings = 0;
  heap_.for_each_zone([&](const zone_summary& z) { rings += z.kind == "ring"; });
  if (s.live_blocks != mine - rings)
    fail(fmt::format("{} blocks and zones are live, {} are known", s.live_blocks, mine - rings));
  if (s.used_bytes + s.cached_bytes + s.free_bytes != s.total_bytes)
    fail(fmt::format("{} used + {} cached + {} free are not the {} bytes there are", s.used_bytes,
                     s.cached_bytes, s.free_bytes, s.total_bytes));
}

std::uint64_t place_of(heap& h, const block_summary& b) {
  const u32 slot = slot_of(b.where);
  return is_place | remote_address(b.where, h.internal()->here.views.record(slot).length_bytes);
}

std::uint64_t place_of(heap& h, const void* block) {
  const auto where = heap::locate(block);
  if (!where) fail("a block lies in no region");
  return place_in(h.internal()->here.views.slot_of(static_cast<u32>(where->region)),
                  where->offset_bytes);
}

void* at_place(heap& h, std::uint64_t place) {
  const local_region& region = *must(
      h.internal()->memory.ensure_attached(static_cast<u32>((place & ~is_place) >> place_shift)));
  return region.base + (place & low_bits(place_shift));
}

void* keep(heap& h, books& b, void* block) {
  if (block == nullptr) return nullptr;
  const std::uint32_t at = b.victims.load(std::memory_order_relaxed);
  if (at >= victim_blocks) std::abort();
  b.victim[at].store(place_of(h, block), std::memory_order_relaxed);
  b.victims.store(at + 1, std::memory_order_relaxed);
  return block;
}

void name_block(heap& h, books& b, const void* block) {
  const handle its = h.handle_of(block);
  if (its == null_handle) fail("a block got no handle");
  const std::uint32_t at = b.names.load(std::memory_order_relaxed);
  if (at >= most_names) std::abort();
  b.named[at].name.store(static_cast<std::uint64_t>(its), std::memory_order_relaxed);
  b.named[at].place.store(place_of(h, block), std::memory_order_relaxed);
  b.names.store(at + 1, std::memory_order_relaxed);
}

void* take_out(heap& h, books& b, std::uint32_t index) {
  const std::uint64_t place = b.victim[index].exchange(0);
  if (place == 0) return nullptr;
  for (std::uint32_t i = 0; i < b.names.load(std::memory_order_relaxed); ++i)
    if (b.named[i].place.load(std::memory_order_relaxed) == place)
      b.named[i].place.store(0, std::memory_order_relaxed);
  return at_place(h, place);
}

void drop(heap& h, books& b) {
  std::uint32_t at = b.victims.load(std::memory_order_relaxed);
  while (at > 0) {
    void* const block = take_out(h, b, --at);
    b.victims.store(at, std::memory_order_relaxed);
    if (block == nullptr) continue;
    heap::free(block);
    return;
  }
}

void drop_survivors(heap& h, books& b, int index) {
  const std::uint64_t block = b.survivor[index].exchange(0);
  if (block != 0) heap::free(at_place(h, block));
}

}  // namespace annex::torture
