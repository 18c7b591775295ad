// tools/map_drawing.cpp - see map_drawing.hpp.
#include "map_drawing.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "output.hpp"

namespace annex::tool {
namespace {

constexpr std::size_t cells_per_row = 64;

// The mark of a cell: by what fills most of it.
char mark_of(const map_cell& c) {
  const double total = c.live + c.cached + c.free;
  if (total == 0 || c.free >= total * 0.999) return '.';
  if (c.live >= total * 0.75) return c.use == map_use::zone ? 'Z' : c.use == map_use::large ? 'L' : '#';
  if (c.live > 0) return '+';
  return c.cached > 0 ? 'c' : '.';
}

const char* colour_of(char mark) {
  switch (mark) {
    case '#': return "\x1b[32m";
    case '+': return "\x1b[92m";
    case 'L': return "\x1b[34m";
    case 'Z': return "\x1b[35m";
    case 'c': return "\x1b[33m";
    default: return "\x1b[90m";
  }
}

}  // namespace

std::vector<drawn_region> draw(const heap& h, std::size_t cells) {
  std::vector<drawn_region> drawn;
  h.for_each_region([&](const region_summary& r) {
    drawn_region d{r, {}, std::max<std::uint64_t>(r.granule_bytes, (r.length_bytes + cells - 1) / cells), 0, 0};
    d.cells.resize((r.length_bytes + d.cell_bytes - 1) / d.cell_bytes);
    drawn.push_back(std::move(d));
  });
  h.for_each_map_piece([&](const map_piece& p) {
    const auto d = std::find_if(drawn.begin(), drawn.end(), [&](const drawn_region& x) { return x.region.id == p.region; });
    if (d == drawn.end() || p.length_bytes == 0) return;
    d->live_bytes += p.live_bytes;
    d->cached_bytes += p.cached_bytes;
    const double live = static_cast<double>(p.live_bytes) / static_cast<double>(p.length_bytes), cached = static_cast<double>(p.cached_bytes) / static_cast<double>(p.length_bytes);
    for (std::uint64_t at = p.offset_bytes; at < p.offset_bytes + p.length_bytes;) {
      const std::size_t index = at / d->cell_bytes;
      if (index >= d->cells.size()) break;
      const std::uint64_t end = std::min(p.offset_bytes + p.length_bytes, (index + 1) * d->cell_bytes);
      const double bytes = static_cast<double>(end - at);
      map_cell& c = d->cells[index];
      if (p.use != map_use::free) {
        c.live += bytes * live;
        c.cached += bytes * cached;
        c.free += bytes * std::max(0.0, 1 - live - cached);
        c.use = p.use;
        c.holder = p.holder;
      } else {
        c.free += bytes;
      }
      at = end;
    }
  });
  return drawn;
}

std::string text_map(const std::vector<drawn_region>& regions, const std::vector<member_summary>& members, bool colour) {
  std::string text = members.empty() ? "" : "  # small blocks  + partly live  L large block  Z zone  c cached  . free\n";
  for (const drawn_region& d : regions) {
    text += fmt::format("region {}: {}, one mark is {}; {} live, {} cached{}\n", static_cast<unsigned>(d.region.id), bytes_text(d.region.length_bytes), bytes_text(d.cell_bytes), bytes_text(d.live_bytes),
                        bytes_text(d.cached_bytes), d.region.draining ? "; draining" : "");
    bool skipping = false;
    for (std::size_t row = 0; row < d.cells.size(); row += cells_per_row) {
      const std::size_t end = std::min(d.cells.size(), row + cells_per_row);
      const bool all_free = std::all_of(d.cells.begin() + static_cast<std::ptrdiff_t>(row), d.cells.begin() + static_cast<std::ptrdiff_t>(end), [](const map_cell& c) { return mark_of(c) == '.'; });
      if (all_free && skipping) continue;
      if (all_free && row != 0) {
        text += "              … free\n";
        skipping = true;
        continue;
      }
      skipping = false;
      text += fmt::format("  {:#011x} ", row * d.cell_bytes);
      for (std::size_t i = row; i < end; ++i) {
        const char mark = mark_of(d.cells[i]);
        if (colour) text += colour_of(mark);
        text += mark;
      }
      if (colour) text += "\x1b[0m";
      text += '\n';
    }
  }
  for (const member_summary& m : members)
    text += fmt::format("  member {} {} (process {}{}): holds {} in {} blocks, caches {}\n", static_cast<unsigned>(m.id), printable(m.program), m.process_id, m.alive ? "" : ", dead", bytes_text(m.held_bytes), m.held_blocks,
                        bytes_text(m.cached_bytes));
  return text;
}

std::string svg_map(const std::vector<drawn_region>& regions) {
  constexpr double cell = 11;
  std::string body;
  double y = 0;
  for (const drawn_region& d : regions) {
    body += fmt::format("<text x='0' y='{}' class='label'>region {} &#183; {} &#183; one cell {}</text>", y + 12, static_cast<unsigned>(d.region.id), bytes_text(d.region.length_bytes), bytes_text(d.cell_bytes));
    y += 18;
    for (std::size_t i = 0; i < d.cells.size(); ++i) {
      const map_cell& c = d.cells[i];
      const double x = static_cast<double>(i % cells_per_row) * cell, top = y + static_cast<double>(i / cells_per_row) * cell, total = std::max(1.0, c.live + c.cached + c.free);
      const char* live = c.use == map_use::large ? "large" : c.use == map_use::zone ? "zone" : "slab";
      const double live_height = (cell - 1) * c.live / total, cached_height = (cell - 1) * c.cached / total;
      body += fmt::format("<rect x='{:.1f}' y='{:.1f}' width='10' height='10' class='free'/>", x, top);
      if (cached_height > 0) body += fmt::format("<rect x='{:.1f}' y='{:.1f}' width='10' height='{:.1f}' class='cached'/>", x, top + cell - 1 - live_height - cached_height, cached_height);
      if (live_height > 0)
        body += fmt::format("<rect x='{:.1f}' y='{:.1f}' width='10' height='{:.1f}' class='{}'><title>{} of {} live, member {}</title></rect>", x, top + cell - 1 - live_height, std::max(1.0, live_height), live,
                            bytes_text(static_cast<std::uint64_t>(c.live)), bytes_text(d.cell_bytes), static_cast<unsigned>(c.holder));
    }
    y += static_cast<double>((d.cells.size() + cells_per_row - 1) / cells_per_row) * cell + 10;
  }
  return fmt::format("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {} {:.0f}' width='100%'>{}</svg>", static_cast<double>(cells_per_row) * cell, y, body);
}

}  // namespace annex::tool
