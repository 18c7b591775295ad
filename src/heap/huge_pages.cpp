// heap/huge_pages.cpp - see huge_pages.hpp.
#include "heap/huge_pages.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "heap/memory_range.hpp"
#include "platform/memory.hpp"

namespace annex::detail {
namespace {

result<void> check_policy(huge_pages huge) {
  if (huge <= huge_pages::always) return {};
  return refuse(errc::invalid_argument,
                "huge is {}, but what can be asked goes from {} (automatic) to {} (always)",
                static_cast<unsigned>(huge), static_cast<unsigned>(huge_pages::automatic),
                static_cast<unsigned>(huge_pages::always));
}

u64 first_piece(const char* base, u64 page) noexcept {
  const u64 at = reinterpret_cast<u64>(base);
  return align_up(at, page) - at;
}

}  // namespace

result<void> check_huge(const memory_source& m) {
  ANNEX_TRY(check_policy(m.huge));
  if (!wants_huge(m.huge)) return {};
  if (m.from == memory_source::kind::hugetlb || m.from == memory_source::kind::device)
    return refuse(errc::invalid_argument,
                  "transparent huge pages are asked for, but hugetlb memory and devices have the "
                  "pages they have; leave huge automatic");
  if (m.overcommit && m.huge == huge_pages::always)
    return refuse(errc::invalid_argument,
                  "overcommit asks for memory that need not be there, huge pages always for memory "
                  "that is; ask for one of them, or for huge_pages::aligned");
  return {};
}

result<void> check_huge(const memory_range& m) {
  ANNEX_TRY(check_policy(m.huge));
  if (m.huge != huge_pages::always) return {};
  const u64 page = os::transparent_page_bytes();
  if (page == 0)
    return refuse(errc::not_supported,
                  "huge pages always are asked for, but this kernel has none "
                  "(CONFIG_TRANSPARENT_HUGEPAGE); ask for huge_pages::aligned");
  if (m.access == touch::none)
    return refuse(errc::no_cpu_access,
                  "memory the CPU may not touch can't be made huge pages; leave huge automatic");
  const u64 first = first_piece(static_cast<const char*>(m.base), page);
  if (first >= m.length_bytes || m.length_bytes - first < page)
    return refuse(errc::bad_length,
                  "[{}, +{}) has no whole aligned huge page of {} bytes; use more, or ask for "
                  "huge_pages::aligned",
                  m.base, m.length_bytes, page);
  if (m.fd >= 0 && (reinterpret_cast<u64>(m.base) - m.fd_offset) % page != 0)
    return refuse(errc::bad_alignment,
                  "base {} and offset {} of descriptor {} are not the same number of bytes behind "
                  "a multiple of {}, so no huge page fits; map it so, or bring it",
                  m.base, m.fd_offset, m.fd, page);
  return {};
}

void ask_for_huge(void* base, u64 bytes, huge_pages huge) noexcept {
  if (huge == huge_pages::automatic) return;
  (void)os::advise_huge(base, align_up(bytes, os::page_bytes()), huge != huge_pages::never);
}

huge_maker::huge_maker(char* base, u64 bytes, huge_pages huge) noexcept
    : base_(base),
      bytes_(bytes),
      huge_(huge),
      page_bytes_(wants_huge(huge) ? os::transparent_page_bytes() : 0) {}

int huge_maker::make(u64 offset, u64 bytes) noexcept {
  if (page_bytes_ == 0) return 0;
  const u64 begin = offset + first_piece(base_ + offset, page_bytes_);
  for (u64 at = begin; at < offset + bytes && bytes_ - at >= page_bytes_; at += page_bytes_) {
    if (const int why = os::populate(base_ + at, os::page_bytes()); why != 0) return why;
    if (const int why = os::make_huge(base_ + at, page_bytes_); why != 0) {
      missing_.fetch_add(1);
      why_.store(why);
      if (why == EINVAL && huge_ == huge_pages::aligned) return 0;
    }
  }
  return 0;
}

result<void> huge_maker::check() const {
  const u64 missing = missing_.load();
  if (huge_ != huge_pages::always || missing == 0) return {};
  const int why = why_.load();
  const os::transparent_settings is = os::transparent_settings_of_machine();
  if (why == EINVAL)
    return refuse_os(errc::not_supported, why,
                     "{} huge pages of {} bytes can't be had: such memory has none, or it needs "
                     "Linux 6.1 (here enabled is {}, shmem_enabled {}: deny refuses); ask for "
                     "huge_pages::aligned",
                     missing, page_bytes_, is.own, is.shared);
  return refuse_os(errc::out_of_memory, why,
                   "{} huge pages of {} bytes of {} can't be had: {}; free memory, have it "
                   "compacted (sysctl vm.compact_memory=1), or ask for huge_pages::aligned",
                   missing, page_bytes_, bytes_ / page_bytes_, std::strerror(why));
}

}  // namespace annex::detail
