// tools/demo_page.cpp - the demo's result as one HTML page without anything from outside.
//
// From 360 to 1600 pixels, light and dark. Figures that are in the JSON too carry its path
// (data-of="dead.process"), so that a test compares them (tests/page). Pointing at a cell of a map,
// or tapping it, says below the map what it is.
#include <fmt/format.h>

#include <algorithm>

#include "demo.hpp"
#include "output.hpp"

namespace annex::tool {
namespace {

constexpr const char* style = R"(
:root{--ink:#1b2330;--quiet:#5b677c;--line:#dfe4ec;--paper:#fbfcfe;--raised:#fff;--p0:#2f6fd0;--p1:#1f9d6b;--p2:#d9782b;--zone:#8d97a8;--cached:#f0cf6b;--free:#e9edf3;--dead:#c22a3a}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf4;--quiet:#9aa7bd;--line:#2c3646;--paper:#131923;--raised:#1a2230;--p0:#5b95ee;--p1:#3dbd8b;--p2:#ee9a54;--zone:#66728a;--cached:#a88b2e;--free:#222c3b;--dead:#ff6574}}
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:72rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .6rem}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}
p{max-width:44rem;margin:.5rem 0}.quiet{color:var(--quiet);font-size:.9rem;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(2,1fr);gap:.7rem;margin:1.3rem 0}
.card{border:1px solid var(--line);background:var(--raised);border-radius:.6rem;padding:.6rem .8rem;min-width:0}
.card b{display:block;font-size:1.3rem;line-height:1.3;font-variant-numeric:tabular-nums}.card>span{color:var(--quiet);font-size:.85rem;line-height:1.3;display:block}
dl{margin:.6rem 0;max-width:44rem;display:grid;grid-template-columns:1fr}dt{font-weight:600}dd{margin:0 0 .5rem}
.maps{display:grid;grid-template-columns:1fr;gap:1.2rem}figure{margin:0;min-width:0}figcaption{font-weight:600;margin-bottom:.4rem}
[data-of]{white-space:nowrap}svg{display:block;width:100%;height:auto;max-width:46rem}svg g{cursor:pointer}svg g:hover rect,svg g.chosen rect{filter:brightness(1.25);stroke:var(--ink);stroke-width:1}
.free{fill:var(--free)}.p0{fill:var(--p0)}.p1{fill:var(--p1)}.p2{fill:var(--p2)}.zone{fill:var(--zone)}.cached{fill:var(--cached)}
.dead{fill:none;stroke:var(--dead);stroke-width:2;pointer-events:none}
output{display:block;min-height:3.1em;color:var(--quiet);font-size:.9rem;margin-top:.4rem;font-variant-numeric:tabular-nums}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;font-size:.9rem;margin:.3rem 0 .8rem;padding:0;list-style:none}
.legend i{display:inline-block;width:.85rem;height:.85rem;margin-right:.4rem;vertical-align:-1px}.legend .outlined{outline:2px solid var(--dead);outline-offset:-1px}
.scroll{overflow-x:auto;max-width:100%}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
th{text-align:left;color:var(--quiet);font-weight:500}td,th{padding:.3rem 1.2rem .3rem 0;border-bottom:1px solid var(--line);white-space:nowrap}td.n,th.n{text-align:right}
code{font:.85rem ui-monospace,SFMono-Regular,monospace}
summary{cursor:pointer;color:var(--quiet);margin:.5rem 0}
@media(min-width:600px){.cards{grid-template-columns:repeat(3,1fr)}dl{grid-template-columns:7.5rem 1fr}body{padding:2rem 1.5rem 3rem}}
@media(min-width:760px){.maps{grid-template-columns:1fr 1fr}output{min-height:1.6em}}
@media(min-width:1000px){.cards{grid-template-columns:repeat(6,1fr)}})";

// What a cell is, said where it fits; also for fingers and keys.
constexpr const char* script = R"(
document.querySelectorAll('figure').forEach(f=>{const out=f.querySelector('output');let chosen=null;
const say=e=>{const g=e.target.closest('g');if(!g)return;if(chosen)chosen.classList.remove('chosen');chosen=g;g.classList.add('chosen');out.textContent=g.querySelector('title').textContent};
f.addEventListener('pointerover',say);f.addEventListener('click',say)});)";

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : printable(text)) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else
      out += c;
  }
  return out;
}

