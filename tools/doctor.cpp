// tools/doctor.cpp - annex doctor: what this machine can do for annex, and the command that mends
// what it can't.
//
//   ok       as it should be           limited  works, within a limit that is named missing  not
//   here
//
// Every answer is asked of the kernel here and now: by the call itself where that changes nothing,
// else by what /proc and /sys say.
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/membarrier.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>

#include "output.hpp"
#include "terminal.hpp"

namespace annex::tool {
namespace {

namespace fs = std::filesystem;

enum class state { ok, limited, missing };
struct finding {
  state is = state::ok;
  std::string found;
  std::string remedy;  // empty: nothing to mend
};
struct check {
  const char* name;
  const char* serves;
  bool needed;  // annex does not work without
  std::function<finding()> look;
};

std::string first_line(const fs::path& file) {
  std::string line;
  std::ifstream in(file);
  std::getline(in >> std::ws, line);
  return line;
}
std::uint64_t number_in(const fs::path& file, std::uint64_t otherwise = 0) {
  const std::string line = first_line(file);
  return line.empty() || std::isdigit(static_cast<unsigned char>(line[0])) == 0
             ? otherwise
             : std::strtoull(line.c_str(), nullptr, 10);
}
std::vector<std::string> entries(const fs::path& directory, std::string_view prefix = "") {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& e : fs::directory_iterator(directory, ignored))
    if (std::string name = e.path().filename(); name.starts_with(prefix))
      names.push_back(std::move(name));
  std::sort(names.begin(), names.end());
  return names;
}
std::string status_line(std::string_view key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key)) return line.substr(key.size() + 1);
  return {};
}
bool has_capability(unsigned bit) {
  return (std::strtoull(status_line("CapEff").c_str(), nullptr, 16) >> bit & 1) != 0;
}
constexpr unsigned cap_net_raw = 13, cap_ipc_lock = 14, cap_sys_admin = 21;

bool kernel_is_at_least(int major, int minor) {
  utsname u{};
  ::uname(&u);
  int here_major = 0, here_minor = 0;
  std::sscanf(u.release, "%d.%d", &here_major, &here_minor);
  return std::pair(here_major, here_minor) >= std::pair(major, minor);
}

finding look_at_directory() {
  const std::string place = directory();
  constexpr const char* remedy = "set ANNEX_DIR to a directory of yours on tmpfs";
  if (const auto heaps = heap::list(); !heaps)
    return {state::missing, std::string(heaps.error().message()),
            remedy};  // not to be read, or not to be trusted
  std::error_code why;
  fs::path there =
      place;  // looking makes nothing: before the first heap, what it will be made in counts
  while (!fs::exists(there, why) && there.has_relative_path())
    there = there.parent_path();
  struct statvfs s {};
  if (::access(there.c_str(), W_OK) != 0 || ::statvfs(there.c_str(), &s) != 0)
    return {state::missing, fmt::format("{}: {}", there.string(), std::strerror(errno)), remedy};
  struct stat mode {};
  constexpr mode_t all_may_write = S_IWOTH;
  if (::stat(place.c_str(), &mode) == 0 && (mode.st_mode & all_may_write) != 0 &&
      (mode.st_mode & S_ISVTX) == 0)
    return {state::limited,
            fmt::format("everybody may remove and replace the heaps in {} (mode {:o})", place,
                        mode.st_mode & 07777),
            fmt::format("chmod +t {}   (docs/security.md)", place)};
  const std::uint64_t free = std::uint64_t{s.f_bavail} * s.f_frsize,
                      size = std::uint64_t{s.f_blocks} * s.f_frsize;
  const std::string found =
      fmt::format("{}: {} of {} free", place, bytes_text(free), bytes_text(size));
  if (free < 16u << 20)
    return {state::limited, found + ": room for little metadata and no shared memory",
            "mount -o remount,size=50% /dev/shm   (docker run --shm-size=8g)"};
  if (free < 1u << 30)
    return {
        state::limited, found + ": shared regions beyond that do not fit",
        "mount -o remount,size=50% /dev/shm   (docker run --shm-size=8g), or bring hugetlb memory"};
  return {state::ok, found, {}};
}

finding look_at_barrier() {
  const long commands = ::syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
  if (commands >= 0 && (commands & MEMBARRIER_CMD_GLOBAL_EXPEDITED) != 0)
    return {state::ok, "membarrier is offered", {}};
  return {state::missing,
          "no membarrier: caches of other processes can't be recalled, and memory in use by them "
          "not be removed",
          "a kernel of 4.16 or newer; a seccomp profile that allows membarrier"};
}

