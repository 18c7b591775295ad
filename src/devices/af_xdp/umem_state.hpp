// devices/af_xdp/umem_state.hpp - what a umem is, for the sockets on it: it stays where it is when
// the umem is moved.
#pragma once
#include <annex/devices/af_xdp.hpp>

#include "base/units.hpp"

namespace annex {

struct umem::state {
  raw_pool frames;
  char* base = nullptr;
  u64 length_bytes = 0;
  u32 frame_bytes = 0;
  lease held;
  u64 offset_of(const void* byte) const noexcept {
    return static_cast<u64>(static_cast<const char*>(byte) - base);
  }
};

}  // namespace annex
