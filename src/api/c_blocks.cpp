// api/c_blocks.cpp - the C face: blocks, and where their bytes lie.
#include "api/c_face.hpp"

using namespace annex::c_face;

namespace annex::c_face {

int take_placement(const annex_placement* in, placement* out, std::uint32_t flags) noexcept {
  annex_placement p;
  if (in == nullptr) return refuse_argument("placement is null");
  if (const int why = take(in, &p); why != 0) return why;
  if (const int why = check_flags(p.flags, flags, "annex_placement"); why != 0) return why;
  out->size_bytes = p.size_bytes;
  if (p.align_bytes != 0) out->align_bytes = p.align_bytes;
  out->boundary_bytes = p.boundary_bytes;
  out->iova_contiguous = (p.flags & ANNEX_IOVA_CONTIGUOUS) != 0;
  out->zeroed = (p.flags & ANNEX_ZEROED) != 0;
  out->numa_node = minus_one(p.numa_node_plus_1);
  out->iova_align_bytes = p.iova_align_bytes;
  if (p.highest_iova != 0) out->highest_iova = annex::iova{p.highest_iova};
  return 0;
}

namespace {

[[gnu::cold]] void* refuse_null_heap() noexcept {
  (void)refuse_argument("heap is null");
  return nullptr;
}

}  // namespace
}  // namespace annex::c_face

void* annex_allocate(annex_heap* heap, size_t size_bytes) {
  if (heap == nullptr) [[unlikely]]
    return refuse_null_heap();
  return heap->heap.allocate(size_bytes);
}
void* annex_allocate_placed(annex_heap* heap, const annex_placement* placement) {
  if (heap == nullptr) return refuse_null_heap();
  annex::placement p;
  return take_placement(placement, &p) == 0 ? heap->heap.allocate(p) : nullptr;
}
size_t annex_allocate_bulk(annex_heap* heap, size_t size_bytes, void** blocks, size_t count) {
  if (heap == nullptr || blocks == nullptr) {
    (void)refuse_argument("heap or blocks is null");
    return 0;
  }
  return heap->heap.allocate_bulk(size_bytes, {blocks, count});
}
void* annex_reallocate(annex_heap* heap, void* block, size_t size_bytes) {
  if (heap == nullptr) return refuse_null_heap();
  return heap->heap.reallocate(block, size_bytes);
}
void* annex_reallocate_placed(annex_heap* heap, void* block, const annex_placement* placement) {
  if (heap == nullptr) return refuse_null_heap();
  annex::placement p;
  return take_placement(placement, &p) == 0 ? heap->heap.reallocate(block, p) : nullptr;
}
void annex_free(void* block) {
  annex::heap::free(block);
}
void annex_free_bulk(void* const* blocks, size_t count) {
  annex::heap::free_bulk({blocks, blocks != nullptr ? count : 0});
}
size_t annex_usable_size(const void* block) {
  return annex::heap::usable_size(block);
}

int annex_locate(const void* address, annex_location* out) {
  const auto l = annex::heap::locate(address);
  if (!l)
    return refuse(annex::make_error(annex::errc::foreign_handle, 0,
                                    "address {} is in no region of any heap in this process",
                                    address));
  annex_location where{};
  where.heap = static_cast<uint64_t>(l->heap);
  where.region = static_cast<uint32_t>(l->region);
  where.offset_bytes = l->offset_bytes;
  where.iova = static_cast<uint64_t>(l->bus_address.value_or(annex::no_iova));
  where.contiguous_bytes = l->contiguous_bytes;
  return give(where, out);
}
void* annex_address_of(annex_heap* heap, uint64_t address) {
  return heap != nullptr ? heap->heap.address_of(annex::iova{address}) : refuse_null_heap();
}
uint64_t annex_handle_of(annex_heap* heap, const void* address) {
  if (heap != nullptr) return static_cast<uint64_t>(heap->heap.handle_of(address));
  (void)refuse_argument("heap is null");
  return 0;
}
int annex_resolve(annex_heap* heap, uint64_t handle, void** out) {
  if (heap == nullptr || out == nullptr) return refuse_argument("heap or out is null");
  const auto address = heap->heap.resolve(annex::handle{handle});
  if (!address) return refuse(address.error());
  *out = *address;
  return 0;
}
uint64_t annex_remote_address(uint64_t handle, uint64_t region_bytes) {
  return annex::remote_address(annex::handle{handle}, region_bytes);
}
