// interop/dpdk/memzones.cpp - memzones on external heaps, whose memory annex holds; those on internal heaps are forwarded.
//
//   reserve   a native zone of 64 bytes under a name nobody has ("\1" + the zone's)   two who want one name collide here
//             the block from the annex heap; the descriptor is pointed at it
//             under the real zone lock: nobody has the name → it is written, first byte last
//   free      the descriptor is pointed at a native block again, then freed by the real function, then the annex block
//
// So look-up, walk, dump, telemetry and other processes see the zone as what it is. Checks and errno are in the real
// function's order. A death in between leaves a native zone under a name nobody asks for, or a block its holder's name
// is on.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "heap/local_heap.hpp"
#include "interop/dpdk/drop_in.hpp"

namespace annex::dpdk {
namespace {

const memzone* refuse_with(int why) noexcept {
  set_rte_errno(why);
  return nullptr;
}

struct renaming {
  memzone* zone;
  const char* name;
  u32 expected = 0, seen = 0;
  bool is_taken = false, is_done = false;
  char temporary = 0;

  // First byte last: a look-up sees one name or the other.
  void write_name() noexcept {
    char whole[zone_name_bytes] = {};
    std::memcpy(whole, name, ::strnlen(name, zone_name_bytes - 1));
    temporary = zone->name[0];
    std::memcpy(zone->name + 1, whole + 1, zone_name_bytes - 1);
    __atomic_store_n(zone->name, whole[0], __ATOMIC_RELEASE);
  }
};

// False: another zone has the name. Looks and writes inside one walk, which holds the real zone lock against reservations; which
// call is the last one is known from the walk before, and a zone that came since takes the name back.
bool rename_unless_taken(memzone* zone, const char* name) {
  renaming job{zone, name};
  while (!job.is_done && !job.is_taken) {
    job.expected = job.seen;
    job.seen = 0;
    real().rte_memzone_walk([](const memzone* other, void* argument) {
      auto& r = *static_cast<renaming*>(argument);
      ++r.seen;
      if (other != r.zone && std::strncmp(other->name, r.name, zone_name_bytes) == 0) r.is_taken = true;
      if (r.is_taken && r.is_done) {
        __atomic_store_n(r.zone->name, r.temporary, __ATOMIC_RELEASE);
        r.is_done = false;
      } else if (r.seen == r.expected && !r.is_taken) {
        r.write_name();
        r.is_done = true;
      }
    }, &job);
  }
  return job.is_done;
}

// Large zones are annex zones, which belong to no process; small ones share slabs with other blocks.
struct memory_of_zone {
  served_heap& heap_of_zone;
  std::string name;
  void* address = nullptr;
  u64 bytes = 0;

  bool take(const placement& p) {
    constexpr u64 largest_block_bytes = 16 * KiB;
    bytes = p.size_bytes;
    if (bytes != 0 && bytes <= largest_block_bytes) {
      address = heap_of_zone.annex.allocate(p);
    } else if (auto zone = heap_of_zone.annex.reserve_zone(zone_name(), p)) {
      address = zone->address;
      bytes = align_down(zone->size_bytes, cache_line_bytes);
    }
    return address != nullptr;
  }
  void give_back() {
    if (!heap_of_zone.annex.release_zone(zone_name())) heap::free(address);
  }

