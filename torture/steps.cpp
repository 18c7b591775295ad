// torture/steps.cpp - kills every operation after every machine instruction of it, and looks at
// what is left.
//
//   torture_steps [--kills N] [--depth D] [--only TEXT] [--every N] [--invisible]
//
// N deaths are spread over each operation; without: at every moment there is. The moments are the
// beginning and after each instruction that changes something that outlives the process
// (visible.hpp): after any other, the same bytes are left as before it. --invisible kills after
// those too, which only takes longer.
//
// Three depths: an operation; the one who takes over from a process killed in the middle of an
// operation; and the one who takes over from that one. See survivor.hpp for what is checked after
// each death.
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <thread>

#include "arguments.hpp"
#include "heap/local_heap.hpp"
#include "operations.hpp"
#include "stepper.hpp"

namespace annex::torture {
namespace {

// The scene differs from death to death: every fourth one is followed by a trim.
constexpr int most_tries = 6;

struct figures {
  std::uint64_t operations = 0, instructions = 0, moments = 0, kills = 0, missed = 0;
};

std::unique_ptr<stepper> start(survivor& s, const operation& what) {
  books& book = s.book();
  return std::make_unique<stepper>(
      [&] {
        heap mine = must(heap::attach(heap_name));
        book.victim_member = static_cast<std::uint32_t>(mine.self());
        if (what.threaded) {
          std::thread worker([&] {
            what.prepare(mine, book);
            what.run(mine, book);
            stepper::become_traced();
          });
          worker.join();
          for (;;)
            ::pause();
        }
        what.prepare(mine, book);
        stepper::stop_here();
        what.run(mine, book);
        stepper::stop_here();
        for (;;)
          ::pause();
      },
      what.threaded);
}

// Where an operation is worth being taken over from: the moments at which the most is undone, or
// others are held still.
struct weak_points {
  std::vector<std::size_t> steps;
};

class torturer {
 public:
  torturer(survivor& s, std::size_t most_kills, bool invisible)
      : s_(s), most_kills_(most_kills), invisible_(invisible) {}

  /// Kills it everywhere. Returns the path, and where a death leaves most to do.
  std::pair<path, weak_points> torture(const operation& what, const std::string& name) {
    where_we_are = name + ", recording";
    const segment& seg = s_.own().internal()->here.seg;
    std::map<u32, std::size_t> by_depth;
    std::size_t held_still = 0;
    auto victim = begin(what);
    path known = victim->record([&](std::size_t step) {
      if (const u32 depth = seg.log().count.load(std::memory_order_relaxed); depth != 0)
        by_depth[depth] = step;
      if (held_still == 0 && is_anybody_held(seg)) held_still = step + 40;
    });
    victim->kill_now();
    end(what);
    const std::size_t n = known.length();
    const std::vector<std::size_t> moments = moments_of(known);
    const std::size_t stride =
        most_kills_ == 0 ? 1 : std::max<std::size_t>(1, moments.size() / most_kills_);
    std::uint64_t kills = 0;
    // Not always the same ones.
    for (std::size_t i = stride == 1 ? 0 : (figures_.operations * 7919) % stride;
         i < moments.size(); i += stride) {
      where_we_are = fmt::format("{}, after {} of {} instructions", name, moments[i], n);
      bool as_planned = false;
      for (int tries = 0; tries < most_tries && !as_planned; ++tries, ++kills)
        as_planned = kill_at(what, known, moments[i]);
      figures_.missed += !as_planned;
    }
    ++figures_.operations;
    figures_.kills += kills;
    figures_.instructions += n;
    figures_.moments += moments.size();
    fmt::print("{:<84} {:>8} {:>8} {:>8}\n", name, n, moments.size(), kills);
    std::fflush(stdout);
    weak_points weak;
    if (!by_depth.empty()) weak.steps.push_back(by_depth.rbegin()->second);
    if (held_still != 0) weak.steps.push_back(std::min(held_still, n - 1));
    return {std::move(known), std::move(weak)};
  }
  const figures& so_far() const { return figures_; }

