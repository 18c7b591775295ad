// torture/scribble.cpp - an honest process works in a heap while a hostile member overwrites words
// of its segment.
//
//   torture_scribble [--runs N] [--seed N] [--table NAME]
//
//   tables   header members threads regions buckets journal granules extents slabs caches iovas
//            pool ring zones anywhere
//
// In each run, chosen by its seed, up to 40 words of one table are changed, half of them before the
// honest process goes on and half while it works: it allocates, frees, resolves, locates, lists,
// audits, takes from a pool and a ring, finds and reserves zones, trims, brings and removes memory,
// and closes.
//
// Right: it goes on, is refused, or stops with a report (SIGABRT). A block may be wrong
// (docs/security.md: who shares a heap writable trusts the others with its blocks), but it lies in
// a region. Fails on any other end by a signal, on a write that lands outside regions and segment
// (watched pages lie beside them), on a block outside of the regions, and on a hang, unless the
// lock word was forged: a lock that names a living holder is waited for. SIGBUS is right only where
// the file is cut short, which this never does.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <vector>

#include "arguments.hpp"
#include "cache/thread_cache.hpp"
#include "heap/local_heap.hpp"
#include "named/pool_table.hpp"
#include "named/ring_table.hpp"

namespace annex::torture {
namespace {

constexpr std::array table_names{"header",  "members",  "threads", "regions", "buckets",
                                 "journal", "granules", "extents", "slabs",   "caches",
                                 "iovas",   "pool",     "ring",    "zones",   "anywhere"};
constexpr u64 metadata_bytes = 64 * MiB;
constexpr int operations = 400;
// Who waits for a forged lock hangs rightly. Everybody else has time, however busy the machine is.
constexpr u64 patience_ms = 90'000, patience_with_a_forged_lock_ms = 8'000;
constexpr u64 first_iova = 0x1'0000'0000, iova_step = 8192;
constexpr size_t watched_bytes = 1 << 20;
constexpr unsigned char watched_value = 0x5c;

// What the honest process tells, in memory that both have.
struct confession {
  volatile int step;  // operation it was in
  volatile int signal_number;
  volatile u64 address, instruction;
  volatile bool is_write;
  volatile bool outside;     // a block lies in no region
  volatile bool wild_write;  // a watched page changed
  volatile bool ended;
  volatile bool failed_to_start;
};
confession* told = nullptr;

void tell(int number, siginfo_t* about, void* context) {
  const auto* where = static_cast<const ucontext_t*>(context);
  told->signal_number = number;
  told->address = reinterpret_cast<u64>(about->si_addr);
  told->instruction = static_cast<u64>(where->uc_mcontext.gregs[REG_RIP]);
  told->is_write = (where->uc_mcontext.gregs[REG_ERR] & 2) != 0;
  ::signal(number, SIG_DFL);
  ::raise(number);
}

// ---- the honest process -------------------------------------------------------------------------
class honest_process {
 public:
  honest_process(const std::string& name, unsigned seed) : name_(name), random_(seed) {}

