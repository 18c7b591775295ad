// tools/list.cpp - ls: the heaps of one place or of all. info: the figures of one heap.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "named.hpp"
#include "output.hpp"
#include "places.hpp"
#include "terminal.hpp"

namespace annex::tool {
namespace {

struct list_arguments {
  bool all = false, names_only = false;
};

struct member_counts {
  std::uint64_t alive = 0, dead = 0;
};

/// The dead who hold nothing any more are of no interest: their records go when somebody needs one.
member_counts count_members(const heap& h) {
  member_counts counts;
  for (const member_summary& m : h.members())
    if (!m.self && (m.alive || m.held_blocks != 0)) ++(m.alive ? counts.alive : counts.dead);
  return counts;
}

std::string text_of(const member_counts& counts) {
  return counts.dead == 0 ? fmt::format("{}", counts.alive)
                          : fmt::format("{}+{} dead", counts.alive, counts.dead);
}

member_counts count_members(const heap_summary& h) {
  const auto opened = heap::attach(h.name, {.read_only = true, .regions = attach_policy::manual});
  return opened ? count_members(*opened) : member_counts{h.member_count, 0};
}

json json_of(const heap_summary& h, const member_counts& members, const std::string& place) {
  return {{"name", h.name},
          {"id", id_text(h.id)},
          {"directory", place},
          {"total_bytes", h.total_bytes},
          {"used_bytes", h.used_bytes},
          {"regions", h.region_count},
          {"zones", h.zone_count},
          {"members", members.alive},
          {"dead_members", members.dead},
          {"metadata_bytes", h.metadata_bytes},
          {"problem", h.problem}};
}

// What does not fit is left out, the least asked for first; then names are shortened.
void fit(table& t, unsigned columns) {
  constexpr std::size_t fewest = 3;
  const auto width = [&] {
    const std::string text = t.text();
    std::size_t most = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      most = std::max(most, end - at);
      at = end + 1;
    }
    return most;
  };
  while (t.columns.size() > fewest && width() > columns) {
    t.columns.pop_back();
    for (auto& row : t.rows)
      row.pop_back();
  }
  const std::size_t now = width();
  std::size_t longest = 0;
  for (const auto& row : t.rows)
    longest = std::max(longest, row[0].size());
  if (now > columns && longest > now - columns)
    for (auto& row : t.rows)
      row[0] = shortened(row[0], longest - (now - columns));
}

void print_text(const std::vector<heap_summary>& heaps) {
  table t{{{"NAME"},
           {"MEMORY", true},
           {"USED", true},
           {"MEMBERS", true},
           {"REGIONS", true},
           {"ZONES", true},
           {"METADATA", true}},
          {}};
  for (const heap_summary& h : heaps)
    if (h.problem.empty())
      t.rows.push_back({h.name, bytes_text(h.total_bytes), bytes_text(h.used_bytes),
                        text_of(count_members(h)), fmt::format("{}", h.region_count),
                        fmt::format("{}", h.zone_count), bytes_text(h.metadata_bytes)});
  const unsigned columns = output_columns();
  fit(t, columns);
  if (!t.rows.empty()) fmt::print("{}", t.text());
  for (const heap_summary& h : heaps)
    if (!h.problem.empty())
      fmt::print("{}\n", wrapped(fmt::format("{}: {}", printable(h.name), h.problem), columns, 2));
}

void list_here(session& s, const list_arguments& a) {
  const auto heaps = heap::list();
  if (!heaps) return refuse(s, heaps.error());
  std::error_code ignored;
  const bool is_there = std::filesystem::exists(directory(), ignored);
  if (!s.directory.empty() && !is_there)
    return refuse(s, fmt::format("there is no directory {}", directory()));
  if (s.json) {
    json all = json::list();
    for (const heap_summary& h : *heaps)
      all.add(json_of(h, count_members(h), directory()));
    return print(all);
  }
  if (a.names_only) {
    for (const heap_summary& h : *heaps)
      if (h.problem.empty()) fmt::print("{}\n", h.name);
    return;
  }
  if (heaps->empty())
    fmt::print("No heaps in {}. Create one with: annex create NAME\nElsewhere: annex ls --all\n",
               printable(directory()));
  else
    print_text(*heaps);
  const auto others = other_files(directory());
  if (!others.empty())
    fmt::print("{}\n", wrapped(fmt::format("Also in {}, and no heap: {}", printable(directory()),
                                           printable(fmt::format("{}", fmt::join(others, ", ")))),
                               output_columns(), 2));
}

void list_everywhere(session& s, const list_arguments& a) {
  json all = json::list();
  std::size_t shown = 0;
  for (const std::string& place : known_places()) {
    ::setenv("ANNEX_DIR", place.c_str(), 1);
    const auto heaps = heap::list();
    if (s.json) {
      if (!heaps)
        all.add({{"name", json()}, {"directory", place}, {"problem", heaps.error().message()}});
      else
        for (const heap_summary& h : *heaps)
          all.add(json_of(h, count_members(h), place));
      continue;
    }
    if (!heaps) {
      fmt::print(stderr, "annex: {}.\n", heaps.error().message());
      continue;
    }
    if (a.names_only) {
      for (const heap_summary& h : *heaps)
        fmt::print("{}\n", h.name);
      continue;
    }
    if (heaps->empty()) continue;
    fmt::print("{}In {}:\n", shown++ == 0 ? "" : "\n", printable(place));
    print_text(*heaps);
  }
  if (s.json)
    print(all);
  else if (shown == 0 && !a.names_only)
    fmt::print("No heaps in any place that may be read.\n");
}

json json_of(const heap_stats& s, const member_counts& members) {
  return {{"total_bytes", s.total_bytes},
          {"used_bytes", s.used_bytes},
          {"cached_bytes", s.cached_bytes},
          {"free_bytes", s.free_bytes},
          {"largest_free_bytes", s.largest_free_bytes},
          {"live_blocks", s.live_blocks},
          {"regions", s.region_count},
          {"zones", s.zone_count},
          {"members", members.alive},
          {"dead_members", members.dead},
          {"threads", s.thread_count},
          {"slabs", s.slab_count},
          {"holes", s.hole_count},
          {"metadata_bytes", s.metadata_bytes},
          {"misuse_count", s.misuse_count},
          {"lock_steals", s.lock_steals},
          {"recovered_threads", s.recovered_threads}};
}

json json_of(const heap& h, const region_summary& r) {
  const auto huge = h.huge_bytes(r.id);
  return {{"id", static_cast<unsigned>(r.id)},
          {"length_bytes", r.length_bytes},
          {"page_bytes", r.page_bytes},
          {"granule_bytes", r.granule_bytes},
          {"free_bytes", r.free_bytes},
          {"largest_free_bytes", r.largest_free_bytes},
          {"numa_node", r.numa_node},
          {"cpu_access", r.access == touch::read_write},
          {"draining", r.draining},
          {"huge_pages", huge_text(r.huge)},
          {"huge_bytes", huge ? json(*huge) : json()},
          {"iova_runs", r.iova_runs},
          {"first_iova",
           r.first_iova == no_iova ? json() : json(hex(static_cast<std::uint64_t>(r.first_iova)))},
          {"backing", r.backing}};
}

std::string text_of(const heap& h, const region_summary& r) {
  std::string text = fmt::format("{} of {} pages, {} free", bytes_text(r.length_bytes),
                                 bytes_text(r.page_bytes), bytes_text(r.free_bytes));
  if (r.numa_node != any_node) text += fmt::format(", node {}", r.numa_node);
  text += r.iova_runs == 0 ? std::string(", no IOVAs")
                           : fmt::format(", {} from {}", counted(r.iova_runs, "IOVA run"),
                                         hex(static_cast<std::uint64_t>(r.first_iova)));
  if (r.access == touch::none) text += ", no CPU access";
  if (r.draining) text += ", draining";
  if (const std::string huge = huge_state(h, r); !huge.empty()) text += ", " + huge;
  return text + ", " + (r.backing.empty() ? "attached by hand" : printable(r.backing));
}

void info(session& s, const std::string& name) {
  const auto opened = look_at(s, name);
  if (!opened) return;
  const heap& h = *opened;
  const heap_stats stats = h.stats();
  const member_counts members = count_members(h);
  const auto names = named_things(h);
  std::vector<region_summary> regions;
  h.for_each_region([&](const region_summary& r) { regions.push_back(r); });
  if (s.json) {
    json all_regions = json::list(), all_names = json::list();
    for (const region_summary& r : regions)
      all_regions.add(json_of(h, r));
    for (const named_thing& n : names)
      all_names.add(json_of(n));
    return print({{"name", name},
                  {"id", id_text(h.id())},
                  {"directory", directory()},
                  {"statistics", json_of(stats, members)},
                  {"regions", all_regions},
                  {"zones", all_names}});
  }
  constexpr unsigned indent = 13;
  const auto say = [columns = output_columns()](const std::string& label, const std::string& text) {
    fmt::print("  {:<{}}{}\n", label, indent - 2, wrapped(text, columns, indent));
  };
  fmt::print("Heap \"{}\", id {}\n", name, id_text(h.id()));
  say("memory", fmt::format("{}: {} used in {}, {} cached, {} free, largest {} of {}",
                            bytes_text(stats.total_bytes), bytes_text(stats.used_bytes),
                            counted(stats.live_blocks, "block"), bytes_text(stats.cached_bytes),
                            bytes_text(stats.free_bytes), bytes_text(stats.largest_free_bytes),
                            counted(stats.hole_count, "hole")));
  say("members",
      fmt::format("{} alive{} ({} with caches)", members.alive,
                  members.dead == 0
                      ? ""
                      : fmt::format(", {} dead with blocks (annex reap {})", members.dead, name),
                  counted(stats.thread_count, "thread")));
  say("metadata", fmt::format("{} in {}/{}.annex", bytes_text(stats.metadata_bytes),
                              printable(directory()), name));
  if (stats.misuse_count + stats.lock_steals + stats.recovered_threads != 0)
    say("incidents",
        fmt::format("{} refused, {} taken over from the dead, {} recovered",
                    counted(stats.misuse_count, "program mistake"),
                    counted(stats.lock_steals, "lock"), counted(stats.recovered_threads, "cache")));
  for (const region_summary& r : regions)
    say(fmt::format("region {}", static_cast<unsigned>(r.id)), text_of(h, r));
  for (const named_thing& n : names)
    say(n.kind, text_of(n));
}

}  // namespace

void add_list_commands(command_line& line, session& s) {
  auto a = std::make_shared<list_arguments>();
  command ls;
  ls.name = "ls";
  ls.summary = "List the heaps";
  ls.details =
      "MEMBERS counts the processes that are attached; \"+1 dead\" has left blocks (annex who, "
      "annex reap). What has a heap's name and is "
      "none, or is damaged, is listed with the reason and the remedy.";
  ls.examples = {"annex ls", "annex ls --all --json"};
  ls.flag("--all", &a->all,
          "Of every place: of all users and sessions, and wherever a process has one mapped, as "
          "far as they may be read");
  ls.flag("--names", &a->names_only, "Only the names, one a line");
  ls.run = [&s, a] { a->all ? list_everywhere(s, *a) : list_here(s, *a); };
  line.commands.push_back(std::move(ls));

  auto name = std::make_shared<std::string>();
  command info_command;
  info_command.name = "info";
  info_command.summary = "Show a heap's figures, regions and zones";
  info_command.heap(name.get());
  info_command.run = [&s, name] { info(s, *name); };
  line.commands.push_back(std::move(info_command));
}

}  // namespace annex::tool
