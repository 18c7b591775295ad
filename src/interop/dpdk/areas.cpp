// interop/dpdk/areas.cpp - external memory: rte_malloc_heap_memory_add and what belongs to it.
//
//   area      │ header │        one native block: the rest of the area                    │
//   region             │ skip: to a page │ the annex region                              │
//
// The area is added to the real heap, so that drivers hear of it and address queries know it; then
// all of it is taken back as one block, and annex hands it out with its metadata elsewhere. Memory
// the CPU may not touch can't have the real heap's header: it is registered (rte_extmem_register)
// instead, and mapped for devices by rte_dev_dma_map as for any registered memory. Areas below 1
// MiB and with pages below 4 KiB stay with the real heap.
//
// Whose memory it is, its mapping says (area_memory.hpp); mistakes are refused before anything is
// added.
//
// Mended on the way (numbers of docs/dpdk.md): B1 duplicate names, B2 and B16 overlap, B3 removal
// while others are attached, B4 unregistering a heap's area, B5 detaching what this process added,
// B7 and B18 page counts beyond 32 bits.
//
// Threads: any. Processes: dying between the real add and annex's leaves an area whose one block is
// never freed, for the real heap a block of a dead process; the area can't be removed then.
#include <cerrno>
#include <climits>
#include <cstring>
#include <vector>

#include "heap/local_heap.hpp"
#include "interop/dpdk/area_memory.hpp"
#include "interop/dpdk/drop_in.hpp"
#include "platform/report.hpp"