  bool prepare() {
    auto made = heap::create(name_, {.metadata_limit_bytes = metadata_bytes,
                                     .member_limit = 16,
                                     .thread_limit = 16,
                                     .region_limit = 8,
                                     .zone_limit = 64});
    if (!made) return false;
    heap_ = std::move(*made);
    void* const memory =
        ::mmap(nullptr, 4 * MiB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    std::vector<iova> pages;
    for (u64 i = 0; i < 4 * MiB / 4096; ++i)
      pages.push_back(iova{first_iova + i * iova_step});
    if (!heap_.add_memory({.base = memory, .length_bytes = 4 * MiB, .page_iovas = pages}) ||
        !heap_.bring_memory({.length_bytes = 4 * MiB}))
      return false;
    watch_beside(heap_.internal()->here.seg.base(), metadata_bytes);
    heap_.for_each_region([&](const region_summary& r) {
      regions_.push_back({static_cast<char*>(r.base), r.length_bytes});
      watch_beside(r.base, r.length_bytes);
    });
    if (auto made_pool = raw_pool::create(heap_, "pool", {.object_bytes = 64, .object_count = 500}))
      pool_ = *made_pool;
    if (auto made_ring = ring::create(heap_, "ring", 64)) ring_ = *made_ring;
    (void)heap_.reserve_zone("zone", {.size_bytes = 10000});
    for (int i = 0; i < 100; ++i)
      take(16 + random_() % 3000);
    for (int i = 0; i < 3; ++i)
      take(100000);
    return true;
  }

  void work() {
    for (int i = 0; i < operations; ++i) {
      told->step = i;
      one_operation();
    }
    told->step = operations;
    heap_ = heap();
  }

  bool is_watched_unchanged() const {
    for (const unsigned char* page : watched_)
      for (size_t i = 0; i < watched_bytes; i += 8)
        if (page[i] != watched_value) return false;
    return true;
  }

 private:
  struct stretch {
    char* base;
    u64 bytes;
  };

  // Pages directly before and behind, where the kernel lets us have them.
  void watch_beside(void* base, u64 bytes) {
    for (char* at : {static_cast<char*>(base) - watched_bytes, static_cast<char*>(base) + bytes}) {
      void* page = ::mmap(at, watched_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
      if (page == MAP_FAILED) continue;
      std::memset(page, watched_value, watched_bytes);
      watched_.push_back(static_cast<unsigned char*>(page));
    }
  }

  void take(u64 bytes) {
    auto* const block = static_cast<char*>(heap_.allocate(bytes));
    if (block == nullptr) return;
    bool inside = false;
    for (const stretch& r : regions_)
      inside |= block >= r.base && block + bytes <= r.base + r.bytes;
    // Or a region that a changed record made this process map once more.
    const local_region* const other = address_index::find(block);
    inside |= other != nullptr && block + bytes <= other->base + other->length_bytes;
    if (inside) return blocks_.push_back(block);
    told->outside = true;
  }

  void one_operation() {
    switch (random_() % 14) {
      case 0:
      case 1:
      case 2: return take(16 + random_() % 3000);
      case 3: return take(66000 + random_() % 100000);
      case 4:
      case 5:
      case 6: return give();
      case 7: return look_up();
      case 8: (void)heap_.stats(); return;
      case 9:
        if (random_() % 3 == 0) (void)heap_.audit();
        return;
      case 10: return use_pool();
      case 11:
        (void)ring_.put(handle{random_() | 1});
        (void)ring_.take();
        return;
      case 12: return use_zones();
      default: return do_something_seldom();
    }
  }

  void give() {
    if (blocks_.empty()) return;
    const size_t which = random_() % blocks_.size();
    void* const block = blocks_[which];
    blocks_[which] = blocks_.back();
    blocks_.pop_back();
    heap::free(block);
  }
  void look_up() {
    if (blocks_.empty()) return;
    (void)heap::locate(blocks_[random_() % blocks_.size()]);
    (void)heap_.resolve(heap_.handle_of(blocks_[random_() % blocks_.size()]));
    (void)heap_.address_of(iova{first_iova + random_() % (8 * MiB)});
    (void)heap::usable_size(blocks_[random_() % blocks_.size()]);
  }
  void use_pool() {
    void* const object = pool_.take();
    if (object != nullptr) {
      const auto* const at = static_cast<const char*>(object);
      bool inside = false;
      for (const stretch& r : regions_)
        inside |= at >= r.base && at < r.base + r.bytes;
      told->outside = told->outside || !inside;
    }
    if (object != nullptr && random_() % 2 == 0) pool_.give(object);
  }
  void use_zones() {
    (void)heap_.find_zone("zone");
    if (random_() % 4 != 0) return;
    (void)heap_.reserve_zone("another", {.size_bytes = 500});
    (void)heap_.release_zone("another");
  }
  void do_something_seldom() {
    switch (random_() % 6) {
      case 0: heap_.trim(); return;
      case 1: (void)heap_.members(); return;
      case 2: (void)heap_.for_each_block([](const block_summary&) {}); return;
      case 3: heap_.for_each_map_piece([](const map_piece&) {}); return;
      case 4:
        if (auto brought = heap_.bring_memory({.length_bytes = 1 * MiB}))
          (void)heap_.remove_memory(*brought);
        return;
      default: (void)heap_.recover(); return;
    }
  }

  std::string name_;
  std::mt19937_64 random_;
  heap heap_;
  raw_pool pool_;
  ring ring_;
  std::vector<stretch> regions_;
  std::vector<char*> blocks_;
  std::vector<unsigned char*> watched_;
};

[[noreturn]] void be_honest(const std::string& name, unsigned seed, int ready, int go) {
  static char stack[64 * KiB];
  const stack_t own{.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof stack};
  ::sigaltstack(&own, nullptr);
  struct sigaction action {};
  action.sa_sigaction = tell;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL})
    ::sigaction(number, &action, nullptr);
  honest_process honest(name, seed);
  told->failed_to_start = !honest.prepare();
  char byte = 1;
  if (::write(ready, &byte, 1) != 1 || ::read(go, &byte, 1) != 1 || told->failed_to_start)
    ::_exit(0);
  honest.work();
  told->wild_write = !honest.is_watched_unchanged();
  told->ended = true;
  ::_exit(0);
}

// ---- the hostile one ----------------------------------------------------------------------------
class scribbler {
 public:
  scribbler(const std::string& path, unsigned seed, u32 table)
      : random_(seed * 77 + 5), table_(table) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    struct stat file {};
    ::fstat(fd_, &file);
    bytes_ = static_cast<u64>(file.st_size);
    base_ = static_cast<char*>(::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0));
    segment_ = segment(base_, fd_, true);
    find_targets();
    if (targets_.empty()) add(8, bytes_ - 8);
  }
  ~scribbler() {
    ::munmap(base_, bytes_);
    ::close(fd_);
  }
  scribbler(const scribbler&) = delete;
  scribbler& operator=(const scribbler&) = delete;

