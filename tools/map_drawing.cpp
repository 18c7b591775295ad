// tools/map_drawing.cpp - see map_drawing.hpp.
#include "map_drawing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "output.hpp"

namespace annex::tool {
namespace {

constexpr const char* no_colour = "\x1b[0m";
constexpr const char* grey = "\x1b[90m";
// Those that are told apart on light and dark terminals.
constexpr const char* member_colours[] = {"\x1b[34m", "\x1b[32m", "\x1b[35m",
                                          "\x1b[36m", "\x1b[33m", "\x1b[31m"};

bool is_free(const map_cell& c) {
  return c.free >= (c.live + c.cached + c.free) * 0.999;
}

// The mark of a cell: by what fills most of it.
char mark_of(const map_cell& c) {
  const double total = c.live + c.cached + c.free;
  if (total == 0 || is_free(c)) return '.';
  if (c.live >= total * 0.75)
    return c.use == map_use::zone ? 'Z' : c.use == map_use::large ? 'L' : '#';
  if (c.live > 0) return '+';
  return c.cached > 0 ? 'c' : '.';
}

const char* colour_of(const map_cell& c, char mark, const std::vector<member_summary>& members) {
  if (mark == '.') return grey;
  if (mark == 'Z') return no_colour;
  if (mark == 'c') return "\x1b[33m";
  const auto m = std::find_if(members.begin(), members.end(),
                              [&](const member_summary& x) { return x.id == c.holder; });
  if (m == members.end()) return no_colour;
  return member_colours[static_cast<std::size_t>(m - members.begin()) % std::size(member_colours)];
}

void add_bytes(map_cell& c, const map_piece& p, double bytes) {
  const double length = static_cast<double>(p.length_bytes);
  const double live = static_cast<double>(p.live_bytes) / length,
               cached = static_cast<double>(p.cached_bytes) / length;
  if (p.use == map_use::free) {
    c.free += bytes;
    return;
  }
  c.live += bytes * live;
  c.cached += bytes * cached;
  c.free += bytes * std::max(0.0, 1 - live - cached);
  if (c.use == map_use::free || p.live_bytes != 0) c.use = p.use;
  if (p.use == map_use::zone || p.live_bytes == 0) return;
  const auto known = std::find_if(c.holders.begin(), c.holders.end(),
                                  [&](const auto& h) { return h.first == p.holder; });
  if (known != c.holders.end())
    known->second += bytes * live;
  else
    c.holders.emplace_back(p.holder, bytes * live);
}

// Whose a cell of a pair is.
const map_owner* owner_of(const map_cell& c, const std::vector<map_owner>& owners) {
  for (const map_owner& o : owners)
    if (o.comes_first && c.held_by(o.who) > 0) return &o;
  const auto found = std::find_if(owners.begin(), owners.end(), [&](const map_owner& o) {
    return c.live > 0 && o.who == c.holder;
  });
  return found != owners.end() ? &*found : nullptr;
}

std::string pair_mark(const map_cell& c, const std::vector<map_owner>& owners, bool colour) {
  const map_owner* const o = owner_of(c, owners);
  const char mark = o != nullptr ? o->mark : c.live > 0 ? 'Z' : c.cached > 0 ? 'c' : '.';
  if (!colour) return std::string(1, mark);
  const char* const shown = o != nullptr  ? member_colours[o->colour % std::size(member_colours)]
                            : mark == '.' ? grey
                            : mark == 'c' ? "\x1b[33m"
                                          : no_colour;
  constexpr const char* reversed = "\x1b[7m";
  return fmt::format("{}{}{}{}", shown, o != nullptr && o->is_dead ? reversed : "", mark,
                     no_colour);
}

std::string row_of(const titled_map& map, std::size_t row, bool colour) {
  std::string text;
  const auto& cells = map.drawn->cells;
  for (std::size_t i = row; i < row + map_row; ++i)
    text += i < cells.size() ? pair_mark(cells[i], map.owners, colour) : " ";
  return text;
}

std::string legend_of(const titled_map& left, const titled_map& right, bool colour) {
  std::string text;
  for (const map_owner& o : left.owners) {
    const auto then = std::find_if(right.owners.begin(), right.owners.end(),
                                   [&](const map_owner& x) { return x.who == o.who; });
    map_cell shown;
    shown.live = 1;
    shown.holder = o.who;
    shown.holders = {{o.who, 1}};
    text += fmt::format("{} {}   ", pair_mark(shown, left.owners, colour), o.label);
    if (then == right.owners.end() || !then->is_dead) continue;
    text += fmt::format("{} {}   ", pair_mark(shown, right.owners, colour), then->label);
  }
  text.erase(text.find_last_not_of(' ') + 1);
  return text + "\n  Z zones   c cached or free in a slab   . free";
}

std::string describe(const map_cell& c, const titled_map& map, std::size_t index) {
  const auto bytes = [](double b) {
    return bytes_text(static_cast<std::uint64_t>(std::llround(b)));
  };
  const std::uint64_t begin = index * map.drawn->cell_bytes;
  std::string text =
      fmt::format("{} to {}: ", bytes_text(begin), bytes_text(begin + map.drawn->cell_bytes));
  if (is_free(c)) return text + "free";
  std::string parts;
  double of_members = 0;
  for (const auto& [who, held] : c.holders) {
    const auto o = std::find_if(map.owners.begin(), map.owners.end(),
                                [who = who](const map_owner& x) { return x.who == who; });
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", bytes(held),
                         o != map.owners.end() ? o->label : "others");
    of_members += held;
  }
  if (c.live - of_members >= 1)
    parts += fmt::format("{}{} zones", parts.empty() ? "" : ", ", bytes(c.live - of_members));
  if (c.cached >= 1)
    parts += fmt::format("{}{} cached", parts.empty() ? "" : ", ", bytes(c.cached));
  if (c.free >= 1) parts += fmt::format("{}{} free", parts.empty() ? "" : ", ", bytes(c.free));
  return text + parts;
}

}  // namespace

