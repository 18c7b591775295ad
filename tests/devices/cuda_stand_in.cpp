// tests/devices/cuda_stand_in.cpp - a libcuda.so.1 for machines without a GPU: it keeps the
// driver's rules, in ordinary memory.
//
// What annex asks of the driver is checked with it (contexts, overlaps, order, descriptors, and
// that no CPU touches GPU memory: it is mapped without access here); whether the driver itself does
// as documented is not: cuda_test runs against the real one where there is one.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>

namespace {

constexpr int ok = 0, invalid_value = 1, out_of_memory = 2, no_context = 201,
              already_registered = 712, not_registered = 713;
constexpr std::uint64_t step = 2 << 20, whole_gpu = std::uint64_t{1} << 30;

struct context_of_stand_in {};
using context = context_of_stand_in*;
context_of_stand_in primary;
thread_local int depth = 0;

struct allocated {
  int fd;
  std::uint64_t bytes;
};
struct mapping {
  std::uint64_t bytes, handle;
  bool open;
};
std::mutex mutex;
std::map<std::uintptr_t, std::uint64_t> host;  // registered: begin → bytes
std::map<std::uint64_t, allocated> memories;   // by handle
std::map<std::uintptr_t, std::uint64_t> reserved;
std::map<std::uintptr_t, mapping> mappings;
std::uint64_t next_handle = 1, used = 0;

template <class Map>
auto covering(Map& all, std::uintptr_t at) {
  auto after = all.upper_bound(at);
  return after == all.begin() ? all.end() : std::prev(after);
}
// A stretch of one device mapping, or nothing.
const mapping* device_mapping(std::uintptr_t at, std::uint64_t bytes, std::uint64_t* offset) {
  const auto found = covering(mappings, at);
  if (found == mappings.end() || at + bytes > found->first + found->second.bytes) return nullptr;
  *offset = at - found->first;
  return &found->second;
}

}  // namespace