finding look_at_hugepages() {
  std::vector<std::string> sizes;
  std::uint64_t free_bytes = 0;
  for (const std::string& name : entries("/sys/kernel/mm/hugepages", "hugepages-")) {
    const std::uint64_t page = std::strtoull(name.c_str() + 10, nullptr, 10) * 1024,
                        all = number_in("/sys/kernel/mm/hugepages/" + name + "/nr_hugepages"),
                        free = number_in("/sys/kernel/mm/hugepages/" + name + "/free_hugepages");
    free_bytes += free * page;
    sizes.push_back(fmt::format("{} of {} pages of {} free", free, all, bytes_text(page)));
  }
  if (sizes.empty())
    return {state::missing, "the kernel has no hugepages", "a kernel with CONFIG_HUGETLBFS"};
  if (free_bytes == 0)
    return {state::missing, fmt::format("{}", fmt::join(sizes, ", ")),
            "echo 512 > /proc/sys/vm/nr_hugepages   (1 GiB pages: hugepagesz=1G hugepages=N on the "
            "kernel's command line)"};
  return {state::ok, fmt::format("{}", fmt::join(sizes, ", ")), {}};
}

finding look_at_locked_memory() {
  if (has_capability(cap_ipc_lock)) return {state::ok, "no limit (CAP_IPC_LOCK)", {}};
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) return {state::ok, "no limit", {}};
  return {state::limited,
          fmt::format("{} can be pinned for devices, all together", bytes_text(limit.rlim_cur)),
          "ulimit -l unlimited   (limits.conf: memlock; systemd: LimitMEMLOCK=infinity; docker: "
          "--ulimit memlock=-1)"};
}

finding look_at_mappings() {
  const std::uint64_t most = number_in("/proc/sys/vm/max_map_count"),
                      overcommit = number_in("/proc/sys/vm/overcommit_memory");
  if (overcommit == 2)
    return {state::limited,
            fmt::format("{} mappings; strict overcommit counts address space that is only reserved",
                        most),
            "sysctl vm.overcommit_memory=0"};
  if (most < 65530)
    return {state::limited, fmt::format("{} mappings", most), "sysctl vm.max_map_count=262144"};
  return {state::ok, fmt::format("{} mappings", most), {}};
}

finding look_at_physical() {
  const int fd = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  std::uint64_t entry = 0;
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const bool read =
      fd >= 0 && ::pread(fd, &entry, sizeof entry,
                         static_cast<off_t>(reinterpret_cast<std::uint64_t>(&entry) / page * 8)) ==
                     sizeof entry;
  if (fd >= 0) ::close(fd);
  if (read && (entry & ((std::uint64_t{1} << 55) - 1)) != 0)
    return {state::ok, "page frames are shown", {}};
  return {state::missing,
          has_capability(cap_sys_admin) ? "page frames are hidden"
                                        : "page frames are hidden: no CAP_SYS_ADMIN",
          "run as root, or use IOVAs of an IOMMU"};
}

finding look_at_nodes() {
  std::vector<std::string> with, without;
  for (const std::string& name : entries("/sys/devices/system/node", "node"))
    if (std::isdigit(static_cast<unsigned char>(name.back())) != 0)
      (first_line("/sys/devices/system/node/" + name + "/cpulist").empty() ? without : with)
          .push_back(name.substr(4));
  if (with.empty()) return {state::missing, "the kernel has no NUMA", "a kernel with CONFIG_NUMA"};
  const std::string found = fmt::format(
      "{} node{}{}", with.size() + without.size(), with.size() + without.size() == 1 ? "" : "s",
      without.empty() ? "" : fmt::format(", memory only: {}", fmt::join(without, " ")));
  return {state::ok, found, {}};
}

finding look_at_iommu() {
  const auto units = entries("/sys/class/iommu"), groups = entries("/sys/kernel/iommu_groups");
  if (units.empty() && groups.empty())
    return {state::missing, "no IOMMU",
            "intel_iommu=on (AMD: amd_iommu=on) on the kernel's command line, VT-d or AMD-Vi in "
            "the firmware; in a guest, give it a virtual one"};
  return {state::ok,
          fmt::format("{} unit{}, {} groups", units.size(), units.size() == 1 ? "" : "s",
                      groups.size()),
          {}};
}

