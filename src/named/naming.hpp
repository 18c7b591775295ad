// named/naming.hpp - where the name (generation) of a byte is written: what a handle is compared
// with.
//
// region/generation.hpp says what handles are made of and when a name changes. Reading takes no
// lock.
#pragma once
#include "cache/blocks.hpp"
#include "named/pool_table.hpp"
#include "named/zone_record.hpp"

namespace annex {

/// Of a byte. word: null as long as there is no table; marks: what it has, if it is one. pool: it
/// is in an object of it, and zone is the pool's own word.
struct naming {
  u32* word = nullptr;
  u32 first = 0, marks = 0;
  known_pool pool = {};
  u64 object = 0;
  const u32* zone = nullptr;
};

/// Where the name of the byte at offset is written, and what the first one there was.
naming naming_of(const segment& s, const live_block& b, u64 offset) noexcept;

/// What lists say of a block: its handle, or the one that it would get.
handle where_is(const segment& s, const live_block& b) noexcept;
/// The same of a pool's object.
handle where_is(const segment& s, const local_region& region, const zone_record& z,
                const known_pool& pool, u64 object) noexcept;

}  // namespace annex
