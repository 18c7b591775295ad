// tools/packets.cpp - see packets.hpp. Every read is preceded by its length check.
#include "packets.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace annex::tool {
namespace {

constexpr std::uint8_t tcp = 6, udp = 17;

std::uint16_t word_at(std::span<const std::uint8_t> b, std::size_t i) {
  return static_cast<std::uint16_t>(b[i] << 8 | b[i + 1]);
}

std::optional<flow_key> make_key(std::uint8_t version, std::span<const std::uint8_t> source,
                                 std::span<const std::uint8_t> destination, std::uint8_t protocol,
                                 std::span<const std::uint8_t> payload, bool first) {
  flow_key k;
  k.version = version;
  k.protocol = protocol;
  std::copy(source.begin(), source.end(), k.low_address.begin());
  std::copy(destination.begin(), destination.end(), k.high_address.begin());
  if (first && (protocol == tcp || protocol == udp)) {
    if (payload.size() < 4) return {};
    k.low_port = word_at(payload, 0);
    k.high_port = word_at(payload, 2);
  }
  if (std::pair(k.high_address, k.high_port) < std::pair(k.low_address, k.low_port)) {
    std::swap(k.low_address, k.high_address);
    std::swap(k.low_port, k.high_port);
  }
  return k;
}

std::optional<flow_key> parse_ipv4(std::span<const std::uint8_t> b) {
  if (b.size() < 20 || b[0] >> 4 != 4) return {};
  const std::size_t header = static_cast<std::size_t>(b[0] & 15) * 4;
  if (header < 20 || b.size() < header) return {};
  const bool first = (word_at(b, 6) & 0x1fff) == 0;
  return make_key(4, b.subspan(12, 4), b.subspan(16, 4), b[9], b.subspan(header), first);
}

std::optional<flow_key> parse_ipv6(std::span<const std::uint8_t> b) {
  if (b.size() < 40 || b[0] >> 4 != 6) return {};
  std::uint8_t next = b[6];
  std::size_t at = 40;
  bool first = true;
  for (int extensions = 0; extensions < 16; ++extensions) {
    const bool options = next == 0 || next == 43 || next == 60, fragment = next == 44,
               authentication = next == 51;
    if (!options && !fragment && !authentication) break;
    if (b.size() < at + 8) return {};
    if (fragment) first = (word_at(b, at + 2) & 0xfff8) == 0;
    const std::size_t length = fragment         ? 8
                               : authentication ? (std::size_t{b[at + 1]} + 2) * 4
                                                : (std::size_t{b[at + 1]} + 1) * 8;
    next = b[at];
    at += length;
    if (b.size() < at) return {};
    if (!first) break;
  }
  return make_key(6, b.subspan(8, 16), b.subspan(24, 16), next, b.subspan(at), first);
}

}  // namespace

std::optional<flow_key> parse_packet(std::span<const std::uint8_t> b) {
  std::size_t at = 12;
  if (b.size() < 14) return {};
  std::uint16_t type = word_at(b, at);
  while (type == 0x8100 || type == 0x88a8) {  // VLAN tags
    at += 4;
    if (b.size() < at + 2) return {};
    type = word_at(b, at);
  }
  if (type == 0x0800) return parse_ipv4(b.subspan(at + 2));
  if (type == 0x86dd) return parse_ipv6(b.subspan(at + 2));
  return {};
}

std::uint64_t fingerprint(const flow_key& k) {
  std::uint64_t hash = 0xcbf29ce484222325;
  auto mix = [&](std::uint8_t byte) { hash = (hash ^ byte) * 0x100000001b3; };
  for (const std::uint8_t byte : k.low_address)
    mix(byte);
  for (const std::uint8_t byte : k.high_address)
    mix(byte);
  for (const std::uint16_t port : {k.low_port, k.high_port})
    mix(static_cast<std::uint8_t>(port >> 8)), mix(static_cast<std::uint8_t>(port));
  mix(k.protocol);
  mix(k.version);
  hash ^= hash >> 31;
  return hash != 0 ? hash : 1;
}

std::string protocol_name(std::uint8_t protocol) {
  switch (protocol) {
    case 1: return "ICMP";
    case tcp: return "TCP";
    case udp: return "UDP";
    case 58: return "ICMPv6";
    case 0: return "other";
    default: return fmt::format("IP {}", protocol);
  }
}

std::string endpoint(const flow_key& k, bool high) {
  if (k.version == 0) return "-";
  const auto& address = high ? k.high_address : k.low_address;
  const std::uint16_t port = high ? k.high_port : k.low_port;
  char text[INET6_ADDRSTRLEN] = {};
  ::inet_ntop(k.version == 4 ? AF_INET : AF_INET6, address.data(), text, sizeof text);
  const bool has_port = k.protocol == tcp || k.protocol == udp;
  if (!has_port) return text;
  return k.version == 4 ? fmt::format("{}:{}", text, port) : fmt::format("[{}]:{}", text, port);
}

}  // namespace annex::tool
