// platform/own_memory.cpp - see own_memory.hpp.
#include "platform/own_memory.hpp"

#include <new>

#include "base/never_destroyed.hpp"
#include "platform/memory.hpp"

namespace annex {
namespace {

class page_resource final : public std::pmr::memory_resource {
  void* do_allocate(std::size_t bytes, std::size_t) override {
    void* const pages = os::map_own_pages(bytes);
    if (pages == nullptr) throw std::bad_alloc();
    return pages;
  }
  void do_deallocate(void* pages, std::size_t bytes, std::size_t) override {
    os::unmap(pages, align_up(bytes, os::page_bytes()));
  }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
};

}  // namespace

std::pmr::memory_resource* own_pages() noexcept {
#if defined(__SANITIZE_ADDRESS__)
  // What only a page of ours leads to would be a leak to AddressSanitizer.
  return std::pmr::new_delete_resource();
#else
  return &never_destroyed<page_resource>();
#endif
}

}  // namespace annex
