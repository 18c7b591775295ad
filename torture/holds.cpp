// torture/holds.cpp - one process is held between two instructions of an operation while others do
// theirs.
//
//   torture_holds [--holds N] [--seed N] [--triangles N] [--play TEXT]
//
//   scene         who was there before: nobody; one who died in a transaction; one who lives; one
//                 who is in a transaction; us
//   the held      attaches, closes, destroys, … and is held after its k-th instruction that others
//                 can see the effect of
//   the former    the only member until then, is killed meanwhile, or not
//   the others    up to two: each does an operation, or attaches and works on and on, or is held
//                 itself in the middle of its own, or killed there
//   the held      goes on
//
// Who waits for the held one (for a lock that a living process has) is given a short time; then the
// held one goes on.
//
// Triangles are the plays in which somebody attaches while others attach and the only member dies:
// with --triangles 0 at every k there is. The rest is drawn by seed. A failure names the play;
// --play repeats it.
//
// In the end, with those who are left still attached: the heap they have is the one that has the
// name; the audit holds, exactly; every block in a book is live and unharmed, and no others are.
// Nobody was told that the heap is damaged, full, or gone (unless somebody destroyed it), and
// nobody was late. When all have left and the dead are reaped, the heap is empty, can be destroyed,
// and leaves no file.
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <annex/pool.hpp>
#include <annex/ring.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <sstream>

#include "arguments.hpp"
#include "heap/local_heap.hpp"
#include "stepper.hpp"
#include "survivor.hpp"

namespace annex::torture {
namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr const char* stage_name = "stage";
constexpr heap_options stage_options{.metadata_limit_bytes = std::size_t{64} << 20,
                                     .member_limit = 16,
                                     .thread_limit = 24,
                                     .region_limit = 16,
                                     .zone_limit = 16};
constexpr milliseconds patience{200};  // with somebody who runs while another is held
// A millisecond apart: then he waits for the held one.
constexpr int looks_asleep = 8;
constexpr std::chrono::seconds late{1}, hopeless{20};
constexpr std::uint64_t in_the_hand_of_the_killed = 2;

enum class phase : int { starting, prepared, working, done };
enum class order : int { wait, go, stop, close, leave };

/// What a performer and the director share.
struct part {
  books book;
  std::atomic<phase> at;
  std::atomic<order> told;
  std::atomic<std::uint64_t> heap_id;  // that it has attached; 0: none
  std::atomic<bool> was_refused;
};

/// A process that acts.
struct performer {
  part* mine;
  heap own;  // unless it is inherited
  heap* inherited = nullptr;
  bool keeps_nothing = false, may_vanish = false;  // the heap may be destroyed by another

  heap& h() { return inherited != nullptr ? *inherited : own; }
  bool is_attached() const { return mine->heap_id.load() != 0; }

