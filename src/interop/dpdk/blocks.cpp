// interop/dpdk/blocks.cpp - rte_malloc and its family in front of DPDK's own.
//
//   allocate   the socket's annex heap; where that has none (no memory left, not served) the real
//              allocator
//   free       an address in a region of ours: annex; any other, after a look at what other
//              processes did: the real one
//
// What DPDK programs lean on is kept: 64-byte alignment, zeroed memory from every allocation (the
// real heap clears when a block is freed; here it is cleared when it is handed out), no fall-back
// from an explicit socket, no rte_errno. What DPDK gets wrong is not: calloc's product, realloc to
// 0, realloc that leaves an external heap (docs/dpdk.md).
#include <algorithm>
#include <cstring>

#include "heap/fast_path.hpp"
#include "interop/dpdk/drop_in.hpp"

namespace annex::dpdk {
namespace {

using detail::local_heap;
using detail::requests;

// Where blocks come back for requests without a socket; null: looked for the long way.
served_heap* near_heap() noexcept {
  const int socket = preferred_socket();
  // sync(served heap): what it is made of is seen.
  return socket >= 0 && socket < internal_sockets
             ? internal_heaps[static_cast<u32>(socket)].load(std::memory_order_acquire)
             : nullptr;
}

// bytes: a multiple of 64.
[[gnu::always_inline]] inline void clear_lines(char* block, u64 bytes) noexcept {
  if (bytes > 512) {
    std::memset(block, 0, bytes);
    return;
  }
  for (char* const end = block + bytes; block != end; block += cache_line_bytes)
    std::memset(__builtin_assume_aligned(block, 16), 0, cache_line_bytes);
}

// A small block out of the cache this thread used last: the way of nearly every call. Null: take
// the long way.
[[gnu::always_inline]] inline void* take_near(size_t size, unsigned alignment, int socket,
                                              bool zeroed) noexcept {
  if (size - 1 >= limits::largest_slab_block_bytes - cache_line_bytes ||
      alignment > cache_line_bytes || (alignment & (alignment - 1)) != 0 || !is_serving())
    return nullptr;
  // sync(served heap): what it is made of is seen.
  served_heap* const h =
      socket == any_socket ? near_heap()
      : static_cast<u32>(socket) < u32{internal_sockets} && !is_without_sockets()
          ? internal_heaps[static_cast<u32>(socket)].load(std::memory_order_acquire)
          : nullptr;
  if (h == nullptr || h->may_be_untouchable) [[unlikely]]
    return nullptr;
  local_heap& inside = h->inside();
  const u64 bytes = align_up(size, cache_line_bytes);
  char* const* const bases = inside.here.views.bases();
  u64 entry = 0;
  if (!detail::entry_hit(inside, bases, bytes, &entry)) [[unlikely]]
    return nullptr;
  char* const block = block_of(bases, entry);
  if ((zeroed || choices.clear) && (entry & entry_is_clean) == 0) clear_lines(block, bytes);
  return block;
}

// A block of this thread's own into the cache it used last. False: take the long way.
[[gnu::always_inline]] inline bool put_near(void* block) noexcept {
  return detail::free_hit(block, [](const local_region& region) {
    // sync(phase): what serving was set up with is seen.
    return current_phase.load(std::memory_order_acquire) == phase::serving &&
           !region.heap->memory.has_news();
  });
}

// Memory the CPU may not touch is handed out as it is.
bool can_be_touched(const served_heap& h, const void* block) noexcept {
  if (!h.may_be_untouchable) [[likely]]
    return true;
  const local_region* const region = region_of(block);
  return region == nullptr || region->access != touch::none;
}

void* take(served_heap& h, u64 bytes, u64 alignment, bool zeroed) noexcept {
  if (bytes <= limits::largest_slab_block_bytes && alignment <= cache_line_bytes) [[likely]] {
    const bool cleared = zeroed || (choices.clear && !h.may_be_untouchable);
    void* const block =
        cleared ? h.inside().blocks.allocate_cleared(bytes) : h.annex.allocate(bytes);
    if (block != nullptr && !cleared && choices.clear && can_be_touched(h, block))
      std::memset(block, 0, bytes);
    return block;
  }
  if (!h.is_external && !choices.large_blocks && bytes > limits::largest_slab_block_bytes)
    return nullptr;
  placement p{.size_bytes = bytes, .align_bytes = std::max(alignment, cache_line_bytes)};
  p.zeroed = zeroed || (choices.clear && !h.may_be_untouchable);
  wanted_alignment = alignment;
  void* const block = h.annex.allocate(p);
  wanted_alignment = 0;
  return block;
}

void* real_allocate(const char* type, u64 bytes, unsigned alignment, int socket,
                    bool zeroed) noexcept {
  const bypass around;
  return zeroed ? real().rte_zmalloc_socket(type, bytes, alignment, socket)
                : real().rte_malloc_socket(type, bytes, alignment, socket);
}

[[gnu::noinline]] void* allocate_far(const char* type, size_t size, unsigned alignment, int socket,
                                     bool zeroed) noexcept {
  if (!is_serving()) return real_allocate(type, size, alignment, socket, zeroed);
  if (size == 0 || (alignment & (alignment - 1)) != 0 || size > limits::largest_region_bytes)
    return nullptr;
  const u64 bytes = align_up(size, cache_line_bytes);
  const bool any = socket == any_socket || (is_without_sockets() && socket < first_external_socket);
  served_heap* h = any ? internal_heap(preferred_socket()) : heap_of(socket);
  if (h != nullptr)
    if (void* const block = take(*h, bytes, alignment, zeroed)) [[likely]]
      return block;
  const keep_rte_errno untouched;
  if (any)
    for (int other = 0; other < internal_sockets; ++other)
      if (other != preferred_socket() && (h = internal_heap(other)) != nullptr)
        if (void* const block = take(*h, bytes, alignment, zeroed)) return block;
  void* block = real_allocate(type, size, alignment, socket, zeroed);
  if (block == nullptr && (any || socket < first_external_socket) && give_back_everywhere())
    block = real_allocate(type, size, alignment, socket, zeroed);
  return block;
}

[[gnu::always_inline]] inline void* allocate(const char* type, size_t size, unsigned alignment,
                                             int socket, bool zeroed) noexcept {
  void* const block = take_near(size, alignment, socket, zeroed);
  return block != nullptr ? block : allocate_far(type, size, alignment, socket, zeroed);
}

// An address that is in no region known here: perhaps in one that came since.
bool free_after_a_look(void* block) noexcept {
  return follow_others() && requests::free_if_known(block);
}

[[gnu::noinline]] void free_block(void* block, bool clear) noexcept {
  if (block == nullptr) return;
  // sync(phase): what serving was set up with is seen.
  const phase now = current_phase.load(std::memory_order_acquire);
  if (now == phase::passive || now == phase::over)
    return clear && real().rte_free_sensitive != nullptr ? real().rte_free_sensitive(block)
                                                         : real().rte_free(block);
  local_region* region = region_of(block);
  if (region != nullptr && region->heap != nullptr) [[likely]] {
    if (now == phase::forked) return;  // its memory is a copy, its heap the parent's
    if (region->heap->memory.has_news()) [[unlikely]] {
      follow_changes(*region->heap);
      region = region_of(block);
    }
  }
  if (region != nullptr && region->heap != nullptr) [[likely]] {
    if (clear && region->access != touch::none) std::memset(block, 0, requests::usable_size(block));
    const bool is_large =
        load_granule(
            region->granule_base +
            (static_cast<u64>(static_cast<char*>(block) - region->base) >> region->granule_shift))
            .kind == granule_large;
    region_record& record = *region->record;  // stays readable when the region goes
    if (requests::free_if_known(block)) {
      if (now == phase::draining) [[unlikely]] {
        (void)give_back_everywhere();
      } else if (is_large && std::atomic_ref(record.live_extents).load(std::memory_order_relaxed) ==
                                 0) {  // a chunk became empty
        if (served_heap* const h = owner_of(block)) h->give_back(choices.keep_bytes);
      }
      return;
    }
  } else if (now != phase::forked && free_after_a_look(block)) {
    return;
  }
  const bypass around;
  if (clear && real().rte_free_sensitive != nullptr)
    real().rte_free_sensitive(block);
  else
    real().rte_free(block);
}

void* reallocate(void* block, size_t size, unsigned alignment, int socket) noexcept {
  if (block == nullptr) return allocate(nullptr, size, alignment, socket, false);
  // sync(phase): what serving was set up with is seen.
  served_heap* const h =
      current_phase.load(std::memory_order_acquire) == phase::serving ? owner_of(block) : nullptr;
  if (h == nullptr) {
    if (size == 0 && is_serving()) {
      free_block(block, false);
      return nullptr;
    }
    // Forked, or at the end.
    if (local_region* const region = region_of(block); region != nullptr && region->heap != nullptr)
      return nullptr;
    const bypass around;
    return real().rte_realloc_socket(block, size, alignment, socket);
  }
  if (size == 0) {
    free_block(block, false);
    return nullptr;
  }
  if ((alignment & (alignment - 1)) != 0 || size > limits::largest_region_bytes) return nullptr;
  const u64 bytes = align_up(size, cache_line_bytes), room = requests::usable_size(block);
  const bool stays = (socket == any_socket || socket == h->socket ||
                      (is_without_sockets() && socket < first_external_socket)) &&
                     (alignment == 0 || reinterpret_cast<u64>(block) % alignment == 0);
  if (room == 0) return nullptr;
  const bool is_large = room > limits::largest_slab_block_bytes;
  // A shrunk small block keeps its place.
  if (stays && bytes <= room && !(is_large && bytes > limits::largest_slab_block_bytes))
    return block;
  const bool touchable = can_be_touched(*h, block);
  if (stays && is_large && bytes > limits::largest_slab_block_bytes &&
      h->annex.internal()->blocks.resize_in_place(block, bytes)) {
    if (touchable && bytes > room) std::memset(static_cast<char*>(block) + room, 0, bytes - room);
    return block;
  }
  if (stays && bytes <= room) return block;
  if (!touchable) return nullptr;
  void* const moved =
      allocate(nullptr, size, alignment, socket == any_socket ? h->socket : socket, false);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, block, std::min<u64>(room, bytes));
  free_block(block, false);
  return moved;
}

}  // namespace
}  // namespace annex::dpdk

