// bench/harness.cpp - see harness.hpp.
#include "harness.hpp"

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <fstream>

namespace annex::bench {
namespace {

double clock_ns(clockid_t which) {
  timespec t{};
  ::clock_gettime(which, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

// A line "key:   n kB" of one of the kernel's files about this process.
double bytes_in(const char* file, const char* key) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(key))
      return std::strtod(line.c_str() + std::strlen(key) + 1, nullptr) * 1024;
  return 0;
}
double status_bytes(const char* key) {
  return bytes_in("/proc/self/status", key);
}

double peak_begin = 0;

struct report {
  bool done;
  measurement found;
  char failure[160];
};

// One cell in a child. The report lies in memory both have.
measurement run_cell(const cell& c, double seconds, std::string* failure) {
  auto* shared = static_cast<report*>(
      ::mmap(nullptr, sizeof(report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  *shared = {};
  std::fflush(nullptr);
  ::malloc_trim(0);  // what this process has freed is no present to glibc
  const pid_t child = ::fork();
  if (child == 0) {
    ::setpgid(0, 0);
    ::alarm(static_cast<unsigned>(seconds));
    try {
      shared->found = c.run();
      shared->found.huge_bytes = huge_bytes();
      shared->done = true;
    } catch (const std::exception& e) {
      std::snprintf(shared->failure, sizeof shared->failure, "%s", e.what());
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ::kill(-child, SIGKILL);  // whatever it left running
  measurement found = shared->found;
  if (!shared->done) {
    found = {std::nan(""), std::nan(""), std::nan("")};
    *failure = shared->failure[0] != 0 ? shared->failure
               : WIFSIGNALED(status)   ? std::string("died of ") + ::strsignal(WTERMSIG(status))
                                       : "gave no result";
  }
  ::munmap(shared, sizeof(report));
  return found;
}

std::vector<double> divide(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (std::isfinite(a[i]) && std::isfinite(b[i]) && b[i] > 0)
      ratios.push_back(std::max(a[i], 0.0) / b[i]);
  return ratios;
}

// As they are when the program starts: later, a thread's own are one of them.
const cpu_set_t& allowed_cpus() {
  static const cpu_set_t allowed = [] {
    cpu_set_t all;
    CPU_ZERO(&all);
    ::sched_getaffinity(0, sizeof all, &all);
    return all;
  }();
  return allowed;
}

}  // namespace

spread spread_of(std::vector<double> values) {
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  if (values.empty()) return {std::nan(""), std::nan(""), std::nan("")};
  std::sort(values.begin(), values.end());
  auto at = [&](double part) {
    const double position = part * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const double above = below + 1 < values.size() ? values[below + 1] : values[below];
    return values[below] + (above - values[below]) * (position - static_cast<double>(below));
  };
  return {at(0.25), at(0.5), at(0.75)};
}

const peer_result* workload_result::find(const std::string& peer) const {
  for (const peer_result& p : peers)
    if (p.peer == peer) return &p;
  return nullptr;
}

std::vector<double> workload_result::gross_values(const std::string& peer) const {
  const peer_result* const of = find(peer);
  return of != nullptr ? of->values : std::vector<double>{};
}

std::vector<double> workload_result::net_values(const std::string& peer) const {
  const peer_result* const driver = find("driver");
  std::vector<double> values = gross_values(peer);
  if (net && driver != nullptr && peer != "driver") {
    // A calm driver: its median, since a disturbed driver would flatter everybody of that round.
    const double cost = spread_of(driver->values).median;
    for (double& v : values)
      v -= cost;
  }
  return values;
}

std::vector<double> workload_result::ratios(const std::string& a, const std::string& b) const {
  return divide(net_values(a), net_values(b));
}

std::vector<double> workload_result::gross_ratios(const std::string& a,
                                                  const std::string& b) const {
  return divide(gross_values(a), gross_values(b));
}

std::vector<double> workload_result::peak_ratios(const std::string& a, const std::string& b) const {
  const peer_result *first = find(a), *second = find(b);
  return first != nullptr && second != nullptr ? divide(first->peaks, second->peaks)
                                               : std::vector<double>{};
}

std::vector<workload_result> run(const std::vector<workload>& workloads,
                                 const run_options& options) {
  allowed_cpus();
  std::vector<workload_result> results;
  for (const workload& w : workloads) {
    workload_result r{w.name, w.unit, w.about, w.net, {}};
    for (const cell& c : w.cells)
      r.peers.push_back({c.peer, {}, {}, {}, {}});
    const int rounds = w.rounds != 0 ? std::min(w.rounds, options.rounds) : options.rounds;
    for (int round = 0; round < rounds; ++round)
      for (std::size_t turn = 0; turn < w.cells.size(); ++turn) {
        const std::size_t i = (turn + static_cast<std::size_t>(round)) % w.cells.size();
        if (!r.peers[i].failure.empty()) continue;
        const measurement found =
            run_cell(w.cells[i], options.seconds_per_cell, &r.peers[i].failure);
        r.peers[i].values.push_back(found.value);
        r.peers[i].peaks.push_back(found.peak_bytes);
        r.peers[i].huge.push_back(found.huge_bytes);
      }
    if (options.report) options.report(r);
    results.push_back(std::move(r));
  }
  return results;
}

double wall_ns() {
  return clock_ns(CLOCK_MONOTONIC);
}
double thread_cpu_ns() {
  return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

void stay_on_cpu(unsigned n) {
  const cpu_set_t& allowed = allowed_cpus();
  const auto count = static_cast<unsigned>(CPU_COUNT(&allowed));
  unsigned seen = 0;
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || seen++ != n % count) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ::sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

void begin_peak() {
  const int fd = ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (fd >= 0) {
    if (::write(fd, "5", 1) != 1) std::fprintf(stderr, "peak memory can't be reset\n");
    ::close(fd);
  }
  peak_begin = status_bytes("VmRSS");
}
double peak_bytes() {
  return status_bytes("VmHWM") - peak_begin;
}
double resident_bytes() {
  return status_bytes("VmRSS");
}
double huge_bytes() {
  constexpr const char* file = "/proc/self/smaps_rollup";
  return bytes_in(file, "AnonHugePages") + bytes_in(file, "ShmemPmdMapped");
}

}  // namespace annex::bench
