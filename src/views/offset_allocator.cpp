// views/offset_allocator.cpp - see annex/offset_allocator.hpp.
//
// Where an allocator lies is asked of the address index: three loads, once for every allocation and
// copy of a container.
// Threads: as the container that it is of. Processes: heap and region are numbers, the same in all
// of them. If the process dies while it allocates, see heap/allocate_in.cpp; the allocator itself
// has no state of its own to mend.
#include <annex/offset_allocator.hpp>

#include "heap/registry.hpp"
#include "platform/report.hpp"

namespace annex {
namespace {

/// In memory of another heap: nothing can be allocated for a container there.
constexpr region_id elsewhere{~std::uint32_t{0}};
constexpr region_id unknown{0};

}  // namespace

// The region this object lies in, or otherwise.
region_id offset_home::region_here(region_id otherwise) const noexcept {
  const local_region* const here = address_index::find(this);
  if (here == nullptr) return otherwise;
  return heap_id{here->heap_id} == heap_ ? region_id{here->id} : elsewhere;
}

offset_home::offset_home(const heap& h) noexcept : heap_(h.id()) {
  region_ = region_here(unknown);
}
offset_home::offset_home(const heap& h, region_id region) noexcept : heap_(h.id()) {
  region_ = region_here(region);
}
offset_home::offset_home(const heap& h, const void* beside) noexcept : heap_(h.id()) {
  const local_region* const there = address_index::find(beside);
  region_ = region_here(there != nullptr && heap_id{there->heap_id} == heap_ ? region_id{there->id}
                                                                             : elsewhere);
}

offset_home::offset_home(const offset_home& other) noexcept : heap_(other.heap_) {
  region_ = region_here(other.region_);
}

// What a container's select_on_container_copy_construction() makes: the allocator itself, or a
// temporary it is moved from.
offset_home::offset_home(const offset_home& original, of_a_copy) noexcept : heap_(original.heap_) {
  region_ = region_here(unknown);
  is_hint_ = region_ == unknown;
  if (is_hint_) region_ = original.region_;
}

offset_home& offset_home::operator=(const offset_home& other) noexcept {
  heap_ = other.heap_;
  region_ = region_here(other.region_);
  is_hint_ = false;
  return *this;
}

offset_home::offset_home(offset_home&& other) noexcept : heap_(other.heap_) {
  region_ = region_here(other.region_);
  if (other.is_hint_ || other.region_ == region_ || other.region_ == unknown ||
      other.region_ == elsewhere)
    return;
  char report[512];
  stop_program(write_sentence(
      report,
      "annex: a container whose blocks lie in region {} was moved into {} at {}\n  its blocks "
      "can't go along, and a move constructor "
      "can't refuse; copy the container, or move-assign it to one that is there already\n",
      static_cast<u32>(other.region_), region_ == elsewhere ? "another heap" : "another region",
      static_cast<const void*>(this)));
}

void offset_home::check_swap(offset_home& a, offset_home& b) noexcept {
  // An allocator that has no blocks yet, and lies in no region, takes what it is given.
  if (a.heap_ == b.heap_ && a.region_ == unknown) a.region_ = a.region_here(b.region_);
  if (a.heap_ == b.heap_ && b.region_ == unknown) b.region_ = b.region_here(a.region_);
  if (a == b) return;
  char report[512];
  stop_program(write_sentence(
      report,
      "annex: two containers were swapped, whose blocks lie in region {} of heap {:#x} and region "
      "{} of heap {:#x}\n  blocks can't go "
      "from one region to another, and a swap can't refuse; copy or move-assign the containers\n",
      static_cast<u32>(a.region_), static_cast<u64>(a.heap_), static_cast<u32>(b.region_),
      static_cast<u64>(b.heap_)));
}

void* offset_home::allocate(std::size_t size_bytes, std::size_t align_bytes) {
  const placement p{.size_bytes = size_bytes != 0 ? size_bytes : 1, .align_bytes = align_bytes};
  const local_region* const here = address_index::find(this);
  detail::local_heap* const h =
      here != nullptr && heap_id{here->heap_id} == heap_ ? here->heap : registry::find(heap_);
  if (region_ == unknown && h != nullptr) region_ = h->memory.only_region();
  is_hint_ = false;
  std::string_view wrong;
  if (region_ == elsewhere)
    wrong =
        "the container lies in memory of another heap than its allocator's; make it there, or "
        "outside all of them";
  else if (h == nullptr)
    wrong = "the heap of the container's allocator is not attached here, or more than once";
  else if (here != nullptr && region_here(unknown) != region_)
    wrong = "the container's bytes were copied to where it lies now; copy or move it as an object";
  else if (region_ == unknown)
    wrong =
        "the container lies outside the heap, which has no region or several; make its allocator "
        "with the region its blocks are to lie in";
  void* const block = wrong.empty() ? h->blocks.allocate_in(region_, p)
                                    : detail::requests::explain_one_region(p, wrong);
  if (block == nullptr) throw_bad_alloc();
  return block;
}

}  // namespace annex