// A figure that the JSON has at this path.
std::string figure(const char* path, std::uint64_t value) {
  return fmt::format("<span data-of='{}'>{}</span>", path, value);
}
std::string bytes_figure(const char* path, std::uint64_t value) {
  return fmt::format("<span data-of='{}' data-value='{}'>{}</span>", path, value,
                     bytes_text(value));
}

std::string card(const std::string& value, const std::string& what) {
  return fmt::format("<div class='card'><b>{}</b><span>{}</span></div>", value, what);
}

std::string cards(const demo_report& r) {
  return "<div class='cards'>" + card(figure("packets", r.packets), "packets, each counted once") +
         card(figure("flow_count", r.flows.size()), "conversations") +
         card("3", "processes, 1 of them killed") +
         card(figure("dead.packets_in_hand", r.dead.in_hand), "packets taken out of its hands") +
         card(bytes_figure("dead.cached_bytes", r.dead.cached_bytes), "came back from its caches") +
         card(r.sound ? "sound" : "BROKEN",
              "audit of " + figure("checked", r.checked) + " objects") +
         "</div>";
}

std::string legend(const demo_report& r) {
  std::string items;
  for (const map_owner& o : r.owners)
    items += fmt::format("<li><i style='background:var(--p{})'></i>{}</li>", o.colour, o.label);
  items += "<li><i class='outlined' style='background:var(--p2)'></i>the dead one&#8217;s</li>";
  for (const auto& [colour, what] :
       {std::pair("zone", "zones"), std::pair("cached", "cached, or free among small blocks"),
        std::pair("free", "free")})
    items += fmt::format("<li><i style='background:var(--{})'></i>{}</li>", colour, what);
  return "<ul class='legend'>" + items + "</ul>";
}

std::string one_map(const titled_map& map, const std::string& caption, std::size_t rows) {
  return fmt::format(
      "<figure><figcaption>{}</figcaption>{}<output>Point at a cell, or tap it.</output></figure>",
      caption, svg_map(map, rows));
}

std::string maps(const demo_report& r) {
  if (r.before.empty() || r.after.empty()) return {};
  const titled_map before{"The heap at the kill", r.before.data(), r.owners},
      after{"The heap after it", r.after.data(), r.owners_after};
  const std::size_t rows = std::max(used_rows(before), used_rows(after));
  const std::uint64_t shown_bytes =
      std::min(rows * map_row * r.before[0].cell_bytes, r.memory_bytes);
  return fmt::format(
             "<h2>The heap, before and after</h2><p class='quiet'>Its first {} of {} in cells of "
             "{}, from left to right, then down; the rest is free.</p>",
             bytes_text(shown_bytes), bytes_text(r.memory_bytes),
             bytes_text(r.before[0].cell_bytes)) +
         legend(r) + "<div class='maps'>" + one_map(before, "At the kill", rows) +
         one_map(after, "After what it left was recovered", rows) + "</div>";
}

std::string flow_rows(const demo_report& r, std::size_t from, std::size_t to) {
  std::string rows;
  for (std::size_t i = from; i < std::min(to, r.flows.size()); ++i) {
    const flow_count& f = r.flows[i];
    rows += fmt::format(
        "<tr class='flow'><td>{}</td><td><code>{}</code></td><td><code>{}</code></td><td "
        "class='n'>{}</td><td class='n'>{}</td></tr>",
        protocol_name(f.key.protocol), endpoint(f.key, false), endpoint(f.key, true), f.packets,
        f.bytes);
  }
  return "<div class='scroll'><table><tr><th>Protocol</th><th>One end</th><th>Other end</th><th "
         "class='n'>Packets</th><th class='n'>Bytes</th></tr>" +
         rows + "</table></div>";
}

std::string flows(const demo_report& r) {
  constexpr std::size_t shown = 5;
  std::string text =
      fmt::format("<h2>{} conversations</h2>", r.flows.size()) + flow_rows(r, 0, shown);
  if (r.flows.size() > shown)
    text += fmt::format("<details><summary>and {} more</summary>{}</details>",
                        r.flows.size() - shown, flow_rows(r, shown, r.flows.size()));
  return text;
}