finding look_at_vfio() {
  if (::access("/dev/vfio/vfio", F_OK) != 0)
    return {state::missing, "no /dev/vfio/vfio", "modprobe vfio-pci"};
  const std::uint64_t entries_allowed =
      number_in("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", 65535);
  const bool iommufd = ::access("/dev/iommu", F_OK) == 0;
  const auto groups = entries("/dev/vfio");
  const std::string found =
      fmt::format("{} mappings a container, {} groups bound{}", entries_allowed, groups.size() - 1,
                  iommufd ? ", IOMMUFD" : "");
  if (::access("/dev/vfio/vfio", R_OK | W_OK) != 0)
    return {state::limited, found + "; not for this user", "chown USER /dev/vfio/*"};
  if (groups.size() < 2)
    return {state::limited, found,
            "echo vfio-pci > /sys/bus/pci/devices/ADDRESS/driver_override; echo ADDRESS > "
            "/sys/bus/pci/drivers_probe"};
  return {state::ok, found, {}};
}

finding look_at_dax() {
  const auto devices = entries("/dev", "dax");
  if (devices.empty())
    return {state::missing, "no /dev/dax*",
            "ndctl create-namespace -m devdax -a 2M   (CXL: cxl create-region, daxctl "
            "reconfigure-device -m devdax)"};
  return {state::ok, fmt::format("{}", fmt::join(devices, " ")), {}};
}

finding look_at_rdma() {
  const auto devices = entries("/sys/class/infiniband");
  if (devices.empty())
    return {state::missing, "no RDMA device",
            "modprobe the adapter's driver; in software: modprobe rdma_rxe && rdma link add rxe0 "
            "type rxe netdev INTERFACE"};
  return {state::ok, fmt::format("{}", fmt::join(devices, " ")), {}};
}

finding look_at_io_uring() {
  io_uring_params p{};
  const long fd = ::syscall(SYS_io_uring_setup, 2, &p);
  if (fd < 0)
    return {state::missing, std::strerror(errno),
            errno == EPERM
                ? "sysctl kernel.io_uring_disabled=0; a seccomp profile that allows io_uring"
                : "a kernel of 5.19 or newer with CONFIG_IO_URING"};
  ::close(static_cast<int>(fd));
  if (!kernel_is_at_least(5, 19))
    return {state::limited, "no tables of fixed buffers that change while in use",
            "a kernel of 5.19 or newer"};
  if (!kernel_is_at_least(6, 13))
    return {state::limited, "fixed buffers; every ring pins for itself",
            "a kernel of 6.13 or newer shares them between rings"};
  return {state::ok, "fixed buffers, shared between rings", {}};
}

finding look_at_xdp() {
  const int fd = ::socket(44 /* AF_XDP */, SOCK_RAW | SOCK_CLOEXEC, 0);
  const int why = errno;
  if (fd >= 0) {
    ::close(fd);
    return {state::ok, "sockets can be made", {}};
  }
  return {state::missing, std::strerror(why),
          why == EPERM || !has_capability(cap_net_raw)
              ? "setcap cap_net_raw,cap_net_admin,cap_bpf+ep PROGRAM, or run as root"
              : "a kernel with CONFIG_XDP_SOCKETS"};
}

finding look_at_cuda() {
  void* const library = ::dlopen("libcuda.so.1", RTLD_NOW);
  if (library == nullptr)
    return {state::missing, "no libcuda.so.1", "install the GPU's driver (docker: --gpus all)"};
  const auto start = reinterpret_cast<int (*)(unsigned)>(::dlsym(library, "cuInit"));
  const auto count_devices = reinterpret_cast<int (*)(int*)>(::dlsym(library, "cuDeviceGetCount"));
  int devices = 0;
  const int why = start != nullptr ? start(0) : -1;
  if (why != 0 || count_devices == nullptr || count_devices(&devices) != 0 || devices == 0)
    return {state::missing, fmt::format("the driver finds no GPU (cuInit: {})", why),
            "nvidia-smi says why; modprobe nvidia nvidia-uvm"};
  return {state::ok, fmt::format("{} GPU{}", devices, devices == 1 ? "" : "s"), {}};
}

