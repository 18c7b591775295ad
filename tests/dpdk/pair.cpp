// tests/dpdk/pair.cpp - a primary and its secondaries share an external heap and the internal one;
// secondaries are killed at random moments and come back, and the primary goes on.
//
//   pair ROUNDS EAL options       the primary: starts itself again as the secondary, kills it,
//                                 ROUNDS times
//
// Every block carries its own address and a checksum; blocks change hands through an array of slots
// in a memzone. Checked: no hang, no block handed out twice, no byte changed; a secondary that has
// not attached is refused and does not fault; the external area can't be removed while a secondary
// is attached, and can when it is dead. With the process number of the primary as argument after
// "look", `annex` shows the heaps meanwhile (tests/dpdk/run).
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include <rte_memzone.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t area_bytes = 64 << 20, page = 4096;
constexpr std::size_t device_bytes = 2 << 20;
constexpr const char* heap_name = "shared";
constexpr const char* device_heap_name = "devices";  // memory that the CPU may not touch
struct shared_state {
  void* base;
  void* device_base;
  char path[64];
  std::atomic<std::uint64_t> ready, exchanged;
  std::atomic<std::uint32_t*> slots[256];
};
shared_state* shared = nullptr;
int external = -1;
char* area = nullptr;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "pair: %s (process %d, rte_errno %d)\n", what, static_cast<int>(::getpid()),
               rte_errno);
  std::_Exit(1);
}

// words: its own address twice, its size in words, then a pattern
std::uint32_t* make_block(std::mt19937& random) {
  const std::uint32_t words = 8 + random() % 500;
  auto* b = static_cast<std::uint32_t*>(
      rte_malloc_socket(nullptr, words * 4, 0, random() % 2 != 0 ? external : SOCKET_ID_ANY));
  if (b == nullptr) return nullptr;
  for (std::uint32_t i = 4; i < words; ++i)
    if (b[i] != 0) fail("a fresh block is not zero");
  const auto at = reinterpret_cast<std::uintptr_t>(b);
  std::memcpy(b, &at, 8);
  b[2] = words;
  b[3] = static_cast<std::uint32_t>(at) ^ words;
  for (std::uint32_t i = 4; i < words; ++i)
    b[i] = b[3] + i;
  return b;
}

void check_and_free(std::uint32_t* b) {
  std::uintptr_t at = 0;
  std::memcpy(&at, b, 8);
  if (at != reinterpret_cast<std::uintptr_t>(b) || b[3] != (static_cast<std::uint32_t>(at) ^ b[2]))
    fail("a block is not what was put into it");
  for (std::uint32_t i = 4; i < b[2]; ++i)
    if (b[i] != b[3] + i) fail("a block's bytes have changed");
  rte_free(b);
}

void work(std::mt19937& random, unsigned operations) {
  for (unsigned i = 0; i < operations; ++i) {
    std::uint32_t* mine = random() % 3 != 0 ? make_block(random) : nullptr;
    if (std::uint32_t* other = shared->slots[random() % 256].exchange(mine)) check_and_free(other);
    shared->exchanged.fetch_add(1, std::memory_order_relaxed);
  }
}

