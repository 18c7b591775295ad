// interop/dpdk/memzones.cpp - memzones on external heaps, whose memory annex holds; those on
// internal heaps are forwarded.
//
//   reserve   a native zone of 64 bytes under a name nobody has (see temporary_name):
//             two who want one name collide here
//             the block from the annex heap; the descriptor is pointed at it
//             under the real zone lock: nobody has the name → it is written, first byte last
//   free      the descriptor is pointed at a native block again, then freed by the real function,
//             then the annex block
//
// So look-up, walk, dump, telemetry and other processes see the zone as what it is. What the real
// function refuses, it refuses itself: the arguments go to it, so that the order of checks and
// rte_errno are its own. A reservation that succeeds leaves rte_errno alone. A death in between
// leaves a native zone under the temporary name (the name it was for stays taken until the primary
// ends), or a block its holder's name is on.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/sentence.hpp"
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

// False: another zone has the name. Looks and writes inside one walk, which holds the real zone
// lock against reservations; which call is the last one is known from the walk before, and a zone
// that came since takes the name back.
bool rename_unless_taken(memzone* zone, const char* name) {
  renaming job{zone, name};
  while (!job.is_done && !job.is_taken) {
    job.expected = job.seen;
    job.seen = 0;
    real().rte_memzone_walk(
        [](const memzone* other, void* argument) {
          auto& r = *static_cast<renaming*>(argument);
          ++r.seen;
          if (other != r.zone && std::strncmp(other->name, r.name, zone_name_bytes) == 0)
            r.is_taken = true;
          if (r.is_taken && r.is_done) {
            __atomic_store_n(r.zone->name, r.temporary, __ATOMIC_RELEASE);
            r.is_done = false;
          } else if (r.seen == r.expected && !r.is_taken) {
            r.write_name();
            r.is_done = true;
          }
        },
        &job);
  }
  return job.is_done;
}

// Large zones are annex zones, which belong to no process; small ones share slabs with other
// blocks.
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
    const auto zone = heap_of_zone.annex.find_zone(zone_name());
    if (zone && zone->address == address)
      (void)heap_of_zone.annex.release_zone(zone_name());
    else
      heap::free(address);
  }

 private:
  std::string zone_name() const { return name.empty() ? "(unnamed memzone)" : name; }
};

u64 page_bytes_at(const void* address) noexcept {
  const memseg* const page = real().rte_mem_virt2memseg(address, nullptr);
  return page != nullptr ? page->hugepage_sz : limits::smallest_page_bytes;
}

bool meets_page_flags(u64 page_bytes, unsigned flags) noexcept {
  struct size_flag {
    unsigned flag;
    u64 bytes;
  };
  constexpr size_flag sizes[] = {{0x1, 2 * MiB},       {0x2, GiB},           {0x100, 16 * MiB},
                                 {0x200, 16 * GiB},    {0x10000, 256 * KiB}, {0x20000, 256 * MiB},
                                 {0x40000, 512 * MiB}, {0x80000, 4 * GiB}};
  if ((flags & zone_page_flags) == 0 || (flags & zone_size_hint_only) != 0) return true;
  return std::any_of(std::begin(sizes), std::end(sizes), [&](const size_flag& s) {
    return (flags & s.flag) != 0 && s.bytes == page_bytes;
  });
}

// Of the memory this process has of the heap: the smallest page that so many bytes fit into. 0:
// there is none.
u64 page_around(served_heap& h, u64 bytes) noexcept {
  u64 found = 0;
  h.annex.for_each_region([&](const region_summary& r) {
    const u64 page = r.base != nullptr ? page_bytes_at(r.base) : 0;
    if (page >= bytes && (found == 0 || page < found)) found = page;
  });
  return found;
}

struct request {
  const char* name;
  size_t length;
  int socket;
  unsigned flags, alignment, boundary;
};

const memzone* forward(const request& q) noexcept {
  const bypass around;
  return real().rte_memzone_reserve_bounded(q.name, q.length, q.socket, q.flags, q.alignment,
                                            q.boundary);
}

bool was_short_of_memory() noexcept {
  const int* const why = rte_errno_of_thread();
  return why != nullptr && *why == ENOMEM;
}

// Of the real heap, which may be short only because empty chunks are kept.
const memzone* reserve_native(const request& q) noexcept {
  const memzone* const zone = forward(q);
  return zone == nullptr && is_serving() && was_short_of_memory() && give_back_everywhere()
             ? forward(q)
             : zone;
}

