// examples/classifier.cpp - counts a capture's packets by rule and by flow, with everything in an
// annex heap: the native twin of classifier_dpdk.cpp. docs/migration.md walks through the two side
// by side.
//
//   classifier capture.pcap
#include <annex/annex.hpp>
#include <annex/resource.hpp>

#include <cstdio>
#include <functional>
#include <span>
#include <string_view>
#include <unordered_map>

#include "five_tuple.hpp"

namespace {

struct tuple_hash {
  std::size_t operator()(const five_tuple& t) const noexcept {
    return std::hash<std::string_view>{}({reinterpret_cast<const char*>(&t), sizeof t});
  }
};

bool matches(const rule& r, const five_tuple& t) {
  if (r.protocol != t.protocol) return false;
  for (std::uint32_t bit = 0; bit < r.source_bits; ++bit)
    if (((r.source[bit / 8] ^ t.source[bit / 8]) >> (7 - bit % 8) & 1) != 0) return false;
  const std::uint16_t port = __builtin_bswap16(t.destination_port);
  return port >= r.low_port && port <= r.high_port;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: classifier capture.pcap\n");
    return 2;
  }
  auto heap = annex::heap::create_private();
  if (!heap) return std::fprintf(stderr, "%s\n", heap.error().text), 1;
  if (auto brought = heap->bring_memory({.length_bytes = 64 << 20}); !brought)
    return std::fprintf(stderr, "%s\n", brought.error().text), 1;
  annex::heap_resource memory(*heap);
  std::pmr::unordered_map<five_tuple, std::uint64_t, tuple_hash> flows(&memory);

  auto list = heap->reserve_zone(
      "access list",
      {.size_bytes = sizeof rules + rule_count * sizeof(std::uint64_t), .zeroed = true});
  if (!list) return std::fprintf(stderr, "%s\n", list.error().text), 1;
  auto* const access_list = static_cast<rule*>(list->address);
  auto* const packets =
      reinterpret_cast<std::uint64_t*>(static_cast<char*>(list->address) + sizeof rules);
  std::copy(std::begin(rules), std::end(rules), access_list);

  std::uint64_t unmatched = 0;
  const bool read = for_each_packet(argv[1], [&](const five_tuple& t) {
    ++flows[t];
    for (std::uint32_t i = 0; i < rule_count; ++i)
      if (matches(access_list[i], t)) {
        ++packets[i];
        return;
      }
    ++unmatched;
  });
  if (!read) return 1;

  for (const auto& [tuple, count] : flows)
    if (annex::heap::locate(&tuple)->heap != heap->id())
      return std::fprintf(stderr, "a flow lies outside the heap\n"), 1;
  for (std::uint32_t i = 0; i < rule_count; ++i)
    std::printf("%s %llu\n", access_list[i].name, static_cast<unsigned long long>(packets[i]));
  std::printf("unmatched %llu\nflows %zu\n", static_cast<unsigned long long>(unmatched),
              flows.size());
  return 0;
}