  // A refusal that this play may bring.
  template <class T>
  bool may(result<T>& r, std::initializer_list<errc> codes, const char* doing) {
    if (r) return true;
    if (std::find(codes.begin(), codes.end(), r.error().code) == codes.end())
      fail(fmt::format("{} was refused: {}: {}", doing, name_of(r.error().code),
                       r.error().message()));
    mine->was_refused = true;
    return false;
  }
  void attach() {
    auto attached = heap::attach(stage_name);
    if (!attached && may_vanish && attached.error().code == errc::no_such_heap) {
      mine->was_refused = true;
      return;
    }
    if (!attached)
      fail(fmt::format("attach was refused: {}: {}", name_of(attached.error().code),
                       attached.error().message()));
    own = std::move(*attached);
    mine->heap_id = static_cast<std::uint64_t>(own.id());
  }
  void take(std::size_t bytes) {
    void* const block = h().allocate(bytes);
    if (block == nullptr && !may_vanish)
      fail(fmt::format("no block of {} bytes: {}", bytes, heap::last_failure().message()));
    if (block == nullptr) return;
    std::memset(block, 0x5a, 64);
    keep(h(), mine->book, block);
  }
  void give() { drop(h(), mine->book); }
  void round() {
    if (!is_attached()) return;
    for (const std::size_t bytes : {64u, 64u, 200u, 5000u, 100000u})
      take(bytes);
    for (int i = 0; i < 3; ++i)
      give();
    take(64);
    const std::string name = fmt::format("zone{}", ::getpid());
    if (auto z = h().reserve_zone(name, {.size_bytes = 3000}); z || !may_vanish) {
      must(std::move(z));
      must(h().release_zone(name));
    }
    while (mine->book.victims.load() > (keeps_nothing ? 0u : 12u))
      give();
  }
  void close() {
    mine->heap_id = 0;
    own = heap{};
  }
};

using work = void (*)(performer&);

struct act {
  const char* name;
  work prepare, run;
  bool inherits = false;  // what the director has attached
  // Is_new: its performer is no member before.
  bool destroys = false, reaps = false, is_new = false;
};

void nothing(performer&) {}
void attach_and_work(performer& me) {
  me.attach();
  me.round();
}
void close_all(performer& me) {
  if (me.is_attached()) me.close();
}
region_id newest(heap& h) {
  region_id latest{};
  h.for_each_region([&](const region_summary& r) { latest = std::max(latest, r.id); });
  return latest;
}
void attach_and_bring(performer& me) {
  attach_and_work(me);
  if (me.is_attached()) must(me.h().bring_memory({.length_bytes = 1 << 20}));
}

const act acts[] = {
    {"attach", nothing, attach_and_work, false, false, false, true},
    {"attach and close", nothing,
     [](performer& me) {
       attach_and_work(me);
       close_all(me);
     },
     false, false, false, true},
    {"close", attach_and_work, close_all},
    {"close, having attached only", [](performer& me) { me.attach(); }, close_all},
    {"destroy", nothing,
     [](performer& me) {
       auto destroyed = heap::destroy(stage_name);
       me.may(destroyed, {errc::heap_in_use, errc::no_such_heap, errc::blocks_live}, "destroy");
     },
     false, true, false, true},
    {"create of the same name", nothing,
     [](performer& me) {
       auto made = heap::create(stage_name, stage_options);
       if (!me.may(made, {errc::name_taken}, "create")) return;
       me.own = std::move(*made);
       me.mine->heap_id = static_cast<std::uint64_t>(me.own.id());
       must(me.h().bring_memory({.length_bytes = 1 << 20}));
       me.round();
     },
     false, false, false, true},
    {"first allocation of a forked child", nothing,
     [](performer& me) {
       me.take(64);
       me.mine->heap_id = static_cast<std::uint64_t>(me.h().id());
       me.round();
     },
     true, false, false, true},
    {"reap", attach_and_work,
     [](performer& me) {
       if (!me.is_attached()) return;
       for (const member_summary& m : me.h().members())
         if (!m.alive) {
           auto reaped = me.h().reap(m.id);
           me.may(reaped, {errc::invalid_argument}, "reap");  // somebody was faster
         }
     },
     false, false, true},
    {"repair", nothing,
     [](performer& me) {
       auto repaired = heap::repair(stage_name);
       if (!repaired && me.may_vanish && repaired.error().code == errc::no_such_heap) return;
       if (!me.may(repaired, {errc::heap_in_use}, "repair")) return;
       if (!repaired->after.holds()) fail("a repaired heap: " + repaired->after.broken.front());
     },
     false, false, false, true},
    {"work", attach_and_work, [](performer& me) { me.round(); }},
    {"recover and trim", attach_and_work,
     [](performer& me) {
       if (!me.is_attached()) return;
       me.h().recover();
       me.h().trim();
     }},
    {"bring memory", attach_and_work,
     [](performer& me) {
       if (me.is_attached()) must(me.h().bring_memory({.length_bytes = 1 << 20}));
     }},
    {"drain memory", attach_and_bring,
     [](performer& me) {
       if (!me.is_attached()) return;
       auto drained = me.h().drain_memory(newest(me.h()), milliseconds(5));
       me.may(drained,
              {errc::blocks_live, errc::deadline_passed, errc::no_such_region, errc::canceled,
               errc::heap_in_use},
              "drain");
     }},
    {"remove memory", attach_and_bring,
     [](performer& me) {
       if (!me.is_attached()) return;
       auto removed = me.h().remove_memory(newest(me.h()));
       me.may(removed, {errc::blocks_live, errc::no_such_region, errc::heap_in_use}, "remove");
     }},
    {"zone, reserve and release", attach_and_work,
     [](performer& me) {
       if (!me.is_attached()) return;
       auto z = me.h().reserve_zone("z", {.size_bytes = 20000});
       me.may(z, {errc::zone_exists}, "reserve");
       auto gone = me.h().release_zone("z");
       me.may(gone, {errc::no_such_zone}, "release");
     }},
    {"pool, create, use, release", attach_and_work,
     [](performer& me) {
       if (!me.is_attached()) return;
       auto p = raw_pool::create(me.h(), "p",
                                 {.object_bytes = 128, .object_count = 40, .cache_objects = 8});
       if (!me.may(p, {errc::zone_exists}, "create of a pool")) p = raw_pool::open(me.h(), "p");
       if (!me.may(p, {errc::no_such_zone}, "open of a pool")) return;
       if (void* const object = p->take()) p->give(object);
       auto gone = raw_pool::release(me.h(), "p");
       me.may(gone, {errc::no_such_zone, errc::blocks_live, errc::heap_in_use},
              "release of a pool");
     }},
    {"ring, create, use, release", attach_and_work,
     [](performer& me) {
       if (!me.is_attached()) return;
       auto r = ring::create(me.h(), "r", 16);
       if (!me.may(r, {errc::zone_exists}, "create of a ring")) r = ring::open(me.h(), "r");
       if (!me.may(r, {errc::no_such_zone}, "open of a ring")) return;
       r->put(handle{7});
       r->take();
       auto gone = ring::release(me.h(), "r");
       me.may(gone, {errc::no_such_zone}, "release of a ring");
     }},
    {"look at everything", attach_and_work,
     [](performer& me) {
       if (!me.is_attached()) return;
       auto report = me.h().audit();
       if (me.may(report, {}, "audit") && !report->holds())
         fail("seen by another: " + report->broken.front());
       (void)me.h().members();
       (void)must(heap::list());
       auto reader = heap::attach(stage_name, {.read_only = true});
       me.may(reader, {}, "attach to read");
     }},
};
constexpr std::size_t act_count = std::size(acts);
std::size_t act_named(std::string_view name) {
  return static_cast<std::size_t>(
      std::find_if(std::begin(acts), std::end(acts), [&](const act& a) { return a.name == name; }) -
      std::begin(acts));
}

enum class scene : unsigned {
  nobody,
  dead_in_transaction,
  one_idle,
  one_in_transaction,
  we_too,
  no_heap,
  count
};
const char* const scene_names[] = {
    "nobody is attached",           "the only member died in a transaction",
    "one member is attached",       "one member is in a transaction",
    "the director is attached too", "there is no heap"};
enum class end_of_former : unsigned { none, before_others, between_others, after_others, count };
enum class manner : unsigned { absent, once, on_and_on, held, killed, count };  // of another

struct other {
  std::size_t what = 0;
  manner how = manner::absent;
  unsigned moment = 0;
};
struct play {
  scene where = scene::nobody;
  std::size_t held = 0;
  unsigned moment = 0;  // which of the visible instructions, modulo how many there are
  end_of_former former = end_of_former::none;
  std::array<other, 2> others{};
  unsigned ends = 0;  // bits: who is killed in the end, rather than closes