void* allocate_native() noexcept {
  const bypass around;
  void* const block = real().rte_malloc_socket("annex", cache_line_bytes, 0, any_socket);
  if (block != nullptr || !give_back_everywhere()) return block;
  return real().rte_malloc_socket("annex", cache_line_bytes, 0, any_socket);
}

// Whether the real function would go on to look for memory; what it has against the rest it says
// itself.
bool is_sound(const request& q) noexcept {
  constexpr unsigned known_flags = zone_page_flags | zone_size_hint_only | zone_iova_contiguous;
  if (::strnlen(q.name, zone_name_bytes) >= zone_name_bytes || (q.flags & ~known_flags) != 0)
    return false;
  if (q.alignment != 0 && !is_power_of_two(q.alignment)) return false;
  if (q.length > align_down(~u64{0}, cache_line_bytes)) return false;
  const u64 least_bytes = std::max(align_up(q.length, cache_line_bytes), cache_line_bytes);
  return q.boundary == 0 || (is_power_of_two(q.boundary) && q.boundary >= least_bytes);
}

// A taken name, or a table of zones that is full: rte_errno says which, in the real order. An
// alignment that no zone can have keeps the real function from making one, should the name have
// become free.
bool is_refused_by_name(const request& q) noexcept {
  {
    const keep_rte_errno untouched;
    if (real().rte_memzone_lookup(q.name) == nullptr) return false;
  }
  const int* const why = rte_errno_of_thread();
  request impossible = q;
  impossible.alignment = 3;
  (void)forward(impossible);
  return why == nullptr || *why != EINVAL;
}

// One for each name. A name of 31 characters has no room for the mark: its end is told by a hash.
void temporary_name(const char* name, char (&out)[zone_name_bytes]) noexcept {
  const size_t length = ::strnlen(name, zone_name_bytes);
  if (length < zone_name_bytes - 1) {
    write_sentence(out, "\1{}", std::string_view(name, length));
    return;
  }
  u64 hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < length; ++i)
    hash = (hash ^ static_cast<unsigned char>(name[i])) * 0x100000001b3;
  write_sentence(out, "\2{}{:016x}", std::string_view(name, zone_name_bytes - 2 - 16), hash);
}

// The zone's memory; false: there is none that meets the request.
bool take_memory(served_heap& h, const request& q, memory_of_zone* memory) {
  const u64 bytes = q.length == 0 ? q.boundary : align_up(q.length, cache_line_bytes);
  placement p{.size_bytes = bytes,
              .align_bytes = std::max<u64>(q.alignment, cache_line_bytes),
              .boundary_bytes = q.boundary,
              .iova_contiguous = (q.flags & zone_iova_contiguous) != 0};
  p.zeroed = choices.clear && !h.may_be_untouchable;
  u64 page_needed = 0;
  if (!memory->take(p)) {
    // What lies in one page is contiguous, also where no IOVA is known.
    page_needed = p.iova_contiguous && bytes != 0 ? page_around(h, bytes) : 0;
    if (page_needed == 0) return false;
    p.iova_contiguous = false;
    p.boundary_bytes = q.boundary != 0 ? std::min<u64>(q.boundary, page_needed) : page_needed;
    if (!memory->take(p)) return false;
  }
  const u64 page_bytes = page_bytes_at(memory->address);
  if (page_bytes >= page_needed && (q.length != 0 || meets_page_flags(page_bytes, q.flags)))
    return true;
  memory->give_back();
  return false;
}

