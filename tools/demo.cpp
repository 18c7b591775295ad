// tools/demo.cpp - the main job: packets through a heap that three processes share, one of which is
// killed on the way.
#include "demo.hpp"

#include <pcap/pcap.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>
#include <utility>

#include "output.hpp"
#include "terminal.hpp"

namespace annex::tool {
namespace {

using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;

constexpr std::size_t batch = 16, in_hand_most = 64, map_cells = 1024;
constexpr auto patience = 60s;  // with the whole run; a hang is a failure

struct arguments {
  std::string pcap, html, role, heap_name;
  unsigned parser = 0;
};

// What the heap needs for a capture: its words and the table of flows, and as much again for
// packets on their way.
std::uint64_t memory_for(std::uint32_t packets) {
  constexpr std::uint64_t least_bytes = 16 << 20, on_their_way_bytes = 12 << 20;
  std::uint64_t bytes = least_bytes;
  while (bytes < on_their_way_bytes + std::uint64_t{packets} * 8 + sizeof(flow_slot) * flow_slots)
    bytes *= 2;
  return bytes;
}

// Beside the command where it was built, or where it was installed, also when the prefix has been
// moved since.
std::string default_capture() {
  std::error_code ignored;
  const std::filesystem::path here =
      std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  for (const std::filesystem::path& place :
       {here, here / ANNEX_SHARE_FROM_COMMAND, std::filesystem::path(ANNEX_SHARE_DIR)})
    if (const std::filesystem::path file = place / "traffic.pcap";
        std::filesystem::exists(file, ignored))
      return file.string();
  return {};
}

struct capture {
  explicit capture(const std::string& path) : handle(::pcap_open_offline(path.c_str(), why)) {}
  ~capture() {
    if (handle != nullptr) ::pcap_close(handle);
  }
  capture(const capture&) = delete;
  capture& operator=(const capture&) = delete;
  char why[PCAP_ERRBUF_SIZE] = {};
  pcap_t* handle;
};

// What every process of the demo opens by name.
struct shared_things {
  heap h;
  ring work;
  demo_control* control = nullptr;
  flow_slot* flows = nullptr;
};

result<shared_things> open_things(const std::string& name) {
  shared_things t;
  auto h = heap::attach(name);
  if (!h) return std::unexpected(h.error());
  t.h = std::move(*h);
  auto work = ring::open(t.h, "work");
  auto control = t.h.find_zone("demo"), flows = t.h.find_zone("flows");
  if (!work || !control || !flows)
    return std::unexpected(!work ? work.error() : !control ? control.error() : flows.error());
  t.work = *work;
  t.control = static_cast<demo_control*>(control->address);
  t.flows = static_cast<flow_slot*>(flows->address);
  return t;
}

std::uint64_t region_base(const heap& h) {
  std::uint64_t base = 0;
  h.for_each_region(
      [&](const region_summary& r) { base = reinterpret_cast<std::uint64_t>(r.base); });
  return base;
}

// ---- the reader
// -------------------------------------------------------------------------------------------------

int read_packets(const arguments& a) {
  auto t = open_things(a.heap_name);
  if (!t) return exit_refused;
  const capture file(a.pcap);
  if (file.handle == nullptr) return exit_refused;
  t->control->base[parser_count] = region_base(t->h);
  pcap_pkthdr* header = nullptr;
  const u_char* bytes = nullptr;
  for (std::uint32_t number = 0;
       ::pcap_next_ex(file.handle, &header, &bytes) == 1 && number < t->control->packet_count;
       ++number) {
    demo_packet* packet = nullptr;
    while ((packet = static_cast<demo_packet*>(
                t->h.allocate(sizeof(demo_packet) + header->caplen))) == nullptr) {
      if (t->control->stop != 0) return exit_ok;
      std::this_thread::sleep_for(1ms);  // the parsers free what they have done
    }
    *packet = {number, header->caplen};
    std::memcpy(packet + 1, bytes, header->caplen);
    while (!t->work.put(t->h.handle_of(packet))) {
      if (t->control->stop != 0) return exit_ok;
      std::this_thread::sleep_for(50us);
    }
    t->control->sent = number + 1;
  }
  t->control->reader_done = 1;
  while (t->control->stop == 0 && ::getppid() != 1)
    std::this_thread::sleep_for(1ms);  // its cache stays visible in the map
  return exit_ok;
}

// ---- the parsers
// -------------------------------------------------------------------------------------------------

std::uint32_t flow_of(shared_things& t, const flow_key& key) {
  const std::uint64_t wanted = fingerprint(key);
  for (std::uint32_t probe = 0, slot = static_cast<std::uint32_t>(wanted % flow_slots);
       probe < flow_slots; ++probe, slot = (slot + 1) % flow_slots) {
    flow_slot& f = t.flows[slot];
    std::uint64_t seen = f.fingerprint.load();
    if (seen == 0 && f.fingerprint.compare_exchange_strong(seen, wanted)) seen = wanted;
    if (seen != wanted) continue;
    if (f.block.load() == 0) {
      auto* block = static_cast<flow_key*>(t.h.allocate(sizeof(flow_key)));
      if (block == nullptr) return no_flow;
      *block = key;
      std::uint64_t nobody = 0;
      if (!f.block.compare_exchange_strong(nobody,
                                           static_cast<std::uint64_t>(t.h.handle_of(block))))
        heap::free(block);
    }
    return slot;
  }
  return no_flow;
}

// A parser works on copies of its own, and keeps the last ones, as one that puts streams together
// would. Without memory for another it works on the packet.
class window {
 public:
  explicit window(heap& h) : heap_(h) {}
  ~window() {
    for (void* const copy : copies_)
      heap::free(copy);
  }
  window(const window&) = delete;
  window& operator=(const window&) = delete;
  std::span<const std::uint8_t> copy_of(const demo_packet& packet) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(&packet + 1);
    void*& oldest = copies_[next_++ % std::size(copies_)];
    heap::free(std::exchange(oldest, nullptr));
    oldest = packet.length != 0 ? heap_.allocate(packet.length) : nullptr;
    if (oldest == nullptr) return {bytes, packet.length};
    std::memcpy(oldest, bytes, packet.length);
    return {static_cast<const std::uint8_t*>(oldest), packet.length};
  }