  u64 random() { return random_(); }

  void change_one() {
    const target& t = targets_[random_() % targets_.size()];
    const u64 bytes = u64{1} << (random_() % 4), at = t.at + (random_() % t.bytes) / bytes * bytes;
    if (at + bytes > bytes_) return;
    u64 value = ~u64{0};
    switch (random_() % 5) {
      case 0: value = random_(); break;
      case 1: value = random_() % 256; break;
      case 2: value = random_() % (bytes_ / chunk_unit_bytes); break;
      case 3:
        std::memcpy(&value, base_ + at, bytes);
        value ^= u64{1} << (random_() % (8 * bytes));
        break;
      default: break;
    }
    std::memcpy(base_ + at, &value, bytes);
    const u64 lock_at = static_cast<u64>(reinterpret_cast<char*>(&segment_.header().lock) - base_);
    forged_lock |= at < lock_at + sizeof(u32) && lock_at < at + bytes;
  }
  bool forged_lock = false;

 private:
  struct target {
    u64 at, bytes;
  };

  void add(u64 at, u64 bytes) {
    if (bytes != 0 && at + bytes <= bytes_) targets_.push_back({at, bytes});
  }
  void add_chunk(chunk_ref ref, u64 bytes) { add(u64{ref} * chunk_unit_bytes, bytes); }

  template <class Visit>
  void for_each_region(Visit visit) {
    const segment_geometry& g = segment_.geometry();
    for (u32 slot = 0; slot < g.region_limit; ++slot)
      if (const auto& r = segment_.at<region_record>(g.regions_at)[slot];
          r.state.value != region_free)
        visit(slot, r);
  }

