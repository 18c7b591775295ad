// tools/see.cpp - map, who, check, reap.
#include <unistd.h>

#include <algorithm>

#include "map_drawing.hpp"
#include "output.hpp"

namespace annex::tool {
namespace {

nlohmann::json json_of(const member_summary& m) {
  return {{"id", static_cast<unsigned>(m.id)}, {"process", m.process_id}, {"program", m.program}, {"alive", m.alive}, {"threads", m.threads},
          {"cached_bytes", m.cached_bytes}, {"held_blocks", m.held_blocks}, {"held_bytes", m.held_bytes}};
}

void map(session& s, const std::string& name, unsigned width) {
  const auto opened = heap::attach(name, {.read_only = true, .regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  const auto members = opened->members();
  const auto drawn = draw(*opened, width);
  if (!s.json) {
    fmt::print("{}", text_map(drawn, members, ::isatty(STDOUT_FILENO) != 0));
    return;
  }
  nlohmann::json j{{"regions", nlohmann::json::array()}, {"members", nlohmann::json::array()}};
  for (const drawn_region& d : drawn) {
    nlohmann::json cells = nlohmann::json::array();
    for (const map_cell& c : d.cells) cells.push_back({{"live", c.live}, {"cached", c.cached}, {"free", c.free}, {"holder", static_cast<unsigned>(c.holder)}});
    j["regions"].push_back({{"id", static_cast<unsigned>(d.region.id)}, {"cell_bytes", d.cell_bytes}, {"cells", cells}});
  }
  for (const member_summary& m : members) j["members"].push_back(json_of(m));
  print(j);
}

void who(session& s, const std::string& name) {
  const auto opened = heap::attach(name, {.read_only = true, .regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  nlohmann::json all = nlohmann::json::array();
  if (!s.json) fmt::print("{:>6} {:>8} {:<16} {:<6} {:>7} {:>10} {:>8} {:>10}\n", "MEMBER", "PROCESS", "PROGRAM", "STATE", "THREADS", "CACHED", "BLOCKS", "HELD");
  for (const member_summary& m : opened->members()) {
    if (s.json) all.push_back(json_of(m));
    else fmt::print("{:>6} {:>8} {:<16} {:<6} {:>7} {:>10} {:>8} {:>10}\n", static_cast<unsigned>(m.id), m.process_id, printable(m.program), m.alive ? "alive" : "dead", m.threads, bytes_text(m.cached_bytes), m.held_blocks, bytes_text(m.held_bytes));
  }
  if (s.json) print(all);
}

void check(session& s, const std::string& name) {
  auto opened = heap::attach(name, {.regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  const auto report = opened->audit();
  if (!report) return refuse(s, report.error());
  if (!report->holds()) s.exit = exit_refused;
  if (s.json) return print({{"holds", report->holds()}, {"exact", report->exact}, {"checked", report->checked}, {"broken", report->broken}});
  fmt::print("{} objects of \"{}\" checked{}: {}.\n", report->checked, name, report->exact ? "" : " (a stopped thread's cache was left out)", report->holds() ? "every invariant holds" : fmt::format("{} invariants are broken", report->broken.size()));
  for (const std::string& sentence : report->broken) fmt::print("  {}\n", printable(sentence));
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
    for (const std::string& sentence : sentences) fmt::print("  {}\n", printable(sentence));
  };
  list(done->found, fmt::format("{} invariants of \"{}\" were broken", done->found.size(), name));
  list(done->changed, "Rebuilt from what is true");
  list(done->uncertain,
       "Uncertain: nothing vouches for this, and none of it is handed out; look at it, then reap "
       "or release it");
  list(done->after.broken, "Still broken, since nothing else tells what is true");
  fmt::print("{} objects of \"{}\" checked: {}.\n", done->after.checked, name,
             !done->after.holds() ? "not all could be repaired" : done->found.empty() ? "there was nothing to repair" : "every invariant holds again");
}

const char* name_of(block_kind kind) {
  switch (kind) {
    case block_kind::slab_block: return "small";
    case block_kind::large: return "large";
    case block_kind::zone: return "zone";
    case block_kind::pool_object: return "pool object";
  }
  return "";
}

struct reap_arguments { unsigned member = 0, lines = 20; bool only_show = false; };

// Shows the blocks of each dead member, then frees them.
void reap(session& s, const std::string& name, const reap_arguments& a) {
  auto opened = heap::attach(name, {.regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  nlohmann::json all = nlohmann::json::array();
  const auto members = opened->members();
  const bool is_there = std::any_of(members.begin(), members.end(), [&](const member_summary& m) { return static_cast<unsigned>(m.id) == a.member; });
  if (a.member != 0 && !is_there) return refuse(s, fmt::format("\"{}\" has no member {}, alive or dead; `annex who {}` shows those there are", name, a.member, name));
  for (const member_summary& m : members) {
    if (m.alive ? static_cast<unsigned>(m.id) != a.member : a.member != 0 && static_cast<unsigned>(m.id) != a.member) continue;
    std::uint64_t shown = 0, bytes = 0;
    nlohmann::json blocks = nlohmann::json::array();
    const std::string who = fmt::format("member {} (process {}, {}), which is dead", static_cast<unsigned>(m.id), m.process_id, printable(m.program));
    const auto freed = opened->reap(m.id, [&](const block_summary& b) {
      bytes += b.size_bytes;
      const std::uint64_t where = static_cast<std::uint64_t>(b.where);
      if (s.json) blocks.push_back({{"handle", hex(where)}, {"kind", name_of(b.kind)}, {"size_bytes", b.size_bytes}});
      else if (shown == 0) fmt::print("Blocks of {}:\n", who);
      if (!s.json && shown < a.lines) fmt::print("  {:<20} {:<12} {}\n", hex(where), name_of(b.kind), bytes_text(b.size_bytes));
      ++shown;
      return a.only_show ? reap_choice::keep : reap_choice::free;
    });
    if (!freed && !m.alive && freed.error().code == errc::invalid_argument) continue;  // listed a moment ago, and nothing is left of it
    if (!freed) return refuse(s, freed.error());
    if (s.json) {
      all.push_back({{"member", static_cast<unsigned>(m.id)}, {"process", m.process_id}, {"freed_blocks", *freed}, {"held_bytes", bytes}, {"blocks", blocks}});
      continue;
    }
    if (shown > a.lines) fmt::print("  … and {} more\n", shown - a.lines);
    if (a.only_show) fmt::print("{} blocks ({}) of {}.\n", shown, bytes_text(bytes), who);
    else fmt::print("Freed {} blocks ({}) of {}.\n", *freed, bytes_text(bytes), who);
  }
  if (s.json) print(all);
}

}  // namespace

void add_see_commands(CLI::App& app, session& s) {
  struct arguments { std::string name; unsigned width = 1024; bool repairing = false; reap_arguments reaping; };
  auto a = std::make_shared<arguments>();
  auto command = [&](const char* verb, const char* help) {
    CLI::App* made = app.add_subcommand(verb, help);
    made->add_option("name", a->name, "The heap")->required();
    return made;
  };
  CLI::App* map_command = command("map", "Draw what is used, cached and free, and whose it is");
  map_command->add_option("--cells", a->width, "Most marks per region")->capture_default_str()->check(CLI::Range(1, 1 << 20));
  map_command->callback([&s, a] { map(s, a->name, a->width); });
  command("who", "Show the members and what they hold")->callback([&s, a] { who(s, a->name); });
  CLI::App* check_command = command("check", "Check every invariant of a heap");
  check_command->add_flag("--repair", a->repairing, "Rebuild what can be rebuilt; nobody may be attached");
  check_command->callback([&s, a] { a->repairing ? repair(s, a->name) : check(s, a->name); });
  CLI::App* reap_command = command("reap", "Show the blocks of dead members, then free them");
  reap_command->add_option("--member", a->reaping.member, "Only this one, see annex who");
  reap_command->add_option("--lines", a->reaping.lines, "Most blocks to show of each")->capture_default_str();
  reap_command->add_flag("--show", a->reaping.only_show, "Show them, free nothing");
  reap_command->callback([&s, a] { reap(s, a->name, a->reaping); });
}

}  // namespace annex::tool