double map_cell::held_by(member_id who) const {
  for (const auto& [holder_of_some, bytes] : holders)
    if (holder_of_some == who) return bytes;
  return 0;
}

std::vector<drawn_region> draw(const heap& h, std::size_t cells) {
  std::vector<drawn_region> drawn;
  h.for_each_region([&](const region_summary& r) {
    drawn_region d{
        r, {}, std::max<std::uint64_t>(r.granule_bytes, (r.length_bytes + cells - 1) / cells),
        0, 0,  huge_state(h, r)};
    d.cells.resize((r.length_bytes + d.cell_bytes - 1) / d.cell_bytes);
    drawn.push_back(std::move(d));
  });
  h.for_each_map_piece([&](const map_piece& p) {
    const auto d = std::find_if(drawn.begin(), drawn.end(),
                                [&](const drawn_region& x) { return x.region.id == p.region; });
    if (d == drawn.end() || p.length_bytes == 0) return;
    d->live_bytes += p.live_bytes;
    d->cached_bytes += p.cached_bytes;
    for (std::uint64_t at = p.offset_bytes; at < p.offset_bytes + p.length_bytes;) {
      const std::size_t index = at / d->cell_bytes;
      if (index >= d->cells.size()) break;
      const std::uint64_t end =
          std::min(p.offset_bytes + p.length_bytes, (index + 1) * d->cell_bytes);
      add_bytes(d->cells[index], p, static_cast<double>(end - at));
      at = end;
    }
  });
  for (drawn_region& d : drawn)
    for (map_cell& c : d.cells) {
      const auto most =
          std::max_element(c.holders.begin(), c.holders.end(),
                           [](const auto& x, const auto& y) { return x.second < y.second; });
      if (most != c.holders.end()) c.holder = most->first;
    }
  return drawn;
}

std::size_t marks_per_row(unsigned columns) {
  constexpr std::size_t beside = 14, step = 16, most = 160;
  return std::clamp<std::size_t>(columns > beside ? (columns - beside) / step * step : step, step,
                                 most);
}

