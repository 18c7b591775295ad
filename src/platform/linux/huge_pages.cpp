// platform/linux/huge_pages.cpp - transparent huge pages: asked for, made, and counted.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "platform/linux/call.hpp"
#include "platform/linux/text_file.hpp"
#include "platform/memory.hpp"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace ANNEX_OS {
namespace {

// A page that somebody has in his hands for a moment is tried again.
constexpr int most_tries = 4;

template <std::size_t room>
void read_choice(const char* path, char (&word)[room]) {
  char text[128];
  read_start(path, text);
  const char* const open = std::strchr(text, '[');
  const char* const close = open != nullptr ? std::strchr(open, ']') : nullptr;
  if (close == nullptr) return;
  const auto length = std::min(static_cast<std::size_t>(close - open) - 1, room - 1);
  std::memcpy(word, open + 1, length);
}

// "7f00-7f10 rw-s 00001000 00:1a 42   /dev/shm/x": a mapping begins.
bool takes_mapping(const char* line, mapping_pages* m) {
  mapping_pages next;
  unsigned major = 0, minor = 0;
  if (std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %*4s %" SCNx64 " %x:%x %" SCNu64, &next.begin,
                  &next.end, &next.file_offset, &major, &minor, &next.inode) != 6)
    return false;
  next.device = next.inode != 0 ? makedev(major, minor) : 0;
  *m = next;
  return true;
}

u64 huge_bytes_in(const char* line) {
  for (const char* name : {"AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:"})
    if (const std::size_t length = std::strlen(name); std::strncmp(line, name, length) == 0)
      return std::strtoull(line + length, nullptr, 10) * KiB;
  return 0;
}

}  // namespace

u64 transparent_page_bytes() {
  static const u64 bytes = [] {
    char text[32];
    read_start("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", text);
    return u64{std::strtoull(text, nullptr, 10)};
  }();
  return bytes;
}

transparent_settings transparent_settings_of_machine() {
  transparent_settings all;
  read_choice("/sys/kernel/mm/transparent_hugepage/enabled", all.own);
  read_choice("/sys/kernel/mm/transparent_hugepage/shmem_enabled", all.shared);
  return all;
}

int advise_huge(void* address, u64 bytes, bool wanted) {
  const int advice = wanted ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
  return done([&] { return ::madvise(address, bytes, advice); });
}

int make_huge(void* address, u64 bytes) {
  int why = 0;
  for (int tries = 0; tries < most_tries; ++tries) {
    why = done([&] { return ::madvise(address, bytes, MADV_COLLAPSE); });
    if (why != EAGAIN) break;
  }
  return why;
}

int for_each_mapping_pages(u32 process_id, function_ref<bool(const mapping_pages&)> visit) {
  char path[40] = "/proc/self/smaps";
  if (process_id != 0) std::snprintf(path, sizeof path, "/proc/%u/smaps", process_id);
  const int fd = repeat([&] { return ::open(path, O_RDONLY | O_CLOEXEC); });
  if (fd < 0) return errno;
  ::close(fd);
  mapping_pages now;
  bool goes_on = true;
  each_line<4200>(path, [&](const char* line) {
    const mapping_pages before = now;
    if (takes_mapping(line, &now))
      goes_on = before.end == 0 || visit(before);
    else
      now.huge_bytes += huge_bytes_in(line);
    return goes_on;
  });
  if (goes_on && now.end != 0) visit(now);
  return 0;
}

}  // namespace ANNEX_OS