  void find_targets() {
    const segment_geometry& g = segment_.geometry();
    switch (table_) {
      case 0: return add(8, sizeof(segment_header) - 8);
      case 1: return add(g.members_at, 2 * sizeof(member_record));
      case 2: return add(g.threads_at, 3 * sizeof(thread_slot));
      case 3:
        return for_each_region([&](u32 slot, const region_record&) {
          add(g.regions_at + slot * sizeof(region_record), sizeof(region_record));
        });
      case 4: return add(g.zone_buckets_at, limits::zone_buckets * sizeof(u32));
      case 5: return add(g.journal_at, 4 * KiB);
      case 6:
        return for_each_region([&](u32, const region_record& r) {
          add_chunk(r.granules, r.granule_count * sizeof(granule_entry));
        });
      case 7:
        return for_each_region([&](u32, const region_record& r) {
          add_chunk(r.extents, r.granule_count * sizeof(extent_entry));
        });
      case 8: return for_each_region([&](u32, const region_record& r) { find_slabs(r); });
      case 9:
        for (u32 i = 0; i < 4; ++i)
          if (const chunk_ref cache = segment_.slot(i).cache; cache != 0)
            add_chunk(cache, sizeof(thread_cache));
        return;
      case 10:
        return for_each_region([&](u32, const region_record& r) {
          if (r.iova_run_count == 0) return;
          add_chunk(r.iova_runs, r.iova_run_count * sizeof(iova_run));
          add_chunk(r.iova_order, r.iova_run_count * sizeof(u32));
          add_chunk(r.iova_index, r.iova_run_count * sizeof(u32));
        });
      case 11:
      case 12:
      case 13: return find_zones();
      default: return add(8, bytes_ - 8);
    }
  }
  void find_slabs(const region_record& r) {
    const auto* extents = segment_.chunk<extent_entry>(r.extents);
    const auto* granules = segment_.chunk<granule_entry>(r.granules);
    for (u32 at = 0; at < r.granule_count && extents[at].length != 0; at += extents[at].length)
      if (granules[at].kind == granule_slab || granules[at].kind == granule_slab_held)
        add_chunk(extents[at].record, 2 * sizeof(slab_record));
  }
  void find_zones() {
    for (u32 bucket = 0; bucket < limits::zone_buckets; ++bucket) {
      const chunk_ref ref = segment_.zone_buckets()[bucket];
      if (ref == 0) continue;
      const auto* z = segment_.chunk<zone_record>(ref);
      if (table_ == 13) add_chunk(ref, sizeof(zone_record));
      if (table_ == 11 && z->type == zone_type::pool) {
        add_chunk(z->table, 600);
        auto* const table = segment_.chunk<pool_table>(z->table);
        const known_pool pool(table, table->object_bytes, table->object_count);
        for (u32 i = 0; i < segment_.thread_limit(); ++i)
          if (const chunk_ref cache = pool.caches()[i]; cache != 0)
            add_chunk(cache, sizeof(pool_cache));
      }
      if (table_ == 12 && z->type == zone_type::ring) add_chunk(z->table, z->table_bytes);
    }
  }

  std::mt19937_64 random_;
  u32 table_;
  int fd_ = -1;
  char* base_ = nullptr;
  u64 bytes_ = 0;
  segment segment_;
  std::vector<target> targets_;
};

// ---- one run ------------------------------------------------------------------------------------
struct pipe_pair {
  int ends[2] = {-1, -1};
  pipe_pair() {
    if (::pipe(ends) != 0) std::abort();
  }
  ~pipe_pair() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
};

// How it ended, in words; wrong: not as it may.
struct verdict {
  std::string words;
  bool wrong;
};

verdict judge(bool hung, int status, bool forged_lock) {
  std::string also;
  if (told->outside) also += ", a block outside";
  if (told->wild_write) also += ", a wild write";
  const bool wrong = told->outside || told->wild_write;
  if (hung)
    return {
        forged_lock ? "waits for a forged lock" : fmt::format("HANGS in operation {}", told->step),
        !forged_lock || wrong};
  if (WIFSIGNALED(status) && WTERMSIG(status) != SIGABRT) {
    const char* const how = told->is_write ? "writing" : "reading";
    return {fmt::format("{} {}{}", ::strsignal(WTERMSIG(status)), how, also), true};
  }
  if (WIFSIGNALED(status)) return {"stops with a report" + also, wrong};
  return {(told->ended ? "goes on" : "leaves") + also, wrong};
}