std::string block_table(const demo_report& r) {
  std::string rows;
  for (const auto& b : r.blocks)
    rows += fmt::format(
        "<tr><td><code>{}</code></td><td><code>{}</code></td><td><code>{}</code></td><td>{}</td></"
        "tr>",
        hex(b.handle), hex(b.address), b.iova == ~std::uint64_t{0} ? "none" : hex(b.iova),
        bytes_text(b.contiguous));
  return "<div class='scroll'><table><tr><th>Handle</th><th>Address in one "
         "process</th><th>IOVA</th><th>Contiguous for</th></tr>" +
         rows + "</table></div>";
}

std::string what_came_back(const demo_report& r) {
  const auto item = [](const char* what, const std::string& text) {
    return fmt::format("<dt>{}</dt><dd>{}</dd>", what, text);
  };
  return "<h2>What came back</h2><dl>" +
         item("Its caches", bytes_figure("dead.cached_bytes", r.dead.cached_bytes) +
                                " were free again at once.") +
         item("Its packets", figure("dead.packets_in_hand", r.dead.in_hand) +
                                 " in its hands went to parser 1, " +
                                 figure("parsed_again", r.parsed_again()) +
                                 " of them counted already by the dead one, to the same effect: "
                                 "all " +
                                 figure("packets", r.packets) + " are counted, each once.") +
         item("Its blocks", figure("dead.held_blocks", r.dead.held_blocks) +
                                " of them stayed, listed under its name and outlined below, until "
                                "they were reaped: " +
                                figure("dead.reaped_blocks", r.dead.reaped_blocks) + " freed.") +
         item("The others", "went on. Parser 1 did " + figure("parsed_by_survivor", r.parsed[0]) +
                                " packets; in the end " + figure("left_blocks", r.left_blocks) +
                                " blocks were left.") +
         "</dl>";
}

}  // namespace

std::string html_page(const demo_report& r) {
  std::string page = fmt::format(
      "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
      "content='width=device-width,initial-scale=1'><title>annex "
      "demo</title><style>{}</style></head><body>",
      style);
  page += "<h1>Three processes, one heap, one of them killed</h1>";
  page += fmt::format(
      "<p>One process read {} packets ({}) into blocks of a heap that three processes share, and "
      "passed their handles through a ring. Two parsers counted them by conversation, each with "
      "the "
      "memory at an address of its own. In the middle of it, one parser was killed.</p>",
      figure("packets", r.packets), bytes_figure("bytes", r.bytes));
  page += fmt::format("<p class='quiet'>{} &#183; {} of {}</p>", escape(r.capture),
                      bytes_figure("memory_bytes", r.memory_bytes), escape(r.memory)) +
          cards(r);
  page += fmt::format(
      "<h2>The kill</h2><p>Parser 2 (process {}) got SIGKILL after {} packets. It had {} packets "
      "in hand, {} in its caches, and {} blocks of its own ({}). Nobody was told.</p>",
      figure("dead.process", static_cast<std::uint64_t>(r.dead.process)),
      figure("dead.parsed", r.dead.parsed), figure("dead.packets_in_hand", r.dead.in_hand),
      bytes_figure("dead.cached_bytes", r.dead.cached_bytes),
      figure("dead.held_blocks", r.dead.held_blocks),
      bytes_figure("dead.held_bytes", r.dead.held_bytes));
  page += what_came_back(r) + maps(r);
  page +=
      "<h2>One heap, three addresses</h2><div class='scroll'><table><tr><th>Reader</th><th>Parser "
      "1</th><th>Parser 2</th></tr>";
  page += fmt::format(
      "<tr><td><code>{}</code></td><td><code>{}</code></td><td><code>{}</code></td></tr></table></"
      "div>",
      hex(r.bases[parser_count]), hex(r.bases[0]), hex(r.bases[1]));
  page += "<h2>DMA addresses of some blocks</h2>" + block_table(r) + flows(r) +
          fmt::format("<script>{}</script></body></html>\n", script);
  return page;
}

}  // namespace annex::tool
