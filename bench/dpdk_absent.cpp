// bench/dpdk_absent.cpp - stands in for dpdk.cpp where DPDK is not installed.
#include "dpdk.hpp"

namespace annex::bench::dpdk {
namespace {
[[noreturn]] void refuse_run() {
  throw std::runtime_error("DPDK is not installed");
}
}  // namespace

bool is_built_in() {
  return false;
}
bool has_hugepages() {
  return false;
}
plain_calls set_up_malloc() {
  refuse_run();
}
plain_calls set_up_external() {
  refuse_run();
}
measurement pool(unsigned) {
  refuse_run();
}
measurement ring(unsigned) {
  refuse_run();
}
measurement zones(unsigned) {
  refuse_run();
}
measurement locate(unsigned) {
  refuse_run();
}
measurement address_of(unsigned) {
  refuse_run();
}
measurement add_memory(std::size_t, std::size_t, bool) {
  refuse_run();
}
measurement hopeless() {
  refuse_run();
}
measurement footprint(unsigned) {
  refuse_run();
}
small_heap make_heap(std::size_t) {
  refuse_run();
}
void look(small_heap&) {
  refuse_run();
}

}  // namespace annex::bench::dpdk