finding look_at_container() {
  std::string group;
  std::ifstream lines("/proc/self/cgroup");
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("0::")) group = line.substr(3);
  std::vector<std::string> limits;
  const fs::path at = "/sys/fs/cgroup" + group;
  for (const char* file : {"memory.max", "hugetlb.2MB.max", "hugetlb.1GB.max"})
    if (const std::string most = first_line(at / file); !most.empty() && most != "max")
      limits.push_back(
          fmt::format("{} {}", file, bytes_text(std::strtoull(most.c_str(), nullptr, 10))));
  const bool filtered = status_line("Seccomp").find('2') != std::string::npos;
  if (filtered) limits.push_back("system calls filtered (seccomp)");
  if (limits.empty()) return {state::ok, "no limits of a control group", {}};
  return {state::limited, fmt::format("{}", fmt::join(limits, ", ")),
          filtered ? "docker: --memory, --security-opt seccomp=PROFILE; kubernetes: limits"
                   : "raise them in the group, or bring less"};
}

finding look_at_dpdk() {
  for (const char* name : {"librte_eal.so", "librte_eal.so.23", "librte_eal.so.24",
                           "librte_eal.so.25", "librte_eal.so.26"})
    if (void* const library = ::dlopen(name, RTLD_LAZY | RTLD_LOCAL)) {
      const auto version = reinterpret_cast<const char* (*)()>(::dlsym(library, "rte_version"));
      return {state::ok, version != nullptr ? version() : name, {}};
    }
  return {state::missing, "no librte_eal.so",
          "apt-get install dpdk   (programs with DPDK linked in do not need it)"};
}

const std::vector<check>& checks() {
  static const std::vector<check> all{
      {"directory", "heaps shared by processes", true, look_at_directory},
      {"barrier", "recalling caches", true, look_at_barrier},
      {"hugepages", "bring hugetlb memory; DPDK", false, look_at_hugepages},
      {"memlock", "pinning for devices", false, look_at_locked_memory},
      {"mappings", "many regions", false, look_at_mappings},
      {"container", "memory", false, look_at_container},
      {"numa", "placement on nodes", false, look_at_nodes},
      {"physical", "physical addresses as IOVAs", false, look_at_physical},
      {"iommu", "DMA by IOVA", false, look_at_iommu},
      {"vfio", "devices driven by programs", false, look_at_vfio},
      {"dax", "persistent and CXL memory", false, look_at_dax},
      {"rdma", "verbs", false, look_at_rdma},
      {"io_uring", "annex::io_uring", false, look_at_io_uring},
      {"af_xdp", "annex::af_xdp", false, look_at_xdp},
      {"cuda", "GPU memory", false, look_at_cuda},
      {"dpdk", "annex run --dpdk", false, look_at_dpdk},
  };
  return all;
}

void examine(session& s, const std::vector<std::string>& wanted) {
  static constexpr const char* words[] = {"ok", "limited", "missing"};
  json all = json::list();
  bool fine = true;
  for (const check& c : checks()) {
    const bool asked = std::find(wanted.begin(), wanted.end(), c.name) != wanted.end();
    if (!wanted.empty() && !asked) continue;
    const finding f = c.look();
    if ((asked || c.needed) && f.is == state::missing) fine = false;
    const char* const word = words[static_cast<int>(f.is)];
    if (s.json) {
      all.add({{"name", c.name},
               {"serves", c.serves},
               {"state", word},
               {"found", f.found},
               {"remedy", f.remedy},
               {"needed", c.needed || asked}});
    } else {
      constexpr unsigned indent = 20;
      const unsigned columns = output_columns();
      fmt::print("{:<10} {:<8} {}\n", c.name, word,
                 wrapped(fmt::format("{}  ({})", printable(f.found), c.serves), columns, indent));
      if (!f.remedy.empty())
        fmt::print("{:<{}}{}\n", "", indent,
                   wrapped("mend: " + printable(f.remedy), columns, indent));
    }
  }
  if (s.json) print(all);
  if (!fine) s.exit = exit_refused;
}

}  // namespace

void add_doctor_command(command_line& line, session& s) {
  auto wanted = std::make_shared<std::vector<std::string>>();
  command c;
  c.name = "doctor";
  c.summary = "Say what this machine can do for annex, and the command that mends what it can't";
  c.details = "Exit status 1: something that annex needs, or that was named, is missing.";
  c.examples = {"annex doctor", "annex doctor hugepages"};
  option what{"what", 0, "WHAT", "Only these", [wanted](const std::string& name) {
                wanted->push_back(name);
                return std::string();
              }};
  what.repeats = true;
  for (const check& one : checks())
    what.choices.emplace_back(one.name);
  c.options.push_back(what);
  c.run = [&s, wanted] { examine(s, *wanted); };
  line.commands.push_back(std::move(c));
}

}  // namespace annex::tool
