// tools/see.cpp - map, who, check.
#include <algorithm>
#include <memory>

#include "map_drawing.hpp"
#include "named.hpp"
#include "output.hpp"
#include "terminal.hpp"

namespace annex::tool {
namespace {

json json_of(const member_summary& m) {
  return {{"id", static_cast<unsigned>(m.id)},
          {"process", m.process_id},
          {"program", m.program},
          {"alive", m.alive},
          {"threads", m.threads},
          {"cached_bytes", m.cached_bytes},
          {"held_blocks", m.held_blocks},
          {"held_bytes", m.held_bytes}};
}

void map(session& s, const std::string& name, std::size_t cells) {
  const auto opened = look_at(s, name);
  if (!opened) return;
  const auto members = opened->members();
  const auto drawn = draw(*opened, cells);
  if (!s.json) {
    fmt::print("{}",
               text_map(drawn, members, {.columns = output_columns(), .colour = shows_colour()}));
    return;
  }
  json regions = json::list(), all_members = json::list();
  for (const drawn_region& d : drawn) {
    json marks = json::list();
    for (const map_cell& c : d.cells)
      marks.add({{"live", c.live},
                 {"cached", c.cached},
                 {"free", c.free},
                 {"holder", static_cast<unsigned>(c.holder)}});
    regions.add({{"id", static_cast<unsigned>(d.region.id)},
                 {"cell_bytes", d.cell_bytes},
                 {"huge_pages", huge_text(d.region.huge)},
                 {"cells", marks}});
  }
  for (const member_summary& m : members)
    all_members.add(json_of(m));
  print({{"regions", regions}, {"members", all_members}});
}

void who(session& s, const std::string& name) {
  const auto opened = look_at(s, name);
  if (!opened) return;
  const auto members = opened->members();
  if (s.json) {
    json all = json::list();
    for (const member_summary& m : members)
      all.add(json_of(m));
    return print(all);
  }
  table t{{{"MEMBER", true},
           {"PROCESS", true},
           {"STATE"},
           {"THREADS", true},
           {"CACHED", true},
           {"BLOCKS", true},
           {"HELD", true},
           {"PROGRAM"}},
          {}};
  for (const member_summary& m : members)
    t.rows.push_back(
        {fmt::format("{}", static_cast<unsigned>(m.id)), fmt::format("{}", m.process_id),
         m.alive ? "alive" : "dead", fmt::format("{}", m.threads), bytes_text(m.cached_bytes),
         fmt::format("{}", m.held_blocks), bytes_text(m.held_bytes), printable(m.program)});
  fmt::print("{}", t.text());
  std::uint64_t zone_bytes = 0;
  const auto named = named_things(*opened);
  for (const named_thing& n : named)
    zone_bytes += n.size_bytes;
  if (!named.empty())
    fmt::print("Nobody's, of the heap itself: {} under names of {} (annex zones {}).\n",
               counted(named.size(), "thing"), bytes_text(zone_bytes), name);
}

void check(session& s, const std::string& name) {
  auto opened = heap::attach(name, {.regions = attach_policy::manual});
  const bool may_not_write =
      !opened && (opened.error().code == errc::permission ||
                  opened.error().code == errc::read_only || opened.error().os_errno == EROFS);
  if (may_not_write)  // as well as can be seen without holding anybody still
    if (auto seen = heap::attach(name, {.read_only = true, .regions = attach_policy::manual}))
      opened = std::move(seen);
  if (!opened) return refuse(s, opened.error());
  const auto report = opened->audit();
  if (!report) return refuse(s, report.error());
  if (!report->holds()) s.exit = exit_refused;
  if (s.json)
    return print({{"holds", report->holds()},
                  {"exact", report->exact},
                  {"checked", report->checked},
                  {"broken", report->broken}});
  const char* const how = report->exact   ? ""
                          : may_not_write ? " (read-only: as well as can be seen while others work)"
                                          : " (a stopped thread's cache was left out)";
  fmt::print("{} objects of \"{}\" checked{}: {}.\n", report->checked, name, how,
             report->holds() ? "every invariant holds"
                             : fmt::format("{} invariants are broken", report->broken.size()));
  for (const std::string& sentence : report->broken)
    fmt::print("  {}\n", printable(sentence));
}

void repair(session& s, const std::string& name) {
  const auto done = heap::repair(name);
  if (!done) return refuse(s, done.error());
  if (!done->after.holds()) s.exit = exit_refused;
  if (s.json)
    return print({{"holds", done->after.holds()},
                  {"found", done->found},
                  {"changed", done->changed},
                  {"uncertain", done->uncertain},
                  {"broken", done->after.broken}});
  auto list = [](const std::vector<std::string>& sentences, const std::string& heading) {
    if (!sentences.empty()) fmt::print("{}:\n", heading);
    for (const std::string& sentence : sentences)
      fmt::print("  {}\n", printable(sentence));
  };
  list(done->found, fmt::format("{} invariants of \"{}\" were broken", done->found.size(), name));
  list(done->changed, "Rebuilt from what is true");
  list(done->uncertain,
       "Uncertain: nothing vouches for this, and none of it is handed out; look at it, then reap "
       "or release it");
  list(done->after.broken, "Still broken, since nothing else tells what is true");
  fmt::print("{} objects of \"{}\" checked: {}.\n", done->after.checked, name,
             !done->after.holds()  ? "not all could be repaired"
             : done->found.empty() ? "there was nothing to repair"
                                   : "every invariant holds again");
}

}  // namespace

void add_see_commands(command_line& line, session& s) {
  struct arguments {
    std::string name;
    std::size_t cells = 0;
    bool repairs = false;
  };
  auto a = std::make_shared<arguments>();

  command map_command;
  map_command.name = "map";
  map_command.summary = "Draw what is used, cached and free, and whose it is";
  map_command.details =
      "As wide as the terminal, up to 160 marks a row. A mark stands for an equal part of its "
      "region; rows that are all free are left out. "
      "Colours tell the members apart, where there are few.";
  map_command.heap(&a->name);
  map_command
      .number(
          "--cells", "COUNT", 1, 1 << 20, [a](std::uint64_t count) { a->cells = count; },
          "Most marks of a region")
      .otherwise = "16 rows";
  map_command.run = [&s, a] {
    map(s, a->name, a->cells != 0 ? a->cells : 16 * marks_per_row(output_columns()));
  };
  line.commands.push_back(std::move(map_command));

  command who_command;
  who_command.name = "who";
  who_command.summary = "Show the members and what they hold";
  who_command.heap(&a->name);
  who_command.run = [&s, a] { who(s, a->name); };
  line.commands.push_back(std::move(who_command));

  command check_command;
  check_command.name = "check";
  check_command.summary = "Check every invariant of a heap";
  check_command.details =
      "Exit status 1 when one is broken. A heap that may only be read is checked as well as can be "
      "seen while others work. --repair rebuilds "
      "every index from what is true, says what it changed, and names what nothing vouches for.";
  check_command.heap(&a->name);
  check_command.flag("--repair", &a->repairs,
                     "Rebuild what can be rebuilt; nobody may be attached");
  check_command.run = [&s, a] { a->repairs ? repair(s, a->name) : check(s, a->name); };
  line.commands.push_back(std::move(check_command));
}

}  // namespace annex::tool
