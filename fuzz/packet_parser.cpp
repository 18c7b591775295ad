// fuzz/packet_parser.cpp - the demo's packet parser over any bytes.
#include <cstddef>
#include <cstdint>

#include "packets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count) {
  if (const auto key = annex::tool::parse_packet({bytes, count})) {
    (void)annex::tool::fingerprint(*key);
    (void)annex::tool::endpoint(*key, true);
    (void)annex::tool::endpoint(*key, false);
  }
  return 0;
}