  std::string text() const {
    return fmt::format("{}.{}.{}.{}.{}.{}.{}.{}.{}.{}.{}", static_cast<unsigned>(where), held,
                       moment, static_cast<unsigned>(former), others[0].what,
                       static_cast<unsigned>(others[0].how), others[0].moment, others[1].what,
                       static_cast<unsigned>(others[1].how), others[1].moment, ends);
  }
  static std::optional<play> from(const std::string& text) {
    std::istringstream in(text);
    std::array<unsigned, 11> n{};
    char dot = 0;
    for (std::size_t i = 0; i < n.size(); ++i)
      if (!(in >> n[i]) || (i + 1 < n.size() && !(in >> dot))) return std::nullopt;
    if (n[0] >= static_cast<unsigned>(scene::count) || n[1] >= act_count ||
        n[3] >= static_cast<unsigned>(end_of_former::count) || n[4] >= act_count ||
        n[7] >= act_count)
      return std::nullopt;
    if (n[5] >= static_cast<unsigned>(manner::count) ||
        n[8] >= static_cast<unsigned>(manner::count))
      return std::nullopt;
    return play{
        static_cast<scene>(n[0]),
        n[1],
        n[2],
        static_cast<end_of_former>(n[3]),
        {{{n[4], static_cast<manner>(n[5]), n[6]}, {n[7], static_cast<manner>(n[8]), n[9]}}},
        n[10]};
  }
  std::string words() const {
    std::string said =
        fmt::format("{}; \"{}\" is held at its visible instruction {}",
                    scene_names[static_cast<unsigned>(where)], acts[held].name, moment);
    if (former != end_of_former::none)
      said += fmt::format("; the former member dies {} the others",
                          former == end_of_former::before_others  ? "before"
                          : former == end_of_former::after_others ? "after"
                                                                  : "between");
    for (const other& o : others)
      if (o.how != manner::absent)
        said += fmt::format("; \"{}\" {}", acts[o.what].name,
                            o.how == manner::once        ? "meanwhile"
                            : o.how == manner::on_and_on ? "and work on and on"
                            : o.how == manner::held ? fmt::format("held itself at {}", o.moment)
                                                    : fmt::format("killed at {}", o.moment));
    return fmt::format("[--play {}] {}", text(), said);
  }
  bool destroys() const {
    return where == scene::no_heap || acts[held].destroys ||
           std::any_of(others.begin(), others.end(), [](const other& o) {
             return o.how != manner::absent && acts[o.what].destroys;
           });
  }
  bool reaps() const {
    return acts[held].reaps || std::any_of(others.begin(), others.end(), [](const other& o) {
             return o.how != manner::absent && acts[o.what].reaps;
           });
  }
};

/// One of those who act, as the director has them.
struct actor {
  part* mine = nullptr;
  std::unique_ptr<stepper> stepped;
  pid_t process = 0;
  bool is_there = false, killed_at_work = false;
  bool acts = false, runs = false;  // of a stepped one: it was led to its moment; it was let go
};

struct figures {
  std::uint64_t plays = 0, waits = 0, unmet = 0, refusals = 0, destroyed = 0, moments = 0;
  clock::duration longest{};
};

char state_of(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string line;
  std::getline(file, line);
  const auto at = line.rfind(')');
  return at == line.npos || at + 2 >= line.size() ? '?' : line[at + 2];
}

class director {
 public:
  director() {
    char name[] = "/dev/shm/annex-holds-XXXXXX";
    directory_ = ::mkdtemp(name);
    ::setenv("ANNEX_DIR", directory_.c_str(), 1);
    parts_ = static_cast<part*>(::mmap(nullptr, sizeof(part) * most_actors, PROT_READ | PROT_WRITE,
                                       MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    ::sched_getaffinity(0, sizeof everywhere_, &everywhere_);
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(static_cast<std::size_t>(::sched_getcpu()), &here);
    ::sched_setaffinity(0, sizeof here, &here);  // the tracer and the traced on one CPU
  }
  ~director() { std::filesystem::remove_all(directory_); }

  const figures& so_far() const { return figures_; }

  /// The visible instructions of an operation in a scene.
  std::size_t moments_of(const play& p) {
    play_ = p;
    return path_of(p.where, p.held).moments.size();
  }

  void perform(const play& p) {
    where_we_are = p.words();
    play_ = p;
    const known_path& way = path_of(p.where, p.held);
    for (const other& o : p.others)
      if (o.how == manner::held || o.how == manner::killed) (void)path_of(p.where, o.what);
    where_we_are = p.words();
    set_the_scene();
    actor& held = actors_[0];
    begin(held, p.held, manner::held);
    for (std::size_t i = 0; i < p.others.size(); ++i)
      if (p.others[i].how != manner::absent)
        begin(actors_[1 + i], p.others[i].what, p.others[i].how);
    let_former_change();
    const std::uint64_t detours = stepper::detours();
    held.acts = true;
    held.stepped->when_it_takes_long([&] { end_who_has_the_lock(); });
    held.stepped->go_to(way.whole, way.moments[p.moment % way.moments.size()]);
    if (p.former == end_of_former::before_others) end_former();
    for (std::size_t i = 0; i < p.others.size(); ++i) {
      if (p.others[i].how != manner::absent) let_act(actors_[1 + i], p.others[i]);
      if (i == 0 && p.former == end_of_former::between_others) end_former();
    }
    if (p.former == end_of_former::after_others) end_former();
    end_who_has_the_lock();
    go_on(held);
    await_all();
    check_and_end();
    figures_.unmet += stepper::detours() != detours;
    ++figures_.plays;
  }

 private:
  static constexpr std::size_t most_actors = 4;  // the held one, two others, the former
  static constexpr std::size_t former_index = 3;
  struct known_path {
    path whole;
    std::vector<std::size_t> moments;
  };

  // While somebody has the lock the operation would not end: its path is that of one who comes
  // after a death. And what members do is the same whoever else is there.
  static scene recorded_in(scene where, std::size_t what) {
    if (where == scene::one_in_transaction) return scene::dead_in_transaction;
    return acts[what].is_new || where == scene::no_heap || where == scene::dead_in_transaction
               ? where
               : scene::nobody;
  }
  known_path& path_of(scene where, std::size_t what) {
    const scene as_if = recorded_in(where, what);
    const auto [found, is_new] =
        paths_.try_emplace({static_cast<unsigned>(as_if), what, play_.destroys()});
    known_path& known = found->second;
    if (!is_new) return known;
    const play wanted = std::exchange(play_, play{as_if, what, 0, end_of_former::none, {}, 0});
    where_we_are = "recording of: " + play_.words();
    const bool destroys = wanted.destroys();
    destroys_ = destroys;
    set_the_scene();
    begin(actors_[0], what, manner::held);
    let_former_change();
    known.whole = actors_[0].stepped->record();
    actors_[0].mine->at = phase::done;
    check_and_end();
    const auto& seen = known.whole;
    for (std::size_t k = 0; k < seen.length(); ++k) {
      if (k > 0 && !seen.visible[k - 1]) continue;
      const auto at = seen.addresses.begin() + static_cast<std::ptrdiff_t>(k);
      // A string instruction.
      if (k > 3 && std::all_of(at - 3, at, [&](std::uint64_t before) { return before == *at; }))
        continue;
      known.moments.push_back(k);
    }
    figures_.moments += known.moments.size();
    play_ = wanted;
    return known;
  }

  // ---- before
  void set_the_scene() {
    destroys_ = destroys_ || play_.destroys();
    if (play_.where == scene::no_heap) return;
    own_ = must(heap::create(stage_name, stage_options));
    must(own_.bring_memory({.length_bytes = 2 << 20}));
    if (play_.where == scene::we_too) return;
    own_ = heap{};
    if (play_.where == scene::nobody) return;
    actor& former = actors_[former_index];
    former.is_there = true;
    former.mine = new (&parts_[former_index]) part{};
    former.process = ::fork();
    if (former.process == 0) {
      become_a_performer();
      performer me = performer_of(former.mine);
      attach_and_work(me);
      former.mine->at = phase::done;
      if (play_.where == scene::one_idle) take_leave(me);
      former.mine->at = phase::prepared;
      await_order(*former.mine, order::go);
      half_a_change(me.h(), [&] {
        if (play_.where == scene::dead_in_transaction) ::kill(::getpid(), SIGKILL);
        former.mine->at = phase::done;
        for (;;)
          ::pause();
      });
    }
    await(former, [&] { return former.mine->at.load() != phase::starting; });
  }
  // When all have come: it takes the lock, and dies or stays.
  void let_former_change() {
    actor& former = actors_[former_index];
    if (!former.is_there || play_.where == scene::one_idle) return;
    former.mine->told = order::go;
    if (play_.where == scene::dead_in_transaction) {
      int status = 0;
      ::waitpid(former.process, &status, 0);
      if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail("the former member ended by itself");
      former.process = 0;
      former.killed_at_work = true;
    } else {
      await(former, [&] { return former.mine->at.load() == phase::done; });
    }
  }
  // In the middle of a transaction: what would be damage if it were not undone.
  template <class What>
  static void half_a_change(heap& h, What what) {
    detail::locked t(h.internal()->here);
    const segment& s = h.internal()->here.seg;
    segment_header& header = s.header();
    region_record& r = s.at<region_record>(header.regions_at)[0];
    t->put(header.zone_count, header.zone_count + 3);
    t->put(r.free_granules, r.free_granules - 1);
    t->put(s.member(1).extents_held, s.member(1).extents_held + 5);
    what();
  }

  performer performer_of(part* mine) const { return {mine, {}, nullptr, destroys_, destroys_}; }
  void become_a_performer() const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::sched_setaffinity(0, sizeof everywhere_, &everywhere_);
  }
  static void await_order(const part& mine, order least) {
    while (mine.told.load() < least)
      ::usleep(50);
  }
  [[noreturn]] static void take_leave(performer& me) {
    await_order(*me.mine, order::close);
    if (me.mine->told.load() == order::close && me.inherited == nullptr) me.own = heap{};
    ::_exit(0);
  }

  void begin(actor& a, std::size_t what, manner how) {
    const act& doing = acts[what];
    a.is_there = true;
    a.mine = new (&parts_[&a - actors_.data()]) part{};
    auto prepared = [&] {
      performer me = performer_of(a.mine);
      if (doing.inherits) me.inherited = &own_;
      doing.prepare(me);
      return me;
    };
    if (how == manner::held || how == manner::killed) {
      a.stepped = std::make_unique<stepper>([&] {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        // What a process does once, at its first lock, is thousands of steps and of no interest.
        (void)must(heap::create_private());
        performer me = prepared();
        stepper::stop_here();
        doing.run(me);
        stepper::stop_here();
        a.mine->at = phase::done;
        take_leave(me);
      });
      a.process = a.stepped->process();
      return;
    }
    a.process = ::fork();
    if (a.process < 0) fail("no fork");
    if (a.process > 0) {
      await(a, [&] { return a.mine->at.load() != phase::starting; });
      return;
    }
    become_a_performer();
    performer me = prepared();
    a.mine->at = phase::prepared;
    await_order(*a.mine, order::go);
    doing.run(me);
    a.mine->at = how == manner::on_and_on ? phase::working : phase::done;
    if (how == manner::on_and_on) {
      while (a.mine->told.load() < order::stop)
        me.round();
      a.mine->at = phase::done;
    }
    take_leave(me);
  }

  // ---- meanwhile
  void end_who_has_the_lock() {
    if (play_.where == scene::one_in_transaction) end_former();
  }
  void end_former() {
    actor& former = actors_[former_index];
    if (!former.is_there || former.process == 0) return;
    kill_actor(former);
    former.killed_at_work = play_.where == scene::one_in_transaction;
  }
  void kill_actor(actor& a) {
    if (a.stepped) {
      a.stepped->kill_now();
      a.stepped.reset();
    } else {
      ::kill(a.process, SIGKILL);
      int status = 0;
      ::waitpid(a.process, &status, 0);
      if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail(fmt::format("a process had ended by itself with status {:#x}", status));
    }
    a.process = 0;
  }
  bool ended_by_itself(const actor& a) const {
    siginfo_t found{};
    return !a.stepped && a.process != 0 &&
           ::waitid(P_PID, static_cast<id_t>(a.process), &found, WEXITED | WNOHANG | WNOWAIT) ==
               0 &&
           found.si_pid != 0;
  }

  void let_act(actor& a, const other& o) {
    a.acts = true;
    if (a.stepped) {
      const known_path& way = path_for(o.what);
      a.stepped->when_it_takes_long([&] {
        end_who_has_the_lock();
        all_go_on_but(a);
      });
      a.stepped->go_to(way.whole, way.moments[o.moment % way.moments.size()]);
      if (o.how == manner::killed) {
        kill_actor(a);
        a.killed_at_work = true;
      }
      return;
    }
    a.mine->told = order::go;
    auto begin = clock::now();
    int asleep = 0;
    while (a.mine->at.load() < (o.how == manner::on_and_on ? phase::working : phase::done)) {
      if (ended_by_itself(a)) fail(fmt::format("\"{}\" ended in the middle", acts[o.what].name));
      asleep = state_of(a.process) == 'S' ? asleep + 1 : 0;
      if (asleep > looks_asleep || clock::now() - begin > patience) {
        if (play_.where == scene::one_in_transaction && actors_[former_index].process != 0) {
          end_former();
          begin = clock::now();
          asleep = 0;
          continue;
        }
        ++figures_.waits;
        all_go_on_but(a);
        return;
      }
      ::usleep(a.mine->at.load() == phase::prepared && clock::now() - begin < milliseconds(2)
                   ? 50
                   : 1000);
    }
  }
  // Of the same scene, but never recorded in the middle of a play.
  const known_path& path_for(std::size_t what) {
    const auto found = paths_.find(
        {static_cast<unsigned>(recorded_in(play_.where, what)), what, play_.destroys()});
    if (found == paths_.end()) fail("a path was not recorded");
    return found->second;
  }

  // It waits for one of those who are held.
  void all_go_on_but(const actor& waiting) {
    for (actor& a : actors_)
      if (&a != &waiting && a.acts) go_on(a);
  }
  void go_on(actor& a) {
    if (!a.stepped || a.runs || a.stepped->has_ended()) return;
    a.stepped->let_go();
    a.runs = true;
  }
  bool is_done(actor& a) {
    if (!a.is_there || a.process == 0) return true;
    if (a.stepped) return a.stepped->has_ended();
    if (ended_by_itself(a)) fail("somebody ended in the middle");
    return a.mine->at.load() == phase::done;
  }
  // The held one ends, while others work on and on, or are held; these are let go when it seems to
  // wait for them.
  void await_all() {
    const auto begin = clock::now();
    while (!is_done(actors_[0])) {
      if (clock::now() - begin > milliseconds(10)) all_go_on_but(actors_[0]);
      // Who may have the lock, and has nothing to do but die.
      if (clock::now() - begin > milliseconds(100)) end_former();
      if (clock::now() - begin > hopeless) fail("the held one does not come to its end");
      ::usleep(50);
    }
    for (actor& a : actors_) {
      if (!a.is_there || a.process == 0 || &a == &actors_[former_index]) continue;
      go_on(a);
      if (!a.stepped && a.mine->told.load() < order::stop) a.mine->told = order::stop;
    }
    const auto told = clock::now();
    for (std::size_t i = 1; i < former_index; ++i)
      while (!is_done(actors_[i])) {
        if (clock::now() - told > hopeless)
          fail(fmt::format("\"{}\" does not come to its end", acts[play_.others[i - 1].what].name));
        ::usleep(50);
      }
    const auto took = clock::now() - begin;
    figures_.longest = std::max<clock::duration>(figures_.longest, took);
    if (took > late)
      fail(fmt::format("it took {} ms after the held one went on",
                       std::chrono::duration_cast<milliseconds>(took).count()));
  }
  template <class Done>
  void await(const actor& a, Done done) {
    for (const auto begin = clock::now(); !done();) {
      if (ended_by_itself(a)) fail("somebody ended before the play began");
      if (clock::now() - begin > hopeless) fail("somebody does not come to the play");
      ::usleep(50);
    }
  }

  // ---- after
  void check_and_end() {
    auto there =
        play_.where == scene::we_too ? result<heap>(std::move(own_)) : heap::attach(stage_name);
    if (!there) {
      if (!destroys_ || there.error().code != errc::no_such_heap)
        fail(fmt::format("after it: {}: {}", name_of(there.error().code), there.error().message()));
      ++figures_.destroyed;
    }
    for (const actor& a : actors_) {
      if (!a.is_there) continue;
      figures_.refusals += a.mine->was_refused.load();
      const std::uint64_t id = a.mine->heap_id.load();
      if (a.process == 0 || id == 0) continue;
      if (!there) fail("the heap was destroyed under an attached process");
      if (id != static_cast<std::uint64_t>(there->id()))
        fail("a process has a heap attached that has lost its name");
    }
    if (there) {
      own_ = std::move(*there);
      check_books();
    }
    end_all();
    if (there) {
      check_empty();
      own_ = heap{};
      must(heap::destroy(stage_name));
    }
    for (const auto& file : std::filesystem::directory_iterator(directory_))
      fail("a file was left: " + file.path().string());
    for (actor& a : actors_)
      a = actor{};
    destroys_ = false;
  }
  void audit(const char* when) {
    const audit_report report = must(own_.audit());
    if (!report.holds()) fail(fmt::format("{}: {}", when, report.broken.front()));
    if (!report.exact) fail(fmt::format("{}: a cache could not be held still", when));
    if (const std::uint64_t said = own_.stats().misuse_count; said != 0)
      fail(fmt::format("{} blocks are said to have been freed twice", said));
  }
  void check_books() {
    (void)own_.recover();
    audit("at the end");
    std::set<std::uint64_t> live;
    must(own_.for_each_block([&](const block_summary& b) {
      if (b.kind != block_kind::zone && b.kind != block_kind::pool_object)
        live.insert(place_of(own_, b));
    }));
    std::uint64_t in_hand = 0;
    for (const actor& a : actors_) {
      if (!a.is_there) continue;
      if (a.killed_at_work) in_hand += in_the_hand_of_the_killed;
      const bool may_be_reaped = play_.reaps() && (a.process == 0 || a.mine->heap_id.load() == 0);
      for (std::uint32_t i = 0; i < a.mine->book.victims.load(); ++i) {
        const std::uint64_t block = a.mine->book.victim[i].load();
        if (block == 0) continue;
        if (live.erase(block) == 0) {
          if (may_be_reaped || destroys_) continue;
          fail(fmt::format("the block {:#x} of one of them is not live any more", block));
        }
        const auto* bytes = static_cast<const unsigned char*>(at_place(own_, block));
        if (!std::all_of(bytes, bytes + 64, [](unsigned char c) { return c == 0x5a; }))
          fail(fmt::format("the block {:#x} was written to", block));
      }
    }
    if (live.size() > in_hand)
      fail(fmt::format("{} blocks are live that nobody knows of, {} may be", live.size(), in_hand));
  }
  void end_all() {
    for (std::size_t i = 0; i < actors_.size(); ++i) {
      actor& a = actors_[i];
      if (!a.is_there || a.process == 0) continue;
      if (a.stepped) a.stepped->let_go();
      if ((play_.ends >> i & 1) != 0) {
        if (a.stepped)
          a.stepped->kill_now();
        else
          kill_actor(a);
        a.process = 0;
        continue;
      }
      a.mine->told = order::close;
      int status = 0;
      if (a.stepped)
        a.stepped->await_exit(&status);
      else
        ::waitpid(a.process, &status, 0);
      if (status != 0) fail(fmt::format("somebody ended with status {:#x}", status));
      a.process = 0;
    }
  }
  void check_empty() {
    (void)own_.recover();
    audit("when all have left");
    for (const member_summary& m : own_.members())
      // Refused when reaping another one has freed the last of its blocks.
      if (!m.alive) (void)own_.reap(m.id);
    std::vector<std::pair<std::string, std::string>> zones;
    own_.for_each_zone([&](const zone_summary& z) { zones.emplace_back(z.kind, z.name); });
    for (const auto& [kind, name] : zones) {
      if (kind == "pool")
        must(raw_pool::release(own_, name));
      else if (kind == "ring")
        must(ring::release(own_, name));
      else
        must(own_.release_zone(name));
    }
    own_.trim();
    for (const member_summary& m : own_.members())
      if (!m.self)
        fail(fmt::format("member {} is still listed when everybody has left and was reaped",
                         static_cast<unsigned>(m.id)));
    if (const heap_stats s = own_.stats(); s.live_blocks != 0 || s.free_bytes != s.total_bytes)
      fail(fmt::format("when all have left {} blocks are live and {} of {} bytes free",
                       s.live_blocks, s.free_bytes, s.total_bytes));
    audit("when it is empty");
    std::vector<region_id> regions;
    own_.for_each_region([&](const region_summary& r) { regions.push_back(r.id); });
    for (const region_id r : regions)
      must(own_.remove_memory(r));
  }

  std::string directory_;
  part* parts_ = nullptr;
  heap own_;
  play play_;
  bool destroys_ = false;  // the heap may go in this play
  std::array<actor, most_actors> actors_{};
  std::map<std::tuple<unsigned, std::size_t, bool>, known_path> paths_;
  cpu_set_t everywhere_{};
  figures figures_;
};

}  // namespace
}  // namespace annex::torture

