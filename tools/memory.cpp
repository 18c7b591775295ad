// tools/memory.cpp - add, rm, drain.
#include <charconv>

#include "output.hpp"

namespace annex::tool {
namespace {

struct add_arguments {
  std::string name, file, device, hugetlb;
  std::uint64_t size = 0, page = 0, offset = 0;
  int node = any_node;
  bool prefault = false, reserve = false, overcommit = false, physical = false, pin = false;
};

void add(session& s, const add_arguments& a) {
  if (!a.file.empty() + !a.device.empty() + !a.hugetlb.empty() > 1) {
    s.exit = exit_usage;
    fmt::print(stderr, "annex: give one of --file, --device and --hugetlb.\n");
    return;
  }
  auto opened = heap::attach(a.name, {.regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  memory_source m;
  using kind = memory_source::kind;
  m.from = !a.file.empty() ? kind::file : !a.device.empty() ? kind::device : !a.hugetlb.empty() ? kind::hugetlb : kind::shared;
  m.path = !a.file.empty() ? a.file : !a.device.empty() ? a.device : a.hugetlb;
  m.length_bytes = a.size;
  m.page_bytes = a.page != 0 ? a.page : m.from == kind::hugetlb ? 2 << 20 : 4096;
  m.offset_bytes = a.offset;
  m.numa_node = a.node;
  m.prefault = a.prefault;
  m.reserve = a.reserve;
  m.overcommit = a.overcommit;
  m.physical_iovas = a.physical;
  m.pin = a.pin;
  constexpr std::uint64_t worth_telling = std::uint64_t{4} << 30;  // reserved in a second
  if (!s.json && (a.prefault || a.size >= worth_telling))
    m.progress = [did = a.prefault || a.pin ? "touched" : "reserved"](std::uint64_t done, std::uint64_t total) {
      fmt::print(stderr, "\r{} {} of {}{}", did, bytes_text(done), bytes_text(total), done == total ? "\n" : "");
    };
  const auto added = opened->bring_memory(m);
  if (!added) return refuse(s, added.error());
  if (s.json) print({{"region", static_cast<unsigned>(*added)}, {"length_bytes", a.size}});
  else fmt::print("Added region {} of {} to \"{}\".\n", static_cast<unsigned>(*added), bytes_text(a.size), a.name);
}

void remove(session& s, const std::string& name, unsigned region, bool drain, double seconds) {
  auto opened = heap::attach(name, {.regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  const auto deadline = std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
  const auto done = drain ? opened->drain_memory(region_id{region}, deadline) : opened->remove_memory(region_id{region});
  if (!done) return refuse(s, done.error());
  if (s.json) print({{"removed", region}});
  else fmt::print("Removed region {} from \"{}\".\n", region, name);
}

}  // namespace

void add_memory_commands(CLI::App& app, session& s) {
  auto a = std::make_shared<add_arguments>();
  CLI::App* command = app.add_subcommand("add", "Bring memory that outlives this command");
  command->add_option("name", a->name, "The heap")->required();
  add_bytes(command, "size", &a->size, "How much, for example 256M")->required();
  command->add_option("--file", a->file, "A file, created or made longer as needed");
  command->add_option("--device", a->device, "A device that can be mapped, for example /dev/dax0.0");
  command->add_option("--hugetlb", a->hugetlb, "Hugepages: the directory of a mounted hugetlbfs");
  add_bytes(command, "--page", &a->page, "Page size: 2M or 1G with --hugetlb");
  add_bytes(command, "--offset", &a->offset, "Where to begin in the file");
  command->add_option("--node", a->node, "NUMA node to bind it to");
  command->add_flag("--prefault", a->prefault, "Touch every page now");
  command->add_flag("--reserve", a->reserve, "Take every page from its file system now, or refuse; done by itself in the annex directory and for files");
  command->add_flag("--overcommit", a->overcommit, "More than there may be: pages come when they are touched, and a write that finds none kills");
  command->add_flag("--physical", a->physical, "Physical addresses as IOVAs (hugepages or --pin, privileged)");
  command->add_flag("--pin", a->pin, "Pages that are neither moved nor taken away, as long as a process has them attached");
  command->callback([&s, a] { add(s, *a); });

  struct remove_arguments { std::string name; unsigned region = 0; double deadline = 10; };
  auto r = std::make_shared<remove_arguments>();
  CLI::App* rm = app.add_subcommand("rm", "Remove a region in which nothing is live");
  rm->add_option("name", r->name, "The heap")->required();
  rm->add_option("region", r->region, "The region's number, see annex info")->required();
  rm->callback([&s, r] { remove(s, r->name, r->region, false, 0); });
  CLI::App* drain = app.add_subcommand("drain", "Stop allocation from a region, wait until it is empty, remove it");
  drain->add_option("name", r->name, "The heap")->required();
  drain->add_option("region", r->region, "The region's number, see annex info")->required();
  constexpr double longest_wait_seconds = 365.0 * 24 * 3600;
  drain->add_option("--deadline", r->deadline, "Seconds to wait")->capture_default_str()->check([](const std::string& text) {
    double seconds = -1;
    const auto [behind, why] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    const bool is_wait = why == std::errc() && behind == text.data() + text.size() && seconds >= 0 && seconds <= longest_wait_seconds;
    return is_wait ? std::string() : "\"" + text + "\" is no number of seconds from 0 to a year";
  });
  drain->callback([&s, r] { remove(s, r->name, r->region, true, r->deadline); });
}

}  // namespace annex::tool
