// tools/demo.hpp - what the demo's processes share in zones, and what it reports.
//
//   reader ──handles──▶ ring "work" ──▶ parser 1, parser 2       blocks: one per packet, freed by
//   whoever parsed it
//                                          │
//   zone "demo"    counters, and per packet one word: which flow it was counted to
//   zone "flows"   one slot per flow, found by fingerprint; a block with its key
//
// Every step of a parser can be repeated without harm, because it ends in one store: the slot's
// fingerprint (compare and swap), the flow's block (compare and swap), the packet's word. So when a
// parser is killed, the packets it had in hand go to the other one again, and the counts are exact.
#pragma once
#include <atomic>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

#include "json.hpp"
#include "map_drawing.hpp"
#include "packets.hpp"

namespace annex::tool {

inline constexpr std::uint32_t flow_slots = 65536;
inline constexpr std::uint32_t parser_count = 2;
inline constexpr std::uint32_t no_flow = 0xffffffff;  // counted, but to no flow: not IP

struct demo_packet {
  std::uint32_t number, length;
};  // bytes follow
struct flow_slot {
  std::atomic<std::uint64_t> fingerprint, block;
};

struct demo_control {
  std::uint32_t packet_count = 0, pace_us = 0;
  std::atomic<std::uint32_t> sent{0}, reader_done{0}, stop{0};
  std::atomic<std::uint32_t> parsed[parser_count]{};
  std::atomic<std::uint64_t> base[parser_count + 1]{};  // where each process has the region
  // std::atomic<std::uint64_t> words[packet_count]: length << 32 | flow slot + 1
  std::atomic<std::uint64_t>* words() {
    return reinterpret_cast<std::atomic<std::uint64_t>*>(this + 1);
  }
};

struct flow_count {
  flow_key key;
  std::uint64_t packets = 0, bytes = 0;
};

/// Everything the demo found out, for text, JSON and HTML.
struct demo_report {
  std::string capture, memory;
  std::uint64_t memory_bytes = 0, packets = 0, bytes = 0;
  std::vector<flow_count> flows;
  std::uint64_t bases[parser_count + 1] = {};
  std::uint32_t parsed[parser_count] = {};
  /// In the hands of the one who died when it had counted them: the other counted them once more.
  std::uint64_t parsed_again() const {
    const std::uint64_t all =
        std::accumulate(std::begin(parsed), std::end(parsed), std::uint64_t{0});
    return all > packets ? all - packets : 0;
  }
  struct {
    int process = 0;
    unsigned member = 0;
    std::uint32_t parsed = 0;
    std::uint64_t in_hand = 0, cached_bytes = 0, held_blocks = 0, held_bytes = 0, reaped_blocks = 0;
  } dead;
  struct block_address {
    std::uint64_t handle, address, iova, contiguous;
  };
  std::vector<block_address> blocks;
  std::vector<drawn_region> before,
      after;  // the moment of the kill; when what came back had come back
  std::vector<map_owner> owners, owners_after;
  std::uint64_t checked = 0,
                left_blocks =
                    0;  // objects of the audit; live blocks when everything was freed and reaped
  bool sound = false;
  double seconds = 0;
};

/// The story, the kill, what came back, the heap before and after, addresses, a few flows.
std::string text_report(const demo_report& report, bool colour, unsigned columns);
json json_of(const demo_report& report);
/// One self-contained page with the same.
std::string html_page(const demo_report& report);

}  // namespace annex::tool
