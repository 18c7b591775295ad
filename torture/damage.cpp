// torture/damage.cpp - a segment at rest is damaged; what is live in it must not be handed out
// again, nor be lost without a word.
//
//   torture_damage [--runs N] [--seed N] [--image NAME] [--show]
//
//   images: a heap with everything in it, of which two processes were killed: as they left it
//   (killed), after recovery (rest), and the same of a checked heap. Each run takes one of them
//   and, by its seed, flips a bit, overwrites a word or some bytes, cuts or lengthens the file,
//   empties a page, or flips two bits. Then a process of its own attaches; if it is refused, it
//   repairs and attaches again; compares what is there with what was; and allocates until nothing
//   is left.
//
// Fails on a crash, a hang, live memory handed out again, memory handed out twice or said to be
// zero when it is not, and on a loss that the repair did not name (repair_report::uncertain) or
// that nobody noticed. Only the caches of the dead (magazines, of threads and pools) have no
// witness: where an image as it was killed is damaged just there, the run is told apart. So it is
// where handles of live blocks are others afterwards: generations in tables have none.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "arguments.hpp"
#include "heap/local_heap.hpp"
#include "named/pool_table.hpp"

namespace annex::torture {
namespace {

constexpr unsigned char dirt = 0xa5;
constexpr unsigned seconds_per_run = 120;  // also on a busy machine and under a sanitizer
constexpr std::uint32_t pool_objects = 200;
constexpr std::uint64_t ring_slots = 32, ring_taken = 25, ring_values = 20;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}
template <class T>
T must(result<T> r) {
  if (!r) fail("refused: " + std::string(r.error().message()));
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

struct live_range {
  std::uint64_t where, bytes;
};  // a place: slot and offset, without the generation of a handle

// What is true of an image before it is damaged.
struct image {
  std::string name, heap;
  bool is_killed = false;
  std::vector<char> bytes;
  std::vector<std::uint64_t> used;  // lines of 64 bytes that are not all zeros
  std::vector<std::pair<std::uint64_t, std::uint64_t>>
      unwitnessed;  // what the hits write: counts and entries of caches
  std::vector<live_range> live;
  std::set<std::uint64_t> pool_held;               // places of objects that are out
  std::map<std::uint64_t, std::uint64_t> handles;  // of a place: the handle of what is live there
  std::map<u32, u32> offset_bits;                  // of a slot's region

  std::uint64_t place_of(handle h) const {
    const auto bits = offset_bits.find(slot_of(h));
    const std::uint64_t offset =
        bits == offset_bits.end() ? number_of(h) : number_of(h) & low_bits(bits->second);
    return std::uint64_t{slot_of(h)} << limits::handle_slot_shift | offset;
  }
  std::map<std::string, std::vector<char>> regions;  // contents of the files
};

std::vector<char> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}
void write_file(const std::string& path, const std::vector<char>& bytes, std::uint64_t length) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT, 0600);
  const auto count = std::min<std::uint64_t>(length, bytes.size());
  if (fd < 0 || ::ftruncate(fd, 0) != 0 ||
      ::pwrite(fd, bytes.data(), count, 0) != static_cast<ssize_t>(count) ||
      ::ftruncate(fd, static_cast<off_t>(length)) != 0)
    fail("can't write " + path);
  ::close(fd);
}

template <class Work>
int in_child(Work work) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    work();
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

void soil(void* block, std::size_t bytes) {
  if (block != nullptr) std::memset(block, dirt, bytes);
}

// ---- a heap with everything in it ---------------------------------------------------------------

