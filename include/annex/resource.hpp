// annex/resource.hpp - a std::pmr::memory_resource over a heap, for containers of one process.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <memory_resource>

#include <annex/heap.hpp>

namespace annex {

/// The heap must outlive it. allocate() throws std::bad_alloc, as the standard demands.
class ANNEX_PUBLIC heap_resource : public std::pmr::memory_resource {
 public:
  /// Of this heap, which must stay where it is.
  explicit heap_resource(heap& h) noexcept : heap_(&h) {}
  /// Frees nothing.
  ~heap_resource() override;

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override;
  void do_deallocate(void* block, std::size_t bytes, std::size_t alignment) override;
  /// Of the same heap.
  bool do_is_equal(const memory_resource& other) const noexcept override;
  heap* heap_;
};

}  // namespace annex

#endif
