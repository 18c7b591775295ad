// tools/demo_page.cpp - the demo's result as one HTML page without anything from outside.
#include <fmt/format.h>

#include "demo.hpp"
#include "output.hpp"

namespace annex::tool {
namespace {

constexpr const char* style = R"(
:root{--ink:#1c2430;--quiet:#68748a;--line:#e3e7ee;--paper:#fbfcfe;--slab:#2f9e63;--large:#3b6fd4;--zone:#8a4fd0;--cached:#e8b53a;--free:#eceff5}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf4;--quiet:#93a0b8;--line:#2b3444;--paper:#141a24;--free:#222b3a}}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2.5rem auto;padding:0 1.2rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}p,li{max-width:46rem}.quiet{color:var(--quiet)}
.cards{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.4rem 0}.card{border:1px solid var(--line);border-radius:.6rem;padding:.7rem 1rem;min-width:8rem}.card b{display:block;font-size:1.35rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th{text-align:left;color:var(--quiet);font-weight:500}td,th{padding:.28rem .6rem .28rem 0;border-bottom:1px solid var(--line)}td.n,th.n{text-align:right}
code{font:13px ui-monospace,monospace}.bar{background:var(--slab);height:.5rem;border-radius:.25rem;min-width:2px}
svg .free{fill:var(--free)}svg .slab{fill:var(--slab)}svg .large{fill:var(--large)}svg .zone{fill:var(--zone)}svg .cached{fill:var(--cached)}svg .label{font:12px system-ui,sans-serif;fill:var(--quiet)}
.legend span{display:inline-block;margin-right:1.2rem}.legend i{display:inline-block;width:.8rem;height:.8rem;border-radius:.15rem;margin-right:.35rem;vertical-align:-1px}
.scroll{overflow-x:auto})";

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : printable(text)) {
    if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else if (c == '"') out += "&quot;";
    else out += c;
  }
  return out;
}

std::string card(const std::string& value, const char* what) { return fmt::format("<div class='card'><b>{}</b><span class='quiet'>{}</span></div>", value, what); }

std::string flow_table(const demo_report& r) {
  std::string rows;
  const std::uint64_t most = r.flows.empty() ? 1 : std::max<std::uint64_t>(1, r.flows.front().bytes);
  for (const flow_count& f : r.flows)
    rows += fmt::format("<tr><td>{}</td><td><code>{}</code></td><td><code>{}</code></td><td class='n'>{}</td><td class='n'>{}</td><td style='width:9rem'><div class='bar' style='width:{:.1f}%'></div></td></tr>",
                        protocol_name(f.key.protocol), endpoint(f.key, false), endpoint(f.key, true), f.packets, f.bytes, 100.0 * static_cast<double>(f.bytes) / static_cast<double>(most));
  return "<div class='scroll'><table><tr><th>Protocol</th><th>One end</th><th>Other end</th><th class='n'>Packets</th><th class='n'>Bytes</th><th></th></tr>" + rows + "</table></div>";
}

std::string block_table(const demo_report& r) {
  std::string rows;
  for (const auto& b : r.blocks)
    rows += fmt::format("<tr><td><code>{}</code></td><td><code>{}</code></td><td><code>{}</code></td><td>{}</td></tr>", hex(b.handle), hex(b.address), b.iova == ~std::uint64_t{0} ? "none" : hex(b.iova), bytes_text(b.contiguous));
  return "<div class='scroll'><table><tr><th>Handle</th><th>Address in this process</th><th>IOVA</th><th>Contiguous for</th></tr>" + rows + "</table></div>";
}

}  // namespace

std::string html_page(const demo_report& r) {
  std::string page = fmt::format("<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>annex demo</title><style>{}</style></head><body>", style);
  page += fmt::format("<h1>annex demo</h1><p class='quiet'>{} &#183; {} &#183; {}</p>", escape(r.capture), bytes_text(std::uint64_t{256} << 20), escape(r.memory));
  page += "<div class='cards'>" + card(fmt::format("{}", r.packets), "packets") + card(fmt::format("{}", r.flows.size()), "flows") + card("3", "processes, 1 killed") +
          card(fmt::format("{}", r.dead.in_hand), "packets rescued from its hands") + card(r.sound ? "sound" : "BROKEN", fmt::format("audit of {} objects", r.checked).c_str()) + "</div>";
  page += "<p>One process read packets into blocks of a shared heap and passed their handles through a ring; two parsed and counted them. Each had the memory at an address of its own:</p>";
  page += fmt::format("<div class='scroll'><table><tr><th>Reader</th><th>Parser 1</th><th>Parser 2</th></tr><tr><td><code>{}</code></td><td><code>{}</code></td><td><code>{}</code></td></tr></table></div>", hex(r.bases[parser_count]), hex(r.bases[0]), hex(r.bases[1]));
  page += fmt::format("<h2>What was killed, and what came back</h2><p>Parser 2 (process {}) was killed with SIGKILL after {} packets. {} packets it had in hand were given to parser 1, so every packet is counted exactly once. {} from its caches came back at once. {} blocks ({}) it had allocated stayed, listed under its name, until they were reaped.</p>",
                      r.dead.process, r.dead.parsed, r.dead.in_hand, bytes_text(r.dead.cached_bytes), r.dead.held_blocks, bytes_text(r.dead.held_bytes));
  page += "<h2>The heap before parser 2 was killed</h2><p class='legend'><span><i style='background:var(--slab)'></i>small blocks</span><span><i style='background:var(--zone)'></i>zones</span><span><i style='background:var(--large)'></i>large blocks</span><span><i style='background:var(--cached)'></i>cached or free in a slab</span><span><i style='background:var(--free)'></i>free</span></p>";
  page += svg_map(r.before) + "<h2>After what it left was recovered</h2>" + svg_map(r.middle) + "<h2>The heap after the run</h2>" + svg_map(r.after);
  page += "<h2>DMA addresses of some blocks</h2>" + block_table(r) + "<h2>Flows</h2>" + flow_table(r) + "</body></html>\n";
  return page;
}

}  // namespace annex::tool
