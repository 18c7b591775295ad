// interop/dpdk/life.cpp - where serving begins and ends: around the real rte_eal_init and
// rte_eal_cleanup.
//
// Whatever EAL and its drivers allocate inside rte_eal_init is the real heap's; so are blocks
// allocated inside rte_eal_cleanup. Blocks of ours that the real clean-up frees take their chunks
// with them (draining).
#include <cstring>

#include "interop/dpdk/drop_in.hpp"

namespace annex::dpdk {
void register_telemetry() noexcept;
}

using namespace annex::dpdk;

extern "C" {

int ANNEX_DPDK_NAME(rte_eal_init)(int count, char** arguments) {
  bool wants_hugepages = true;  // looked at before: EAL puts them in another order
  for (int i = 1; i < count && arguments[i] != nullptr; ++i)
    wants_hugepages &= std::strcmp(arguments[i], "--no-huge") != 0;
  const int done = real().rte_eal_init(count, arguments);
  if (done >= 0) {
    begin_serving();
    if (is_serving()) register_telemetry();
  } else {
    explain_failed_start(wants_hugepages);
  }
  return done;
}

int ANNEX_DPDK_NAME(rte_eal_cleanup)(void) {
  begin_draining();
  const int done = real().rte_eal_cleanup();
  end_serving();
  return done;
}
}