namespace annex::dpdk {
namespace {

constexpr u64 smallest_area_bytes = 1 * MiB, coarse_page = 64 * KiB;
// The real EAL keeps so much per page, and multiplies in 32 bits.
constexpr u64 page_record_bytes = 48;

int refuse_with(int why) noexcept {
  set_rte_errno(why);
  return -1;
}

// The page of the region, and what is left out in front of it.
u64 skip_of(u64 length, u64 page_bytes) noexcept {
  return page_bytes >= coarse_page && length >= limits::small_region_bytes
             ? coarse_page
             : limits::smallest_page_bytes;
}

struct area {
  served_heap* heap;
  region_id region;
  touch access;
  member_id adder;
};

// The area that was added as exactly [base, base + length).
bool find_area(served_heap& h, const void* base, u64 length, area* out) {
  bool found = false;
  h.annex.for_each_region([&](const region_summary& r) {
    const u64 skip = r.origin - reinterpret_cast<u64>(base);
    if (skip != skip_of(length, r.page_bytes) || r.length_bytes != length - skip) return;
    *out = {&h, r.id, r.access, r.adder};
    found = true;
  });
  return found;
}

bool find_area(int socket, const void* base, u64 length, area* out) {
  served_heap* const h = socket >= first_external_socket ? external_heap(socket) : nullptr;
  return h != nullptr && find_area(*h, base, length, out);
}

bool find_area_anywhere(const void* base, u64 length, area* out) {
  struct search {
    const void* base;
    u64 length;
    area* out;
    bool found;
  } s{base, length, out, false};
  for_each_served(
      [](served_heap& h, void* argument) {
        auto& look = *static_cast<search*>(argument);
        if (h.is_external && !look.found)
          look.found = find_area(h, look.base, look.length, look.out);
      },
      &s);
  return s.found;
}

int socket_of(const char* name) noexcept {
  const keep_rte_errno untouched;
  return name != nullptr ? real().rte_malloc_heap_get_socket(name) : -1;
}

// The native block that is all of a fresh area.
void* take_whole(const void* base, u64 length, int socket) noexcept {
  const bypass around;
  // A debug build has a trailer too.
  for (u64 overhead : {element_header_bytes, element_header_bytes + cache_line_bytes}) {
    void* const block =
        real().rte_malloc_socket("annex", length - overhead, cache_line_bytes, socket);
    if (block == static_cast<const char*>(base) + element_header_bytes) return block;
    if (block != nullptr) real().rte_free(block);
  }
  return nullptr;
}

result<region_id> add_region(served_heap& h, void* base, u64 length, u64 skip, touch access) {
  char* const begin = static_cast<char*>(base) + skip;
  const std::vector<iova> iovas = iovas_of(begin, length - skip, skip);
  return h.annex.add_memory({.base = begin,
                             .length_bytes = length - skip,
                             .page_bytes = skip,
                             .page_iovas = iovas,
                             .access = access});
}

// After the real add: all of it taken back, and given to annex. False: it stays with the real heap.
bool take_over(const char* name, int socket, void* base, u64 length, u64 skip) {
  const keep_rte_errno untouched;
  served_heap* const h = make_external_heap(socket, name);
  void* const whole = h != nullptr ? take_whole(base, length, socket) : nullptr;
  if (whole == nullptr) return false;
  auto added = add_region(*h, base, length, skip, touch::read_write);
  if (added) return true;
  log(log_level::warn, "[{}, +{}) stays with DPDK's own heap: {}", base, length,
      added.error().message());
  const bypass around;
  real().rte_free(whole);
  return false;
}

int register_untouchable(const char* name, int socket, void* base, u64 length, u64 skip,
                         u64* page_iovas, unsigned page_count, u64 page_bytes) {
  const real_functions& r = real();
  if (r.rte_extmem_register(base, length, page_iovas, page_count, page_bytes) != 0) return -1;
  served_heap* const h = make_external_heap(socket, name);
  if (h != nullptr) {
    h->may_be_untouchable = true;
    auto added = add_region(*h, base, length, skip, touch::none);
    if (added) {
      log(log_level::warn,
          "[{}, +{}) of heap \"{}\" is mapped PROT_NONE: taken as memory that only devices touch. "
          "DPDK maps it for none "
          "by itself (rte_dev_dma_map does), and rte_zmalloc from it is refused",
          base, length, name);
      return 0;
    }
    log(log_level::error, "[{}, +{}) can't be added: {}", base, length, added.error().message());
  }
  r.rte_extmem_unregister(base, length);
  return refuse_with(ENOMEM);
}

int add_memory(const char* name, void* base, size_t length, u64* page_iovas, unsigned page_count,
               size_t page_bytes) {
  const real_functions& r = real();
  auto forward = [&] {
    return r.rte_malloc_heap_memory_add(name, base, length, page_iovas, page_count, page_bytes);
  };
  const bool sane = base != nullptr && is_power_of_two(page_bytes) && length != 0 &&
                    length % page_bytes == 0 && reinterpret_cast<u64>(base) % page_bytes == 0 &&
                    (page_iovas == nullptr || length / page_bytes == page_count);
  const int socket = is_serving() && sane ? socket_of(name) : -1;
  if (socket < first_external_socket) return forward();  // the real one knows which errno
  if (reinterpret_cast<u64>(base) > ~u64{0} - length) {
    log(log_level::error,
        "[{}, +{}) can't be a heap's memory: it ends beyond the last address there is", base,
        length);
    return refuse_with(EINVAL);
  }
  const u64 pages = length / page_bytes;
  if (pages > INT_MAX || pages * page_record_bytes > UINT_MAX) {
    log(log_level::error,
        "{} pages of {} bytes are more than DPDK's page table can count ({}); say that the pages "
        "are larger, or add less",
        pages, page_bytes, UINT_MAX / page_record_bytes);
    return refuse_with(EINVAL);
  }
  if (overlaps_anything(base, length)) {
    log(log_level::error, "[{}, +{}) overlaps memory that DPDK has already; remove that first",
        base, length);
    return refuse_with(EEXIST);
  }
  const u64 skip = skip_of(length, page_bytes);
  const bool fits_annex = page_bytes >= limits::smallest_page_bytes && length > skip;
  switch (look_at(base, length)) {
    case memory_kind::mistaken: return refuse_with(EINVAL);
    case memory_kind::for_devices:
      if (fits_annex)
        return register_untouchable(name, socket, base, length, skip, page_iovas, page_count,
                                    page_bytes);
      log(log_level::error,
          "[{}, +{}) can't be touched by the CPU, as DPDK's own heap must; annex needs two pages "
          "of at least {} bytes",
          base, length, limits::smallest_page_bytes);
      return refuse_with(EINVAL);
    case memory_kind::for_cpu: break;
  }
  if (!has_memory_behind(base, length)) return refuse_with(ENOMEM);
  const int done = forward();
  if (done == 0 && choices.external_heaps && fits_annex && length >= smallest_area_bytes)
    (void)take_over(name, socket, base, length, skip);
  return done;
}

int remove_memory(const char* name, void* base, size_t length) {
  const real_functions& r = real();
  auto forward = [&] { return r.rte_malloc_heap_memory_remove(name, base, length); };
  area a{};
  const bool sane = base != nullptr && length != 0;
  const int socket = is_serving() && sane ? socket_of(name) : -1;
  if (!find_area(socket, base, length, &a)) return forward();
  if (a.heap->annex.internal()->memory.is_attached_elsewhere(a.region)) return refuse_with(EBUSY);
  if (!a.heap->annex.remove_memory(a.region)) return refuse_with(EBUSY);
  const memseg* const page = r.rte_mem_virt2memseg(base, nullptr);
  const u64 skip =
      skip_of(length, page != nullptr ? page->hugepage_sz : limits::smallest_page_bytes);
  if (a.access == touch::none) {
    const int done = r.rte_extmem_unregister(base, length);
    // As it was; the errno is the real one's.
    if (done != 0) (void)add_region(*a.heap, base, length, skip, touch::none);
    return done;
  }
  {
    const bypass around;
    r.rte_free(static_cast<char*>(base) + element_header_bytes);
  }
  const int done = forward();
  if (done != 0) (void)take_over(name, socket, base, length, skip);  // the errno is the real one's
  return done;
}

int attach_memory(const char* name, void* base, size_t length) {
  const real_functions& r = real();
  const int done = r.rte_malloc_heap_memory_attach(name, base, length);
  area a{};
  const int socket = done == 0 && is_serving() ? socket_of(name) : -1;
  if (!find_area(socket, base, length, &a)) return done;
  const memseg* const page = r.rte_mem_virt2memseg(base, nullptr);
  char* const begin =
      static_cast<char*>(base) +
      skip_of(length, page != nullptr ? page->hugepage_sz : limits::smallest_page_bytes);
  bool is_there = true;  // annex asks that of memory for the CPU only
  if (a.access == touch::none) {
    is_there = look_at(base, length) != memory_kind::mistaken;
    a.heap->may_be_untouchable = true;
  }
  if (is_there) {
    auto attached = a.heap->annex.attach_memory(a.region, begin);
    if (attached || attached.error().code == errc::already_attached) return done;
    log(log_level::error, "[{}, +{}) can't be attached: {}", base, length,
        attached.error().message());
  }
  r.rte_malloc_heap_memory_detach(name, base, length);
  return refuse_with(EADDRNOTAVAIL);  // nothing, or other memory, is mapped there
}

int detach_memory(const char* name, void* base, size_t length) {
  const real_functions& r = real();
  area a{};
  const bool sane = base != nullptr && length != 0;
  const int socket = is_serving() && sane ? socket_of(name) : -1;
  if (find_area(socket, base, length, &a)) {
    if (a.adder == a.heap->annex.self()) return refuse_with(EBUSY);  // whoever added it removes it
    (void)a.heap->annex.detach_memory(a.region);
  }
  return r.rte_malloc_heap_memory_detach(name, base, length);
}

}  // namespace
}  // namespace annex::dpdk

