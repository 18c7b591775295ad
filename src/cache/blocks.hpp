// cache/blocks.hpp - from a byte of a region to the live block it belongs to, and a large block's
// way back to the region.
//
// find_block() takes no lock: whoever needs an answer that stays true owns the block or holds the
// heap lock. Nothing it reads is believed before it was compared with what it may be.
#pragma once
#include <optional>

#include <annex/types.hpp>

#include "cache/thread_cache.hpp"
#include "extent/large_blocks.hpp"

namespace annex {

struct live_block {
  local_region* region;
  block_kind kind;
  u64 offset_bytes, size_bytes;
  u32 granule;
  slab_record* slab;
  u32 index;
};

/// The live block that begins at this byte (inside: or contains it).
std::optional<live_block> find_block(const segment& s, local_region& region, u64 offset,
                                     bool inside) noexcept;

}  // namespace annex