 private:
  std::string zone_name() const { return name.empty() ? "(unnamed memzone)" : name; }
};

u64 page_bytes_at(const void* address) noexcept {
  const memseg* const page = real().rte_mem_virt2memseg(address, nullptr);
  return page != nullptr ? page->hugepage_sz : limits::smallest_page_bytes;
}

bool meets_page_flags(u64 page_bytes, unsigned flags) noexcept {
  struct size_flag { unsigned flag; u64 bytes; };
  constexpr size_flag sizes[] = {{0x1, 2 * MiB}, {0x2, GiB}, {0x100, 16 * MiB}, {0x200, 16 * GiB}, {0x10000, 256 * KiB}, {0x20000, 256 * MiB}, {0x40000, 512 * MiB}, {0x80000, 4 * GiB}};
  if ((flags & zone_page_flags) == 0 || (flags & zone_size_hint_only) != 0) return true;
  return std::any_of(std::begin(sizes), std::end(sizes), [&](const size_flag& s) { return (flags & s.flag) != 0 && s.bytes == page_bytes; });
}

const memzone* reserve(const char* name, size_t length, int socket, unsigned flags, unsigned alignment, unsigned boundary) {
  const real_functions& r = real();
  auto forward = [&]() -> const memzone* {
    const bypass around;
    return r.rte_memzone_reserve_bounded(name, length, socket, flags, alignment, boundary);
  };
  served_heap* const h = is_serving() && socket >= first_external_socket ? external_heap(socket) : nullptr;
  if (h == nullptr) {
    const memzone* zone = forward();
    // The real heap may be short only because empty chunks are kept.
    if (zone == nullptr && is_serving() && socket < first_external_socket && rte_errno_of_thread() != nullptr && *rte_errno_of_thread() == ENOMEM && give_back_everywhere()) zone = forward();
    return zone;
  }
  if (::strnlen(name, zone_name_bytes) >= zone_name_bytes) return refuse_with(ENAMETOOLONG);
  {
    const keep_rte_errno untouched;
    if (r.rte_memzone_lookup(name) != nullptr) return refuse_with(EEXIST);
  }
  if (alignment != 0 && !is_power_of_two(alignment)) return refuse_with(EINVAL);
  if (length > ~u64{0} - cache_line_bytes) return refuse_with(EINVAL);
  const u64 bytes = length == 0 ? boundary : align_up(length, cache_line_bytes);
  if (boundary != 0 && (!is_power_of_two(boundary) || boundary < bytes)) return refuse_with(EINVAL);
  constexpr unsigned known = zone_page_flags | zone_size_hint_only | zone_iova_contiguous;
  if ((flags & ~known) != 0) return refuse_with(EINVAL);

  char temporary[zone_name_bytes] = "\1";
  if (::strnlen(name, zone_name_bytes) < zone_name_bytes - 1) {
    std::memcpy(temporary + 1, name, ::strnlen(name, zone_name_bytes));
  } else {  // 31 characters leave no room for the mark: the last is given up
    std::memcpy(temporary + 1, name, zone_name_bytes - 2);
  }
  memzone* zone = nullptr;
  {
    const bypass around;
    zone = const_cast<memzone*>(r.rte_memzone_reserve_bounded(temporary, cache_line_bytes, any_socket, 0, 0, 0));
  }
  if (zone == nullptr) return nullptr;  // ENOSPC, or EEXIST: somebody is reserving it
  void* const native = zone->addr;
  auto give_up = [&](int why) -> const memzone* {
    {
      const bypass around;
      r.rte_memzone_free(zone);
    }
    return refuse_with(why);
  };

  placement p{.size_bytes = bytes, .align_bytes = std::max<u64>(alignment, cache_line_bytes), .boundary_bytes = boundary, .iova_contiguous = (flags & zone_iova_contiguous) != 0};
  p.zeroed = choices.clear && !h->may_be_untouchable;
  memory_of_zone memory{*h, name};
  if (!memory.take(p)) return give_up(ENOMEM);
  void* const block = memory.address;
  const u64 page_bytes = page_bytes_at(block);
  if (length == 0 && !meets_page_flags(page_bytes, flags)) {
    memory.give_back();
    return give_up(ENOMEM);
  }
  const memseg* const page = r.rte_mem_virt2memseg(block, nullptr);
  zone->iova = page == nullptr || page->iova == bad_iova ? bad_iova : page->iova + static_cast<u64>(static_cast<char*>(block) - static_cast<char*>(page->addr));
  zone->len = memory.bytes;
  zone->hugepage_sz = page_bytes;
  zone->socket_id = socket;
  zone->addr = block;
  if (!rename_unless_taken(zone, name)) {
    zone->addr = native;
    memory.give_back();
    return give_up(EEXIST);
  }
  const bypass around;
  r.rte_free(native);
  return zone;
}

int free_zone(const memzone* zone) {
  const real_functions& r = real();
  void* const block = zone != nullptr && is_serving() ? zone->addr : nullptr;
  served_heap* const h = block != nullptr ? owner_of(block) : nullptr;
  if (h == nullptr || !h->is_external) {
    const bypass around;
    return r.rte_memzone_free(zone);
  }
  const bypass around;
  void* const native = r.rte_malloc_socket("annex", cache_line_bytes, 0, any_socket);
  if (native == nullptr) return -ENOMEM;
  memzone* const descriptor = const_cast<memzone*>(zone);
  memory_of_zone memory{*h, std::string(zone->name, ::strnlen(zone->name, zone_name_bytes)), block, zone->len};
  descriptor->addr = native;
  const int done = r.rte_memzone_free(zone);
  if (done != 0) {  // it was no zone of the array after all
    descriptor->addr = block;
    r.rte_free(native);
    return done;
  }
  memory.give_back();
  return 0;
}

}  // namespace
}  // namespace annex::dpdk

using namespace annex::dpdk;

extern "C" {

const memzone* ANNEX_DPDK_NAME(rte_memzone_reserve_bounded)(const char* name, size_t length, int socket, unsigned flags, unsigned alignment, unsigned boundary) {
  return reserve(name, length, socket, flags, alignment, boundary);
}
const memzone* ANNEX_DPDK_NAME(rte_memzone_reserve_aligned)(const char* name, size_t length, int socket, unsigned flags, unsigned alignment) {
  return reserve(name, length, socket, flags, alignment, 0);
}
const memzone* ANNEX_DPDK_NAME(rte_memzone_reserve)(const char* name, size_t length, int socket, unsigned flags) {
  return reserve(name, length, socket, flags, static_cast<unsigned>(cache_line_bytes), 0);
}
int ANNEX_DPDK_NAME(rte_memzone_free)(const memzone* zone) { return free_zone(zone); }

}
