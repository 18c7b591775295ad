// tools/destroy.cpp - destroy: ends a heap that nobody uses; with --force whatever is still in it
// goes too.
#include <memory>

#include "named.hpp"
#include "output.hpp"

namespace annex::tool {
namespace {

struct destroy_arguments {
  std::string name;
  bool force = false;
};

// What ends with the heap, as it was before anything was done.
struct contents {
  heap_stats figures;
  std::vector<named_thing> named;
  std::vector<member_summary> dead, alive;
};

contents look_into(const heap& h) {
  contents c{h.stats(), named_things(h), {}, {}};
  for (const member_summary& m : h.members())
    if (!m.self) (m.alive ? c.alive : c.dead).push_back(m);
  return c;
}

void show(const contents& c, const std::string& name) {
  fmt::print("With \"{}\" goes: {} in {}, {} in use.\n", name, bytes_text(c.figures.total_bytes),
             counted(c.figures.region_count, "region"), bytes_text(c.figures.used_bytes));
  for (const named_thing& n : c.named)
    fmt::print("  {} {}\n", n.kind, text_of(n));
  for (const member_summary& m : c.dead)
    fmt::print("  {} ({}) of member {} (process {}, {}), which is dead\n",
               counted(m.held_blocks, "block"), bytes_text(m.held_bytes),
               static_cast<unsigned>(m.id), m.process_id, printable(m.program));
}

// Everything in it is freed or released, so that it can end as an empty one does. False: said why
// not.
bool empty(session& s, const std::string& name) {
  auto opened = heap::attach(name, {.regions = attach_policy::manual});
  if (!opened) {
    refuse(s, opened.error());
    return false;
  }
  const contents c = look_into(*opened);
  if (!c.alive.empty()) {
    refuse(s, fmt::format("\"{}\" is used by process {} ({}){}; close it there first, --force ends "
                          "nothing that is alive",
                          name, c.alive[0].process_id, c.alive[0].program,
                          c.alive.size() == 1
                              ? ""
                              : fmt::format(" and {}", counted(c.alive.size() - 1, "other"))));
    return false;
  }
  if (!s.json) show(c, name);
  for (const member_summary& m : c.dead)
    (void)opened->reap(m.id);  // none of its blocks may be left: nothing to say
  for (const named_thing& n : c.named)
    if (const auto done = release_named(*opened, n);
        !done && done.error().code != errc::no_such_zone) {
      refuse(s, done.error());
      return false;
    }
  return true;
}

void destroy(session& s, const destroy_arguments& a) {
  if (a.force && !empty(s, a.name)) return;
  const auto done = heap::destroy(a.name);
  if (done) {
    if (s.json)
      print({{"destroyed", a.name}});
    else
      fmt::print("Destroyed heap \"{}\".\n", a.name);
    return;
  }
  if (done.error().code != errc::blocks_live || a.force) return refuse(s, done.error());
  std::string sentence = fmt::format("\"{}\" is not empty", a.name);
  if (const auto seen =
          heap::attach(a.name, {.read_only = true, .regions = attach_policy::manual})) {
    const contents c = look_into(*seen);
    sentence += fmt::format(": {} in {}", bytes_text(c.figures.used_bytes),
                            counted(c.figures.live_blocks, "block"));
    if (!c.named.empty())
      sentence += fmt::format(", {} under names (`annex zones {}`, `annex release {} NAME`)",
                              c.named.size(), a.name, a.name);
    if (!c.dead.empty())
      sentence += fmt::format(", {} dead with blocks (`annex reap {}`)",
                              counted(c.dead.size(), "member"), a.name);
  }
  s.exit = exit_refused;
  sentence += fmt::format(
      "; `annex destroy --force {}` shows what is in it and ends it with all of that", a.name);
  if (s.json)
    print({{"error",
            {{"code", static_cast<int>(done.error().code)},
             {"name", name_of(done.error().code)},
             {"message", sentence}}}});
  else
    fmt::print(stderr, "annex: {}.\n", sentence);
}

}  // namespace

void add_destroy_command(command_line& line, session& s) {
  auto a = std::make_shared<destroy_arguments>();
  command c;
  c.name = "destroy";
  c.summary = "End a heap that nobody uses";
  c.details =
      "Refused while a process is attached, and, without --force, while there are blocks, zones, "
      "pools or rings in it. Files that were brought with "
      "annex add --file stay, those annex made itself go.";
  c.examples = {"annex destroy packets", "annex destroy --force packets"};
  c.heap(&a->name);
  c.flag("--force", &a->force,
         "Show what is in it, then end it with all of that; never while a process is attached");
  c.run = [&s, a] { destroy(s, *a); };
  line.commands.push_back(std::move(c));
}

}  // namespace annex::tool
