// tools/named.hpp - what a heap has under names: zones, pools, rings.
#pragma once
#include <annex/annex.hpp>
#include <optional>
#include <string>
#include <vector>

#include "json.hpp"

namespace annex::tool {

struct named_thing {
  std::string name, kind;  ///< kind: "zone", "pool", "ring"
  std::uint64_t size_bytes =
      0;  ///< in the heap's memory; rings have none, their handles lie in the segment
  std::optional<handle> where{};
  std::optional<std::uint64_t> free_count{},
      count{};  ///< objects of a pool; handles in a ring, and how many fit
};

/// As far as can be seen through this heap: what pools and rings hold only where it is attached for
/// writing.
std::vector<named_thing> named_things(const heap& h);
/// Looks into pools and rings, too.
std::vector<named_thing> named_things_within(heap& h);
json json_of(const named_thing& n);
std::string text_of(const named_thing& n);
/// Releases it, whatever it is.
result<void> release_named(heap& h, const named_thing& n);

}  // namespace annex::tool
