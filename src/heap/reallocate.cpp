// heap/reallocate.cpp - a block of another size: it stays where it is, or its bytes move.
//
// If the process dies: before the old block is freed both are live, and the dead member holds them.
#include <algorithm>
#include <cstring>

#include "attached/misuse.hpp"
#include "heap/local_heap.hpp"
#include "heap/placing.hpp"

namespace annex::detail {

namespace {

// A block's start in a slab of this class; nothing is known of whether it is live.
bool is_in_class(const local_region& region, u64 offset, u32 size_class) noexcept {
  const granule_entry g = load_granule(region.granule_base + (offset >> region.granule_shift));
  return g.kind == granule_slab && g.size_class == size_class &&
         begins_block(region, offset, std::bit_cast<u64>(g),
                      [&] { return class_divisor[size_class]; });
}

}  // namespace

bool requests::resize_in_place(void* block, u64 size_bytes) noexcept {
  local_region* const region = region_of(block);
  if (region == nullptr || region->heap == nullptr || &region->heap->here != &heap_ ||
      !is_size(size_bytes) || !member_.ensure_member())
    return false;
  const u64 offset = static_cast<u64>(static_cast<char*>(block) - region->base);
  locked t(heap_);
  const auto live = find_block(segment_, *region, offset, false);
  return live && live->kind == block_kind::large &&
         extents(*region).resize(*t, live->granule, offset + size_bytes, true);
}

// The live block that is to be reallocated; none: it was reported.
std::optional<live_block> requests::find_for_reallocate(void* block) noexcept {
  local_region* const region = region_of(block);
  if (region == nullptr || region->heap == nullptr) {
    report_misuse(heap_, "reallocate of an address in no heap", block, nullptr);
    return {};
  }
  auto live = find_block(region->heap->here.seg, *region,
                         static_cast<u64>(static_cast<char*>(block) - region->base), false);
  if (live && live->kind != block_kind::zone) return live;
  report_misuse(heap_, "reallocate of what is no live block", block, region);
  return {};
}

// Copies the old block's bytes as far as both have them, and frees it.
void* requests::move_to(void* moved, void* block, u64 bytes, const placement& p) noexcept {
  if (const local_region* to = region_of(moved); to == nullptr || to->access == touch::none) {
    free(moved);
    return explain(explanation::cause::no_cpu_access, p);
  }
  if (!has_room_for(*region_of(moved), moved, bytes))
    return explain(explanation::cause::damaged, p);
  std::memcpy(moved, block, bytes);
  free(block);
  return moved;
}

void* requests::reallocate(void* block, u64 size_bytes) noexcept {
  if (block == nullptr) return allocate(size_bytes);
  if (size_bytes == 0) {
    free(block);
    return nullptr;
  }
  placement p;
  p.size_bytes = size_bytes;
  // A checked heap wants to know first whether the block is live.
  if (const local_region* region = region_of(block);
      region != nullptr && region->heap != nullptr &&
      size_bytes <= limits::largest_slab_block_bytes &&
      !region->heap->here.has_option(option_checked) &&
      is_in_class(*region, static_cast<u64>(static_cast<char*>(block) - region->base),
                  class_of(size_bytes)))
    return block;
  const auto live = find_for_reallocate(block);
  if (!live || !is_size(size_bytes)) return explain(explanation::cause::bad_request, p);
  requests& home = live->region->heap->blocks;  // the block stays in its heap
  const u64 room = live->size_bytes;
  if (size_bytes <= room &&
      (size_bytes > room / 2 ||
       (live->kind == block_kind::slab_block && class_of(size_bytes) == live->slab->size_class)))
    return block;
  if (live->kind == block_kind::large && size_bytes > limits::largest_slab_block_bytes &&
      home.resize_in_place(block, size_bytes))
    return block;
  if (live->region->access == touch::none) {
    if (size_bytes <= room) return block;
    return explain(explanation::cause::no_cpu_access, p);
  }
  void* moved = nullptr;
  if (size_bytes > limits::largest_slab_block_bytes ||
      this_thread.heap_number != home.heap_.number ||
      !take_cached(this_thread.cache, home.views_.bases(), size_bytes, &moved))
    moved = home.allocate(size_bytes);
  if (moved == nullptr) return size_bytes <= room ? block : nullptr;
  return move_to(moved, block, std::min(room, size_bytes), p);
}

void* requests::reallocate(void* block, const placement& asked) noexcept {
  if (block == nullptr) return allocate(asked);
  if (asked.size_bytes == 0) {
    free(block);
    return nullptr;
  }
  const placement p = completed(asked);
  const auto live = find_for_reallocate(block);
  // Which of the block's bytes are new nobody knows but the caller: it zeroes them.
  if (!live || !is_possible(p) || p.zeroed) return explain(explanation::cause::bad_request, p);
  requests& home = live->region->heap->blocks;
  const u64 room = live->size_bytes;
  const bool is_right = is_as_asked(p, *live->region, block);
  if (is_right) {
    const bool is_large = live->kind == block_kind::large;
    const bool would_be_no_smaller = is_large
                                         ? room <= u64{live->region->granule_mask} + 1
                                         : class_for(p) == live->slab->size_class ||
                                               class_in(p, *live->region) == live->slab->size_class;
    if (p.size_bytes <= room &&
        (p.size_bytes > room / 2 || would_be_no_smaller || live->region->access == touch::none))
      return block;
    if (is_large && p.size_bytes > limits::largest_slab_block_bytes &&
        home.resize_in_place(block, p.size_bytes))
      return block;
  }
  if (live->region->access == touch::none) return explain(explanation::cause::no_cpu_access, p);
  void* const moved = home.allocate(p);
  if (moved == nullptr) return is_right && p.size_bytes <= room ? block : nullptr;
  return move_to(moved, block, std::min(room, p.size_bytes), p);
}

}  // namespace annex::detail