verdict run(const std::string& directory, unsigned seed, int table) {
  std::memset(static_cast<void*>(told), 0, sizeof *told);
  const u32 chosen = table >= 0 ? static_cast<u32>(table) : seed % u32{table_names.size()};
  const std::string name = fmt::format("s{}", seed);
  const pipe_pair ready, go;
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    if (std::getenv("SHOW") == nullptr) ::dup2(::open("/dev/null", O_WRONLY | O_CLOEXEC), 2);
    be_honest(name, seed, ready.ends[1], go.ends[0]);
  }
  char byte = 1;
  if (::read(ready.ends[0], &byte, 1) != 1 || told->failed_to_start) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    return {"could not begin", true};
  }
  scribbler hostile(directory + "/" + name + ".annex", seed, chosen);
  const u64 changes = 1 + hostile.random() % 40;
  for (u64 i = 0; i < changes / 2; ++i)
    hostile.change_one();
  if (::write(go.ends[1], &byte, 1) != 1) std::abort();
  for (u64 i = 0; i < changes; ++i) {
    hostile.change_one();
    ::usleep(static_cast<useconds_t>(hostile.random() % 100));
  }
  int status = 0;
  bool hung = true;
  const u64 most_ms = hostile.forged_lock ? patience_with_a_forged_lock_ms : patience_ms;
  for (u64 ms = 0; hung && ms < most_ms; ++ms) {
    hung = ::waitpid(child, &status, WNOHANG) != child;
    if (hung) ::usleep(1000);
  }
  if (hung) {
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
  }
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    std::filesystem::remove(entry.path());
  return judge(hung, status, hostile.forged_lock);
}

int run_all(unsigned runs, unsigned first_seed, int table) {
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  char name[] = "/dev/shm/annex-scribble-XXXXXX";
  const std::string directory = ::mkdtemp(name);
  ::setenv("ANNEX_DIR", directory.c_str(), 1);
  told = static_cast<confession*>(::mmap(nullptr, sizeof(confession), PROT_READ | PROT_WRITE,
                                         MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::map<std::string, std::map<std::string, unsigned>> counts;
  unsigned wrong = 0;
  for (unsigned seed = first_seed; seed != first_seed + runs; ++seed) {
    const verdict v = run(directory, seed, table);
    const char* const where =
        table_names[table >= 0 ? static_cast<u32>(table) : seed % u32{table_names.size()}];
    ++counts[where][v.words];
    if (!v.wrong) continue;
    ++wrong;
    fmt::print("seed {} ({}): {} at {:#x}, instruction {:#x}, operation {}\n", seed, where, v.words,
               told->address, told->instruction, told->step);
    std::fflush(stdout);
  }
  std::filesystem::remove_all(directory);
  for (const auto& [where, ends] : counts) {
    fmt::print("{:<10}", where);
    for (const auto& [words, count] : ends)
      fmt::print("  {}: {}", words, count);
    fmt::print("\n");
  }
  fmt::print("{} runs from seed {}: {} wrong\n", runs, first_seed, wrong);
  return wrong != 0 ? 1 : 0;
}

}  // namespace
}  // namespace annex::torture

int main(int argc, char** argv) {
  annex::torture::arguments arguments(
      "An honest process works while a hostile member overwrites the segment.");
  std::uint64_t runs = 150;
  unsigned seed = 1;
  std::string table;
  arguments.number("--runs", &runs, "how many runs", 0, UINT32_MAX);
  arguments.seed(&seed, "of the first run");
  arguments.text("--table", &table, "only this table");
  arguments.read(argc, argv);
  int chosen = -1;
  for (std::size_t i = 0; i < annex::torture::table_names.size(); ++i)
    if (table == annex::torture::table_names[i]) chosen = static_cast<int>(i);
  if (!table.empty() && chosen < 0) {
    std::fprintf(stderr, "no table is called %s\n", table.c_str());
    return 2;
  }
  return annex::torture::run_all(static_cast<unsigned>(runs), seed, chosen);
}