 private:
  // False: it was killed elsewhere, because the operation took another way this time.
  bool kill_at(const operation& what, const path& known, std::size_t moment) {
    const std::uint64_t detours = stepper::detours();
    auto victim = begin(what);
    victim->go_to(known, moment);
    victim->kill_now();
    end(what);
    return stepper::detours() == detours;
  }
  // The numbers of instructions after which to die.
  std::vector<std::size_t> moments_of(const path& known) const {
    std::vector<std::size_t> moments;
    for (std::size_t k = 0; k < known.length(); ++k) {
      if (k > 0 && !invisible_ && !known.visible[k - 1]) continue;
      // One string instruction (rep movsb) is many steps at one address, all in the block it fills:
      // three of them will do.
      const auto at = known.addresses.begin() + static_cast<std::ptrdiff_t>(k);
      if (k > 3 && std::all_of(at - 3, at, [&](std::uint64_t before) { return before == *at; }))
        continue;
      moments.push_back(k);
    }
    return moments;
  }
  static bool is_anybody_held(const segment& seg) {
    for (u32 i = 0; i < seg.header().thread_slots_used.load(std::memory_order_relaxed); ++i)
      if (const chunk_ref cache = seg.slot(i).cache;
          cache != 0 &&
          seg.chunk<thread_cache>(cache)->frozen.load(std::memory_order_relaxed) == frozen_held)
        return true;
    return false;
  }
  // The victim stands before its operation.
  std::unique_ptr<stepper> begin(const operation& what) {
    s_.set_the_scene();
    if (what.before) what.before(s_);
    auto victim = start(s_, what);
    if (what.meanwhile) what.meanwhile(s_);
    return victim;
  }
  void end(const operation& what) {
    s_.go_on_at_once();
    s_.check_after_death(what.held_in_hand);
    if (what.after) what.after(s_);
  }
  survivor& s_;
  std::size_t most_kills_;
  bool invisible_;
  figures figures_;
};

// Goes on with work of every kind, so that it meets what a dead process left wherever it is.
void go_on(heap& h, books&) {
  void* block = h.allocate(250000);
  heap::free(block);
  (void)h.recover();
}

// An operation whose victim takes over from one that died in the middle of `first`; and, when
// `second` is given, from one that died in the middle of taking over.
operation take_over(const operation& first, const path& first_path, std::size_t first_step,
                    const path* second_path, std::size_t second_step) {
  auto helper = std::make_shared<std::unique_ptr<stepper>>();
  operation what{first.name, go_on, go_on,
                 first.held_in_hand + 1 + (second_path != nullptr ? 1u : 0u)};
  const operation idle{"idle", go_on, go_on};
  what.before = [=](survivor& s) {
    if (first.before) first.before(s);
    if (second_path != nullptr) *helper = start(s, idle);
  };
  what.meanwhile = [=](survivor& s) {
    const std::uint32_t stepped = s.book().victim_member.load();
    auto dying = start(s, first);
    if (first.meanwhile) first.meanwhile(s);
    dying->go_to(first_path, first_step);
    dying->kill_now();
    if (second_path != nullptr) {
      (*helper)->go_to(*second_path, second_step);
      helper->reset();
    }
    (void)stepped;  // the book stays the first one's: only it entered blocks
  };
  what.after = first.after;
  return what;
}

void run(std::size_t most_kills, int depth, const std::string& only, std::size_t every,
         bool invisible) {
  const heap_options options{.metadata_limit_bytes = std::size_t{1} << 30,
                             .member_limit = 64,
                             .thread_limit = 64,
                             .region_limit = 64,
                             .zone_limit = 64};
  figures total;
  std::uint64_t longest = 0;
  auto add = [&](const torturer& t, const survivor& s) {
    total.operations += t.so_far().operations;
    total.kills += t.so_far().kills;
    total.missed += t.so_far().missed;
    total.instructions += t.so_far().instructions;
    total.moments += t.so_far().moments;
    longest = std::max(longest, s.longest_wait_ns());
  };
  auto wanted = [&](const std::string& name) {
    return only.empty() || name.find(only) != name.npos;
  };
  std::size_t seen = 0;
  auto is_chosen = [&] { return seen++ % every == 0; };
  fmt::print("{:<84} {:>8} {:>8} {:>8}\n", "operation", "instr.", "moments", "kills");
  {
    survivor s(options);
    torturer t(s, most_kills, invisible);
    for (const operation& what : every_operation()) {
      const bool takes_lock = what.name[0] != 'r' || what.name[1] != 'i';  // rings work without it
      const std::string over = fmt::format("take over from: {}", what.name),
                        again = fmt::format("take over from who took over from: {}", what.name);
      if ((!wanted(what.name) && !wanted(over) && !wanted(again)) || !is_chosen()) continue;
      const auto [first_path, weak] = t.torture(what, what.name);
      if (!takes_lock || what.threaded || depth < 2) continue;
      for (const std::size_t step : weak.steps) {
        const operation second = take_over(what, first_path, step, nullptr, 0);
        const auto [second_path, second_weak] = t.torture(second, over);
        if (depth < 3) continue;
        for (const std::size_t at : second_weak.steps)
          t.torture(take_over(what, first_path, step, &second_path, at), again);
      }
    }
    add(t, s);
  }
  {
    heap_options checked = options;
    checked.checked = true;
    survivor s(checked);
    torturer t(s, most_kills, invisible);
    for (const operation& what : checked_operations())
      if (wanted(what.name) && is_chosen()) t.torture(what, what.name);
    add(t, s);
  }
  fmt::print(
      "\n{} operations of {} instructions, {} moments at which a death leaves something else, {} "
      "kills ({} moments were not met, the operation having taken another way): every audit held, "
      "every byte was accounted for.\n"
      "The longest a survivor waited for an operation after a death: {:.2f} ms.\n",
      total.operations, total.instructions, total.moments, total.kills, total.missed,
      static_cast<double>(longest) / 1e6);
}

}  // namespace
}  // namespace annex::torture

int main(int argc, char** argv) {
  annex::torture::arguments arguments("Kills every operation after every machine instruction");
  std::uint64_t kills = 0, depth = 3, every = 1;
  std::string only;
  arguments.number("--kills", &kills, "Deaths per operation, spread over it; 0: at every moment");
  arguments.number("--depth", &depth,
                   "1: operations; 2: also who takes over; 3: also who takes over from that one", 1,
                   3);
  arguments.text("--only", &only, "Only operations whose name contains this");
  arguments.number("--every", &every, "Only each so manieth operation", 1);
  bool invisible = false;
  arguments.flag("--invisible", &invisible,
                 "Also after instructions that change only what dies with the process");
  arguments.read(argc, argv);
  // The tracer and the traced on one CPU: a step costs a fifth.
  cpu_set_t here;
  CPU_ZERO(&here);
  CPU_SET(static_cast<std::size_t>(::sched_getcpu()), &here);
  ::sched_setaffinity(0, sizeof here, &here);
  annex::torture::run(kills, static_cast<int>(depth), only, every, invisible);
}
