// annex/resource.hpp - a std::pmr::memory_resource over a heap, for containers of one process.
#pragma once
#include <memory_resource>
#include <new>

#include <annex/heap.hpp>

namespace annex {

/// The heap must outlive it. allocate() throws std::bad_alloc, as the standard demands: the one place where annex throws.
class heap_resource : public std::pmr::memory_resource {
 public:
  explicit heap_resource(heap& h) noexcept : heap_(&h) {}

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    if (void* block = heap_->allocate(placement{.size_bytes = bytes != 0 ? bytes : 1, .align_bytes = alignment})) return block;
    throw std::bad_alloc();
  }
  void do_deallocate(void* block, std::size_t, std::size_t) override { heap::free(block); }
  bool do_is_equal(const memory_resource& other) const noexcept override {
    const auto* same = dynamic_cast<const heap_resource*>(&other);
    return same != nullptr && same->heap_->id() == heap_->id();
  }
  heap* heap_;
};

}  // namespace annex
