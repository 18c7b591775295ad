// named/zone_record.cpp - see zone_record.hpp.
#include "named/zone_record.hpp"

namespace annex {

u32 zone_bucket_of(std::string_view name) noexcept {
  u64 hash = 0xcbf29ce484222325;
  for (const char c : name)
    hash = (hash ^ static_cast<u8>(c)) * 0x100000001b3;
  return static_cast<u32>((hash ^ hash >> 32) % limits::zone_buckets);
}

}  // namespace annex
