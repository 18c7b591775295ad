// interop/dpdk/sockets.cpp - the sockets that DPDK knows of, and which one a request begins with;
// declared in drop_in.hpp.
//
// Looked at once, when serving begins, and not changed while it goes on: any thread may ask.
#include <algorithm>
#include <array>

#include "interop/dpdk/drop_in.hpp"

namespace annex::dpdk {
namespace {

constinit bool no_sockets = false;
constinit std::array<int, internal_sockets> sockets{};
constinit u32 socket_count = 0;

}  // namespace

void look_at_sockets() noexcept {
  const real_functions& r = real();
  no_sockets = r.rte_eal_has_hugepages() == 0;
  socket_count = std::min<u32>(r.rte_socket_count(), internal_sockets);
  for (u32 i = 0; i < socket_count; ++i)
    sockets[i] = r.rte_socket_id_by_idx(i);
}

int preferred_socket() noexcept {
  if (socket_count <= 1) return socket_count == 1 ? sockets[0] : 0;
  const int here = static_cast<int>(real().rte_socket_id());
  return here >= 0 && here < internal_sockets ? here : sockets[0];
}

bool is_without_sockets() noexcept {
  return no_sockets;
}
bool is_only_socket(int socket) noexcept {
  return socket_count == 1 && sockets[0] == socket;
}

int served_socket(int socket) noexcept {
  if (!no_sockets) return socket;
  return socket_count != 0 ? sockets[0] : 0;
}

bool is_known_socket(int socket) noexcept {
  return std::find(sockets.begin(), sockets.begin() + socket_count, socket) !=
         sockets.begin() + socket_count;
}

}  // namespace annex::dpdk