const memzone* reserve(const request& q) {
  if (is_serving() && q.name == nullptr) return refuse_with(EINVAL);
  served_heap* const h =
      is_serving() && q.socket >= first_external_socket ? external_heap(q.socket) : nullptr;
  if (h == nullptr && q.socket < first_external_socket) return reserve_native(q);
  if (h == nullptr) {
    const memzone* const zone = forward(q);
    if (zone == nullptr || zone->socket_id == q.socket || q.length != 0 || !is_serving())
      return zone;
    // B6: without hugepages, the largest zone of an external heap comes from elsewhere.
    const bypass around;
    real().rte_memzone_free(zone);
    return refuse_with(ENOMEM);
  }
  if (!is_sound(q)) return forward(q);
  const int* const errno_of_thread = rte_errno_of_thread();
  const int errno_before = errno_of_thread != nullptr ? *errno_of_thread : 0;
  if (is_refused_by_name(q)) return nullptr;

  const real_functions& r = real();
  char temporary[zone_name_bytes] = {};
  temporary_name(q.name, temporary);
  auto* const zone =
      const_cast<memzone*>(reserve_native({temporary, cache_line_bytes, any_socket, 0, 0, 0}));
  // ENOSPC; EEXIST: somebody is reserving it; ENOMEM: no native memory at all.
  if (zone == nullptr) return nullptr;
  void* const native = zone->addr;
  auto give_up = [&](int why) -> const memzone* {
    {
      const bypass around;
      r.rte_memzone_free(zone);
    }
    return refuse_with(why);
  };

  memory_of_zone memory{*h, q.name};
  if (!take_memory(*h, q, &memory)) return give_up(ENOMEM);
  void* const block = memory.address;
  const memseg* const page = r.rte_mem_virt2memseg(block, nullptr);
  zone->iova = page == nullptr || page->iova == bad_iova
                   ? bad_iova
                   : page->iova + static_cast<u64>(static_cast<char*>(block) -
                                                   static_cast<char*>(page->addr));
  zone->len = memory.bytes;
  zone->hugepage_sz = page_bytes_at(block);
  zone->socket_id = q.socket;
  zone->addr = block;
  if (!rename_unless_taken(zone, q.name)) {
    zone->addr = native;
    memory.give_back();
    return give_up(EEXIST);
  }
  set_rte_errno(errno_before);
  const bypass around;
  r.rte_free(native);
  return zone;
}

// What the pointer is to DPDK's table of zones: only a descriptor in use may be read.
enum class descriptor_state : u8 { in_use, perhaps_free, elsewhere };
descriptor_state look_up(const memzone* zone) {
  const keep_rte_errno untouched;
  struct search {
    const memzone* zone;
    descriptor_state found;
  } s{zone, descriptor_state::elsewhere};
  real().rte_memzone_walk(
      [](const memzone* other, void* argument) {
        auto& look = *static_cast<search*>(argument);
        const u64 distance = reinterpret_cast<u64>(look.zone) - reinterpret_cast<u64>(other);
        if (distance == 0) look.found = descriptor_state::in_use;
        const bool is_slot = static_cast<i64>(distance) % static_cast<i64>(sizeof(memzone)) == 0;
        if (is_slot && look.found == descriptor_state::elsewhere)
          look.found = descriptor_state::perhaps_free;
      },
      &s);
  return s.found;
}

int free_zone(const memzone* zone) {
  const real_functions& r = real();
  const bool is_looked_up = zone != nullptr && is_serving();
  const descriptor_state state = is_looked_up ? look_up(zone) : descriptor_state::perhaps_free;
  if (state == descriptor_state::elsewhere) {
    set_rte_errno(EINVAL);  // as the real function does where it survives the pointer
    return -EINVAL;
  }
  void* const block = is_looked_up && state == descriptor_state::in_use ? zone->addr : nullptr;
  served_heap* const h = block != nullptr ? owner_of(block) : nullptr;
  if (h == nullptr || !h->is_external) {
    const bypass around;
    return r.rte_memzone_free(zone);
  }
  void* const native = allocate_native();
  // The descriptor can't be given back without; nothing has changed.
  if (native == nullptr) return -ENOMEM;
  const bypass around;
  memzone* const descriptor = const_cast<memzone*>(zone);
  memory_of_zone memory{*h, std::string(zone->name, ::strnlen(zone->name, zone_name_bytes)), block,
                        zone->len};
  descriptor->addr = native;
  const int done = r.rte_memzone_free(zone);
  if (done != 0) {  // somebody else has freed it just now
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

const memzone* ANNEX_DPDK_NAME(rte_memzone_reserve_bounded)(const char* name, size_t length,
                                                            int socket, unsigned flags,
                                                            unsigned alignment, unsigned boundary) {
  return reserve({name, length, socket, flags, alignment, boundary});
}
const memzone* ANNEX_DPDK_NAME(rte_memzone_reserve_aligned)(const char* name, size_t length,
                                                            int socket, unsigned flags,
                                                            unsigned alignment) {
  return reserve({name, length, socket, flags, alignment, 0});
}
const memzone* ANNEX_DPDK_NAME(rte_memzone_reserve)(const char* name, size_t length, int socket,
                                                    unsigned flags) {
  return reserve({name, length, socket, flags, static_cast<unsigned>(cache_line_bytes), 0});
}
int ANNEX_DPDK_NAME(rte_memzone_free)(const memzone* zone) {
  return free_zone(zone);
}
}
