// heap/zones.hpp - named things: zones reserved, filled, found, waited for and released; pools and
// rings are zones with a table (views/).
//
// Threads and processes: any. zones.cpp says what a death leaves.
#pragma once
#include <functional>
#include <optional>

#include "heap/requests.hpp"
#include "named/zone_chains.hpp"

namespace annex::detail {

class zones : public part {
 public:
  zones(attachment& heap, membership& member, regions& memory, caretaker& care,
        requests& blocks) noexcept
      : part(heap), member_(member), memory_(memory), care_(care), blocks_(blocks) {}

  struct zone_table {
    zone_type type = zone_type::plain;
    u64 bytes = 0;
    visibility seen = visibility::at_once;
    u64 unit_bytes = 0;  // each part of so many has to lie as asked, not the whole (extent_request)
  };
  /// fill_table: writes the table of a pool or ring, before the transaction that makes it commits.
  result<zone> reserve_zone(
      std::string_view name, const placement& p, zone_table table,
      const std::function<void(transaction&, zone_record&, void*)>& fill_table);
  result<zone> find_zone(std::string_view name, zone_type type);
  result<void> release_zone(std::string_view name, zone_type type);
  result<void> commit_zone(std::string_view name, u64 generation);
  result<zone> wait_zone(std::string_view name, std::chrono::nanoseconds deadline,
                         u64 after_generation);
  /// The record of this name. For whoever holds the heap lock, or believes nothing in it.
  result<zone_record*> find_record(std::string_view name, zone_type type) noexcept {
    return find_zone_record(segment_, name_, name, type);
  }

 private:
  class reservation;  // reserving.cpp: one zone on its way in
  result<void> make_way_for(tenure& t, std::string_view name);
  result<zone> find_as_reader(std::string_view name, zone_type type, u32* slot) noexcept;
  void tell_of_zone() noexcept;
  bool is_maker_alive(const zone_record& z) const noexcept;

  membership& member_;
  regions& memory_;
  caretaker& care_;
  requests& blocks_;
};

}  // namespace annex::detail
