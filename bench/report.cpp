// bench/report.cpp - see report.hpp.
#include "report.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>
#include <thread>

namespace annex::bench {
namespace {

std::string number(double v) {
  if (!std::isfinite(v)) return "-";
  const double size = std::abs(v);
  if (size >= 1e9) return fmt::format("{:.3g}e9", v / 1e9);
  if (size >= 1e6) return fmt::format("{:.2f}e6", v / 1e6);
  if (size >= 10'000) return fmt::format("{:.0f}", v);
  if (size >= 100) return fmt::format("{:.0f}", v);
  if (size >= 10) return fmt::format("{:.1f}", v);
  if (size >= 0.1 || v == 0) return fmt::format("{:.2f}", v);
  return fmt::format("{:.2g}", v);
}

bool has_peaks(const workload_result& r) {
  return std::any_of(r.peers.begin(), r.peers.end(), [](const peer_result& p) {
    return std::any_of(p.peaks.begin(), p.peaks.end(), [](double v) { return v > 0; });
  });
}

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

// One workload as bars on a logarithmic scale; the thin line spans the quartiles.
std::string plot(const workload_result& r) {
  struct bar {
    std::string peer;
    spread s;
  };
  std::vector<bar> bars;
  for (const peer_result& p : r.peers)
    if (p.peer != "driver") bars.push_back({p.peer, spread_of(r.net_values(p.peer))});
  std::erase_if(bars, [](const bar& b) { return !std::isfinite(b.s.median); });
  if (bars.empty()) return {};
  double least = 1e300, most = 0;
  for (const bar& b : bars) {
    least = std::min(least, std::max(b.s.median, 1e-3));
    most = std::max(most, std::max(b.s.high, 1e-3));
  }
  least /= 2;
  constexpr double left = 120, width = 420, row = 18;
  auto x = [&](double v) {
    return left +
           width * std::log(std::max(v, least) / least) / std::max(std::log(most / least), 0.1);
  };
  std::string svg = fmt::format(
      "<figure><figcaption><b>{}</b> {}, {}</figcaption><svg viewBox='0 0 640 {}' role='img'>",
      r.name, escape(r.about), r.unit, row * static_cast<double>(bars.size()) + 4);
  double y = 2;
  for (const bar& b : bars) {
    svg += fmt::format(
        "<text x='{}' y='{}' text-anchor='end'>{}</text><rect class='{}' x='{}' y='{}' "
        "width='{:.1f}' height='{}' rx='2'/>",
        left - 6, y + 13, b.peer, b.peer.starts_with("annex") ? "annex" : "peer", left, y + 3,
        std::max(x(b.s.median) - left, 1.0), row - 6);
    svg += fmt::format(
        "<line x1='{:.1f}' x2='{:.1f}' y1='{}' y2='{}'/><text x='{:.1f}' y='{}'>{}</text>",
        x(b.s.low), x(b.s.high), y + row / 2, y + row / 2, std::max(x(b.s.high), x(b.s.median)) + 5,
        y + 13, number(b.s.median));
    y += row;
  }
  return svg + "</svg></figure>";
}

constexpr const char* style = R"(
:root{--ink:#1c2430;--quiet:#68748a;--line:#e3e7ee;--paper:#fbfcfe;--annex:#2f9e63;--peer:#9fb0cc;--bad:#c0392b}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf4;--quiet:#93a0b8;--line:#2b3444;--paper:#141a24;--peer:#4a5c7d}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:76rem;margin:2.5rem auto;padding:0 1.2rem}
h1{margin:0}h2{margin:2.2rem 0 .6rem}.quiet{color:var(--quiet)}table{border-collapse:collapse;font-variant-numeric:tabular-nums}th{text-align:left;color:var(--quiet);font-weight:500}
td,th{padding:.22rem .9rem .22rem 0;border-bottom:1px solid var(--line)}.no{color:var(--bad)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(32rem,1fr));gap:1.2rem}figure{margin:0}figcaption{font-size:13px;color:var(--quiet)}figcaption b{color:var(--ink)}
svg{width:100%}svg text{font:12px system-ui,sans-serif;fill:var(--quiet)}svg .annex{fill:var(--annex)}svg .peer{fill:var(--peer)}svg line{stroke:var(--ink);stroke-width:1.2}
)";

}  // namespace

std::string machine_words() {
  std::ifstream file("/proc/cpuinfo");
  std::string model = "unknown processor";
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) {
      model = line.substr(line.find(':') + 2);
      break;
    }
  utsname system{};
  ::uname(&system);
  return fmt::format("{} CPUs, {}, Linux {}, {:%Y-%m-%d}", std::thread::hardware_concurrency(),
                     model, system.release, fmt::gmtime(std::time(nullptr)));
}

