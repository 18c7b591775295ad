// interop/dpdk/area_memory.cpp - see area_memory.hpp.
#include "interop/dpdk/area_memory.hpp"

#include <cstring>

#include "platform/memory.hpp"
#include "platform/report.hpp"

namespace annex::dpdk {

bool overlaps_anything(const void* base, u64 length) {
  struct search {
    u64 begin, end;
    bool clash;
  } s{reinterpret_cast<u64>(base), reinterpret_cast<u64>(base) + length, false};
  real().rte_memseg_list_walk(
      [](const memseg_list* list, void* argument) {
        auto& look = *static_cast<search*>(argument);
        if (list->len != 0 && list->addr_64 < look.end && look.begin < list->addr_64 + list->len)
          look.clash = true;
        return look.clash ? 1 : 0;
      },
      &s);
  return s.clash;
}

memory_kind look_at(const void* base, u64 length) {
  u64 covered = reinterpret_cast<u64>(base);
  const u64 end = covered + length;
  bool any_untouchable = false, any_writable = false;
  const char* wrong = nullptr;
  u64 where = 0;
  const int why = os::for_each_mapped(base, length, [&](const os::mapped_stretch& s) {
    if (s.begin > covered) return false;
    const bool untouchable = !s.readable && !s.writable;
    if (!s.writable && !untouchable)
      wrong = "the memory there may only be read; map it with PROT_READ | PROT_WRITE";
    else if (s.writable ? any_untouchable : any_writable)
      wrong =
          "some of the memory is PROT_NONE and some is not; add what devices have and what the CPU "
          "has as two areas";
    any_untouchable |= untouchable;
    any_writable |= s.writable;
    if (wrong != nullptr) where = s.begin;
    covered = s.end;
    return wrong == nullptr && covered < end;
  });
  if (why != 0) {
    log(log_level::error, "[{}, +{}) can't be a heap's memory: its mapping can't be seen ({})",
        base, length, std::strerror(why));
    return memory_kind::mistaken;
  }
  if (wrong == nullptr && covered < end) {
    wrong =
        "nothing is mapped there; map the memory, or, where only a device may touch it, take its "
        "addresses with PROT_NONE";
    where = covered;
  }
  if (wrong != nullptr) {
    log(log_level::error, "[{}, +{}) can't be a heap's memory: at {:#x} {}", base, length, where,
        wrong);
    return memory_kind::mistaken;
  }
  return any_writable ? memory_kind::for_cpu : memory_kind::for_devices;
}

bool has_memory_behind(void* base, u64 length) {
  const u64 page = os::page_bytes(), begin = align_down(reinterpret_cast<u64>(base), page);
  const int why = os::populate(reinterpret_cast<void*>(begin),
                               align_up(reinterpret_cast<u64>(base) + length, page) - begin);
  if (why == 0) return true;
  log(log_level::error,
      "[{}, +{}) can't be a heap's memory: there is no memory behind all of it ({}); the file may "
      "be shorter, or its file "
      "system or the hugepages used up",
      base, length, std::strerror(why));
  return false;
}

}  // namespace annex::dpdk