 private:
  heap& heap_;
  void* copies_[24] = {};
  std::size_t next_ = 0;
};

int parse_packets(const arguments& a) {
  auto t = open_things(a.heap_name);
  if (!t) return exit_refused;
  demo_control& control = *t->control;
  control.base[a.parser] = region_base(t->h);
  handle work[batch];
  window copies(t->h);
  while (control.stop == 0 && ::getppid() != 1) {
    const std::size_t n = t->work.take_in_hand(work);
    if (n == 0) {
      std::this_thread::sleep_for(50us);
      continue;
    }
    for (std::size_t i = 0; i < n; ++i) {
      const auto address = t->h.resolve(work[i]);
      if (!address) continue;  // done by one that died before it could settle
      auto* packet = static_cast<demo_packet*>(*address);
      const auto key = parse_packet(copies.copy_of(*packet));
      const std::uint32_t slot = key ? flow_of(*t, *key) : no_flow;
      if (packet->number < control.packet_count)
        control.words()[packet->number] =
            std::uint64_t{packet->length} << 32 | (slot == no_flow ? no_flow : slot + 1);
      control.parsed[a.parser].fetch_add(1);
      if (control.pace_us != 0)
        std::this_thread::sleep_for(std::chrono::microseconds(control.pace_us));
    }
    // Counted, then settled, then freed: what is in hand when we die is counted again to the same
    // word, never freed twice; what we die before freeing stays live and is reaped with the reader,
    // who allocated it.
    t->work.settle();
    for (std::size_t i = 0; i < n; ++i)
      if (const auto address = t->h.resolve(work[i])) heap::free(*address);
  }
  return exit_ok;
}

// ---- the parent
// -------------------------------------------------------------------------------------------------

pid_t start(const arguments& a, const std::string& role, unsigned parser) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  const std::string number = std::to_string(parser);
  // A fresh image, so that the kernel places its mappings anew.
  ::execl("/proc/self/exe", "annex", "demo", "--role", role.c_str(), "--heap", a.heap_name.c_str(),
          "--parser", number.c_str(), "--pcap", a.pcap.c_str(), static_cast<char*>(nullptr));
  ::_exit(127);
}