int be_secondary(bool attach) {
  const rte_memzone* z = rte_memzone_lookup("pair");
  if (z == nullptr) fail("no memzone of the primary");
  shared = static_cast<shared_state*>(z->addr);
  external = rte_malloc_heap_get_socket(heap_name);
  if (!attach) {
    // Not attached: refused, and nothing faults.
    rte_malloc_socket_stats stats{};
    if (rte_malloc_socket(nullptr, 100, 0, external) != nullptr)
      fail("a block of an area that is not attached");
    if (rte_malloc_get_socket_stats(external, &stats) != 0 ||
        stats.heap_totalsz_bytes != area_bytes)
      fail("statistics of an area that is not attached");
    std::FILE* nowhere = std::fopen("/dev/null", "w");
    rte_malloc_dump_stats(nowhere, nullptr);
    rte_malloc_dump_heaps(nowhere);
    std::fclose(nowhere);
    if (rte_malloc_heap_memory_attach(heap_name, shared->base, area_bytes) == 0)
      fail("attached, though nothing is mapped there");
    // A device's memory is attached where its addresses are taken, and nowhere else.
    void* const device = shared->device_base;
    if (rte_malloc_heap_memory_attach(device_heap_name, device, device_bytes) == 0 ||
        rte_errno != EADDRNOTAVAIL)
      fail("attached a device's memory where nothing is mapped");
    ::mmap(device, device_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
           0);
    if (rte_malloc_heap_memory_attach(device_heap_name, device, device_bytes) == 0 ||
        rte_errno != EADDRNOTAVAIL)
      fail("attached a device's memory where read-only memory is");
    ::mprotect(device, device_bytes, PROT_NONE);
    if (rte_malloc_heap_memory_attach(device_heap_name, device, device_bytes) != 0)
      fail("can't attach a device's memory");
    const int devices = rte_malloc_heap_get_socket(device_heap_name);
    void* const block = rte_malloc_socket(nullptr, 1000, 0, devices);
    if (block < device || block >= static_cast<char*>(device) + device_bytes)
      fail("no block of a device's memory");
    if (rte_zmalloc_socket(nullptr, 1000, 0, devices) != nullptr)
      fail("a device's memory was cleared");
    rte_free(block);
    return rte_eal_cleanup();
  }
  const int fd = ::open(shared->path, O_RDWR);
  if (::mmap(shared->base, area_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd,
             0) != shared->base)
    fail("the area's place is taken");
  ::close(fd);
  if (rte_malloc_heap_memory_attach(heap_name, shared->base, area_bytes) != 0)
    fail("can't attach the area");
  std::mt19937 random(static_cast<unsigned>(::getpid()));
  work(random, 20'000);
  shared->ready = static_cast<std::uint64_t>(::getpid());
  for (;;)
    work(random, 1000);
}

pid_t start_secondary(const std::vector<std::string>& arguments, const char* how) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  std::vector<char*> argv;
  static std::string role = how;
  argv.push_back(const_cast<char*>("pair"));
  argv.push_back(role.data());
  for (const std::string& a : arguments)
    argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(const_cast<char*>("--proc-type=secondary"));
  argv.push_back(nullptr);
  ::execv("/proc/self/exe", argv.data());
  ::_exit(127);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const std::string role = argv[1];
  const std::vector<std::string> eal(argv + 2, argv + argc);
  argv[1] = argv[0];
  if (rte_eal_init(argc - 1, argv + 1) < 0) return 2;
  if (role == "secondary" || role == "bystander") return be_secondary(role == "secondary");

  const rte_memzone* z = rte_memzone_reserve("pair", sizeof(shared_state), SOCKET_ID_ANY, 0);
  if (z == nullptr) fail("no memzone");
  shared = new (z->addr) shared_state{};
  std::snprintf(shared->path, sizeof shared->path, "/dev/shm/annex-pair-%d",
                static_cast<int>(::getpid()));
  const int fd = ::open(shared->path, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0 || ::ftruncate(fd, area_bytes) != 0) fail("no shared memory");
  // DPDK wants it at one address everywhere: far from where the kernel puts libraries.
  void* const place = reinterpret_cast<void*>(std::uintptr_t{0x3000} << 32);
  area = static_cast<char*>(
      ::mmap(place, area_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0));
  if (area != place) fail("the area's place is taken");
  shared->base = area;
  if (rte_malloc_heap_create(heap_name) != 0 ||
      rte_malloc_heap_memory_add(heap_name, area, area_bytes, nullptr, 0, page) != 0)
    fail("can't make the heap");
  external = rte_malloc_heap_get_socket(heap_name);
  shared->device_base = ::mmap(static_cast<char*>(place) + (std::size_t{4} << 30), device_bytes,
                               PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (rte_malloc_heap_create(device_heap_name) != 0 ||
      rte_malloc_heap_memory_add(device_heap_name, shared->device_base, device_bytes, nullptr, 0,
                                 page) != 0)
    fail("can't make the heap of a device's memory");

  int status = 0;
  ::waitpid(start_secondary(eal, "bystander"), &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    fail("the secondary that had not attached failed");

  std::mt19937 random(1);
  const int rounds = std::atoi(role.c_str());
  for (int round = 0; round < rounds; ++round) {
    shared->ready = 0;
    const pid_t child = start_secondary(eal, "secondary");
    const auto begin = std::chrono::steady_clock::now();
    while (shared->ready.load() != static_cast<std::uint64_t>(child)) {
      work(random, 100);
      if (std::chrono::steady_clock::now() - begin > std::chrono::seconds(60) ||
          ::waitpid(child, &status, WNOHANG) == child)
        fail("the secondary did not come up");
    }
    if (round == 0 && rte_malloc_heap_memory_remove(heap_name, area, area_bytes) == 0)
      fail("removed while a secondary is attached");
    if (round == 0 && rte_errno != EBUSY) fail("removal while attached is not EBUSY");
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::microseconds(random() % 30'000);
    while (std::chrono::steady_clock::now() < until)
      work(random, 50);
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
    const auto killed = std::chrono::steady_clock::now();
    work(random, 2000);
    const double ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - killed)
            .count();
    if (ms > 5000) fail("the primary was held up by the dead");
  }
  for (auto& slot : shared->slots)
    if (std::uint32_t* left = slot.exchange(nullptr)) check_and_free(left);
  std::printf("pair: %d secondaries killed, %llu exchanges, every block as it was\n", rounds,
              static_cast<unsigned long long>(shared->exchanged.load()));
  ::unlink(shared->path);
  rte_memzone_free(z);
  return rte_eal_cleanup();
}