namespace annex::torture {
namespace {

// Somebody attaches, or leaves, and is held at every instruction of it, while the only other one
// dies and others attach.
std::vector<play> triangles() {
  const std::size_t attach = act_named("attach"), close = act_named("close"),
                    destroy = act_named("destroy"), create = act_named("create of the same name"),
                    allocate = act_named("work");
  const auto none = end_of_former::none, before = end_of_former::before_others,
             between = end_of_former::between_others;
  return {
      {scene::one_idle, attach, 0, before, {{{attach, manner::on_and_on, 0}, {}}}, 0},
      {scene::one_idle,
       attach,
       0,
       between,
       {{{attach, manner::on_and_on, 0}, {attach, manner::once, 0}}},
       1},
      {scene::one_in_transaction, attach, 0, before, {{{attach, manner::on_and_on, 0}, {}}}, 0},
      {scene::dead_in_transaction, attach, 0, none, {{{attach, manner::on_and_on, 0}, {}}}, 2},
      {scene::dead_in_transaction,
       attach,
       0,
       none,
       {{{attach, manner::held, 1}, {attach, manner::once, 0}}},
       0},
      {scene::one_idle,
       attach,
       0,
       before,
       {{{attach, manner::killed, 1}, {attach, manner::on_and_on, 0}}},
       3},
      {scene::one_idle,
       attach,
       0,
       between,
       {{{allocate, manner::held, 1}, {attach, manner::on_and_on, 0}}},
       0},
      {scene::one_in_transaction,
       attach,
       0,
       before,
       {{{attach, manner::killed, 1}, {attach, manner::held, 1}}},
       0},
      {scene::one_idle, close, 0, before, {{{attach, manner::on_and_on, 0}, {}}}, 0},
      {scene::nobody,
       attach,
       0,
       none,
       {{{destroy, manner::once, 0}, {create, manner::once, 0}}},
       0},
      {scene::nobody,
       destroy,
       0,
       none,
       {{{attach, manner::once, 0}, {create, manner::once, 0}}},
       0},
      {scene::no_heap,
       create,
       0,
       none,
       {{{create, manner::held, 1}, {destroy, manner::once, 0}}},
       0},
  };
}

play drawn(std::mt19937& random) {
  auto below = [&](std::size_t n) { return static_cast<unsigned>(random() % n); };
  play p;
  p.where = static_cast<scene>(below(static_cast<std::size_t>(scene::count)));
  auto some_act = [&] {
    for (;;)
      if (const std::size_t what = below(act_count);
          !acts[what].inherits || p.where == scene::we_too)
        return what;
  };
  p.held = some_act();
  p.moment = static_cast<unsigned>(random());
  p.former = static_cast<end_of_former>(below(static_cast<std::size_t>(end_of_former::count)));
  const std::size_t attach = act_named("attach");
  for (other& o : p.others)
    o = {below(3) == 0 ? attach : some_act(),
         static_cast<manner>(below(static_cast<std::size_t>(manner::count))),
         static_cast<unsigned>(random())};
  p.ends = below(16);
  return p;
}

}  // namespace
}  // namespace annex::torture