bool counted_all(demo_control& c) {
  for (std::uint32_t i = 0; i < c.packet_count; ++i)
    if (c.words()[i].load(std::memory_order_relaxed) == 0) return false;
  return true;
}

result<std::string> bring(heap& h, std::uint64_t bytes) {
  // As an IOMMU would show it: three stretches of bus addresses. With privilege and hugepages, the
  // real ones.
  memory_source huge{
      .from = memory_source::kind::hugetlb, .length_bytes = bytes, .page_bytes = 2 << 20};
  huge.physical_iovas = true;
  if (h.bring_memory(huge)) return "2 MiB hugepages, physical addresses as IOVAs";
  std::vector<iova> iovas(bytes / 4096);
  for (std::size_t page = 0; page < iovas.size(); ++page)
    iovas[page] = iova{(std::uint64_t{4} << 30) * (1 + page * 3 / iovas.size()) + page * 4096};
  memory_source ordinary{.from = memory_source::kind::shared, .length_bytes = bytes};
  ordinary.page_iovas = iovas;
  if (const auto brought = h.bring_memory(ordinary); !brought)
    return std::unexpected(brought.error());
  return "4 KiB pages of shared memory, IOVAs in three runs as an IOMMU could give them";
}

result<void> prepare(heap& h, std::uint32_t packets) {
  if (auto made = ring::create(h, "work", 1024); !made) return std::unexpected(made.error());
  auto control = h.reserve_zone(
      "demo", {.size_bytes = sizeof(demo_control) + std::size_t{packets} * 8, .zeroed = true});
  if (!control) return std::unexpected(control.error());
  if (auto flows =
          h.reserve_zone("flows", {.size_bytes = sizeof(flow_slot) * flow_slots, .zeroed = true});
      !flows)
    return std::unexpected(flows.error());
  auto* c = new (control->address) demo_control;
  c->packet_count = packets;
  c->pace_us =
      packets < 20000 ? 60 : 0;  // a short capture would be over before anybody could be killed
  return {};
}

void note_blocks(const heap& h, demo_report& report) {
  (void)h.for_each_block([&](const block_summary& b) {
    if (b.kind != block_kind::slab_block || b.address == nullptr || report.blocks.size() >= 5)
      return;
    const auto where = heap::locate(b.address);
    report.blocks.push_back(
        {static_cast<std::uint64_t>(b.where), reinterpret_cast<std::uint64_t>(b.address),
         where && where->bus_address ? static_cast<std::uint64_t>(*where->bus_address)
                                     : ~std::uint64_t{0},
         where ? where->contiguous_bytes : 0});
  });
}