using namespace annex::dpdk;

extern "C" {

int ANNEX_DPDK_NAME(rte_malloc_heap_create)(const char* name) {
  if (is_serving() && name != nullptr && ::strnlen(name, heap_name_bytes) < heap_name_bytes &&
      name[0] != '\0' && socket_of(name) >= 0)
    return refuse_with(EEXIST);
  return real().rte_malloc_heap_create(name);
}

int ANNEX_DPDK_NAME(rte_malloc_heap_destroy)(const char* name) {
  const int socket = is_serving() ? socket_of(name) : -1;
  if (socket >= first_external_socket)
    // Registered areas are not the real heap's.
    if (served_heap* const h = external_heap(socket);
        h != nullptr && h->annex.stats().region_count != 0)
      return refuse_with(EBUSY);
  const int done = real().rte_malloc_heap_destroy(name);
  if (done == 0 && socket >= first_external_socket) forget_external_heap(socket);
  return done;
}

int ANNEX_DPDK_NAME(rte_malloc_heap_memory_add)(const char* name, void* base, size_t length,
                                                annex::u64* page_iovas, unsigned page_count,
                                                size_t page_bytes) {
  return add_memory(name, base, length, page_iovas, page_count, page_bytes);
}
int ANNEX_DPDK_NAME(rte_malloc_heap_memory_remove)(const char* name, void* base, size_t length) {
  return remove_memory(name, base, length);
}
int ANNEX_DPDK_NAME(rte_malloc_heap_memory_attach)(const char* name, void* base, size_t length) {
  return attach_memory(name, base, length);
}
int ANNEX_DPDK_NAME(rte_malloc_heap_memory_detach)(const char* name, void* base, size_t length) {
  return detach_memory(name, base, length);
}

int ANNEX_DPDK_NAME(rte_extmem_unregister)(void* base, size_t length) {
  area a{};
  // A heap's: rte_malloc_heap_memory_remove.
  if (is_serving() && base != nullptr && find_area_anywhere(base, length, &a))
    return refuse_with(EBUSY);
  return real().rte_extmem_unregister(base, length);
}
}
