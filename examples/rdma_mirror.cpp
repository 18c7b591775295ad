// examples/rdma_mirror.cpp - two processes, each with a heap of its own: one fills blocks, the
// other's heap gets copies by RDMA writes, and reads them back.
//
//   rdma_mirror   over the first RDMA device; exit 77 where there is none
//                 (soft-RoCE makes one: rdma link add rxe0 type rxe netdev eth0)
#include <annex/annex.hpp>
#include <annex/devices/verbs.hpp>

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "must.hpp"
#include "queue_pair.hpp"

namespace {

constexpr std::uint32_t block_bytes = 256 << 10, blocks = 32;
constexpr int no_device = 77;

char byte_of(std::uint32_t block, std::uint32_t at) {
  return static_cast<char>((at * 2654435761u + block * 977) >> 13);
}
// What the mirror tells: where its block is, and the key that opens it.
struct destination {
  std::uint64_t address;
  std::uint32_t rkey;
};

template <class T>
void send_to(int peer, const T& value) {
  if (::write(peer, &value, sizeof value) != sizeof value) std::exit(1);
}
template <class T>
T receive_from(int peer) {
  T value{};
  if (::recv(peer, &value, sizeof value, MSG_WAITALL) != sizeof value) std::exit(1);
  return value;
}

// A heap, its MRs, and a connection; the same on both sides.
struct side {
  queue_pair pair;
  annex::heap heap;
  std::unique_ptr<annex::verbs_memory> memory;
  annex::observation seen;

  bool begin(int peer) {
    if (!pair.has_device()) return false;
    heap = must(annex::heap::create_private());
    memory = must(annex::verbs_memory::create(pair.domain()));
    seen = must(heap.observe(*memory));
    must(heap.bring_memory(
        {.from = annex::memory_source::kind::anonymous, .length_bytes = std::size_t{16} << 20}));
    send_to(peer, pair.self());
    if (!pair.connect(receive_from<queue_pair::address>(peer))) std::exit(1);
    return true;
  }
};

// Its processor does nothing but wait: blocks come by themselves.
int mirror(int peer) {
  side s;
  if (!s.begin(peer)) return no_device;
  std::vector<char*> mine(blocks);
  for (char*& block : mine) {
    block = static_cast<char*>(s.heap.allocate(block_bytes));
    const auto k = s.memory->find(block);
    if (!k) return 1;
    send_to(peer, destination{k->address, k->rkey});
  }
  receive_from<char>(peer);  // all written
  std::uint64_t wrong = 0;
  for (std::uint32_t b = 0; b < blocks; ++b)
    for (std::uint32_t i = 0; i < block_bytes; ++i)
      wrong += mine[b][i] != byte_of(b, i);
  std::printf("mirror: %u blocks of %u bytes came by RDMA write, %lu bytes wrong\n", blocks,
              block_bytes, static_cast<unsigned long>(wrong));
  std::fflush(stdout);
  send_to(peer, 'd');
  receive_from<char>(peer);  // all read back
  for (char* block : mine)
    annex::heap::free(block);
  return wrong == 0 ? 0 : 1;
}

int source(int peer) {
  side s;
  if (!s.begin(peer)) return no_device;
  std::vector<destination> there(blocks);
  auto* const block = static_cast<char*>(s.heap.allocate(block_bytes));
  const auto k = *s.memory->find(block);
  const auto began = std::chrono::steady_clock::now();
  for (std::uint32_t b = 0; b < blocks; ++b) {
    there[b] = receive_from<destination>(peer);
    for (std::uint32_t i = 0; i < block_bytes; ++i)
      block[i] = byte_of(b, i);
    if (const auto status = s.pair.transfer(IBV_WR_RDMA_WRITE, k.address, k.lkey, there[b].address,
                                            there[b].rkey, block_bytes);
        status != IBV_WC_SUCCESS)
      return std::printf("write of block %u: %s\n", b, ibv_wc_status_str(status)), 1;
  }
  send_to(peer, 'w');
  receive_from<char>(peer);
  std::uint64_t wrong = 0;
  for (std::uint32_t b = 0; b < blocks; ++b) {
    std::memset(block, 0, block_bytes);
    if (const auto status = s.pair.transfer(IBV_WR_RDMA_READ, k.address, k.lkey, there[b].address,
                                            there[b].rkey, block_bytes);
        status != IBV_WC_SUCCESS)
      return std::printf("read of block %u: %s\n", b, ibv_wc_status_str(status)), 1;
    for (std::uint32_t i = 0; i < block_bytes; ++i)
      wrong += block[i] != byte_of(b, i);
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  send_to(peer, 'r');
  std::printf("source: %u blocks written and read back by RDMA, %lu bytes wrong, %.1f MB/s\n",
              blocks, static_cast<unsigned long>(wrong), 2e-6 * blocks * block_bytes / seconds);
  annex::heap::free(block);
  return wrong == 0 ? 0 : 1;
}

}  // namespace

int main() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return 1;
  const pid_t child = ::fork();
  if (child < 0) return 1;
  if (child == 0) {
    ::close(ends[0]);
    return mirror(ends[1]);
  }
  ::close(ends[1]);
  const int mine = source(ends[0]);
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (mine == no_device)
    std::puts(
        "there is no RDMA device here; soft-RoCE: modprobe rdma_rxe, rdma link add rxe0 type rxe "
        "netdev eth0");
  return mine != 0 ? mine : WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
