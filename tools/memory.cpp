// tools/memory.cpp - add, rm, drain.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <future>
#include <memory>

#include "output.hpp"
#include "terminal.hpp"

namespace annex::tool {
namespace {

struct add_arguments {
  std::string name, file, device, hugetlb;
  std::uint64_t size = 0, page = 0, offset = 0;
  int node = any_node;
  huge_pages huge = huge_pages::automatic;
  bool prefault = false, reserve = false, overcommit = false, physical = false, pin = false;
};

void add(session& s, const add_arguments& a) {
  if (!a.file.empty() + !a.device.empty() + !a.hugetlb.empty() > 1)
    return refuse_usage(s, "add", "give one of --file, --device and --hugetlb");
  auto opened = heap::attach(a.name, {.regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  memory_source m;
  using kind = memory_source::kind;
  m.from = !a.file.empty()      ? kind::file
           : !a.device.empty()  ? kind::device
           : !a.hugetlb.empty() ? kind::hugetlb
                                : kind::shared;
  m.path = !a.file.empty() ? a.file : !a.device.empty() ? a.device : a.hugetlb;
  m.length_bytes = a.size;
  m.page_bytes = a.page != 0 ? a.page : m.from == kind::hugetlb ? 2 << 20 : 4096;
  m.offset_bytes = a.offset;
  m.numa_node = a.node;
  m.huge = a.huge;
  m.prefault = a.prefault;
  m.reserve = a.reserve;
  m.overcommit = a.overcommit;
  m.physical_iovas = a.physical;
  m.pin = a.pin;
  result<region_id> added;
  {
    progress_bar bar(a.pin ? "pinned" : a.prefault ? "touched" : "reserved");
    if (!s.json)
      m.progress = [&bar](std::uint64_t done, std::uint64_t total) { bar.show(done, total); };
    added = opened->bring_memory(m);
  }
  if (!added) return refuse(s, added.error());
  if (s.json)
    print({{"region", static_cast<unsigned>(*added)}, {"length_bytes", a.size}});
  else
    fmt::print("Added region {} of {} to \"{}\".\n", static_cast<unsigned>(*added),
               bytes_text(a.size), a.name);
}

struct remove_arguments {
  std::string name;
  unsigned region = 0;
  double deadline_seconds = 10;
};

/// Waits until the region is empty and shows how much of what was in it has gone.
result<void> drain(session& s, heap& h, region_id region, std::chrono::nanoseconds deadline) {
  if (s.json) return h.drain_memory(region, deadline);
  auto done = std::async(std::launch::async, [&] { return h.drain_memory(region, deadline); });
  progress_bar bar("drained");
  std::uint64_t most = 0;
  while (done.wait_for(std::chrono::milliseconds(100)) != std::future_status::ready)
    h.for_each_region([&](const region_summary& r) {
      if (r.id != region) return;
      const std::uint64_t used = r.length_bytes - r.free_bytes;
      most = std::max(most, used);
      bar.show(most - used, most);
    });
  return done.get();
}

void remove(session& s, const remove_arguments& a, bool drains) {
  auto opened = heap::attach(a.name, {.regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  const auto deadline =
      std::chrono::nanoseconds(static_cast<std::int64_t>(a.deadline_seconds * 1e9));
  const auto done = drains ? drain(s, *opened, region_id{a.region}, deadline)
                           : opened->remove_memory(region_id{a.region});
  if (!done) return refuse(s, done.error());
  if (s.json)
    print({{"removed", a.region}});
  else
    fmt::print("Removed region {} from \"{}\".\n", a.region, a.name);
}

std::string take_huge(const std::string& text, huge_pages* into) {
  for (const huge_pages huge :
       {huge_pages::automatic, huge_pages::never, huge_pages::aligned, huge_pages::always})
    if (text == huge_text(huge)) {
      *into = huge;
      return {};
    }
  return fmt::format("\"{}\" is none of automatic, never, aligned and always", printable(text));
}

std::string take_seconds(const std::string& text, double* into) {
  constexpr double longest_wait_seconds = 365.0 * 24 * 3600;
  double seconds = -1;
  const char* const end = text.data() + text.size();
  const auto [behind, why] = std::from_chars(text.data(), end, seconds);
  const bool is_wait =
      why == std::errc() && behind == end && seconds >= 0 && seconds <= longest_wait_seconds;
  if (!is_wait)
    return fmt::format("\"{}\" is no number of seconds from 0 to a year", printable(text));
  *into = seconds;
  return {};
}

void add_region(command& c, const std::shared_ptr<remove_arguments>& a) {
  constexpr std::uint64_t most = std::numeric_limits<std::uint32_t>::max();
  c.heap(&a->name);
  c.number(
       "region", "REGION", 1, most,
       [a](std::uint64_t id) { a->region = static_cast<unsigned>(id); },
       "The region's number, see annex info")
      .is_required = true;
}

}  // namespace

void add_memory_commands(command_line& line, session& s) {
  auto a = std::make_shared<add_arguments>();
  command c;
  c.name = "add";
  c.summary = "Bring memory that outlives this command";
  c.details =
      "Sizes are written as 4096, 64K, 256M, 256MiB, 1.5G, 1e9 or 0x100000: units are powers of "
      "1024, and what is written with a point or an "
      "exponent is rounded down to whole pages of 4 KiB. Without --file, --device and --hugetlb "
      "the memory is a file in the annex directory.";
  c.examples = {"annex add packets 256M", "annex add packets 1G --hugetlb /dev/hugepages",
                "annex add packets 1.5G --file /data/packets --prefault",
                "annex add packets 4G --huge always"};
  c.heap(&a->name);
  c.bytes("size", &a->size, "How much, for example 256M").is_required = true;
  c.options.back().value = "SIZE";
  c.text("--file", "FILE", &a->file, "A file, created or made longer as needed").completes =
      completion::file;
  c.text("--device", "DEVICE", &a->device, "A device that can be mapped, for example /dev/dax0.0")
      .completes = completion::file;
  c.text("--hugetlb", "DIRECTORY", &a->hugetlb, "Hugepages: the directory of a mounted hugetlbfs")
      .completes = completion::directory;
  c.bytes("--page", &a->page, "Page size: 2M or 1G with --hugetlb");
  c.bytes("--offset", &a->offset, "Where to begin in the file");
  constexpr std::uint64_t most_nodes = std::numeric_limits<std::int32_t>::max();
  c.number(
      "--node", "NODE", 0, most_nodes,
      [a](std::uint64_t node) { a->node = static_cast<int>(node); }, "NUMA node to bind it to");
  c.flag("--prefault", &a->prefault, "Touch every page now");
  c.flag("--reserve", &a->reserve,
         "Take every page from its file system now, or refuse; done by itself in the annex "
         "directory and for files");
  c.flag("--overcommit", &a->overcommit,
         "More than there may be: pages come when they are touched, and a write that finds none "
         "kills");
  c.flag("--physical", &a->physical,
         "Physical addresses as IOVAs (hugepages or --pin, privileged)");
  c.flag("--pin", &a->pin,
         "Pages that are neither moved nor taken away, as long as a process has them attached");
  option& huge = c.text("--huge", "WHEN", nullptr,
                        "Transparent huge pages: as far as the kernel has them (aligned, by itself "
                        "with --prefault and --pin), made now or refused (always)");
  huge.choices = {"never", "aligned", "always"};
  huge.take = [a](const std::string& text) { return take_huge(text, &a->huge); };
  c.run = [&s, a] { add(s, *a); };
  line.commands.push_back(std::move(c));

  auto r = std::make_shared<remove_arguments>();
  command rm;
  rm.name = "rm";
  rm.summary = "Remove a region in which nothing is live";
  rm.examples = {"annex rm packets 1"};
  add_region(rm, r);
  rm.run = [&s, r] { remove(s, *r, false); };
  line.commands.push_back(std::move(rm));

  command drain;
  drain.name = "drain";
  drain.summary = "Stop allocation from a region, wait until it is empty, remove it";
  drain.details =
      "When the deadline passes first, the region serves again, and the refusal names who holds "
      "what.";
  drain.examples = {"annex drain packets 1 --deadline 60"};
  add_region(drain, r);
  option& deadline = drain.text("--deadline", "SECONDS", nullptr, "How long to wait");
  deadline.take = [r](const std::string& text) { return take_seconds(text, &r->deadline_seconds); };
  deadline.otherwise = "10";
  drain.run = [&s, r] { remove(s, *r, true); };
  line.commands.push_back(std::move(drain));
}

}  // namespace annex::tool
