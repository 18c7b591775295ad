// examples/errors.cpp - every refusal annex knows, provoked: what the pages in docs/errors show.
//
//   example_errors            all of them, a line each: NAME: the sentence of the error
//   example_errors NAME …     those
//
// Each function below gets one code in a process of its own, with an annex directory of its own;
// docs/error-pages compares what they get with the pages. What differs from machine to machine is
// named in capitals: NUMBER, PROCESS, $ANNEX_DIR.
// A new code: a line in annex/errors.def, a function here, docs/errors/NAME.md.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <annex/annex.hpp>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <regex>
#include <string>
#include <thread>

#include "must.hpp"

namespace {

using namespace std::chrono_literals;
constexpr std::size_t MiB = 1 << 20;

// A heap "packets" with 1 MiB.
annex::heap a_heap(const annex::heap_options& options = {}) {
  auto heap = must(annex::heap::create("packets", options));
  must(heap.bring_memory({.length_bytes = MiB}));
  return heap;
}

// What the kernel was asked for has been done.
void must_do(std::int64_t answer) {
  if (answer >= 0) return;
  std::perror("examples/errors");
  std::abort();
}

// Memory of this process, as a program may have it from anywhere.
void* mapped(std::size_t bytes, int protection = PROT_READ | PROT_WRITE) {
  return ::mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

// Another process does this, and has ended when the call returns.
void in_another_process(const std::function<void()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    work();
    ::_exit(0);
  }
  (void)::waitpid(child, nullptr, 0);
}

// Who asks for nothing, and agrees to everything.
struct quiet_observer : annex::observer {
  std::string_view name() const noexcept override { return "the card"; }
  annex::result<void> on_add(const annex::region_view&) override { return {}; }
  annex::result<void> finish_remove(const annex::region_view&,
                                    std::chrono::steady_clock::time_point) override {
    return {};
  }
};

// snippet: invalid_argument
annex::error invalid_argument() {
  return annex::heap::create("packets", {.member_limit = 1'000'000}).error();
}
// end

// snippet: invalid_name
annex::error invalid_name() {
  return annex::heap::create("my packets").error();
}
// end

// snippet: name_taken
annex::error name_taken() {
  auto heap = must(annex::heap::create("packets"));
  return annex::heap::create("packets").error();
}
// end

// snippet: no_such_heap
annex::error no_such_heap() {
  return annex::heap::attach("packets").error();
}
// end

// snippet: heap_in_use
annex::error heap_in_use() {
  auto heap = must(annex::heap::create("packets"));  // open still
  return annex::heap::destroy("packets").error();
}
// end

// snippet: blocks_live
annex::error blocks_live() {
  auto heap = must(annex::heap::create("packets"));
  const auto region = must(heap.bring_memory({.length_bytes = MiB}));
  [[maybe_unused]] void* block = heap.allocate(1500);
  return heap.remove_memory(region).error();
}
// end

// snippet: no_such_region
annex::error no_such_region() {
  auto heap = must(annex::heap::create("packets"));
  return heap.remove_memory(annex::region_id{7}).error();
}
// end

// snippet: region_overlap
annex::error region_overlap() {
  auto heap = must(annex::heap::create("packets"));
  char* memory = static_cast<char*>(mapped(2 * MiB));
  must(heap.add_memory({.base = memory, .length_bytes = MiB}));
  return heap.add_memory({.base = memory + MiB / 2, .length_bytes = MiB}).error();
}
// end

// snippet: bad_alignment
annex::error bad_alignment() {
  auto heap = must(annex::heap::create("packets"));
  char* memory = static_cast<char*>(mapped(2 * MiB));
  return heap.add_memory({.base = memory + 64, .length_bytes = MiB}).error();
}
// end

// snippet: bad_page_size
annex::error bad_page_size() {
  auto heap = must(annex::heap::create("packets"));
  return heap.add_memory({.base = mapped(MiB), .length_bytes = MiB, .page_bytes = 1000}).error();
}
// end

// snippet: bad_length
annex::error bad_length() {
  auto heap = must(annex::heap::create("packets"));
  return heap.add_memory({.base = mapped(MiB), .length_bytes = 5000}).error();
}
// end

// snippet: bad_iova
annex::error bad_iova() {
  auto heap = must(annex::heap::create("packets"));
  const annex::iova pages[] = {annex::iova{0x10000}};  // for two pages
  return heap.add_memory({.base = mapped(8192), .length_bytes = 8192, .page_iovas = pages}).error();
}
// end

// snippet: iova_overlap
annex::error iova_overlap() {
  auto heap = must(annex::heap::create("packets"));
  const annex::iova pages[] = {annex::iova{0x10000}, annex::iova{0x10000}};
  return heap.add_memory({.base = mapped(8192), .length_bytes = 8192, .page_iovas = pages}).error();
}
// end

// snippet: not_mapped
annex::error not_mapped() {
  auto heap = must(annex::heap::create("packets"));
  void* memory = mapped(MiB);
  ::munmap(memory, MiB);
  return heap.add_memory({.base = memory, .length_bytes = MiB}).error();
}
// end

// snippet: not_writable
annex::error not_writable() {
  auto heap = must(annex::heap::create("packets"));
  return heap.add_memory({.base = mapped(MiB, PROT_READ), .length_bytes = MiB}).error();
}
// end

// snippet: vetoed
struct full_card : quiet_observer {
  annex::result<void> on_add(const annex::region_view&) override {
    return std::unexpected(
        annex::error{annex::errc::vetoed, 0, "the card has no entry left for it"});
  }
};
annex::error vetoed() {
  auto heap = must(annex::heap::create("packets"));
  full_card card;
  auto seen = must(heap.observe(card));
  return heap.bring_memory({.length_bytes = MiB}).error();
}
// end

// snippet: deadline_passed
annex::error deadline_passed() {
  auto heap = must(annex::heap::create("packets"));
  const auto region = must(heap.bring_memory({.length_bytes = MiB}));
  [[maybe_unused]] void* block = heap.allocate(1500);
  return heap.drain_memory(region, 10ms).error();
}
// end

// snippet: canceled
annex::error canceled() {
  auto heap = must(annex::heap::create("packets"));
  const auto region = must(heap.bring_memory({.length_bytes = MiB}));
  [[maybe_unused]] void* block = heap.allocate(1500);
  std::atomic<bool> is_over = false;
  std::thread another([&] {
    while (!is_over)
      (void)heap.cancel_drain(region);
  });
  const annex::error why = heap.drain_memory(region, 1h).error();
  is_over = true;
  another.join();
  return why;
}
// end

// snippet: limit_reached
annex::error limit_reached() {
  auto heap = a_heap({.region_limit = 1});
  return heap.bring_memory({.length_bytes = MiB}).error();
}
// end

// snippet: already_attached
annex::error already_attached() {
  auto heap = must(annex::heap::create("packets"));
  const auto region = must(heap.bring_memory({.length_bytes = MiB}));
  return heap.attach_memory(region).error();
}
// end

// snippet: not_attached
annex::error not_attached() {
  annex::handle* const name = static_cast<annex::handle*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  in_another_process([&] {
    auto heap = a_heap();
    *name = heap.handle_of(heap.allocate(1500));
  });
  auto heap = must(annex::heap::attach("packets", {.regions = annex::attach_policy::manual}));
  return heap.resolve(*name).error();
}
// end

// snippet: cannot_attach
annex::error cannot_attach() {
  annex::handle* const name = static_cast<annex::handle*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  in_another_process([&] {
    auto heap = must(annex::heap::create("packets"));
    must(heap.add_memory({.base = mapped(MiB), .length_bytes = MiB}));  // without a descriptor
    *name = heap.handle_of(heap.allocate(1500));
  });
  auto heap = must(annex::heap::attach("packets"));
  return heap.resolve(*name).error();
}
// end

// snippet: wrong_memory
annex::error wrong_memory() {
  auto heap = must(annex::heap::create("packets"));
  const int file = ::memfd_create("short", MFD_CLOEXEC);
  must_do(::ftruncate(file, 4096));
  return heap
      .bring_memory(
          {.from = annex::memory_source::kind::descriptor, .length_bytes = MiB, .fd = file})
      .error();
}
// end

// snippet: no_such_zone
annex::error no_such_zone() {
  auto heap = a_heap();
  return heap.find_zone("table").error();
}
// end

// snippet: zone_exists
annex::error zone_exists() {
  auto heap = a_heap();
  must(heap.reserve_zone("table", {.size_bytes = 4096}));
  return heap.reserve_zone("table", {.size_bytes = 4096}).error();
}
// end

// snippet: out_of_memory
annex::error out_of_memory() {
  auto heap = a_heap();
  return heap.reserve_zone("table", {.size_bytes = 2 * MiB}).error();
}
// end

// snippet: stale_handle
annex::error stale_handle() {
  auto heap = a_heap();
  void* block = heap.allocate(1500);
  const annex::handle name = heap.handle_of(block);
  annex::heap::free(block);
  return heap.resolve(name).error();
}
// end

// snippet: foreign_handle
annex::error foreign_handle() {
  auto heap = a_heap();
  return heap.resolve(annex::null_handle).error();
}
// end

// snippet: read_only
annex::error read_only() {
  in_another_process([] { (void)a_heap(); });
  auto heap = must(annex::heap::attach("packets", {.read_only = true}));
  return heap.bring_memory({.length_bytes = MiB}).error();
}
// end

// snippet: incompatible_layout
annex::error incompatible_layout() {
  in_another_process([] { (void)a_heap(); });
  const std::string file = annex::directory() + "/packets.annex";
  const std::uint32_t another_version = 1;
  const int segment = ::open(file.c_str(), O_WRONLY | O_CLOEXEC);
  must_do(::pwrite(segment, &another_version, sizeof another_version, 8));
  ::close(segment);
  return annex::heap::attach("packets").error();
}
// end

// snippet: corrupt
annex::error corrupt() {
  in_another_process([] { (void)a_heap(); });
  const std::string file = annex::directory() + "/packets.annex";
  must_do(::truncate(file.c_str(), 4096));  // as after a copy that was cut short
  return annex::heap::attach("packets").error();
}
// end

// snippet: os_failure
annex::error os_failure() {
  auto heap = must(annex::heap::create("packets"));
  const rlimit half_a_mebibyte = {MiB / 2, MiB / 2};  // ulimit -f
  (void)::setrlimit(RLIMIT_FSIZE, &half_a_mebibyte);
  return heap.bring_memory({.length_bytes = MiB}).error();
}
// end

// snippet: permission
annex::error permission() {
  // A directory that annex chooses by itself must be its user's, and closed to others.
  const std::string place = annex::directory() + "/annex";
  ::setenv("XDG_RUNTIME_DIR", annex::directory().c_str(), 1);
  ::unsetenv("ANNEX_DIR");
  ::mkdir(place.c_str(), 0700);
  ::chmod(place.c_str(), 0777);
  return annex::heap::create("packets").error();
}
// end

// snippet: leased
annex::error leased() {
  auto heap = must(annex::heap::create("packets"));
  const auto region = must(heap.bring_memory({.length_bytes = MiB}));
  const annex::lease claim = must(heap.hold(region));
  return heap.remove_memory(region).error();
}
// end

// snippet: observed_elsewhere
annex::error observed_elsewhere() {
  auto heap = must(annex::heap::create("packets"));
  const auto region = must(heap.bring_memory({.length_bytes = MiB}));
  const pid_t another = ::fork();
  if (another == 0) {
    quiet_observer card;
    auto here = must(annex::heap::attach("packets"));
    auto seen = must(here.observe(card));
    ::raise(SIGSTOP);  // Ctrl-Z, a debugger
  }
  (void)::waitpid(another, nullptr, WUNTRACED);
  const annex::error why = heap.remove_memory(region).error();
  ::kill(another, SIGKILL);
  return why;
}
// end

// snippet: no_cpu_access
annex::error no_cpu_access() {
  auto heap = must(annex::heap::create("packets"));
  return heap
      .add_memory({.base = mapped(MiB, PROT_NONE),
                   .length_bytes = MiB,
                   .access = annex::touch::none,
                   .contents = annex::fill::zero})
      .error();
}
// end

// snippet: wrong_node
annex::error wrong_node() {
  auto heap = must(annex::heap::create("packets"));
  return heap.bring_memory({.length_bytes = MiB, .numa_node = 63}).error();
}
// end

// snippet: not_supported
annex::error not_supported() {
  auto heap = must(annex::heap::create("packets"));
  return heap
      .bring_memory({.from = annex::memory_source::kind::hugetlb,
                     .length_bytes = 2 * MiB,
                     .page_bytes = 2 * MiB,
                     .path = "/tmp"})
      .error();
}
// end

// snippet: forked_away
annex::error forked_away() {
  auto heap = must(annex::heap::create_private());
  annex::error* const why = static_cast<annex::error*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  in_another_process([&] { *why = heap.bring_memory({.length_bytes = MiB}).error(); });
  return *why;
}
// end

// snippet: wrong_kind
annex::error wrong_kind() {
  auto heap = a_heap();
  must(annex::ring::create(heap, "work", 64));
  return heap.find_zone("work").error();
}
// end

// snippet: misuse
annex::error misuse() {
  auto heap = a_heap({.on_misuse = annex::misuse_policy::refuse, .checked = true});
  void* block = heap.allocate(1500);
  annex::heap::free(block);
  // Refused, counted, and a line in the log; by default the program ends here.
  annex::heap::free(block);
  annex::error why{annex::errc::misuse};
  std::snprintf(why.text, sizeof why.text, "%llu mistake was refused",
                static_cast<unsigned long long>(heap.stats().misuse_count));
  return why;
}
// end

// snippet: not_committed
annex::error not_committed() {
  auto heap = a_heap();
  must(heap.reserve_zone("weights", {.size_bytes = 4096}, annex::visibility::on_commit));
  return heap.find_zone("weights").error();
}
// end

// snippet: others_gone
annex::error others_gone() {
  auto heap = a_heap();
  auto work = must(annex::ring::create(heap, "work", 64));
  int step[2];
  must_do(::pipe(step));
  const pid_t another = ::fork();
  if (another == 0) {
    auto here = must(annex::heap::attach("packets"));
    [[maybe_unused]] const auto same = must(annex::ring::open(here, "work"));
    must_do(::write(step[1], "", 1));
    ::pause();
  }
  char byte;
  must_do(::read(step[0], &byte, 1));
  std::thread killer([another] {
    std::this_thread::sleep_for(100ms);
    ::kill(another, SIGKILL);
    (void)::waitpid(another, nullptr, 0);
  });
  const annex::error why = work.take(1h).error();
  killer.join();
  return why;
}
// end

struct page {
  std::string_view name;
  annex::error (*provoke)();
};
constexpr page pages[] = {
    {"invalid_argument", invalid_argument},
    {"invalid_name", invalid_name},
    {"name_taken", name_taken},
    {"no_such_heap", no_such_heap},
    {"heap_in_use", heap_in_use},
    {"blocks_live", blocks_live},
    {"no_such_region", no_such_region},
    {"region_overlap", region_overlap},
    {"bad_alignment", bad_alignment},
    {"bad_page_size", bad_page_size},
    {"bad_length", bad_length},
    {"bad_iova", bad_iova},
    {"iova_overlap", iova_overlap},
    {"not_mapped", not_mapped},
    {"not_writable", not_writable},
    {"vetoed", vetoed},
    {"deadline_passed", deadline_passed},
    {"canceled", canceled},
    {"limit_reached", limit_reached},
    {"already_attached", already_attached},
    {"not_attached", not_attached},
    {"cannot_attach", cannot_attach},
    {"wrong_memory", wrong_memory},
    {"no_such_zone", no_such_zone},
    {"zone_exists", zone_exists},
    {"out_of_memory", out_of_memory},
    {"stale_handle", stale_handle},
    {"foreign_handle", foreign_handle},
    {"read_only", read_only},
    {"incompatible_layout", incompatible_layout},
    {"corrupt", corrupt},
    {"os_failure", os_failure},
    {"permission", permission},
    {"leased", leased},
    {"observed_elsewhere", observed_elsewhere},
    {"no_cpu_access", no_cpu_access},
    {"wrong_node", wrong_node},
    {"not_supported", not_supported},
    {"forked_away", forked_away},
    {"wrong_kind", wrong_kind},
    {"misuse", misuse},
    {"not_committed", not_committed},
    {"others_gone", others_gone},
};

// What the sentence says on every machine.
std::string everywhere(std::string text, const std::string& directory) {
  for (std::size_t at = 0; (at = text.find(directory, at)) != text.npos;)
    text.replace(at, directory.size(), "$ANNEX_DIR");
  constexpr struct {
    const char* pattern;
    const char* name;
  } differing[] = {{"0x[0-9a-f]{5,}", "NUMBER"},
                   {"process [0-9]+", "process PROCESS"},
                   {"descriptor [0-9]+", "descriptor DESCRIPTOR"},
                   {"layout [0-9.]+", "layout VERSION"},
                   {"reads [0-9.]+", "reads VERSION"},
                   {"has [0-9]+ nodes", "has NODES nodes"}};
  for (const auto& d : differing)
    text = std::regex_replace(text, std::regex(d.pattern), d.name);
  return text;
}

// In a process of its own, with a directory of its own. False: it was another code, or none.
bool show(const page& p) {
  std::string directory = std::filesystem::temp_directory_path().string() + "/annex-errors-XXXXXX";
  if (::mkdtemp(directory.data()) == nullptr) return false;
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv("ANNEX_DIR", directory.c_str(), 1);
    const annex::error why = p.provoke();
    std::printf("%s: %s\n", std::string(annex::name_of(why.code)).c_str(),
                everywhere(why.text, directory).c_str());
    std::fflush(stdout);
    ::_exit(annex::name_of(why.code) == p.name ? 0 : 1);
  }
  int status = 0;
  (void)::waitpid(child, &status, 0);
  std::filesystem::remove_all(directory);
  if (status != 0)
    std::fprintf(stderr, "%.*s: not what the function got\n", static_cast<int>(p.name.size()),
                 p.name.data());
  return status == 0;
}

}  // namespace

int main(int count, char** names) {
  bool all_came = true;
  for (const page& p : pages) {
    bool is_asked_for = count == 1;
    for (int i = 1; i < count; ++i)
      is_asked_for |= p.name == names[i];
    if (is_asked_for) all_came &= show(p);
  }
  return all_came ? 0 : 1;
}
