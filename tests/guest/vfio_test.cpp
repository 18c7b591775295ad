// tests/guest/vfio_test.cpp - a real IOMMU and devices that really reach memory: QEMU's, inside the
// guest. ANNEX_EDU names two of them.
#include <annex/devices/vfio.hpp>

#include <fcntl.h>
#include <sys/resource.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>

#include "edu.hpp"
#include "support.hpp"

namespace annex {
namespace {

using namespace std::chrono_literals;

constexpr u64 step = 2 * KiB;

std::string edu(unsigned i) {
  const char* const both = std::getenv("ANNEX_EDU");
  const std::string all = both == nullptr ? "" : both;
  const size_t space = all.find(' ');
  return i == 0 ? all.substr(0, space) : all.substr(space + 1);
}

class vfio : public in_own_directory, public ::testing::WithParamInterface<vfio_interface> {
 protected:
  vfio_options options(u64 piece_bytes = GiB) const {
    return {.through = GetParam(), .piece_bytes = piece_bytes};
  }
};
INSTANTIATE_TEST_SUITE_P(container, vfio, ::testing::Values(vfio_interface::container));
INSTANTIATE_TEST_SUITE_P(iommufd, vfio, ::testing::Values(vfio_interface::iommufd));

// A domain with one device that works.
struct domain_of_test {
  std::unique_ptr<vfio_domain> domain;
  std::unique_ptr<edu_device> device;
  explicit domain_of_test(const vfio_options& options, unsigned which = 0)
      : domain(must(vfio_domain::create(options))),
        device(std::make_unique<edu_device>(must(domain->open_device(edu(which))))) {
    EXPECT_TRUE(device->works());
  }
  std::vector<iova> iovas(u64 bytes, u64 page_bytes = 4096) {
    return must(domain->choose_iovas(bytes, page_bytes));
  }
};

// The device copies one block into the other, by their bus addresses.
bool copies(edu_device& device, char* from, char* to, u64 bytes = step) {
  static u64 seed = 0;
  fill_with_pattern(from, bytes, ++seed);
  std::memset(to, 0, bytes);
  if (!device.read_from(static_cast<u64>(*heap::locate(from)->bus_address), bytes)) return false;
  if (!device.write_to(static_cast<u64>(*heap::locate(to)->bus_address), bytes)) return false;
  return std::memcmp(from, to, bytes) == 0;
}
// What the device writes there does not come here.
bool is_cut_off(edu_device& device, u64 bus, char* memory) {
  std::memset(memory, 0x5a, step);
  (void)device.write_to(bus, step);
  return std::all_of(memory, memory + step, [](char c) { return c == 0x5a; });
}

TEST_P(vfio, a_device_reads_and_writes_blocks_of_every_kind_of_memory_by_their_iova) {
  domain_of_test t(options());
  heap h = must(heap::create("h"));
  auto seen = must(h.observe(*t.domain));
  struct kind {
    memory_source::kind from;
    u64 bytes, page_bytes;
  };
  for (const auto& [from, bytes, page_bytes] :
       {kind{memory_source::kind::shared, 4 * MiB, 4 * KiB},
        kind{memory_source::kind::anonymous, 2 * MiB, 4 * KiB},
        kind{memory_source::kind::hugetlb, 8 * MiB, 2 * MiB}}) {
    const auto iovas = t.iovas(bytes, page_bytes);
    const region_id region = must(h.bring_memory(
        {.from = from, .length_bytes = bytes, .page_bytes = page_bytes, .page_iovas = iovas}));
    EXPECT_EQ(t.domain->entries(), 1u);  // one run, one entry
    auto* const big =
        static_cast<char*>(h.allocate({.size_bytes = bytes / 2, .iova_contiguous = true}));
    auto* const small =
        static_cast<char*>(h.allocate({.size_bytes = step, .iova_contiguous = true}));
    ASSERT_TRUE(big != nullptr && small != nullptr);
    EXPECT_EQ(heap::locate(big)->region, region);
    EXPECT_TRUE(copies(*t.device, big, small));
    EXPECT_TRUE(copies(*t.device, small, big + bytes / 2 - step));
    EXPECT_TRUE(copies(*t.device, big + 1, small, 1000));
    heap::free(small);
    heap::free(big);
    h.trim();
    must(h.remove_memory(region));
    EXPECT_EQ(t.domain->entries(), 0u);
  }
}

TEST_P(vfio, after_removal_the_device_reaches_nothing) {
  domain_of_test t(options());
  heap h = must(heap::create("h"));
  auto seen = must(h.observe(*t.domain));
  const mapped_memory staying(1 * MiB), going(1 * MiB);
  for (const mapped_memory* m : {&staying, &going}) {
    const auto iovas = t.iovas(m->size());
    memory_range r = m->range();
    r.page_iovas = iovas;
    must(h.add_memory(r));
  }
  const u64 stays_at = static_cast<u64>(*heap::locate(staying.data())->bus_address),
            goes_from = static_cast<u64>(*heap::locate(going.data())->bus_address);
  EXPECT_TRUE(copies(*t.device, staying.data(), going.data()));
  must(h.remove_memory(region_id{2}));
  EXPECT_TRUE(is_cut_off(*t.device, goes_from, going.data()));
  EXPECT_TRUE(copies(*t.device, staying.data(), staying.data() + step));
  seen = observation();  // told to remove what is left
  EXPECT_EQ(t.domain->entries(), 0u);
  EXPECT_TRUE(is_cut_off(*t.device, stays_at, staying.data()));
}

TEST_P(vfio, is_mapped_before_the_first_block_and_unmapped_after_the_last) {
  domain_of_test t(options());
  heap h = must(heap::create("h"));
  // Tries the device itself whenever it is told anything.
  struct recorder : observer {
    domain_of_test* t;
    heap* h;
    std::vector<std::string> heard;
    bool veto = false;
    std::string_view name() const noexcept override { return "recorder"; }
    void note(const char* what, const region_view& r) {
      const u64 bus = static_cast<u64>(r.runs.at(0).bus_address);
      heard.push_back(
          std::string(what) +
          (is_cut_off(*t->device, bus, static_cast<char*>(r.base)) ? " cut off, " : " reached, ") +
          std::to_string(h->stats().live_blocks) + " blocks");
    }
    result<void> on_add(const region_view& r) override {
      note("add:", r);
      if (!veto) return {};
      return std::unexpected(error{errc::invalid_argument, 0, "not this one"});
    }
    quiesce begin_remove(const region_view& r) override { return note("begin:", r), quiesce::done; }
    result<void> finish_remove(const region_view& r,
                               std::chrono::steady_clock::time_point) override {
      return note("finish:", r), result<void>{};
    }
  };
  recorder before, after;
  before.t = after.t = &t;
  before.h = after.h = &h;
  auto first = must(h.observe(before));
  auto mapped = must(h.observe(*t.domain));
  auto last = must(h.observe(after));
  const mapped_memory m(1 * MiB);
  const auto iovas = t.iovas(m.size());
  memory_range r = m.range();
  r.page_iovas = iovas;
  const region_id region = must(h.add_memory(r));
  void* const block = h.allocate(100);
  ASSERT_NE(block, nullptr);
  EXPECT_EQ(refused(h.remove_memory(region)), errc::blocks_live);
  heap::free(block);
  h.trim();
  must(h.remove_memory(region));
  // From the outside in, and from the inside out.
  EXPECT_EQ(before.heard,
            (std::vector<std::string>{"add: cut off, 0 blocks", "begin: reached, 0 blocks",
                                      "finish: cut off, 0 blocks"}));
  EXPECT_EQ(after.heard,
            (std::vector<std::string>{"add: reached, 0 blocks", "begin: reached, 0 blocks",
                                      "finish: reached, 0 blocks"}));

  after.veto = true;
  EXPECT_EQ(refused(h.add_memory(r)), errc::vetoed);
  EXPECT_EQ(t.domain->entries(), 0u);
  EXPECT_TRUE(is_cut_off(*t.device, static_cast<u64>(iovas[0]), m.data()));
  EXPECT_EQ(h.allocate(100), nullptr);
}

TEST_P(vfio, runs_are_entries_and_long_ones_are_cut) {
  domain_of_test t(options(256 * KiB));
  heap h = must(heap::create("h"));
  auto seen = must(h.observe(*t.domain));
  const mapped_memory m(1 * MiB);
  auto iovas = t.iovas(2 * MiB);
  iovas.resize(256);
  // The second half first: two runs of 512 KiB.
  for (size_t i = 0; i < 128; ++i)
    iovas[i] = iova{static_cast<u64>(iovas[i]) + MiB};
  memory_range r = m.range();
  r.page_iovas = iovas;
  must(h.add_memory(r));
  EXPECT_EQ(t.domain->entries(), 4u);
  for (const u64 at :
       {u64{0}, 256 * KiB - step, 256 * KiB, 512 * KiB - step, 512 * KiB, MiB - step})
    EXPECT_TRUE(copies(*t.device, m.data() + at, m.data() + (at + 64 * KiB) % MiB)) << at;
  must(h.remove_memory(region_id{1}));
  EXPECT_EQ(t.domain->entries(), 0u);
}

TEST_P(vfio, what_the_domain_cannot_map_is_refused_with_the_reason_before_a_block_is_handed_out) {
  auto o = options();
  o.highest_iova = (u64{1} << 46) - 1;
  domain_of_test t(o);
  heap h = must(heap::create("h"));
  auto seen = must(h.observe(*t.domain));
  const mapped_memory m(64 * KiB);
  auto says = [&](u64 bus) {
    std::vector<iova> iovas;
    for (u64 at = 0; at < m.size(); at += 4096)
      iovas.push_back(iova{bus + at});
    memory_range r = m.range();
    r.page_iovas = iovas;
    const auto added = h.add_memory(r);
    EXPECT_EQ(refused(added), errc::vetoed);
    return std::string(added ? "" : added.error().message());
  };
  const auto ranges = must(t.domain->ranges());
  ASSERT_GE(ranges.size(), GetParam() == vfio_interface::container ? 2u : 1u);
  // The interrupt window.
  const std::string in_hole = says(0xfee00000), across = says(0xfee00000 - 8 * 4096);
  EXPECT_NE(in_hole.find("fee00000"), std::string::npos) << in_hole;
  EXPECT_NE(across.find("choose_iovas"), std::string::npos) << across;
  EXPECT_NE(says(u64{1} << 46).find("last a device"), std::string::npos);
  const auto none = h.add_memory(m.range());
  EXPECT_EQ(refused(none), errc::vetoed);
  EXPECT_NE(none.error().message().find("has no IOVAs"), std::string_view::npos);
  EXPECT_EQ(t.domain->entries(), 0u);
  EXPECT_EQ(h.stats().region_count, 0u);

  heap other = must(heap::create("other"));
  auto seen_too = must(other.observe(*t.domain));
  const mapped_memory n(64 * KiB);
  const auto iovas = t.iovas(m.size());
  memory_range mine = m.range(), theirs = n.range();
  mine.page_iovas = theirs.page_iovas = iovas;
  must(h.add_memory(mine));
  const auto same = other.add_memory(theirs);
  EXPECT_EQ(refused(same), errc::vetoed);
  EXPECT_NE(same.error().message().find("in use in this domain"), std::string_view::npos);
  EXPECT_EQ(t.domain->entries(), 1u);
}

TEST_P(vfio, entries_are_counted_before_they_run_out) {
  if (GetParam() != vfio_interface::container) GTEST_SKIP() << "IOMMUFD has no such limit";
  const std::string limit = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
  std::ofstream(limit) << 6;
  domain_of_test t(options(256 * KiB));
  std::ofstream(limit) << 65535;
  heap h = must(heap::create("h"));
  auto seen = must(h.observe(*t.domain));
  EXPECT_EQ(must(t.domain->entries_left()), 6u);
  const auto four = t.iovas(1 * MiB), again = t.iovas(1 * MiB);
  must(h.bring_memory({.length_bytes = 1 * MiB, .page_iovas = four}));
  EXPECT_EQ(must(t.domain->entries_left()), 2u);
  const auto refusal = h.bring_memory({.length_bytes = 1 * MiB, .page_iovas = again});
  EXPECT_EQ(refused(refusal), errc::vetoed);
  EXPECT_NE(refusal.error().message().find("4 entries and VFIO takes 2"), std::string_view::npos)
      << refusal.error().message();
  EXPECT_EQ(t.domain->entries(), 4u);
}

TEST_P(vfio, chosen_iovas_are_free_and_within_the_ranges) {
  auto o = options();
  o.lowest_iova = 0xfec00000;
  o.highest_iova = 0xff7fffff;  // 12 MiB with the interrupt window in the middle
  domain_of_test t(o);
  heap h = must(heap::create("h"));
  auto seen = must(h.observe(*t.domain));
  u64 brought = 0;
  for (;; ++brought) {
    const auto iovas = t.domain->choose_iovas(1 * MiB, 4096);
    if (!iovas) {
      EXPECT_EQ(refused(iovas), errc::limit_reached);
      break;
    }
    ASSERT_LT(brought, 16u);
    must(h.bring_memory({.length_bytes = 1 * MiB, .page_iovas = *iovas}));
  }
  EXPECT_GE(brought, 9u);
  h.trim();
  must(h.remove_memory(region_id{3}));
  const auto gap = t.iovas(1 * MiB);
  must(h.bring_memory({.length_bytes = 1 * MiB, .page_iovas = gap}));
  EXPECT_EQ(refused(t.domain->choose_iovas(4097, 4096)), errc::bad_length);
  EXPECT_EQ(refused(t.domain->choose_iovas(4096, 1000)), errc::bad_page_size);
}

TEST_P(vfio, a_device_that_comes_later_reaches_what_is_there) {
  domain_of_test t(options());
  heap h = must(heap::create("h"));
  const auto iovas = t.iovas(1 * MiB);
  must(h.bring_memory({.length_bytes = 1 * MiB, .page_iovas = iovas}));
  auto seen = must(h.observe(*t.domain));  // of a region that is there
  edu_device second(must(t.domain->open_device(edu(1))));
  ASSERT_TRUE(second.works());
  auto* const a = static_cast<char*>(h.allocate({.size_bytes = step, .iova_contiguous = true}));
  auto* const b = static_cast<char*>(h.allocate({.size_bytes = step, .iova_contiguous = true}));
  EXPECT_TRUE(copies(*t.device, a, b));
  EXPECT_TRUE(copies(second, b, a));
}

TEST_P(vfio, a_device_that_cannot_be_had_is_refused_with_the_remedy) {
  auto d = must(vfio_domain::create(options()));
  EXPECT_EQ(refused(d->open_device("0000:ff:1f.7")), errc::invalid_argument);
  EXPECT_EQ(refused(d->open_device("../x")), errc::invalid_argument);
  EXPECT_EQ(refused(d->open_device("")), errc::invalid_argument);
  const auto unbound = d->open_device("0000:00:00.0");
  EXPECT_EQ(refused(unbound), errc::not_supported);
  EXPECT_NE(unbound.error().message().find("vfio-pci"), std::string_view::npos)
      << unbound.error().message();
  edu_device device(must(d->open_device(edu(0))));
  auto other = must(vfio_domain::create(options()));
  const auto taken = other->open_device(edu(0));
  EXPECT_EQ(refused(taken), errc::os_failure);
  EXPECT_EQ(taken.error().os_errno, EBUSY);
  if (GetParam() == vfio_interface::container) {
    EXPECT_EQ(refused(other->choose_iovas(MiB, 4096)), errc::not_attached);
    heap h = must(heap::create("h"));
    must(h.bring_memory({.length_bytes = 1 * MiB}));
    EXPECT_EQ(refused(h.observe(*other)), errc::vetoed);
  }
  EXPECT_EQ(refused(vfio_domain::create({.through = GetParam(), .piece_bytes = 3000})),
            errc::invalid_argument);
  EXPECT_EQ(
      refused(vfio_domain::create({.through = GetParam(), .lowest_iova = 5, .highest_iova = 4})),
      errc::invalid_argument);
}

TEST_P(vfio, a_killed_process_leaves_nothing_mapped_and_others_go_on) {
  heap h = must(heap::create("h"));
  struct shared {
    std::atomic<u64> mapped{0}, handle{0};
  };
  auto* const words = shared_words<shared>();
  const u64 base = u64{1} << 30;
  child_process dying([&] {
    domain_of_test t(options(), 1);
    heap mine = must(heap::attach("h"));
    auto seen = must(mine.observe(*t.domain));
    std::vector<iova> iovas;
    for (u64 at = 0; at < MiB; at += 4096)
      iovas.push_back(iova{base + at});
    must(mine.bring_memory({.length_bytes = 1 * MiB, .page_iovas = iovas}));
    auto* const a =
        static_cast<char*>(mine.allocate({.size_bytes = step, .iova_contiguous = true}));
    auto* const b =
        static_cast<char*>(mine.allocate({.size_bytes = step, .iova_contiguous = true}));
    if (!copies(*t.device, a, b)) return 1;
    words->handle = static_cast<u64>(mine.handle_of(b));
    words->mapped = 1;
    for (;;)
      ::pause();
  });
  domain_of_test t(options(), 0);
  auto seen = must(h.observe(*t.domain));
  ASSERT_TRUE(wait_until([&] { return words->mapped.load() == 1; }));
  // Attached here now, and mapped in this process's domain, at the same IOVA.
  auto* const theirs = static_cast<char*>(must(h.resolve(handle{words->handle.load()})));
  EXPECT_EQ(static_cast<u64>(*heap::locate(theirs)->bus_address) & ~(MiB - 1), base);
  auto* const mine = static_cast<char*>(h.allocate({.size_bytes = step, .iova_contiguous = true}));
  EXPECT_TRUE(copies(*t.device, theirs, mine));
  dying.kill_now();
  EXPECT_EQ(dying.wait_for_exit_code(), -SIGKILL);
  EXPECT_TRUE(copies(*t.device, mine, theirs));
  domain_of_test after(options(), 1);  // its device is free, its domain gone
  EXPECT_EQ(after.domain->entries(), 0u);
  EXPECT_TRUE(
      is_cut_off(*after.device, static_cast<u64>(*heap::locate(theirs)->bus_address), theirs));
  h.recover();
  expect_sound(h);
}

TEST_P(vfio, the_locked_memory_limit_is_named) {
  child_process limited([&] {
    domain_of_test t(options());
    heap mine = must(heap::create("limited"));
    auto seen = must(mine.observe(*t.domain));
    const auto iovas = t.iovas(8 * MiB);
    const ::rlimit small{256 * KiB, 256 * KiB};
    if (::setrlimit(RLIMIT_MEMLOCK, &small) != 0 || ::setuid(65534) != 0) return 77;
    const auto refusal = mine.bring_memory(
        {.from = memory_source::kind::anonymous, .length_bytes = 8 * MiB, .page_iovas = iovas});
    if (refusal || t.domain->entries() != 0) return 1;
    return refusal.error().message().find("locked-memory") != std::string_view::npos ? 0 : 2;
  });
  EXPECT_EQ(limited.wait_for_exit_code(), 0);
}

TEST(vfio_adopted, a_programs_own_container_serves) {
  if (::access("/dev/vfio/vfio", F_OK) != 0) GTEST_SKIP() << "no container";
  EXPECT_EQ(refused(vfio_domain::adopt_container(-1)), errc::invalid_argument);
  const int empty = ::open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC),
            null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  EXPECT_EQ(refused(vfio_domain::adopt_container(empty)), errc::invalid_argument);  // no IOMMU set
  EXPECT_EQ(refused(vfio_domain::adopt_container(null)), errc::invalid_argument);
  // As DPDK does it.
  char link[256];
  const ssize_t bytes = ::readlink(("/sys/bus/pci/devices/" + edu(0) + "/iommu_group").c_str(),
                                   link, sizeof link - 1);
  ASSERT_GT(bytes, 0);
  const std::string target(link, static_cast<size_t>(bytes));
  const int group =
      ::open(("/dev/vfio/" + target.substr(target.rfind('/') + 1)).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(::ioctl(group, VFIO_GROUP_SET_CONTAINER, &empty), 0);
  ASSERT_EQ(::ioctl(empty, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), 0);
  {
    edu_device device(::ioctl(group, VFIO_GROUP_GET_DEVICE_FD, edu(0).c_str()));
    ASSERT_TRUE(device.works());
    auto domain = must(vfio_domain::adopt_container(empty));
    heap h = must(heap::create_private());
    auto seen = must(h.observe(*domain));
    const auto iovas = must(domain->choose_iovas(1 * MiB, 4096));
    must(h.bring_memory(
        {.from = memory_source::kind::anonymous, .length_bytes = 1 * MiB, .page_iovas = iovas}));
    auto* const a = static_cast<char*>(h.allocate({.size_bytes = step, .iova_contiguous = true}));
    auto* const b = static_cast<char*>(h.allocate({.size_bytes = step, .iova_contiguous = true}));
    EXPECT_TRUE(copies(device, a, b));
  }
  ::close(group);
  ::close(empty);
  ::close(null);
}

}  // namespace
}  // namespace annex