int main(int argc, char** argv) {
  using namespace annex::torture;
  arguments options("Holds a process between two instructions while others go on");
  std::uint64_t holds = 200, each = 10;
  unsigned seed = 1;
  double seconds = 1e9;
  std::string one;
  options.number("--holds", &holds, "Plays drawn by seed");
  options.seed(&seed, "Of the plays");
  options.number(
      "--triangles", &each,
      "Plays of each attach triangle; 0: at every instruction that others can see the effect of");
  options.seconds(&seconds, "Draw plays for so long at most");
  bool each_one = false;
  options.flag("--verbose", &each_one, "Say each play before it begins");
  options.text("--play", &one, "Only this one, as a failure has named it");
  options.read(argc, argv);
  const auto begin = clock::now();
  director d;
  if (!one.empty()) {
    const auto p = play::from(one);
    if (!p) {
      fmt::print(stderr, "\"{}\" is no play: eleven numbers with dots between them\n", one);
      return 2;
    }
    d.perform(*p);
  } else {
    std::mt19937 random(seed);
    for (play p : triangles()) {
      const std::size_t moments = d.moments_of(p),
                        stride = each == 0 ? 1 : std::max<std::size_t>(1, moments / each);
      const std::uint64_t before = d.so_far().plays;
      for (std::size_t k = stride == 1 ? 0 : random() % stride; k < moments; k += stride) {
        p.moment = static_cast<unsigned>(k);
        for (other& o : p.others)
          if (o.moment != 0) o.moment = static_cast<unsigned>(random() | 1);
        d.perform(p);
      }
      p.moment = 0;
      fmt::print("{:>6} of {:>6} moments  {}\n", d.so_far().plays - before, moments, p.words());
      std::fflush(stdout);
    }
    const auto drawing = clock::now();
    for (std::uint64_t i = 0;
         i < holds && clock::now() - drawing < std::chrono::duration<double>(seconds); ++i) {
      std::mt19937 own(seed * 1000003u + static_cast<unsigned>(i));
      const play p = drawn(own);
      if (each_one)
        fmt::print(stderr, "{:6.1f} s  {}\n",
                   std::chrono::duration<double>(clock::now() - begin).count(), p.words());
      d.perform(p);
    }
  }
  const figures& f = d.so_far();
  fmt::print(
      "{} plays in {:.0f} s (seed {}): every audit held, exactly; nothing was lost, refused "
      "wrongly, or destroyed under anybody.\n"
      "{} times somebody waited for the held one, {} moments were not met (the operation took "
      "another way), {} refusals that were right, {} heaps ended in their play.\n"
      "The longest from letting go to everybody's end: {:.0f} ms.\n",
      f.plays, std::chrono::duration<double>(clock::now() - begin).count(), seed, f.waits, f.unmet,
      f.refusals, f.destroyed, std::chrono::duration<double, std::milli>(f.longest).count());
}