void use_first(const std::string& name, bool is_checked) {
  heap h = must(heap::create(name, {.checked = is_checked,
                                    .metadata_limit_bytes = std::size_t{64} << 20,
                                    .member_limit = 16,
                                    .thread_limit = 16,
                                    .region_limit = 8,
                                    .zone_limit = 64}));
  std::vector<iova> scattered;
  for (std::uint64_t page = 0; page < 512; ++page)
    scattered.push_back(iova{(page + page / 8 * 8) << 12});
  memory_source with_addresses{.length_bytes = 2 << 20};
  with_addresses.page_iovas = scattered;
  must(h.bring_memory(with_addresses));
  must(h.bring_memory({.length_bytes = 4 << 20}));
  std::mt19937_64 random(11);
  std::vector<void*> blocks;
  for (int i = 0; i < 500; ++i) {
    const std::size_t bytes = 16 + random() % (i % 3 == 0 ? 3000 : 300);
    blocks.push_back(h.allocate(bytes));
    soil(blocks.back(), bytes);
  }
  for (int i = 0; i < 10; ++i) {
    const std::size_t bytes = 70'000 + random() % 60'000;
    blocks.push_back(h.allocate(bytes));
    soil(blocks.back(), bytes);
  }
  for (std::size_t i = 0; i < blocks.size(); i += 7)
    (void)h.handle_of(blocks[i]);  // named: their generations are kept
  for (const std::size_t align : {4096u, 65536u})
    blocks.push_back(h.allocate({.size_bytes = 70'000, .align_bytes = align}));
  must(h.reserve_zone("plain", {.size_bytes = 50'000}));
  must(h.reserve_zone("small", {.size_bytes = 5'000}));
  must(h.reserve_zone("half", {.size_bytes = 5'000}, visibility::on_commit));
  auto pool = must(raw_pool::create(h, "pool", {.object_bytes = 96, .object_count = pool_objects}));
  std::array<void*, 60> objects{};
  pool.take_bulk(objects);
  (void)h.handle_of(objects[3]);
  pool.give_bulk(std::span<void* const>(objects).subspan(40));
  auto r = must(ring::create(h, "ring", ring_slots));
  for (std::uint64_t i = 0; i < ring_taken; ++i)
    (void)r.put(handle{i + 1});
  for (std::uint64_t i = 0; i < ring_taken; ++i)
    (void)r.take();
  for (std::uint64_t i = 0; i < ring_values; ++i)
    (void)r.put(handle{ring_taken + i + 1});
  // Another thread frees some of these (remote frees, some collected, some not) and ends with
  // blocks of its own.
  std::thread other([&] {
    for (std::size_t i = 0; i < blocks.size(); i += 4)
      heap::free(std::exchange(blocks[i], nullptr));
    for (int i = 0; i < 60; ++i)
      soil(h.allocate(200), 200);
    for (int i = 0; i < 30; ++i)
      soil(h.allocate(48), 48);
  });
  other.join();
  for (int i = 0; i < 100; ++i)
    heap::free(h.allocate(64));
  for (std::size_t i = 1; i < blocks.size(); i += 4)
    heap::free(std::exchange(blocks[i], nullptr));
  ::kill(::getpid(), SIGKILL);
}

// Adopts what the first left (holdings), frees some of its blocks from afar, and dies with blocks
// in its caches.
void use_second(const std::string& name) {
  heap h = must(heap::attach(name));
  (void)h.recover();
  std::vector<void*> older;
  (void)h.for_each_block([&](const block_summary& b) {
    if (b.kind == block_kind::slab_block && b.address != nullptr) older.push_back(b.address);
  });
  std::vector<void*> blocks;
  for (int i = 0; i < 300; ++i) {
    const std::size_t bytes = 16 + static_cast<std::size_t>(i) * 7 % 900;
    blocks.push_back(h.allocate(bytes));
    soil(blocks.back(), bytes);
  }
  blocks.push_back(h.allocate(90'000));
  for (std::size_t i = 0; i < older.size(); i += 5)
    heap::free(older[i]);
  for (std::size_t i = 0; i < blocks.size(); i += 3)
    heap::free(blocks[i]);
  must(raw_pool::open(h, "pool")).take();
  ::kill(::getpid(), SIGKILL);
}

std::map<std::string, std::vector<char>> region_files(const std::string& heap_name) {
  std::map<std::string, std::vector<char>> files;
  for (const auto& file : std::filesystem::directory_iterator(directory()))
    if (const std::string name = file.path().filename().string();
        name.starts_with(heap_name) && !name.ends_with(".annex"))
      files[file.path().string()] = read_file(file.path().string());
  return files;
}

void note_caches(image& i) {
  const segment s(i.bytes.data(), -1, false);
  auto note = [&](const void* begin, std::uint64_t bytes) {
    i.unwitnessed.emplace_back(s.offset_of(begin), s.offset_of(begin) + bytes);
  };
  for (u32 slot = 0; slot < s.slots_used(); ++slot) {
    if (s.slot(slot).cache == 0) continue;
    auto& c = *s.chunk<thread_cache>(s.slot(slot).cache);
    for (const magazine& m : c.magazines) {
      note(&m.count, sizeof m.count);
      note(m.entries, sizeof m.entries);
    }
  }
  for (u32 bucket = 0; bucket < limits::zone_buckets; ++bucket)
    for (chunk_ref ref = s.zone_buckets()[bucket]; ref != 0;
         ref = s.chunk<zone_record>(ref)->next) {
      const auto& z = *s.chunk<zone_record>(ref);
      if (z.type != zone_type::pool) continue;
      auto* table = s.chunk<pool_table>(z.table);
      const known_pool pool(table, table->object_bytes, table->object_count);
      for (u32 slot = 0; slot < s.thread_limit(); ++slot)
        if (pool.caches()[slot] != 0)
          note(s.chunk<pool_cache>(pool.caches()[slot]), sizeof(pool_cache));
    }
}

image take_image(const std::string& name, const std::string& heap_name, bool is_killed) {
  image i;
  i.name = name;
  i.heap = heap_name;
  i.is_killed = is_killed;
  i.bytes = read_file(directory() + "/" + heap_name + ".annex");
  i.regions = region_files(heap_name);
  for (std::uint64_t at = 0; at + 64 <= i.bytes.size(); at += 64)
    if (std::any_of(i.bytes.begin() + static_cast<std::ptrdiff_t>(at),
                    i.bytes.begin() + static_cast<std::ptrdiff_t>(at + 64),
                    [](char byte) { return byte != 0; }))
      i.used.push_back(at);
  const segment s(i.bytes.data(), -1, false);
  for (u32 slot = 0; slot < s.region_limit(); ++slot)
    if (const auto& r = s.at<region_record>(s.geometry().regions_at)[slot];
        r.state.value == region_active)
      i.offset_bits[slot] = offset_bits_of(r.length_bytes);
  if (is_killed) note_caches(i);
  return i;
}

void note_what_is_live(heap& h, image& i) {
  must(h.for_each_block([&](const block_summary& b) {
    i.live.push_back({i.place_of(b.where), b.size_bytes});
    i.handles[i.place_of(b.where)] = static_cast<std::uint64_t>(b.where);
  }));
  std::sort(i.live.begin(), i.live.end(),
            [](const live_range& a, const live_range& b) { return a.where < b.where; });
  for (const member_summary& m : h.members())
    for (const block_summary& b : h.internal()->care.held_by(static_cast<u32>(m.id)))
      if (b.kind == block_kind::pool_object) i.pool_held.insert(i.place_of(b.where));
}

std::vector<image> make_images() {
  std::vector<image> images;
  for (const bool is_checked : {false, true}) {
    const std::string heap_name = is_checked ? "checked" : "plain",
                      prefix = is_checked ? "checked-" : "";
    in_child([&] { use_first(heap_name, is_checked); });
    in_child([&] { use_second(heap_name); });
    image killed = take_image(prefix + "killed", heap_name, true);
    {
      heap h = must(heap::attach(heap_name));
      (void)h.recover();
      if (const audit_report found = must(h.audit()); !found.holds())
        fail("the heap is broken before it is damaged: " + found.broken.front());
      note_what_is_live(h, killed);
    }
    image rest = take_image(prefix + "rest", heap_name, false);
    rest.live = killed.live;
    rest.handles = killed.handles;
    rest.pool_held = killed.pool_held;
    images.push_back(std::move(killed));
    images.push_back(std::move(rest));
  }
  return images;
}

// ---- a damage -----------------------------------------------------------------------------------

enum class way { bit, word, bytes, cut, longer, page, bits };
constexpr std::array<const char*, 7> way_names{"bit",    "word", "bytes",   "cut",
                                               "longer", "page", "two bits"};

struct damage {
  way kind{};
  std::vector<char> bytes;
  std::uint64_t length = 0;
  bool hits_caches = false;  // of the dead, which have no witness
  std::string text;
};

damage make_damage(const image& i, unsigned seed) {
  std::mt19937_64 random(seed * 2'654'435'761u + 97);
  damage d;
  d.bytes = i.bytes;
  d.length = i.bytes.size();
  auto touch = [&](std::uint64_t at, std::uint64_t bytes) {
    for (const auto& [begin, end] : i.unwitnessed)
      d.hits_caches |= at < end && at + bytes > begin;
    d.text += fmt::format(" {:#x}", at);
  };
  auto somewhere = [&] {
    return random() % 10 < 8 ? i.used[random() % i.used.size()] + random() % 64
                             : random() % i.bytes.size();
  };
  auto flip = [&] {
    const std::uint64_t at = somewhere();
    touch(at, 1);
    d.bytes[at] = static_cast<char>(d.bytes[at] ^ (1 << random() % 8));
  };
  const std::uint64_t roll = random() % 100;
  d.kind = roll < 45   ? way::bit
           : roll < 65 ? way::word
           : roll < 80 ? way::bytes
           : roll < 86 ? way::cut
           : roll < 89 ? way::longer
           : roll < 96 ? way::page
                       : way::bits;
  switch (d.kind) {
    case way::bit: flip(); break;
    case way::bits:
      flip();
      flip();
      break;
    case way::word: {
      const std::uint64_t at = std::min<std::uint64_t>(somewhere() & ~std::uint64_t{7},
                                                       d.bytes.size() - 8),
                          kinds[] = {random(), random() % 1000, 0, ~std::uint64_t{0}};
      const std::uint64_t value = kinds[random() % 4];
      touch(at, 8);
      std::memcpy(d.bytes.data() + at, &value, 8);
      d.text += fmt::format(" = {:#x}", value);
      break;
    }
    case way::bytes:
      for (std::uint64_t n = 1 + random() % 20; n != 0; --n) {
        const std::uint64_t at = somewhere();
        touch(at, 1);
        d.bytes[at] = static_cast<char>(random());
      }
      break;
    case way::cut: d.length = random() % d.bytes.size(); break;
    case way::longer: d.length += random() % (1 << 20); break;
    case way::page: {
      const std::uint64_t at =
          (random() % 10 < 8 ? i.used[random() % i.used.size()] : random() % i.bytes.size()) &
          ~std::uint64_t{4095};
      const std::uint64_t bytes = std::min<std::uint64_t>(4096, d.bytes.size() - at);
      touch(at, bytes);
      std::memset(d.bytes.data() + at, 0, bytes);
      break;
    }
  }
  return d;
}

// ---- what comes of it ---------------------------------------------------------------------------

// Written by the one who looks, read by its parent after its end.
struct finding {
  bool attached_at_once, repaired, repaired_fully, attached_after, is_named, is_done;
  int lost, views_lost, half_found, renamed, handed_out, twice, not_zero, broken_later,
      repair_error;
  char text[300], stage[32];
};
finding* shared_finding;

void note(const char* stage) {
  std::snprintf(shared_finding->stage, sizeof shared_finding->stage, "%s", stage);
}

void compare(heap& h, const image& i, finding& f) {
  note("comparing");
  std::vector<live_range> now;
  (void)h.for_each_block([&](const block_summary& b) {
    const std::uint64_t place = i.place_of(b.where);
    now.push_back({place, b.size_bytes});
    const auto was = i.handles.find(place);
    if (was != i.handles.end() && was->second != static_cast<std::uint64_t>(b.where)) ++f.renamed;
  });
  std::sort(now.begin(), now.end(),
            [](const live_range& a, const live_range& b) { return a.where < b.where; });
  for (const live_range& was : i.live) {
    const auto is =
        std::lower_bound(now.begin(), now.end(), was.where,
                         [](const live_range& a, std::uint64_t where) { return a.where < where; });
    if (is == now.end() || is->where != was.where || is->bytes < was.bytes) ++f.lost;
  }
  for (const char* zone : {"plain", "small"})
    if (!h.find_zone(zone)) ++f.views_lost;
  f.half_found += h.find_zone("half").has_value();
  note("emptying the ring");
  std::uint64_t next = ring_taken + 1, there = 0;
  if (auto r = ring::open(h, "ring"))
    for (handle value = r->take(); value != null_handle && there <= ring_slots;
         value = r->take(), ++next, ++there)
      if (static_cast<std::uint64_t>(value) != next) break;
  if (there != ring_values) ++f.views_lost;
}

void allocate_everything(heap& h, const image& i, finding& f) {
  note("allocating");
  std::vector<live_range> given;
  auto look = [&](void* block, std::size_t bytes) {
    const std::uint64_t where = i.place_of(h.handle_of(block));
    auto after =
        std::upper_bound(i.live.begin(), i.live.end(), where + bytes - 1,
                         [](std::uint64_t at, const live_range& l) { return at < l.where; });
    if (after != i.live.begin() && std::prev(after)->where + std::prev(after)->bytes > where)
      ++f.handed_out;
    given.push_back({where, bytes});
  };
  for (const std::size_t bytes :
       {100'000u, 20'000u, 3'000u, 1'024u, 500u, 256u, 200u, 128u, 64u, 48u, 16u})
    for (int n = 0; n < 20'000; ++n) {
      const bool is_zeroed = n % 2 == 0;
      void* const block = is_zeroed
                              ? h.allocate({.size_bytes = bytes, .align_bytes = 16, .zeroed = true})
                              : h.allocate(bytes);
      if (block == nullptr) break;
      look(block, bytes);
      const auto* at = static_cast<const unsigned char*>(block);
      if (is_zeroed && std::any_of(at, at + bytes, [](unsigned char byte) { return byte != 0; }))
        ++f.not_zero;
    }
  std::sort(given.begin(), given.end(),
            [](const live_range& a, const live_range& b) { return a.where < b.where; });
  for (std::size_t n = 1; n < given.size(); ++n)
    f.twice += given[n - 1].where + given[n - 1].bytes > given[n].where;
  note("emptying the pool");
  auto pool = raw_pool::open(h, "pool");
  if (!pool) {
    ++f.views_lost;
    return;
  }
  std::set<std::uint64_t> taken;
  for (std::uint32_t n = 0; n < pool_objects + 5; ++n) {
    void* const object = pool->take();
    if (object == nullptr) break;
    const std::uint64_t where = i.place_of(h.handle_of(object));
    if (i.pool_held.contains(where)) ++f.handed_out;
    if (!taken.insert(where).second) ++f.twice;
  }
}

void look_at(const image& i, bool shows) {
  finding& f = *shared_finding;
  ::alarm(seconds_per_run);
  note("attaching");
  auto h = heap::attach(i.heap);
  f.attached_at_once = h.has_value();
  if (!h) {
    std::snprintf(f.text, sizeof f.text, "%s", h.error().text);
    note("repairing");
    auto done = heap::repair(i.heap);
    if (!done) {
      f.repair_error = static_cast<int>(done.error().code);
      f.is_done = true;
      return;
    }
    f.repaired = true;
    f.repaired_fully = done->after.holds();
    f.is_named = !done->uncertain.empty() || !done->after.holds();
    if (shows) {
      for (const std::string& sentence : done->found)
        fmt::print("  found      {}\n", sentence);
      for (const std::string& sentence : done->changed)
        fmt::print("  changed    {}\n", sentence);
      for (const std::string& sentence : done->uncertain)
        fmt::print("  uncertain  {}\n", sentence);
      for (const std::string& sentence : done->after.broken)
        fmt::print("  broken     {}\n", sentence);
    }
    note("attaching again");
    h = heap::attach(i.heap);
    f.attached_after = h.has_value();
    if (!h) {
      if (f.repaired_fully) std::snprintf(f.text, sizeof f.text, "%s", h.error().text);
      f.is_done = true;
      return;
    }
  }
  compare(*h, i, f);
  allocate_everything(*h, i, f);
  note("auditing");
  if (auto later = h->audit(); later && !later->holds()) {
    ++f.broken_later;
    std::snprintf(f.text, sizeof f.text, "%s", later->broken.front().c_str());
  }
  note("reaping");
  for (const member_summary& m : h->members())
    if (!m.alive) (void)h->reap(m.id);
  note("closing");
  *h = heap();
  f.is_done = true;
}

struct verdict {
  std::string text;
  bool is_wrong;
};

verdict judge(const finding& f, int status, const damage& d) {
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
    return {fmt::format("HANGS while {}", f.stage), true};
  if (WIFSIGNALED(status) || !f.is_done)
    return {fmt::format("ENDS by signal {} while {}", WIFSIGNALED(status) ? WTERMSIG(status) : 0,
                        f.stage),
            true};
  std::string text = f.attached_at_once ? "accepted"
                     : !f.repaired      ? "refused, and so is the repair"
                     : f.attached_after ? (f.repaired_fully ? "repaired" : "repaired in part")
                     : f.repaired_fully ? "REPAIRED, THEN REFUSED"
                                        : "repaired in part, refused";
  bool is_wrong = !f.attached_at_once && f.repaired && f.repaired_fully && !f.attached_after;
  auto add = [&](bool happened, std::string_view what, bool wrong) {
    if (!happened) return;
    text += fmt::format(", {}", what);
    is_wrong |= wrong;
  };
  const bool loses = f.lost != 0 || f.views_lost != 0;
  add(f.handed_out != 0, "LIVE MEMORY HANDED OUT", true);
  add(f.half_found != 0, "A HALF FILLED ZONE FOUND", true);
  add(f.twice != 0, "MEMORY HANDED OUT TWICE", true);
  add(f.not_zero != 0, "NOT ZERO", true);
  add(f.broken_later != 0, "BROKEN LATER", true);
  add(loses && (f.attached_at_once || !f.is_named), "UNSAID LOSS", true);
  add(loses && !f.attached_at_once && f.is_named, "a loss that is named", false);
  add(f.renamed != 0, "handles of live blocks are others now", false);
  add(!loses && f.repaired && f.is_named && f.attached_after, "doubts named", false);
  if (is_wrong && d.hits_caches) return {"in the caches of the dead: " + text, false};
  return {text, is_wrong};
}

int run(unsigned runs, unsigned first_seed, const std::string& only_image, bool shows) {
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  char name[] = "/dev/shm/annex-damage-XXXXXX";
  const std::string place = ::mkdtemp(name);
  ::setenv("ANNEX_DIR", place.c_str(), 1);
  ::setenv("ANNEX_LOG", "level:off", 1);
  shared_finding = static_cast<finding*>(
      ::mmap(nullptr, sizeof(finding), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const std::vector<image> images = make_images();
  for (const image& i : images)
    fmt::print("{}: {} KiB, {} lines used, {} blocks live, {} objects out\n", i.name,
               i.bytes.size() / 1024, i.used.size(), i.live.size(), i.pool_held.size());
  std::map<std::string, std::array<int, way_names.size()>> table;
  std::map<std::string, std::string> examples;
  int wrong = 0;
  for (unsigned seed = first_seed; seed != first_seed + runs; ++seed) {
    const image& i = images[seed % images.size()];
    if (!only_image.empty() && i.name != only_image) continue;
    const damage d = make_damage(i, seed);
    for (const auto& [path, contents] : i.regions)
      write_file(path, contents, contents.size());
    write_file(directory() + "/" + i.heap + ".annex", d.bytes, d.length);
    *shared_finding = {};
    const int status = in_child([&] {
      if (!shows) {
        const int nowhere = ::open("/dev/null", O_WRONLY);
        ::dup2(nowhere, 2);
      }
      look_at(i, shows);
      std::fflush(nullptr);
      ::_exit(0);
    });
    const verdict v = judge(*shared_finding, status, d);
    ++table[v.text][static_cast<std::size_t>(d.kind)];
    wrong += v.is_wrong;
    const std::string example = fmt::format("seed {} ({}),{} | {}", seed, i.name,
                                            d.text.substr(0, 60), shared_finding->text);
    if (!examples.contains(v.text)) examples[v.text] = example;
    if (shows)
      fmt::print("{}: {}\n", v.text, example);
    else if (v.is_wrong)
      fmt::print("WRONG {}: {} lost {} {} out {} twice {}\n", v.text, example, shared_finding->lost,
                 shared_finding->views_lost, shared_finding->handed_out, shared_finding->twice);
  }
  fmt::print("\n{:>7}", "");
  for (const char* way_name : way_names)
    fmt::print(" {:>8}", way_name);
  fmt::print("\n");
  for (const auto& [text, counts] : table) {
    int sum = 0;
    for (const int count : counts)
      sum += count;
    fmt::print("{:>7}", sum);
    for (const int count : counts)
      fmt::print(" {:>8}", count);
    fmt::print("  {}\n", text);
  }
  for (const auto& [text, example] : examples)
    fmt::print("e.g. {}: {}\n", text, example);
  std::filesystem::remove_all(place);
  fmt::print(
      "{} of {} damages crash, hang, hand live memory out again, or lose it without a word\n",
      wrong, runs);
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace annex::torture

int main(int argc, char** argv) {
  annex::torture::arguments arguments(
      "Damages a heap at rest, repairs it, and looks whether anything that was live is handed out "
      "again or lost without a word");
  std::uint64_t runs = 400;
  unsigned seed = 1;
  std::string image;
  bool shows = false;
  arguments.number("--runs", &runs, "How many damages", 0, UINT32_MAX);
  arguments.seed(&seed, "Of the first");
  arguments.text("--image", &image, "Only this one: killed, rest, checked-killed, checked-rest");
  arguments.flag("--show", &shows, "Prints what each repair said");
  arguments.read(argc, argv);
  return annex::torture::run(static_cast<unsigned>(runs), seed, image, shows);
}
