// heap/listing.cpp - every heap of the annex directory, and what else lies there under such a name.
// Looks, and writes nothing.
//
// One bad file hides no other: what can't be opened, is no heap, or is damaged is listed with the
// reason.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "heap/closing.hpp"
#include "heap/listing.hpp"
#include "heap/local_heap.hpp"
#include "heap/opening.hpp"
#include "platform/directories.hpp"
#include "platform/files.hpp"
#include "shared/names.hpp"

namespace annex::detail {
namespace {

heap_summary with_problem(std::string_view name, std::string_view problem) {
  heap_summary summary;
  summary.name = name;
  summary.problem = problem;
  return summary;
}

// NAME.annex.0123456789abcdef → NAME; empty: not such a name.
std::string_view heap_of_memory(std::string_view file) noexcept {
  const size_t at = file.rfind(segment_suffix);
  return at != file.npos && at != 0 && is_own_name(file, file.substr(0, at)) ? file.substr(0, at)
                                                                             : std::string_view{};
}

}  // namespace

result<std::vector<heap_summary>> list_heaps() {
  std::vector<heap_summary> heaps;
  const auto where = open_annex_directory(false);
  if (!where && where.error().code == errc::no_such_heap) return heaps;
  if (!where) return std::unexpected(where.error());
  std::vector<std::string> files;
  if (const int why = os::list_in(where->fd(), &files); why != 0)
    return refuse_path(why, "can't read the annex directory", where->path());
  auto is_there = [&](const std::string& file) {
    os::file_identity identity;
    return os::identify_in(where->fd(), file.c_str(), &identity) == 0;
  };
  for (const std::string& file : files) {
    if (const std::string_view owner = heap_of_memory(file); !owner.empty()) {
      // Its heap goes last, so memory without one was left by somebody who removed the heap by
      // hand.
      if (!is_there(std::string(owner) + std::string(segment_suffix)) && is_there(file))
        heaps.push_back(with_problem(
            file,
            fmt::format("{} is memory of a heap that is gone; remove it", where->path_of(file))));
      continue;
    }
    if (!file.ends_with(segment_suffix)) continue;
    const std::string name = file.substr(0, file.size() - segment_suffix.size());
    if (const auto named = check_heap_name(name); !named) {
      heaps.push_back(with_problem(
          name, fmt::format("{} has no name of a heap; remove it", where->path_of(file))));
      continue;
    }
    const auto opened =
        attach_heap(name, {.read_only = true, .regions = attach_policy::manual}, true);
    if (!opened && !is_there(file)) continue;  // destroyed meanwhile
    if (!opened) {
      heaps.push_back(with_problem(name, opened.error().message()));
      continue;
    }
    const heap_stats s = (*opened)->care.stats();
    heaps.push_back({name,
                     (*opened)->here.id(),
                     s.total_bytes,
                     s.used_bytes,
                     s.metadata_bytes,
                     static_cast<u32>(s.region_count),
                     static_cast<u32>(s.zone_count),
                     static_cast<u32>(s.member_count),
                     {}});
    if ((*opened)->here.seg.is_damaged())
      heaps.back().problem =
          "its tables lead out of it; close it everywhere, then `annex check --repair` it";
    close_heap(*opened);
  }
  std::sort(heaps.begin(), heaps.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return heaps;
}

}  // namespace annex::detail
