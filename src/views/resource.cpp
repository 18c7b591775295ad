// views/resource.cpp - see annex/resource.hpp. Here and not there, so that programs without
// exceptions or RTTI can use it.
#include <annex/resource.hpp>

#include <new>

namespace annex {

void throw_bad_alloc() {
  throw std::bad_alloc();
}

heap_resource::~heap_resource() = default;

void* heap_resource::do_allocate(std::size_t bytes, std::size_t alignment) {
  if (void* block = heap_->allocate(
          placement{.size_bytes = bytes != 0 ? bytes : 1, .align_bytes = alignment}))
    return block;
  throw_bad_alloc();
}

void heap_resource::do_deallocate(void* block, std::size_t, std::size_t) {
  heap::free(block);
}

bool heap_resource::do_is_equal(const memory_resource& other) const noexcept {
  const auto* same = dynamic_cast<const heap_resource*>(&other);
  return same != nullptr && same->heap_->id() == heap_->id();
}

}  // namespace annex