// ---- what DPDK programs call --------------------------------------------------------------------
using namespace annex::dpdk;

extern "C" {

void* ANNEX_DPDK_NAME(rte_malloc_socket)(const char* type, size_t size, unsigned alignment,
                                         int socket) {
  return allocate(type, size, alignment, socket, false);
}
void* ANNEX_DPDK_NAME(rte_malloc)(const char* type, size_t size, unsigned alignment) {
  return allocate(type, size, alignment, any_socket, false);
}
void* ANNEX_DPDK_NAME(rte_zmalloc_socket)(const char* type, size_t size, unsigned alignment,
                                          int socket) {
  return allocate(type, size, alignment, socket, true);
}
void* ANNEX_DPDK_NAME(rte_zmalloc)(const char* type, size_t size, unsigned alignment) {
  return allocate(type, size, alignment, any_socket, true);
}

void* ANNEX_DPDK_NAME(rte_calloc_socket)(const char* type, size_t count, size_t size,
                                         unsigned alignment, int socket) {
  annex::u64 bytes = 0;
  return annex::multiply_overflows(count, size, &bytes)
             ? nullptr
             : allocate(type, bytes, alignment, socket, true);
}
void* ANNEX_DPDK_NAME(rte_calloc)(const char* type, size_t count, size_t size, unsigned alignment) {
  return ANNEX_DPDK_NAME(rte_calloc_socket)(type, count, size, alignment, any_socket);
}

void* ANNEX_DPDK_NAME(rte_realloc_socket)(void* block, size_t size, unsigned alignment,
                                          int socket) {
  return reallocate(block, size, alignment, socket);
}
void* ANNEX_DPDK_NAME(rte_realloc)(void* block, size_t size, unsigned alignment) {
  return reallocate(block, size, alignment, any_socket);
}

void ANNEX_DPDK_NAME(rte_free)(void* block) {
  if (!put_near(block)) free_block(block, false);
}
void ANNEX_DPDK_NAME(rte_free_sensitive)(void* block) {
  free_block(block, true);
}

int ANNEX_DPDK_NAME(rte_malloc_validate)(const void* block, size_t* size) {
  // sync(phase): what serving was set up with is seen.
  if (block != nullptr && current_phase.load(std::memory_order_acquire) == phase::serving &&
      owner_of(block) != nullptr) {
    const size_t room = requests::usable_size(block);
    if (room == 0) return -1;
    if (size != nullptr) *size = room;
    return 0;
  }
  return real().rte_malloc_validate(block, size);
}

annex::u64 ANNEX_DPDK_NAME(rte_malloc_virt2iova)(const void* block) {
  // sync(phase): what serving was set up with is seen.
  if (block == nullptr || current_phase.load(std::memory_order_acquire) != phase::serving ||
      owner_of(block) == nullptr)
    return real().rte_malloc_virt2iova(block);
  const memseg* const page = real().rte_mem_virt2memseg(block, nullptr);
  if (page == nullptr || page->iova == bad_iova) return bad_iova;
  return page->iova + static_cast<annex::u64>(static_cast<const char*>(block) -
                                              static_cast<const char*>(page->addr));
}
}
