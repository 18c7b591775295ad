// platform/simulated/pinning.cpp - pages that can't be pinned, and addresses that are hidden.
#include "platform/pinning.hpp"

#include <cerrno>

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os {

pin_result pin(void* address, u64 bytes, unsigned threads,
               const std::function<void(u64 done, u64 all)>& progress) {
  return simulated::ask(__func__,
                        {{nullptr, ENOMEM}, {nullptr, EFAULT}, {nullptr, ENOSYS}, {nullptr, EPERM}},
                        beneath::pin, address, bytes, threads, progress);
}

void unpin(pinned* held) {
  simulated::pass(__func__, beneath::unpin, held);
}

int physical_runs(const void* address, u64 bytes, u64 page_bytes, std::vector<physical_run>* out) {
  return simulated::ask(__func__, {EPERM, EMFILE, ENODATA}, beneath::physical_runs, address, bytes,
                        page_bytes, out);
}

}  // namespace annex::os
