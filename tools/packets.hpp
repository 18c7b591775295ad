// tools/packets.hpp - which conversation a packet belongs to: Ethernet (with VLAN tags), IPv4,
// IPv6, TCP, UDP.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace annex::tool {

/// Both directions of a conversation have the same key: the lower end comes first. Plain data, lies
/// in shared memory.
struct flow_key {
  std::array<std::uint8_t, 16> low_address{}, high_address{};
  std::uint16_t low_port = 0,
                high_port = 0;  // 0 for what has no ports, and for fragments after the first
  std::uint8_t protocol = 0;    // of IP: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6 …
  std::uint8_t version = 0;     // 4 or 6
  bool operator==(const flow_key&) const = default;
};

/// Nothing: not IP, or cut off within the headers.
std::optional<flow_key> parse_packet(std::span<const std::uint8_t> bytes);
/// 64 bits that tell keys apart; never 0.
std::uint64_t fingerprint(const flow_key& key);
std::string protocol_name(std::uint8_t protocol);
/// "10.0.0.1:80", "[fd00::1]:80".
std::string endpoint(const flow_key& key, bool high);

}  // namespace annex::tool
