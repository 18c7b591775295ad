// tests/dpdk/locked.cpp - what a program and its telemetry answer while EAL's memory lock is held,
// as a process that was killed inside EAL leaves it. One line each: the question, and "answers" or
// "waits". tests/dpdk/run compares stock with the drop-in: what stock answers, the drop-in answers.
// With --served, what telemetry says is looked at too (exit 1: wrong).
//
//   locked [--served] EAL options
#include <rte_eal.h>
#include <rte_eal_memconfig.h>
#include <rte_malloc.h>
#include <rte_memory.h>
#include <rte_memzone.h>

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;
constexpr auto patience = 2s;
constexpr std::size_t area_bytes = 64 << 20;

// Each question has a thread of its own, which is left behind where it waits.
void ask(const std::string& question, std::function<void()> call) {
  auto done = std::make_shared<std::promise<void>>();
  std::future<void> answer = done->get_future();
  std::thread([done, call = std::move(call)] {
    call();
    done->set_value();
  }).detach();
  const bool answers = answer.wait_for(patience) == std::future_status::ready;
  std::printf("%-44s %s\n", question.c_str(), answers ? "answers" : "waits");
}

// What telemetry says to a command; empty: nothing in time.
std::string telemetry(const std::string& command) {
  sockaddr_un where{};
  where.sun_family = AF_UNIX;
  std::snprintf(where.sun_path, sizeof where.sun_path, "%s/dpdk_telemetry.v2",
                rte_eal_get_runtime_dir());
  const int s = ::socket(AF_UNIX, SOCK_SEQPACKET, 0);
  timeval limit{.tv_sec = std::chrono::seconds(patience).count(), .tv_usec = 0};
  ::setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  std::string said(1 << 20, '\0');
  ssize_t length = -1;
  if (::connect(s, reinterpret_cast<sockaddr*>(&where), sizeof where) == 0 &&
      ::recv(s, said.data(), said.size(), 0) > 0 &&
      ::send(s, command.data(), command.size(), 0) > 0)
    length = ::recv(s, said.data(), said.size(), 0);
  ::close(s);
  said.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
  return said;
}

// The commands there are: the strings of the answer to "/".
std::vector<std::string> commands() {
  std::vector<std::string> found;
  const std::string all = telemetry("/");
  for (std::size_t at = 0; (at = all.find("\"/", at)) != std::string::npos;) {
    const std::size_t end = all.find('"', at + 1);
    found.push_back(all.substr(at + 1, end - at - 1));
    at = end + 1;
  }
  return found;
}

