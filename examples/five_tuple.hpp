// examples/five_tuple.hpp - what the two classifiers share: reading a capture, and the rules as
// words.
#pragma once
#include <pcap/pcap.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

/// As an access list looks at it: network byte order, one direction.
struct five_tuple {
  std::uint8_t protocol = 0;
  std::uint8_t unused[3] = {};
  std::uint8_t source[4] = {}, destination[4] = {};
  std::uint16_t source_port = 0, destination_port = 0;
  bool operator==(const five_tuple&) const = default;
};
static_assert(sizeof(five_tuple) == 16);

/// First match wins. An address is matched in its first address_bits, ports from low to high.
struct rule {
  const char* name;
  std::uint8_t protocol;
  std::uint8_t source[4];
  std::uint32_t source_bits;
  std::uint16_t low_port, high_port;
};
inline constexpr rule rules[] = {
    {"tcp-requests", 6, {10, 77, 0, 0}, 16, 0, 1023},
    {"tcp-high", 6, {10, 77, 0, 2}, 32, 1024, 65535},
    {"tcp-rest", 6, {0, 0, 0, 0}, 0, 0, 65535},
    {"udp", 17, {10, 0, 0, 0}, 8, 0, 65535},
    {"icmp", 1, {10, 77, 0, 0}, 24, 0, 65535},
};
inline constexpr std::uint32_t rule_count = sizeof rules / sizeof rules[0];

/// Calls visit(five_tuple) for every unfragmented IPv4 packet of the capture; false: it can't be
/// read.
template <class Visit>
bool for_each_packet(const char* path, Visit visit) {
  char why[PCAP_ERRBUF_SIZE];
  pcap_t* const capture = pcap_open_offline(path, why);
  if (capture == nullptr) {
    std::fprintf(stderr, "%s: %s\n", path, why);
    return false;
  }
  pcap_pkthdr* head = nullptr;
  const u_char* bytes = nullptr;
  while (pcap_next_ex(capture, &head, &bytes) == 1) {
    std::uint32_t at = 14;
    if (head->caplen < at + 20) continue;
    std::uint16_t type = static_cast<std::uint16_t>(bytes[12] << 8 | bytes[13]);
    if (type == 0x8100) {
      type = static_cast<std::uint16_t>(bytes[16] << 8 | bytes[17]);
      at += 4;
    }
    if (type != 0x0800 || head->caplen < at + 20) continue;
    const u_char* const ip = bytes + at;
    if (((ip[6] & 0x3f) | ip[7]) != 0) continue;  // a fragment
    const std::uint32_t transport = at + (ip[0] & 15u) * 4;
    five_tuple t;
    t.protocol = ip[9];
    std::memcpy(t.source, ip + 12, 4);
    std::memcpy(t.destination, ip + 16, 4);
    if ((t.protocol == 6 || t.protocol == 17) && head->caplen >= transport + 4) {
      std::memcpy(&t.source_port, bytes + transport, 2);
      std::memcpy(&t.destination_port, bytes + transport + 2, 2);
    }
    visit(t);
  }
  pcap_close(capture);
  return true;
}