std::string text_map(const std::vector<drawn_region>& regions,
                     const std::vector<member_summary>& members, const map_style& style) {
  const std::size_t per_row = marks_per_row(style.columns);
  std::string text = "  # small blocks  + partly live  L large block  Z zone  c cached  . free\n";
  for (const drawn_region& d : regions) {
    text += fmt::format("region {}: {}, one mark is {}; {} live, {} cached{}\n{}",
                        static_cast<unsigned>(d.region.id), bytes_text(d.region.length_bytes),
                        bytes_text(d.cell_bytes), bytes_text(d.live_bytes),
                        bytes_text(d.cached_bytes), d.region.draining ? "; draining" : "",
                        d.huge.empty() ? "" : "  " + d.huge + "\n");
    bool skipping = false;
    for (std::size_t row = 0; row < d.cells.size(); row += per_row) {
      const std::size_t end = std::min(d.cells.size(), row + per_row);
      const bool all_free = std::all_of(d.cells.begin() + static_cast<std::ptrdiff_t>(row),
                                        d.cells.begin() + static_cast<std::ptrdiff_t>(end),
                                        [](const map_cell& c) { return mark_of(c) == '.'; });
      if (all_free && skipping) continue;
      if (all_free && row != 0) {
        text += "              ... free\n";
        skipping = true;
        continue;
      }
      skipping = false;
      text += fmt::format("  {:#011x} ", row * d.cell_bytes);
      for (std::size_t i = row; i < end; ++i) {
        const char mark = mark_of(d.cells[i]);
        if (style.colour) text += colour_of(d.cells[i], mark, members);
        text += mark;
      }
      if (style.colour) text += no_colour;
      text += '\n';
    }
  }
  for (std::size_t i = 0; i < members.size(); ++i) {
    const member_summary& m = members[i];
    text += fmt::format("  {}member {}{} {} (process {}{}): holds {} in {}, caches {}\n",
                        style.colour ? member_colours[i % std::size(member_colours)] : "",
                        static_cast<unsigned>(m.id), style.colour ? no_colour : "",
                        printable(m.program), m.process_id, m.alive ? "" : ", dead",
                        bytes_text(m.held_bytes), counted(m.held_blocks, "block"),
                        bytes_text(m.cached_bytes));
  }
  return text;
}

std::string text_pair(const titled_map& left, const titled_map& right, bool colour) {
  std::string text = fmt::format("  {}\n\n  {:<9} {:<{}}  {}\n", legend_of(left, right, colour), "",
                                 left.title, map_row, right.title);
  const std::size_t count = std::max(left.drawn->cells.size(), right.drawn->cells.size());
  const auto all_free = [&](const titled_map& map, std::size_t row) {
    for (std::size_t i = row; i < std::min(row + map_row, map.drawn->cells.size()); ++i)
      if (!is_free(map.drawn->cells[i])) return false;
    return true;
  };
  std::size_t left_out = 0;
  for (std::size_t row = 0; row < count; row += map_row) {
    if (all_free(left, row) && all_free(right, row)) {
      ++left_out;
      continue;
    }
    text += fmt::format("  {:>9} {}  {}\n", bytes_text(row * left.drawn->cell_bytes),
                        row_of(left, row, colour), row_of(right, row, colour));
  }
  if (left_out != 0)
    text += fmt::format("  {:>9} {} more, all free\n", "", counted(left_out, "row"));
  return text;
}

std::size_t used_rows(const titled_map& map) {
  const auto& cells = map.drawn->cells;
  std::size_t used = cells.size();
  while (used != 0 && is_free(cells[used - 1]))
    --used;
  return (used + map_row - 1) / map_row;
}

std::string svg_map(const titled_map& map, std::size_t rows) {
  constexpr double cell = 12, inside = cell - 1;
  std::string body, outlines;
  const auto& cells = map.drawn->cells;
  for (std::size_t i = 0; i < std::min(cells.size(), rows * map_row); ++i) {
    const map_cell& c = cells[i];
    const std::size_t column = i % map_row, row = i / map_row;
    const double x = static_cast<double>(column) * cell, top = static_cast<double>(row) * cell,
                 total = std::max(1.0, c.live + c.cached + c.free);
    const map_owner* const o = owner_of(c, map.owners);
    const std::string live = o != nullptr ? fmt::format("p{}", o->colour) : "zone";
    const double live_height = c.live > 0 ? std::max(2.0, inside * c.live / total) : 0,
                 cached_height = inside * c.cached / total;
    body += fmt::format(
        "<g><title>{}</title><rect x='{:.0f}' y='{:.0f}' width='11' height='11' class='free'/>",
        describe(c, map, i), x, top);
    if (cached_height > 0)
      body +=
          fmt::format("<rect x='{:.0f}' y='{:.1f}' width='11' height='{:.1f}' class='cached'/>", x,
                      top + std::max(0.0, inside - live_height - cached_height), cached_height);
    if (live_height > 0)
      body += fmt::format("<rect x='{:.0f}' y='{:.1f}' width='11' height='{:.1f}' class='{}'/>", x,
                          top + inside - live_height, live_height, live);
    body += "</g>";
    if (o != nullptr && o->is_dead)
      outlines += fmt::format("<rect x='{:.1f}' y='{:.1f}' width='12' height='12' class='dead'/>",
                              x - 0.5, top - 0.5);
  }
  return fmt::format(
      "<svg xmlns='http://www.w3.org/2000/svg' viewBox='-1 -1 {} {}' role='img' "
      "aria-label='{}'>{}{}</svg>",
      map_row * 12 + 1, rows * 12 + 1, map.title, body, outlines);
}

}  // namespace annex::tool
