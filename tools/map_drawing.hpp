// tools/map_drawing.hpp - a heap's regions as rows of cells: what is used, cached, free, and whose it is.
#pragma once
#include <string>
#include <vector>

#include <annex/annex.hpp>

namespace annex::tool {

/// One cell of a drawn region.
struct map_cell { double live = 0, cached = 0, free = 0; member_id holder{}; map_use use = map_use::free; };
struct drawn_region { region_summary region; std::vector<map_cell> cells; std::uint64_t cell_bytes = 0, live_bytes = 0, cached_bytes = 0; };

/// Every region cut into at most `cells` equal stretches.
std::vector<drawn_region> draw(const heap& h, std::size_t cells);
/// Rows of characters with a legend; colour: with escape codes.
std::string text_map(const std::vector<drawn_region>& regions, const std::vector<member_summary>& members, bool colour);
/// The same as an SVG element.
std::string svg_map(const std::vector<drawn_region>& regions);

}  // namespace annex::tool
