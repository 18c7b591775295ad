// tools/reap.cpp - reap: shows the blocks of dead members, then frees them.
#include <algorithm>
#include <memory>

#include "blocks.hpp"
#include "output.hpp"

namespace annex::tool {
namespace {

struct reap_arguments {
  std::string heap;
  unsigned member = 0;
  std::uint64_t lines = 20;
  bool only_show = false;
};

std::string who_is(const member_summary& m) {
  return fmt::format("member {} (process {}, {}), which is dead", static_cast<unsigned>(m.id),
                     m.process_id, printable(m.program));
}

// Of one dead member. False: refused.
bool reap_member(session& s, heap& h, const member_summary& m, const reap_arguments& a, json& all) {
  std::uint64_t shown = 0, bytes = 0;
  json blocks = json::list();
  const auto freed = h.reap(m.id, [&](const block_summary& b) {
    bytes += b.size_bytes;
    const std::string where = hex(static_cast<std::uint64_t>(b.where));
    if (s.json)
      blocks.add({{"handle", where}, {"kind", name_of(b.kind)}, {"size_bytes", b.size_bytes}});
    else if (shown == 0)
      fmt::print("Blocks of {}:\n", who_is(m));
    if (!s.json && shown < a.lines)
      fmt::print("  {:<20} {:<12} {}\n", where, name_of(b.kind), bytes_text(b.size_bytes));
    ++shown;
    return a.only_show ? reap_choice::keep : reap_choice::free;
  });
  if (!freed && !m.alive && freed.error().code == errc::invalid_argument)
    return true;  // listed a moment ago, and nothing is left of it
  if (!freed) {
    refuse(s, freed.error());
    return false;
  }
  if (s.json) {
    all.add({{"member", static_cast<unsigned>(m.id)},
             {"process", m.process_id},
             {"freed_blocks", *freed},
             {"held_bytes", bytes},
             {"blocks", blocks}});
    return true;
  }
  if (shown > a.lines) fmt::print("  and {} more\n", shown - a.lines);
  if (a.only_show)
    fmt::print("{} ({}) of {}.\n", counted(shown, "block"), bytes_text(bytes), who_is(m));
  else
    fmt::print("Freed {} ({}) of {}.\n", counted(*freed, "block"), bytes_text(bytes), who_is(m));
  return true;
}

void reap(session& s, const reap_arguments& a) {
  auto opened = heap::attach(a.heap, {.regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  json all = json::list();
  const auto members = opened->members();
  const auto is_asked_for = [&](const member_summary& m) {
    return static_cast<unsigned>(m.id) == a.member;
  };
  if (a.member != 0 && std::none_of(members.begin(), members.end(), is_asked_for))
    return refuse(
        s,
        fmt::format("\"{}\" has no member {}, alive or dead; `annex who {}` shows those there are",
                    a.heap, a.member, a.heap));
  std::size_t looked_at = 0;
  for (const member_summary& m : members) {
    if (a.member != 0 ? !is_asked_for(m) : m.alive) continue;
    ++looked_at;
    if (!reap_member(s, *opened, m, a, all)) return;
  }
  if (s.json)
    print(all);
  else if (looked_at == 0)
    fmt::print("\"{}\" has no dead members with blocks.\n", a.heap);
}

}  // namespace

void add_reap_command(command_line& line, session& s) {
  auto a = std::make_shared<reap_arguments>();
  command c;
  c.name = "reap";
  c.summary = "Show the blocks of dead members, then free them";
  c.details =
      "Blocks of a killed process stay, since others may have their handles. What nobody will come "
      "back to is freed here. Zones and rings are "
      "nobody's: annex release ends those.";
  c.examples = {"annex reap packets --show", "annex reap packets --member 2"};
  c.heap(&a->heap);
  constexpr std::uint64_t most = std::numeric_limits<std::uint32_t>::max();
  c.number(
      "--member", "MEMBER", 1, most,
      [a](std::uint64_t id) { a->member = static_cast<unsigned>(id); },
      "Only this one, see annex who");
  c.number(
       "--lines", "COUNT", 0, most, [a](std::uint64_t count) { a->lines = count; },
       "Most blocks to show of each")
      .otherwise = "20";
  c.flag("--show", &a->only_show, "Show them, free nothing");
  c.run = [&s, a] { reap(s, *a); };
  line.commands.push_back(std::move(c));
}

}  // namespace annex::tool
