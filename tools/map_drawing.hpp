// tools/map_drawing.hpp - a heap's regions as rows of cells: what is used, cached, free, and whose
// it is.
//
//   draw       every region cut into equal cells                     one look at the heap
//   text_map   by use (# L Z c .), coloured by member                annex map
//   text_pair  by owner (r 1 2 X Z c .), two looks side by side      annex demo
//   svg_map    the same as a picture                                 the demo's page
#pragma once
#include <string>
#include <vector>

#include <annex/annex.hpp>

namespace annex::tool {

/// One cell of a drawn region. Bytes; holder: who holds most of what is live in it, 0 for nobody.
struct map_cell {
  double live = 0, cached = 0, free = 0;
  member_id holder{};
  map_use use = map_use::free;
  std::vector<std::pair<member_id, double>> holders{};  ///< live bytes of each
  double held_by(member_id who) const;
};
struct drawn_region {
  region_summary region;
  std::vector<map_cell> cells;
  std::uint64_t cell_bytes = 0, live_bytes = 0, cached_bytes = 0;
  std::string huge;  ///< what is asked and what is had, see huge_state()
};

/// Every region cut into at most `cells` equal stretches.
std::vector<drawn_region> draw(const heap& h, std::size_t cells);

struct map_style {
  unsigned columns = 80;
  bool colour = false;
};
/// How many marks fit beside the address, in steps of 16, at most 160.
std::size_t marks_per_row(unsigned columns);
/// Rows of characters with a legend.
std::string text_map(const std::vector<drawn_region>& regions,
                     const std::vector<member_summary>& members, const map_style& style);

/// Who has a colour of his own in the demo's pictures. comes_first: a cell is his as soon as any of
/// it is.
struct map_owner {
  member_id who{};
  std::string label;
  char mark = '?';
  unsigned colour = 0;
  bool comes_first = false, is_dead = false;
};
struct titled_map {
  std::string title;
  const drawn_region* drawn = nullptr;
  std::vector<map_owner> owners;
};

/// Two looks at the same region side by side, rows that are free in both left out.
std::string text_pair(const titled_map& left, const titled_map& right, bool colour);
/// Cells in a row of a pair and of a picture: two of them fit 80 columns.
inline constexpr std::size_t map_row = 32;
/// How many rows there are up to the last one in which something is not free.
std::size_t used_rows(const titled_map& map);
/// The first rows of one look as an SVG element. Every cell is a group with a title that says what
/// it is; what is the dead's is outlined.
std::string svg_map(const titled_map& map, std::size_t rows);

}  // namespace annex::tool
