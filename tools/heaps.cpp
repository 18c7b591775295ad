// tools/heaps.cpp - create, destroy, ls, info.
#include <algorithm>
#include <cctype>
#include <filesystem>

#include "output.hpp"

namespace annex::tool {
namespace {

struct create_arguments {
  std::string name;
  heap_options options;
  std::string mode = "600";
  bool refuse_misuse = false;
  std::uint64_t metadata_limit = heap_options{}.metadata_limit_bytes;
};

nlohmann::json json_of(const heap_stats& s) {
  return {{"total_bytes", s.total_bytes}, {"used_bytes", s.used_bytes}, {"cached_bytes", s.cached_bytes}, {"free_bytes", s.free_bytes},
          {"largest_free_bytes", s.largest_free_bytes}, {"live_blocks", s.live_blocks}, {"regions", s.region_count}, {"zones", s.zone_count},
          {"members", s.member_count}, {"threads", s.thread_count}, {"slabs", s.slab_count}, {"holes", s.hole_count}, {"metadata_bytes", s.metadata_bytes},
          {"misuse_count", s.misuse_count}, {"lock_steals", s.lock_steals}, {"recovered_threads", s.recovered_threads}};
}

void create(session& s, create_arguments& a) {
  try {
    std::size_t used = 0;
    a.options.file_mode = static_cast<unsigned>(std::stoul(a.mode, &used, 8));
    if (used != a.mode.size() || !std::isdigit(static_cast<unsigned char>(a.mode.front())) || a.options.file_mode > 0777) throw CLI::ValidationError("--mode", "");
  } catch (const std::exception&) {
    return refuse(s, "\"" + a.mode + "\" is no file mode; write it in octal, for example 660");
  }
  a.options.metadata_limit_bytes = a.metadata_limit;
  if (a.refuse_misuse) a.options.on_misuse = misuse_policy::refuse;
  const auto made = heap::create(a.name, a.options);
  if (!made) return refuse(s, made.error());
  if (s.json) print({{"name", a.name}, {"id", static_cast<std::uint64_t>(made->id())}});
  else fmt::print("Created heap \"{}\" in {}. Add memory with: annex add {} 256M\n", a.name, printable(directory()), a.name);
}

// What lies in the annex directory and is no file of annex's: neither a segment, nor memory of a region, nor a file of lives.
std::vector<std::string> other_files() {
  std::vector<std::string> names;
  std::error_code why;
  for (auto entry = std::filesystem::directory_iterator(directory(), why); !why && entry != std::filesystem::directory_iterator(); entry.increment(why)) {
    const std::string name = entry->path().filename();
    if (name.find(".annex") == name.npos && !(name.front() == '.' && name.ends_with(".alive"))) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

void list(session& s) {
  const auto heaps = heap::list();
  if (!heaps) return refuse(s, heaps.error());
  nlohmann::json all = nlohmann::json::array();
  if (!s.json && heaps->empty()) fmt::print("No heaps in {}. Create one with: annex create NAME\n", printable(directory()));
  if (!s.json && !heaps->empty()) fmt::print("{:<32} {:>10} {:>10} {:>7} {:>6} {:>8} {:>10}\n", "NAME", "MEMORY", "USED", "REGIONS", "ZONES", "MEMBERS", "METADATA");
  for (const heap_summary& h : *heaps) {
    if (!s.json && !h.problem.empty()) {
      fmt::print("{:<32} {}\n", printable(h.name), h.problem);
      continue;
    }
    if (s.json) all.push_back({{"name", h.name}, {"id", static_cast<std::uint64_t>(h.id)}, {"total_bytes", h.total_bytes}, {"used_bytes", h.used_bytes}, {"regions", h.region_count},
                               {"zones", h.zone_count}, {"members", h.member_count}, {"metadata_bytes", h.metadata_bytes}, {"problem", h.problem}});
    else fmt::print("{:<32} {:>10} {:>10} {:>7} {:>6} {:>8} {:>10}\n", h.name, bytes_text(h.total_bytes), bytes_text(h.used_bytes), h.region_count, h.zone_count, h.member_count, bytes_text(h.metadata_bytes));
  }
  if (s.json) return print(all);
  const auto others = other_files();
  if (!others.empty()) fmt::print("Also in {}, and no heap: {}\n", printable(directory()), printable(fmt::format("{}", fmt::join(others, ", "))));
}

void info(session& s, const std::string& name) {
  const auto opened = heap::attach(name, {.read_only = true, .regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  const heap& h = *opened;
  const heap_stats stats = h.stats();
  nlohmann::json j{{"name", name}, {"id", static_cast<std::uint64_t>(h.id())}, {"statistics", json_of(stats)}, {"regions", nlohmann::json::array()}, {"zones", nlohmann::json::array()}};
  h.for_each_region([&](const region_summary& r) {
    j["regions"].push_back({{"id", static_cast<unsigned>(r.id)}, {"length_bytes", r.length_bytes}, {"page_bytes", r.page_bytes}, {"granule_bytes", r.granule_bytes}, {"free_bytes", r.free_bytes},
                            {"largest_free_bytes", r.largest_free_bytes}, {"numa_node", r.numa_node}, {"cpu_access", r.access == touch::read_write}, {"draining", r.draining},
                            {"iova_runs", r.iova_runs}, {"first_iova", r.first_iova == no_iova ? nlohmann::json() : nlohmann::json(static_cast<std::uint64_t>(r.first_iova))}, {"backing", r.backing}});
  });
  h.for_each_zone([&](const zone_summary& z) { j["zones"].push_back({{"name", z.name}, {"kind", z.kind}, {"size_bytes", z.size_bytes}, {"handle", static_cast<std::uint64_t>(z.where)}}); });
  if (s.json) return print(j);
  fmt::print("Heap \"{}\", id {:016x}\n  memory    {}: {} used in {} blocks, {} cached, {} free, largest {} of {} holes\n  members   {} ({} threads with caches)\n  metadata  {} in {}/{}.annex\n",
             name, static_cast<std::uint64_t>(h.id()), bytes_text(stats.total_bytes), bytes_text(stats.used_bytes), stats.live_blocks, bytes_text(stats.cached_bytes), bytes_text(stats.free_bytes),
             bytes_text(stats.largest_free_bytes), stats.hole_count, stats.member_count, stats.thread_count, bytes_text(stats.metadata_bytes), printable(directory()), name);
  if (stats.misuse_count + stats.lock_steals + stats.recovered_threads != 0)
    fmt::print("  incidents {} program mistakes refused, {} locks taken over from the dead, {} caches recovered\n", stats.misuse_count, stats.lock_steals, stats.recovered_threads);
  for (const auto& r : j["regions"])
    fmt::print("  region {:<4} {:>10}, {} pages, {} free, {}{}{}, {}\n", r["id"].get<unsigned>(), bytes_text(r["length_bytes"]), bytes_text(r["page_bytes"]), bytes_text(r["free_bytes"]),
               r["iova_runs"] == 0 ? std::string("no IOVAs") : fmt::format("{} IOVA runs from {}", r["iova_runs"].get<std::uint64_t>(), hex(r["first_iova"])),
               r["cpu_access"].get<bool>() ? "" : ", no CPU access", r["draining"].get<bool>() ? ", draining" : "", r["backing"] == "" ? "attached by hand" : printable(r["backing"].get<std::string>()));
  for (const auto& z : j["zones"]) fmt::print("  {:<6} \"{}\" {}, handle {}\n", z["kind"].get<std::string>(), printable(z["name"].get<std::string>()), bytes_text(z["size_bytes"]), hex(z["handle"]));
}

}  // namespace

void add_heap_commands(CLI::App& app, session& s) {
  auto made = std::make_shared<create_arguments>();
  CLI::App* create_command = app.add_subcommand("create", "Make an empty heap");
  create_command->add_option("name", made->name, "1 to 31 of [A-Za-z0-9_.-]")->required();
  create_command->add_option("--mode", made->mode, "File mode of the segment, octal")->capture_default_str();
  create_command->add_flag("--checked", made->options.checked, "Catch every double free at once");
  create_command->add_flag("--reclaim-dead", made->options.reclaim_dead, "Free the blocks of killed processes");
  create_command->add_flag("--refuse-misuse", made->refuse_misuse, "Count program mistakes instead of stopping the program");
  create_command->add_option("--members", made->options.member_limit, "Limit of members")->capture_default_str();
  create_command->add_option("--regions", made->options.region_limit, "Limit of regions")->capture_default_str();
  create_command->add_option("--zones", made->options.zone_limit, "Limit of zones")->capture_default_str();
  add_bytes(create_command, "--metadata", &made->metadata_limit, "Address space for metadata (64G)");
  create_command->callback([&s, made] { create(s, *made); });

  auto name = std::make_shared<std::string>();
  CLI::App* destroy = app.add_subcommand("destroy", "End a heap that nobody uses");
  destroy->add_option("name", *name, "The heap")->required();
  destroy->callback([&s, name] {
    if (const auto done = heap::destroy(*name); !done) return refuse(s, done.error());
    if (s.json) print({{"destroyed", *name}});
    else fmt::print("Destroyed heap \"{}\".\n", *name);
  });

  app.add_subcommand("ls", "List the heaps")->callback([&s] { list(s); });

  CLI::App* info_command = app.add_subcommand("info", "Show a heap's figures, regions and zones");
  info_command->add_option("name", *name, "The heap")->required();
  info_command->callback([&s, name] { info(s, *name); });
}

}  // namespace annex::tool