// Runs reader and parsers, kills parser 2 in the middle, hands on what it had. A sentence: what
// went wrong.
std::string run_processes(heap& h, const arguments& a, demo_control& control, ring& work,
                          demo_report& report) {
  const auto until = clock::now() + patience;
  const pid_t reader = start(a, "reader", 0);
  pid_t parsers[parser_count];
  for (unsigned i = 0; i < parser_count; ++i)
    parsers[i] = start(a, "parser", i);
  auto wait = [&](auto done) {
    while (!done() && clock::now() < until)
      std::this_thread::sleep_for(100us);
    return done();
  };
  const std::uint32_t half = std::min<std::uint32_t>(control.packet_count / 4, 2000);
  std::string wrong;
  if (!wait([&] {
        return control.parsed[1] >= half ||
               control.parsed[0] + control.parsed[1] >= control.packet_count / 2;
      }))
    wrong = "the parsers did not get through half of the packets";
  const pid_t victim = parsers[1];
  const auto owner = [&](const char* label, pid_t process, char mark, unsigned colour) {
    map_owner o{{}, label, mark, colour, process == victim, false};
    for (const member_summary& m : h.members())
      if (m.process_id == process) o.who = m.id;
    return o;
  };
  report.owners = {owner("reader", reader, 'r', 0), owner("parser 1", parsers[0], '1', 1),
                   owner("parser 2", victim, '2', 2)};
  report.before = draw(h, map_cells);
  ::kill(victim, SIGKILL);
  ::waitpid(victim, nullptr, 0);
  report.dead.process = victim;
  report.dead.parsed = control.parsed[1];
  for (const member_summary& m :
       h.members())  // before anybody takes its caches back, as a list of blocks does
    if (m.process_id == victim) report.dead.cached_bytes = m.cached_bytes;
  note_blocks(h, report);
  handle in_hand[in_hand_most];
  const std::size_t n = work.recover_in_hand(in_hand);  // recovers its caches, too
  report.dead.in_hand = n;
  for (const member_summary& m : h.members())
    if (m.process_id == victim)
      report.dead.member = static_cast<unsigned>(m.id), report.dead.held_blocks = m.held_blocks,
      report.dead.held_bytes = m.held_bytes;
  report.after = draw(h, map_cells);
  report.owners_after = report.owners;
  report.owners_after.back() = {report.owners.back().who, "parser 2, dead", 'X', 2, true, true};
  for (std::size_t i = 0; i < n; ++i)
    while (!work.put(in_hand[i]) && clock::now() < until)
      std::this_thread::sleep_for(50us);
  work.settle();
  if (!wait([&] { return control.reader_done != 0 && counted_all(control); }))
    wrong = "not every packet was counted";
  control.stop = 1;
  for (const pid_t child : {reader, parsers[0]}) {
    int status = 0;
    if (!wait([&] { return ::waitpid(child, &status, WNOHANG) == child; })) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
    }
    if (wrong.empty() && status != 0) wrong = "a process of the demo failed";
  }
  // Packets of the last batches may not have been freed yet.
  for (handle left; (left = work.take()) != null_handle;)
    if (const auto address = h.resolve(left)) heap::free(*address);
  return wrong;
}

void count_flows(heap& h, demo_control& control, flow_slot* flows, demo_report& report) {
  std::vector<flow_count> by_slot(flow_slots + 1);
  for (std::uint32_t i = 0; i < control.packet_count; ++i) {
    const std::uint64_t word = control.words()[i];
    const std::uint32_t slot = static_cast<std::uint32_t>(word);
    flow_count& f = by_slot[slot == no_flow || slot == 0 ? flow_slots : slot - 1];
    ++f.packets;
    f.bytes += word >> 32;
    ++report.packets;
    report.bytes += word >> 32;
  }
  for (std::uint32_t slot = 0; slot <= flow_slots; ++slot) {
    if (by_slot[slot].packets == 0) continue;
    if (slot < flow_slots)
      if (const auto block = h.resolve(handle{flows[slot].block.load()}))
        by_slot[slot].key = *static_cast<flow_key*>(*block);
    report.flows.push_back(by_slot[slot]);
  }
  std::sort(report.flows.begin(), report.flows.end(),
            [](const flow_count& x, const flow_count& y) { return x.bytes > y.bytes; });
}

