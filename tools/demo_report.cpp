// tools/demo_report.cpp - the demo's result as text and as JSON. demo_page.cpp has the page.
#include <fmt/format.h>

#include "demo.hpp"
#include "output.hpp"
#include "terminal.hpp"

namespace annex::tool {
namespace {

constexpr std::size_t flows_shown = 5, blocks_shown = 3;
constexpr unsigned indent = 2;

// A paragraph behind two blanks.
std::string paragraph(const std::string& text, unsigned columns) {
  return "  " + wrapped(text, columns, indent) + "\n";
}

// A point of a list: "- caches   2 KiB came back at once".
std::string point(const std::string& label, const std::string& text, unsigned columns) {
  constexpr unsigned beside = 14;
  return fmt::format("  {:<{}}{}\n", label, beside - 2, wrapped(text, columns, beside));
}

std::string address_table(const demo_report& r) {
  table t{{{"handle"}, {"address here"}, {"IOVA"}, {"contiguous for"}}, {}};
  for (const auto& b : r.blocks) {
    if (t.rows.size() == blocks_shown) break;
    t.rows.push_back({hex(b.handle), hex(b.address),
                      b.iova == ~std::uint64_t{0} ? "none" : hex(b.iova),
                      bytes_text(b.contiguous)});
  }
  return t.text("  ");
}

std::string flow_table(const demo_report& r) {
  table t{{{""}, {""}, {""}, {"packets", true}, {"bytes", true}}, {}};
  for (const flow_count& f : r.flows) {
    if (t.rows.size() == flows_shown) break;
    t.rows.push_back({protocol_name(f.key.protocol), endpoint(f.key, false), endpoint(f.key, true),
                      fmt::format("{}", f.packets), fmt::format("{}", f.bytes)});
  }
  std::string text = t.text("  ");
  if (r.flows.size() > flows_shown)
    text +=
        fmt::format("  and {} more (annex demo --json shows all)\n", r.flows.size() - flows_shown);
  return text;
}

}  // namespace

std::string text_report(const demo_report& r, bool colour, unsigned columns) {
  std::string text = "annex demo\n\n";
  text +=
      paragraph(fmt::format("One process reads {} packets of {} into blocks of a heap that three "
                            "processes share, and passes their handles through a ring. Two "
                            "parsers, each with the memory at an address of its own ({}, {}; the "
                            "reader: {}), count them by conversation. In the middle of "
                            "it, one parser is killed.",
                            r.packets, printable(r.capture), hex(r.bases[0]), hex(r.bases[1]),
                            hex(r.bases[parser_count])),
                columns);
  text +=
      paragraph(fmt::format("Memory: {} of {}.", bytes_text(r.memory_bytes), r.memory), columns);
  text += fmt::format(
      "\nThe kill\n{}",
      paragraph(fmt::format("Parser 2 (process {}) got SIGKILL after {} packets. It had {} packets "
                            "in hand, {} in its caches, and {} of its own "
                            "({}). Nobody was told.",
                            r.dead.process, r.dead.parsed, r.dead.in_hand,
                            bytes_text(r.dead.cached_bytes), counted(r.dead.held_blocks, "block"),
                            bytes_text(r.dead.held_bytes)),
                columns));
  text += "\nWhat came back\n";
  text +=
      point("caches", fmt::format("{} were free again at once", bytes_text(r.dead.cached_bytes)),
            columns);
  text += point("packets",
                fmt::format("the {} in its hands went to parser 1, {} of them counted already by "
                            "the dead one, to the same effect: all {} are counted, each once",
                            r.dead.in_hand, r.parsed_again(), r.packets),
                columns);
  text += point("blocks",
                fmt::format("the {} of its own stayed, listed under its name (X in the map), until "
                            "they were reaped: {} freed",
                            r.dead.held_blocks, r.dead.reaped_blocks),
                columns);
  text += point(
      "the others",
      fmt::format("went on; parser 1 did {} packets, and {} left in the end", r.parsed[0],
                  r.left_blocks == 0 ? "no block was" : counted(r.left_blocks, "block") + " were"),
      columns);
  text += point("the audit",
                fmt::format("{} objects checked, {}", r.checked,
                            r.sound ? "every invariant holds" : "INVARIANTS ARE BROKEN"),
                columns);
  if (!r.before.empty() && !r.after.empty())
    text += fmt::format("\nThe heap, one mark is {}\n{}", bytes_text(r.before[0].cell_bytes),
                        text_pair({"at the kill", r.before.data(), r.owners},
                                  {"after it", r.after.data(), r.owners_after}, colour));
  text +=
      fmt::format("\nDMA addresses of some blocks\n{}\n{} conversations\n{}\n{:.2f} s in all.\n",
                  address_table(r), r.flows.size(), flow_table(r), r.seconds);
  return text;
}

json json_of(const demo_report& r) {
  json flows = json::list(), bases = json::list(), blocks = json::list();
  for (const flow_count& f : r.flows)
    flows.add({{"low", endpoint(f.key, false)},
               {"high", endpoint(f.key, true)},
               {"packets", f.packets},
               {"bytes", f.bytes},
               {"protocol", protocol_name(f.key.protocol)}});
  for (const auto base : r.bases)
    bases.add(hex(base));
  for (const auto& b : r.blocks)
    blocks.add({{"handle", hex(b.handle)},
                {"address", hex(b.address)},
                {"iova", b.iova == ~std::uint64_t{0} ? json() : json(hex(b.iova))},
                {"contiguous_bytes", b.contiguous}});
  return {{"capture", r.capture},
          {"memory", r.memory},
          {"memory_bytes", r.memory_bytes},
          {"packets", r.packets},
          {"bytes", r.bytes},
          {"flow_count", r.flows.size()},
          {"dead",
           {{"process", r.dead.process},
            {"member", r.dead.member},
            {"parsed", r.dead.parsed},
            {"packets_in_hand", r.dead.in_hand},
            {"cached_bytes", r.dead.cached_bytes},
            {"held_blocks", r.dead.held_blocks},
            {"held_bytes", r.dead.held_bytes},
            {"reaped_blocks", r.dead.reaped_blocks}}},
          {"parsed_by_survivor", r.parsed[0]},
          {"parsed_again", r.parsed_again()},
          {"left_blocks", r.left_blocks},
          {"sound", r.sound},
          {"checked", r.checked},
          {"seconds", r.seconds},
          {"region_bases", bases},
          {"blocks", blocks},
          {"flows", flows}};
}

}  // namespace annex::tool
