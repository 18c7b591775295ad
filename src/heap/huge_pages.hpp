// heap/huge_pages.hpp - transparent huge pages for the memory of a region: may they be asked for,
// asked for, made, and what is said where they can't be had.
//
//   |  small  |  whole aligned pieces: huge           |  small |
//   base      multiples of transparent_page_bytes()      base + bytes
//
// madvise() is each process's own, so whoever attaches the region asks again (region_record::huge).
// docs/design/0023 says what is the default and why. Threads: any; no lock is held.
#pragma once
#include <atomic>

#include <annex/types.hpp>

#include "base/failure.hpp"
#include "base/units.hpp"

namespace annex::detail {

constexpr bool wants_huge(huge_pages huge) noexcept {
  return huge == huge_pages::aligned || huge == huge_pages::always;
}

/// The numbers of a range for which they are asked. Errors: invalid_argument, not_supported,
/// bad_length, bad_alignment, no_cpu_access.
result<void> check_huge(const memory_range& m);
/// Those of a source, before anything is opened. Errors: invalid_argument.
result<void> check_huge(const memory_source& m);

/// Of the kernel, which may have its own mind: nothing is refused.
void ask_for_huge(void* base, u64 bytes, huge_pages huge) noexcept;
/// Makes huge pages while a range is populated, piece by piece, by several threads: each is touched
/// once and then made, so that the kernel never fills it with small ones. wants nothing: nothing.
class huge_maker {
 public:
  huge_maker(char* base, u64 bytes, huge_pages huge) noexcept;
  /// Of those that begin in this piece of the range. Not 0: no memory for the first touch.
  int make(u64 offset, u64 bytes) noexcept;
  /// All were made, or need not be. Errors: out_of_memory, not_supported.
  result<void> check() const;

 private:
  char* base_;
  u64 bytes_;
  huge_pages huge_;
  u64 page_bytes_;
  std::atomic<u64> missing_{0};
  std::atomic<int> why_{0};
};

}  // namespace annex::detail