void run_demo(session& s, arguments a) {
  if (a.role == "reader") {
    s.exit = read_packets(a);
    return;
  }
  if (a.role == "parser") {
    s.exit = parse_packets(a);
    return;
  }
  if (a.pcap.empty()) a.pcap = default_capture();
  if (a.pcap.empty())
    return refuse(s, "the shipped capture is not installed; give one with --pcap FILE");
  a.pcap = std::filesystem::absolute(a.pcap);
  std::uint32_t packets = 0;
  {
    const capture file(a.pcap);
    if (file.handle == nullptr)
      return refuse(s, fmt::format("The capture can't be read: {}", file.why));
    if (::pcap_datalink(file.handle) != DLT_EN10MB)
      return refuse(
          s, a.pcap + " is no Ethernet capture; record one with tcpdump -i INTERFACE -w FILE");
    pcap_pkthdr* header = nullptr;
    const u_char* bytes = nullptr;
    while (::pcap_next_ex(file.handle, &header, &bytes) == 1 && packets < 20'000'000)
      ++packets;
  }
  if (packets == 0) return refuse(s, a.pcap + " holds no packets");

  const auto began = clock::now();
  demo_report report;
  report.capture = a.pcap;
  a.heap_name = fmt::format("demo-{}", ::getpid());
  auto made = heap::create(a.heap_name);
  if (!made) return refuse(s, made.error());
  heap h = std::move(*made);
  std::string wrong;
  report.memory_bytes = memory_for(packets);
  const auto memory = bring(h, report.memory_bytes);
  result<void> ready = memory ? prepare(h, packets) : std::unexpected(memory.error());
  auto things = ready ? open_things(a.heap_name) : std::unexpected(ready.error());
  if (!things) {
    refuse(s, things.error());
  } else {
    report.memory = *memory;
    wrong = run_processes(h, a, *things->control, things->work, report);
    count_flows(h, *things->control, things->flows, report);
    for (unsigned i = 0; i <= parser_count; ++i)
      report.bases[i] = things->control->base[i];
    for (unsigned i = 0; i < parser_count; ++i)
      report.parsed[i] = things->control->parsed[i];
    const auto audit = h.audit();
    report.sound = audit && audit->holds();
    report.checked = audit ? audit->checked : 0;
    // The blocks with the flows' keys are done with; those of the dead are reaped under its name.
    for (const member_summary& m : h.members())
      if (!m.alive) {
        const auto freed = h.reap(m.id);
        if (m.process_id == report.dead.process && freed) report.dead.reaped_blocks = *freed;
      }
    (void)ring::release(h, "work");
    (void)h.release_zone("demo");
    (void)h.release_zone("flows");
    report.left_blocks = h.stats().live_blocks;
    report.seconds = std::chrono::duration<double>(clock::now() - began).count();
  }
  things = std::unexpected(error{});
  h = heap();
  const auto destroyed = heap::destroy(a.heap_name);
  if (s.exit != exit_ok) return;
  if (!wrong.empty()) return refuse(s, wrong);
  if (!destroyed) return refuse(s, destroyed.error());
  if (!a.html.empty()) {
    std::ofstream page(a.html);
    page << html_page(report);
    if (!page.flush()) return refuse(s, a.html + " can't be written");
  }
  if (s.json)
    print(json_of(report));
  else
    fmt::print("{}", text_report(report, shows_colour(), output_columns()));
  if (!a.html.empty() && !s.json) fmt::print("The same as a page: {}\n", printable(a.html));
  if (!report.sound) s.exit = exit_refused;
}

}  // namespace

void add_demo_command(command_line& line, session& s) {
  auto a = std::make_shared<arguments>();
  command c;
  c.name = "demo";
  c.summary = "Run packets through a heap shared by processes, one of which is killed";
  c.details =
      "A reader puts real packets into blocks of a shared heap, two parsers count them by "
      "conversation; one parser is killed in the middle, and what it had "
      "comes back. The heap is gone afterwards.";
  c.examples = {"annex demo", "annex demo --pcap capture.pcap --html demo.html"};
  c.text("--pcap", "FILE", &a->pcap, "A capture of yours (Ethernet)").completes = completion::file;
  c.text("--html", "FILE", &a->html, "Write the result as a page, too").completes =
      completion::file;
  c.text("--role", "ROLE", &a->role, "What this process of the demo does").is_hidden = true;
  c.text("--heap", "HEAP", &a->heap_name, "The demo's heap").is_hidden = true;
  c.number(
       "--parser", "NUMBER", 0, parser_count - 1,
       [a](std::uint64_t number) { a->parser = static_cast<unsigned>(number); }, "Which parser")
      .is_hidden = true;
  c.run = [&s, a] { run_demo(s, *a); };
  line.commands.push_back(std::move(c));
}

}  // namespace annex::tool