// The drop-in's own answers, and the one that it puts right.
int wrong_answers(int outside) {
  const std::string socket = std::to_string(outside);
  struct expected {
    std::string command;
    std::vector<std::string> parts;
  };
  const expected answers[] = {
      {"/annex/heaps",
       {"\"socket_0\":\"dpdk.", ".0\"", "\"socket_" + socket + "\":\"dpdk.", "." + socket + "\""}},
      {"/annex/heap," + socket,
       {"\"name\":\"dpdk.", "\"total_bytes\":" + std::to_string(area_bytes - 4096),
        "\"used_bytes\":", "\"cached_bytes\":", "\"free_bytes\":", "\"largest_free_bytes\":",
        "\"live_blocks\":2", "\"regions\":1", "\"members\":1",
        "\"threads\":", "\"metadata_bytes\":", "\"misuse_count\":0"}},
      {"/annex/heap,31", {"null"}},
      {"/annex/heap,99999999999999999999", {"null"}},
      {"/annex/heap", {"null"}},
      {"/eal/heap_info,1",
       {"\"outside\"", "\"Heap_size\":" + std::to_string(area_bytes), "\"Alloc_count\":2"}},
      {"/eal/heap_info,32", {"null"}},
  };
  int wrong = 0;
  for (const auto& [command, parts] : answers) {
    const std::string said = telemetry(command);
    for (const std::string& part : parts) {
      if (said.find(part) != std::string::npos) continue;
      std::printf("%s says %s, without %s\n", command.c_str(), said.c_str(), part.c_str());
      ++wrong;
    }
  }
  return wrong;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const bool is_served = argc > 1 && std::strcmp(argv[1], "--served") == 0;
  if (is_served) {
    argv[1] = argv[0];
    ++argv;
    --argc;
  }
  if (rte_eal_init(argc, argv) < 0) return 2;
  void* const area =
      ::mmap(nullptr, area_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED || rte_malloc_heap_create("outside") != 0) return 2;
  if (rte_malloc_heap_memory_add("outside", area, area_bytes, nullptr, 0, 4096) != 0) return 2;
  const int outside = rte_malloc_heap_get_socket("outside");
  void* const inner = rte_malloc(nullptr, 1000, 0);
  void* const outer = rte_malloc_socket(nullptr, 1000, 0, outside);
  const rte_memzone* const inner_zone = rte_memzone_reserve("inner", 1000, SOCKET_ID_ANY, 0);
  const rte_memzone* const outer_zone = rte_memzone_reserve("outer", 1000, outside, 0);
  if (inner == nullptr || outer == nullptr || inner_zone == nullptr || outer_zone == nullptr)
    return 2;
  const std::vector<std::string> known = commands();
  std::FILE* const nowhere = std::fopen("/dev/null", "w");

  int wrong = is_served ? wrong_answers(outside) : 0;
  rte_mcfg_mem_write_lock();
  if (is_served) wrong += wrong_answers(outside);
  for (const std::string& command : known)
    for (const char* parameter : {"", ",0", ",1", ",256", ",inner"}) {
      const std::string question = command + parameter;
      std::printf("%-44s %s\n", question.c_str(),
                  telemetry(question).empty() ? "waits" : "answers");
    }
  for (std::size_t bytes : {64, 5000, 100'000}) {
    const std::string size = std::to_string(bytes) + " bytes";
    ask("rte_malloc, " + size, [=] { rte_malloc(nullptr, bytes, 0); });
    ask("rte_zmalloc, " + size, [=] { rte_zmalloc(nullptr, bytes, 0); });
    ask("rte_malloc_socket 0, " + size, [=] { rte_malloc_socket(nullptr, bytes, 0, 0); });
    ask("rte_malloc_socket outside, " + size,
        [=] { rte_malloc_socket(nullptr, bytes, 0, outside); });
  }
  ask("rte_realloc", [=] { rte_realloc(rte_malloc(nullptr, 100, 0), 3000, 0); });
  ask("rte_malloc_validate, inner", [=] { rte_malloc_validate(inner, nullptr); });
  ask("rte_malloc_validate, outer", [=] { rte_malloc_validate(outer, nullptr); });
  ask("rte_malloc_virt2iova, inner", [=] { rte_malloc_virt2iova(inner); });
  ask("rte_malloc_virt2iova, outer", [=] { rte_malloc_virt2iova(outer); });
  for (const int socket : {0, outside, 9999})
    ask("rte_malloc_get_socket_stats, " + std::to_string(socket), [=] {
      rte_malloc_socket_stats figures{};
      rte_malloc_get_socket_stats(socket, &figures);
    });
  ask("rte_malloc_dump_stats", [=] { rte_malloc_dump_stats(nowhere, nullptr); });
  ask("rte_malloc_dump_heaps", [=] { rte_malloc_dump_heaps(nowhere); });
  ask("rte_memzone_lookup", [=] { rte_memzone_lookup("outer"); });
  ask("rte_memzone_reserve, any", [=] { rte_memzone_reserve("inner 2", 1000, SOCKET_ID_ANY, 0); });
  ask("rte_memzone_reserve, outside", [=] { rte_memzone_reserve("outer 2", 1000, outside, 0); });
  ask("rte_memzone_reserve, a taken name", [=] { rte_memzone_reserve("outer", 1000, outside, 0); });
  ask("rte_memzone_free, inner", [=] { rte_memzone_free(inner_zone); });
  ask("rte_memzone_free, outer", [=] { rte_memzone_free(outer_zone); });
  ask("rte_memzone_free, none", [=] { rte_memzone_free(nullptr); });
  ask("rte_free, inner", [=] { rte_free(inner); });
  ask("rte_free, outer", [=] { rte_free(outer); });
  for (const char* name : {"outside", "absent", ""}) {
    const std::string of = ", \"" + std::string(name) + "\"";
    ask("rte_malloc_heap_create" + of, [=] { rte_malloc_heap_create(name); });
    ask("rte_malloc_heap_memory_add, no memory" + of,
        [=] { rte_malloc_heap_memory_add(name, nullptr, 4096, nullptr, 0, 4096); });
    ask("rte_malloc_heap_memory_remove, no memory" + of,
        [=] { rte_malloc_heap_memory_remove(name, nullptr, 4096); });
    ask("rte_malloc_heap_memory_attach, no memory" + of,
        [=] { rte_malloc_heap_memory_attach(name, nullptr, 4096); });
    ask("rte_malloc_heap_memory_detach, no memory" + of,
        [=] { rte_malloc_heap_memory_detach(name, nullptr, 4096); });
    ask("rte_malloc_heap_destroy" + of, [=] { rte_malloc_heap_destroy(name); });
  }
  ask("rte_extmem_unregister, no memory", [=] { rte_extmem_unregister(nullptr, 4096); });
  std::_Exit(wrong != 0);  // threads are left waiting
}