std::string lines_of(const workload_result& r) {
  std::string text = fmt::format("\n{}: {} ({})\n", r.name, r.about, r.unit);
  const bool peaks = has_peaks(r), nets = r.has_driver();
  text += fmt::format("  {:<16}{:>9}{:>10}{:>9}{:>9}{:>14}{:>9}{}\n", "", "gross", "quartiles", "",
                      nets ? "net" : "", "annex / peer", nets ? "net" : "",
                      peaks ? "   huge MiB   peak MiB   annex / peer" : "   huge MiB");
  for (const peer_result& p : r.peers) {
    if (!p.failure.empty()) {
      text += fmt::format("  {:<16}{}\n", p.peer, p.failure);
      continue;
    }
    const bool compared = p.peer != "annex" && p.peer != "driver";
    auto ratio = [&](const std::vector<double>& of) {
      return compared ? number(spread_of(of).median) : "";
    };
    const spread s = spread_of(r.gross_values(p.peer));
    const bool net = nets && p.peer != "driver";
    text += fmt::format(
        "  {:<16}{:>9}{:>10}{:>9}{:>9}{:>14}{:>9}{:>11.1f}", p.peer, number(s.median),
        number(s.low), number(s.high), net ? number(spread_of(r.net_values(p.peer)).median) : "",
        ratio(r.gross_ratios("annex", p.peer)), net ? ratio(r.ratios("annex", p.peer)) : "",
        spread_of(p.huge).median / 1048576);
    if (peaks && p.peer != "driver")
      text += fmt::format("{:>11.1f}{:>15}", spread_of(p.peaks).median / 1048576,
                          ratio(r.peak_ratios("annex", p.peer)));
    text += "\n";
  }
  return text;
}

std::string table_of(const std::vector<verdict>& verdicts) {
  std::string text = fmt::format("\n{:<46}{:<16}{:>9}{:>9}{:>18}   {}\n", "target", "against",
                                 "limit", "found", "quartiles", "worst of several");
  for (const verdict& v : verdicts)
    text +=
        fmt::format("{:<46}{:<16}{:>9}{:>9}{:>9}{:>9} {} {} {}\n", v.row, v.against, number(v.must),
                    number(v.found.median), number(v.found.low), number(v.found.high),
                    v.met ? "met   " : "MISSED", number(v.worst), v.worst_workload);
  return text;
}

nlohmann::json json_of(const std::vector<workload_result>& results,
                       const std::vector<verdict>& verdicts, const std::vector<best_row>& best,
                       const std::string& machine) {
  nlohmann::json out{{"machine", machine},
                     {"workloads", nlohmann::json::array()},
                     {"targets", nlohmann::json::array()}};
  for (const workload_result& r : results) {
    nlohmann::json w{{"name", r.name},
                     {"unit", r.unit},
                     {"about", r.about},
                     {"peers", nlohmann::json::object()}};
    for (const peer_result& p : r.peers) {
      const spread s = spread_of(r.net_values(p.peer)), gross = spread_of(r.gross_values(p.peer)),
                   ratio = spread_of(r.ratios("annex", p.peer));
      nlohmann::json one{{"values", p.values},
                         {"median", s.median},
                         {"quartiles", {s.low, s.high}},
                         {"gross", gross.median},
                         {"gross_quartiles", {gross.low, gross.high}},
                         {"gross_annex_ratio", spread_of(r.gross_ratios("annex", p.peer)).median},
                         {"huge_bytes", spread_of(p.huge).median},
                         {"annex_ratio", ratio.median},
                         {"annex_ratio_quartiles", {ratio.low, ratio.high}}};
      if (has_peaks(r)) one["peak_bytes"] = p.peaks;
      if (!p.failure.empty()) one["failure"] = p.failure;
      w["peers"][p.peer] = one;
    }
    out["workloads"].push_back(w);
  }
  for (const verdict& v : verdicts)
    out["targets"].push_back({{"row", v.row},
                              {"against", v.against},
                              {"limit", v.must},
                              {"found", v.found.median},
                              {"quartiles", {v.found.low, v.found.high}},
                              {"worst", v.worst},
                              {"worst_workload", v.worst_workload},
                              {"met", v.met}});
  for (const best_row& row : best)
    out["best"].push_back({{"row", row.workload},
                           {"peer", row.peer},
                           {"annex", row.annex},
                           {"best", row.best},
                           {"ratio", row.ratio},
                           {"of_blocks", row.of_blocks}});
  return out;
}

std::string page_of(const std::vector<workload_result>& results,
                    const std::vector<verdict>& verdicts, const std::string& machine) {
  std::string page = fmt::format(
      "<!doctype html><html lang='en'><meta charset='utf-8'><title>annex and its "
      "peers</title><style>{}</style><h1>annex and its peers</h1><p class='quiet'>{}. Medians, net "
      "of the driver; "
      "lines span the quartiles; the scale of every plot is logarithmic. Made by <code>make "
      "bench</code>.</p>",
      style, escape(machine));
  page +=
      "<h2>Targets</h2><table><tr><th>target<th>against<th>limit<th>found<th>quartiles<th></tr>";
  for (const verdict& v : verdicts)
    page += fmt::format("<tr><td>{}<td>{}<td>{}<td>{}<td>{} … {}<td class='{}'>{}</tr>", v.row,
                        v.against, number(v.must), number(v.found.median), number(v.found.low),
                        number(v.found.high), v.met ? "yes" : "no", v.met ? "met" : "missed");
  page += "</table><h2>Workloads</h2><div class='plots'>";
  for (const workload_result& r : results)
    page += plot(r);
  return page + "</div></html>\n";
}

}  // namespace annex::bench