extern "C" {

int cuInit(unsigned) {
  return ok;
}
int cuGetErrorName(int code, const char** name) {
  return *name = code == no_context ? "STAND_IN_NO_CONTEXT" : "STAND_IN_ERROR", ok;
}
int cuDeviceGetCount(int* count) {
  return *count = 1, ok;
}
int cuDeviceGet(int* device, int ordinal) {
  return *device = 0, ordinal == 0 ? ok : 101;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  return *value = attribute == 102 ? 1 : 0, ok;
}
int cuDevicePrimaryCtxRetain(context* c, int) {
  return *c = &primary, ok;
}
int cuCtxPushCurrent_v2(context c) {
  return c == &primary ? (++depth, ok) : no_context;
}
int cuCtxPopCurrent_v2(context* c) {
  return depth > 0 ? (*c = &primary, --depth, ok) : no_context;
}

int cuMemHostRegister_v2(void* p, size_t bytes, unsigned) {
  if (depth == 0) return no_context;
  const auto at = reinterpret_cast<std::uintptr_t>(p);
  std::lock_guard guard(mutex);
  if (const auto before = covering(host, at + bytes - 1);
      before != host.end() && before->first + before->second > at)
    return already_registered;
  host[at] = bytes;
  return ok;
}
int cuMemHostUnregister(void* p) {
  if (depth == 0) return no_context;
  std::lock_guard guard(mutex);
  return host.erase(reinterpret_cast<std::uintptr_t>(p)) == 1 ? ok : not_registered;
}
int cuMemHostGetDevicePointer_v2(unsigned long long* there, void* p, unsigned) {
  std::lock_guard guard(mutex);
  const auto at = reinterpret_cast<std::uintptr_t>(p);
  const auto found = covering(host, at);
  if (depth == 0) return no_context;
  if (found == host.end() || at >= found->first + found->second) return not_registered;
  return *there = at + 0x1000'0000'0000, ok;  // not the address here
}

int cuMemGetAllocationGranularity(size_t* bytes, const void*, int) {
  return *bytes = step, ok;
}
int cuMemCreate(unsigned long long* handle, size_t bytes, const void*, unsigned long long) {
  if (depth == 0) return no_context;
  std::lock_guard guard(mutex);
  if (bytes == 0 || bytes % step != 0) return invalid_value;
  if (used + bytes > whole_gpu) return out_of_memory;
  const int fd = ::memfd_create("gpu", MFD_CLOEXEC);
  if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(bytes)) != 0) return out_of_memory;
  used += bytes;
  return memories[*handle = next_handle++] = {fd, bytes}, ok;
}
int cuMemRelease(unsigned long long handle) {
  std::lock_guard guard(mutex);
  const auto found = memories.find(handle);
  if (found == memories.end()) return invalid_value;
  // Annex unmaps first.
  if (std::any_of(mappings.begin(), mappings.end(),
                  [&](const auto& m) { return m.second.handle == handle; }))
    return invalid_value;
  ::close(found->second.fd);
  used -= std::min(used, found->second.bytes);
  memories.erase(found);
  return ok;
}
int cuMemAddressReserve(unsigned long long* at, size_t bytes, size_t align, unsigned long long,
                        unsigned long long) {
  if (depth == 0) return no_context;
  void* const space =
      ::mmap(nullptr, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return out_of_memory;
  std::lock_guard guard(mutex);
  *at = (reinterpret_cast<std::uintptr_t>(space) + align - 1) / align * align;
  reserved[*at] = bytes;
  return ok;
}
int cuMemAddressFree(unsigned long long at, size_t bytes) {
  std::lock_guard guard(mutex);
  return reserved.count(at) == 1 && reserved[at] == bytes && mappings.count(at) == 0
             ? (reserved.erase(at), ok)
             : invalid_value;
}
int cuMemMap(unsigned long long at, size_t bytes, size_t offset, unsigned long long handle,
             unsigned long long) {
  std::lock_guard guard(mutex);
  if (offset != 0 || reserved.count(at) == 0 || memories.count(handle) == 0 ||
      mappings.count(at) == 1)
    return invalid_value;
  return mappings[at] = {bytes, handle, false}, ok;
}
int cuMemUnmap(unsigned long long at, size_t) {
  std::lock_guard guard(mutex);
  return mappings.erase(at) == 1 ? ok : invalid_value;
}
int cuMemSetAccess(unsigned long long at, size_t, const void*, size_t) {
  std::lock_guard guard(mutex);
  return mappings.count(at) == 1 ? (mappings[at].open = true, ok) : invalid_value;
}
int cuMemExportToShareableHandle(void* handle, unsigned long long memory, int type,
                                 unsigned long long) {
  std::lock_guard guard(mutex);
  if (type != 1 || memories.count(memory) == 0) return invalid_value;
  const int fd = ::dup(memories[memory].fd);
  return std::memcpy(handle, &fd, sizeof fd), ok;
}
int cuMemImportFromShareableHandle(unsigned long long* memory, void* handle, int type) {
  std::lock_guard guard(mutex);
  const int fd = ::dup(static_cast<int>(reinterpret_cast<std::intptr_t>(handle)));
  if (type != 1 || fd < 0) return invalid_value;
  return memories[*memory = next_handle++] = {fd, 0}, ok;
}

int cuMemcpy(unsigned long long to, unsigned long long from, size_t bytes) {
  if (depth == 0) return no_context;
  std::lock_guard guard(mutex);
  std::uint64_t to_offset = 0, from_offset = 0;
  const mapping* const target = device_mapping(to, bytes, &to_offset);
  const mapping* const source = device_mapping(from, bytes, &from_offset);
  if ((target != nullptr && !target->open) || (source != nullptr && !source->open))
    return invalid_value;
  auto* const there = reinterpret_cast<char*>(to);
  const auto* const here = reinterpret_cast<const char*>(from);
  if (target == nullptr && source == nullptr) return std::memcpy(there, here, bytes), ok;
  if (target == nullptr)
    return ::pread(memories[source->handle].fd, there, bytes, static_cast<off_t>(from_offset)) ==
                   static_cast<ssize_t>(bytes)
               ? ok
               : invalid_value;
  if (source == nullptr)
    return ::pwrite(memories[target->handle].fd, here, bytes, static_cast<off_t>(to_offset)) ==
                   static_cast<ssize_t>(bytes)
               ? ok
               : invalid_value;
  return invalid_value;
}
}
