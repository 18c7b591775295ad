// tools/blocks.cpp - blocks: what is live in a heap, summed up by size and holder or one by one.
#include <algorithm>
#include <map>
#include <memory>
#include <tuple>

#include "blocks.hpp"
#include "output.hpp"

namespace annex::tool {
namespace {

struct blocks_arguments {
  std::string heap, by = "size";
  std::uint64_t member = 0, lines = 20, least_bytes = 0;
  bool lists = false;
};

struct group {
  std::uint64_t count = 0, bytes = 0;
};

// "3 (process 4711, reader)".
std::map<member_id, std::string> names_of_members(const heap& h) {
  std::map<member_id, std::string> names;
  for (const member_summary& m : h.members())
    names[m.id] = fmt::format("{} (process {}, {}{})", static_cast<unsigned>(m.id), m.process_id,
                              printable(m.program), m.alive ? "" : ", dead");
  return names;
}

void list_blocks(session& s, std::vector<block_summary>& found,
                 const std::map<member_id, std::string>& names, const blocks_arguments& a) {
  std::sort(found.begin(), found.end(), [](const block_summary& x, const block_summary& y) {
    return std::tuple(y.size_bytes, static_cast<std::uint64_t>(x.where)) <
           std::tuple(x.size_bytes, static_cast<std::uint64_t>(y.where));
  });
  if (s.json) {
    json all = json::list();
    for (const block_summary& b : found)
      all.add({{"handle", hex(static_cast<std::uint64_t>(b.where))},
               {"kind", name_of(b.kind)},
               {"size_bytes", b.size_bytes},
               {"member", static_cast<unsigned>(b.holder)}});
    return print(all);
  }
  table t{{{"HANDLE", true}, {"SIZE", true}, {"KIND"}, {"MEMBER"}}, {}};
  for (const block_summary& b : found) {
    if (t.rows.size() == a.lines) break;
    const auto name = names.find(b.holder);
    t.rows.push_back({hex(static_cast<std::uint64_t>(b.where)), bytes_text(b.size_bytes),
                      name_of(b.kind), name != names.end() ? name->second : "nobody's"});
  }
  fmt::print("{}", t.text());
  if (found.size() > a.lines) fmt::print("and {} more (--lines, --json)\n", found.size() - a.lines);
}

void sum_up(session& s, const std::vector<block_summary>& found,
            const std::map<member_id, std::string>& names, bool by_size) {
  std::map<std::tuple<member_id, std::uint64_t, block_kind>, group> groups;
  std::uint64_t bytes = 0;
  for (const block_summary& b : found) {
    bytes += b.size_bytes;
    group& g = groups[by_size ? std::tuple(b.holder, b.size_bytes, b.kind)
                              : std::tuple(b.holder, std::uint64_t{0}, block_kind{})];
    ++g.count;
    g.bytes += b.size_bytes;
  }
  std::vector<std::pair<std::tuple<member_id, std::uint64_t, block_kind>, group>> sorted(
      groups.begin(), groups.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& x, const auto& y) { return x.second.bytes > y.second.bytes; });
  if (s.json) {
    json all = json::list();
    for (const auto& [key, g] : sorted) {
      json one{{"member", static_cast<unsigned>(std::get<0>(key))},
               {"blocks", g.count},
               {"bytes", g.bytes}};
      if (by_size)
        one.set("size_bytes", std::get<1>(key)), one.set("kind", name_of(std::get<2>(key)));
      all.add(one);
    }
    return print({{"blocks", found.size()}, {"bytes", bytes}, {"groups", all}});
  }
  table t;
  if (by_size) t.columns = {{"SIZE", true}, {"KIND"}};
  for (const char* head : {"BLOCKS", "BYTES"})
    t.columns.push_back({head, true});
  t.columns.push_back({"MEMBER"});
  for (const auto& [key, g] : sorted) {
    std::vector<std::string> row;
    if (by_size) row = {bytes_text(std::get<1>(key)), name_of(std::get<2>(key))};
    const auto name = names.find(std::get<0>(key));
    row.insert(row.end(), {fmt::format("{}", g.count), bytes_text(g.bytes),
                           name != names.end() ? name->second : "nobody's"});
    t.rows.push_back(std::move(row));
  }
  fmt::print("{}{} of {} in all.\n", found.empty() ? "" : t.text(),
             counted(found.size(), "live block"), bytes_text(bytes));
}

void blocks(session& s, const blocks_arguments& a) {
  auto opened = heap::attach(a.heap, {.regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  const auto names = names_of_members(*opened);
  if (a.member != 0 && !names.contains(member_id{static_cast<std::uint32_t>(a.member)}))
    return refuse(
        s,
        fmt::format("\"{}\" has no member {}, alive or dead; `annex who {}` shows those there are",
                    a.heap, a.member, a.heap));
  std::vector<block_summary> found;
  const auto looked = opened->for_each_block([&](const block_summary& b) {
    if ((a.member == 0 || static_cast<std::uint32_t>(b.holder) == a.member) &&
        b.size_bytes >= a.least_bytes)
      found.push_back(b);
  });
  if (!looked) return refuse(s, looked.error());
  a.lists ? list_blocks(s, found, names, a) : sum_up(s, found, names, a.by == "size");
}

}  // namespace

const char* name_of(block_kind kind) {
  switch (kind) {
    case block_kind::slab_block: return "small";
    case block_kind::large: return "large";
    case block_kind::zone: return "zone";
    case block_kind::pool_object: return "pool object";
  }
  return "";
}

void add_block_commands(command_line& line, session& s) {
  auto a = std::make_shared<blocks_arguments>();
  command c;
  c.name = "blocks";
  c.summary = "Sum up or list the live blocks: sizes, kinds, holders";
  c.details =
      "What grows from one call to the next is what leaks. Sizes are those of the size classes "
      "that blocks came from. The heap is held still for a "
      "moment, so it must be one that may be written to. annex does not note when a block was "
      "allocated.";
  c.examples = {"annex blocks packets", "annex blocks packets --by member",
                "annex blocks packets --list --member 2 --least 1M"};
  c.heap(&a->heap);
  c.text("--by", "WHAT", &a->by, "Sum up by size (and member), or by member alone").choices = {
      "size", "member"};
  c.options.back().otherwise = "size";
  c.flag("--list", &a->lists, "One line for each block, the largest first");
  constexpr std::uint64_t most = std::numeric_limits<std::uint32_t>::max();
  c.number(
      "--member", "MEMBER", 1, most, [a](std::uint64_t id) { a->member = id; },
      "Only those of this one, see annex who");
  c.bytes("--least", &a->least_bytes, "Only blocks of at least so many bytes");
  c.number(
       "--lines", "COUNT", 1, most, [a](std::uint64_t count) { a->lines = count; },
       "Most lines of --list")
      .otherwise = "20";
  c.run = [&s, a] { blocks(s, *a); };
  line.commands.push_back(std::move(c));
}

}  // namespace annex::tool
