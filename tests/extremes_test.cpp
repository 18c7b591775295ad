// tests/extremes_test.cpp - every number that any function takes, at its extremes: done right, or
// refused, and nothing has changed.
//
//   row    one parameter of one function     calls it, and takes back what it did
//   value  0, 1, powers of two and their neighbours, the top of what 64 bits can say
//
// After each call the figures are as before and every invariant holds; after each row another
// process can attach.
#include <annex.h>
#include <annex/offset_allocator.hpp>
#include <annex/pool.hpp>
#include <annex/resource.hpp>
#include <annex/ring.hpp>

#include <array>
#include <cstring>

#include "another_member.hpp"
#include "support.hpp"

namespace annex {
namespace {

constexpr u64 top = ~u64{0};
constexpr auto extremes = [] {
  std::array<u64, 31> values{0, 1};
  std::size_t n = 2;
  for (const u32 bits : {12u, 16u, 31u, 32u, 44u, 63u})
    for (const u64 step : {top, u64{0}, u64{1}})
      values[n++] = (u64{1} << bits) + step;
  for (const u64 below : {4096u, 4095u, 4000u, 65u, 64u, 63u, 16u, 15u, 7u, 1u, 0u})
    values[n++] = top - below;
  return values;
}();

// Not more than half of what is likely to be there, or far more: what is in between takes seconds.
constexpr u64 quick(u64 length) noexcept {
  return length >= GiB && length < 64 * GiB ? length % GiB : length;
}

// Lengths that are mapped: ThreadSanitizer's address space has no room for terabytes.
constexpr u64 mappable(u64 length) noexcept {
#ifdef __SANITIZE_THREAD__
  return length > GiB && length <= 16 * TiB ? GiB : length;
#else
  return length;
#endif
}

/// What must be the same before and after.
struct figures {
  u64 total, used, live, idle, regions, zones, members;
  bool operator==(const figures&) const = default;
};
figures figures_of(heap& h) {
  h.trim();
  const heap_stats s = h.stats();
  return {s.total_bytes,  s.used_bytes, s.live_blocks, s.free_bytes + s.cached_bytes,
          s.region_count, s.zone_count, s.member_count};
}
std::ostream& operator<<(std::ostream& out, const figures& f) {
  return out << f.total << " bytes, " << f.used << " used in " << f.live << ", " << f.idle
             << " idle; " << f.regions << " regions, " << f.zones << " zones, " << f.members
             << " members";
}

class at_its_extremes : public in_own_directory {
 protected:
  at_its_extremes() {
    const region_id first = must(h.bring_memory({.length_bytes = 1 << 20}));
    must(h.remove_memory(first));  // no region has number 1
    must(h.bring_memory({.length_bytes = 16 << 20}));
    must(h.add_memory({.base = with_iovas.data(),
                       .length_bytes = with_iovas.size(),
                       .page_bytes = 2 << 20,
                       .page_iovas = iovas}));
    small = h.allocate(100);
    large = static_cast<char*>(h.allocate(300000));
    std::memset(large, 7, 300000);
  }
  ~at_its_extremes() override {
    heap::free(small);
    heap::free(large);
  }

  template <class Call>
  void row(const char* what, Call call) {
    const figures before = figures_of(h);
    for (const u64 value : extremes) {
      call(value);
      const figures after = figures_of(h);
      EXPECT_EQ(after, before) << what << " = " << value;
      const auto report = h.audit();
      ASSERT_TRUE(report && report->holds())
          << what << " = " << value << ": "
          << (report ? report->broken.front() : std::string(report.error().message()));
    }
    child_process another([] {
      const auto mine = attach_as_another("extremes");
      return mine && mine->audit() && mine->audit()->holds() ? 0 : 1;
    });
    ASSERT_EQ(another.wait_for_exit_code(), 0) << what << ": nobody can attach any more";
    (void)h.recover();
  }
  /// What a function gave is freed; a refusal has words.
  void give_back(void* block) {
    if (block != nullptr) return heap::free(block);
    EXPECT_GT(heap::last_failure().message().size(), 20u);
  }
  template <class T>
  bool is_done(const result<T>& r) {
    EXPECT_TRUE(r || r.error().message().size() > 10u);
    return r.has_value();
  }
  void remove(const result<region_id>& added) {
    if (is_done(added)) must(h.remove_memory(*added));
  }

  heap h = must(heap::create("extremes", {.on_misuse = misuse_policy::refuse,
                                          .metadata_limit_bytes = std::size_t{1} << 30,
                                          .member_limit = 64,
                                          .thread_limit = 64,
                                          .region_limit = 64}));
  mapped_memory with_iovas{4 << 20}, spare{1 << 20};
  const iova iovas[2] = {iova{0x100000040}, iova{0x100200040}};  // multiples of 64 only
  void* small = nullptr;
  char* large = nullptr;
};

TEST_F(at_its_extremes, making_heaps) {
  auto with = [&](auto change) {
    heap_options o{.metadata_limit_bytes = 64 << 20,
                   .member_limit = 8,
                   .thread_limit = 8,
                   .region_limit = 8,
                   .zone_limit = 8};
    change(o);
    {
      const auto made = heap::create("other", o);
      if (!is_done(made)) return;
    }
    must(heap::destroy("other"));
  };
  row("metadata_limit_bytes",
      [&](u64 v) { with([&](heap_options& o) { o.metadata_limit_bytes = v; }); });
  row("member_limit",
      [&](u64 v) { with([&](heap_options& o) { o.member_limit = static_cast<u32>(v); }); });
  row("thread_limit",
      [&](u64 v) { with([&](heap_options& o) { o.thread_limit = static_cast<u32>(v); }); });
  row("region_limit",
      [&](u64 v) { with([&](heap_options& o) { o.region_limit = static_cast<u32>(v); }); });
  row("zone_limit",
      [&](u64 v) { with([&](heap_options& o) { o.zone_limit = static_cast<u32>(v); }); });
  row("file_mode",
      [&](u64 v) { with([&](heap_options& o) { o.file_mode = static_cast<unsigned>(v); }); });
}

TEST_F(at_its_extremes, adding_memory) {
  const int fd = ::memfd_create("extremes", MFD_CLOEXEC);
  ASSERT_EQ(::ftruncate(fd, 1 << 20), 0);
  auto with = [&](auto change) {
    memory_range m = spare.range();
    change(m);
    remove(h.add_memory(m));
  };
  row("base", [&](u64 v) {
    with([&](memory_range& m) {
      m.base = reinterpret_cast<void*>(v), m.length_bytes = 4096, m.access = touch::none;
    });
  });
  row("base, to be touched", [&](u64 v) {
    with([&](memory_range& m) { m.base = reinterpret_cast<void*>(align_down(v, 4096)); });
  });
  row("length_bytes", [&](u64 v) { with([&](memory_range& m) { m.length_bytes = v; }); });
  row("length_bytes, not touched", [&](u64 v) {
    with([&](memory_range& m) {
      m.length_bytes = mappable(align_down(v, 4096)), m.access = touch::none;
    });
  });
  row("page_bytes", [&](u64 v) { with([&](memory_range& m) { m.page_bytes = v; }); });
  row("fd", [&](u64 v) {
    with([&](memory_range& m) { m.fd = static_cast<int>(v >> 1 | v >> 63 << 31); });
  });
  row("fd_offset", [&](u64 v) { with([&](memory_range& m) { m.fd = fd, m.fd_offset = v; }); });
  row("fd_offset, whole pages",
      [&](u64 v) { with([&](memory_range& m) { m.fd = fd, m.fd_offset = align_down(v, 4096); }); });
  row("numa_node", [&](u64 v) {
    with([&](memory_range& m) { m.numa_node = static_cast<int>(v), m.access = touch::none; });
  });
  row("page_iovas.size()", [&](u64 v) {
    with([&](memory_range& m) { m.page_iovas = {iovas, v}; });
  });
  row("an IOVA", [&](u64 v) {
    const iova only{v};
    with([&](memory_range& m) { m.length_bytes = 4096, m.page_iovas = {&only, 1}; });
  });
  row("threads", [&](u64 v) {
    with([&](memory_range& m) { m.pin = true, m.threads = static_cast<unsigned>(v); });
  });
  ::close(fd);
}

TEST_F(at_its_extremes, bringing_memory) {
  using kind = memory_source::kind;
  const std::string file = path() + "/file";
  const int fd = ::memfd_create("extremes", MFD_CLOEXEC);
  ASSERT_EQ(::ftruncate(fd, 1 << 20), 0);
  auto with = [&](auto change) {
    memory_source m{.length_bytes = 1 << 20, .overcommit = true};
    change(m);
    remove(h.bring_memory(m));
  };
  row("length_bytes",
      [&](u64 v) { with([&](memory_source& m) { m.length_bytes = mappable(v); }); });
  for (const kind from :
       {kind::anonymous, kind::shared, kind::descriptor, kind::hugetlb, kind::device})
    row("length_bytes, whole pages", [&](u64 v) {
      with([&](memory_source& m) {
        m.from = from, m.fd = fd, m.path = from == kind::device ? "/dev/null" : "",
        m.length_bytes = mappable(align_down(v, 4096));
      });
    });
  row("length_bytes, of what is there", [&](u64 v) {
    with([&](memory_source& m) {
      m.overcommit = false, m.length_bytes = v > (u64{1} << 32) ? align_down(v, 4096) : quick(v);
    });
  });
  row("length_bytes, touched now", [&](u64 v) {
    with([&](memory_source& m) {
      m.overcommit = false, m.prefault = true,
      m.length_bytes = v > (u64{1} << 32) ? align_down(v, 4096) : quick(v);
    });
  });
  row("page_bytes", [&](u64 v) { with([&](memory_source& m) { m.page_bytes = v; }); });
  row("page_bytes of hugepages", [&](u64 v) {
    with([&](memory_source& m) { m.from = kind::hugetlb, m.length_bytes = v, m.page_bytes = v; });
  });
  for (const kind from : {kind::file, kind::descriptor, kind::shared, kind::anonymous}) {
    row("offset_bytes", [&](u64 v) {
      with([&](memory_source& m) {
        m.from = from, m.fd = fd, m.path = from == kind::file ? file : "", m.offset_bytes = v;
      });
    });
    row("offset_bytes, whole pages", [&](u64 v) {
      with([&](memory_source& m) {
        m.from = from, m.fd = fd, m.path = from == kind::file ? file : "",
        m.offset_bytes = align_down(v, 4096);
      });
    });
  }
  row("fd", [&](u64 v) {
    with([&](memory_source& m) {
      m.from = kind::descriptor, m.fd = static_cast<int>(v >> 1 | v >> 63 << 31);
    });
  });
  row("numa_node",
      [&](u64 v) { with([&](memory_source& m) { m.numa_node = static_cast<int>(v); }); });
  row("threads", [&](u64 v) {
    with([&](memory_source& m) {
      m.overcommit = false, m.prefault = true, m.threads = static_cast<unsigned>(v);
    });
  });
  row("page_iovas.size()", [&](u64 v) {
    with([&](memory_source& m) { m.page_iovas = {iovas, v}; });
  });
  row("an IOVA", [&](u64 v) {
    const iova only{v};
    with([&](memory_source& m) { m.length_bytes = 4096, m.page_iovas = {&only, 1}; });
  });
  ::close(fd);
}

TEST_F(at_its_extremes, regions_by_number) {
  auto id = [](u64 v) { return region_id{static_cast<u32>(v)}; };
  row("remove_memory", [&](u64 v) { EXPECT_FALSE(is_done(h.remove_memory(id(v)))); });
  row("drain_memory",
      [&](u64 v) { EXPECT_FALSE(is_done(h.drain_memory(id(v), std::chrono::seconds(1)))); });
  row("cancel_drain", [&](u64 v) { EXPECT_FALSE(is_done(h.cancel_drain(id(v)))); });
  row("attach_memory", [&](u64 v) { EXPECT_FALSE(is_done(h.attach_memory(id(v)))); });
  row("attach_memory at",
      [&](u64 v) { EXPECT_FALSE(is_done(h.attach_memory(id(v), spare.data()))); });
  row("detach_memory", [&](u64 v) { EXPECT_FALSE(is_done(h.detach_memory(id(v)))); });
  row("hold", [&](u64 v) { EXPECT_FALSE(is_done(h.hold(id(v)))); });
  row("prefault", [&](u64 v) { EXPECT_FALSE(is_done(h.prefault(id(v)))); });
  row("prefault, threads",
      [&](u64 v) { (void)is_done(h.prefault(region_id{2}, static_cast<unsigned>(v))); });
  row("drain_memory, deadline", [&](u64 v) {
    const region_id spare_region = must(h.bring_memory({.length_bytes = 1 << 20}));
    must(h.drain_memory(spare_region, std::chrono::nanoseconds(static_cast<i64>(v))));
  });
  const region_id plain = must(h.add_memory(spare.range()));
  must(h.detach_memory(plain));
  row("attach_memory, base", [&](u64 v) {
    // A sanitizer has memory there.
    if (is_done(h.attach_memory(plain, reinterpret_cast<void*>(align_down(v, 4096)))))
      must(h.detach_memory(plain));
  });
  must(h.attach_memory(plain, spare.data()));
  must(h.remove_memory(plain));
}

TEST_F(at_its_extremes, allocating) {
  row("allocate", [&](u64 v) { give_back(h.allocate(v)); });
  row("allocate_bulk", [&](u64 v) {
    void* blocks[3] = {};
    heap::free_bulk({blocks, h.allocate_bulk(v, blocks)});
  });
  auto with = [&](auto change) {
    for (const bool contiguous : {false, true})
      for (const bool zeroed : {false, true}) {
        placement p{.size_bytes = 1000, .iova_contiguous = contiguous, .zeroed = zeroed};
        change(p);
        give_back(h.allocate(p));
      }
  };
  row("size_bytes", [&](u64 v) { with([&](placement& p) { p.size_bytes = v; }); });
  row("align_bytes", [&](u64 v) { with([&](placement& p) { p.align_bytes = v; }); });
  row("boundary_bytes", [&](u64 v) { with([&](placement& p) { p.boundary_bytes = v; }); });
  row("numa_node", [&](u64 v) { with([&](placement& p) { p.numa_node = static_cast<int>(v); }); });
  row("size and alignment",
      [&](u64 v) { with([&](placement& p) { p.size_bytes = v, p.align_bytes = u64{1} << 40; }); });
  row("size and boundary", [&](u64 v) {
    with([&](placement& p) { p.size_bytes = v, p.boundary_bytes = u64{1} << 63; });
  });
  row("offset_home", [&](u64 v) {
    const auto try_to = [](auto allocate) {
      try {
        heap::free(allocate());
      } catch (const std::bad_alloc&) {}
    };
    try_to([&] { return offset_home(h).allocate(v, 16); });
    try_to([&] { return offset_home(h).allocate(16, v); });
    try_to([&] { return offset_home(h, region_id{static_cast<u32>(v)}).allocate(16, 16); });
  });
  heap_resource resource(h);
  row("memory_resource", [&](u64 v) {
    std::pmr::memory_resource& r = resource;
    try {
      r.deallocate(r.allocate(v, 16), v, 16);
    } catch (const std::bad_alloc&) {}
  });
}

TEST_F(at_its_extremes, reallocating) {
  auto try_on = [&](auto call) {
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{100}, std::size_t{300000}}) {
      char* const block = bytes != 0 ? static_cast<char*>(h.allocate(bytes)) : nullptr;
      if (block != nullptr) std::memset(block, 7, bytes);
      const auto [moved, asked] = call(block);
      if (moved != nullptr) {
        EXPECT_GE(heap::usable_size(moved), asked);
        EXPECT_TRUE(block == nullptr || *static_cast<char*>(moved) == 7);
        heap::free(moved);
      } else if (block != nullptr && asked != 0) {
        EXPECT_EQ(block[bytes - 1], 7);
        EXPECT_GE(heap::usable_size(block), bytes);
        heap::free(block);
      }
    }
  };
  using outcome = std::pair<void*, u64>;
  row("reallocate", [&](u64 v) {
    try_on([&](void* block) { return outcome{h.reallocate(block, v), v}; });
  });
  auto with = [&](auto change) {
    for (const bool contiguous : {false, true})
      try_on([&](void* block) {
        placement p{.size_bytes = 1000, .iova_contiguous = contiguous};
        change(p);
        return outcome{h.reallocate(block, p), p.size_bytes};
      });
  };
  row("size_bytes", [&](u64 v) { with([&](placement& p) { p.size_bytes = v; }); });
  row("align_bytes", [&](u64 v) { with([&](placement& p) { p.align_bytes = v; }); });
  row("boundary_bytes", [&](u64 v) { with([&](placement& p) { p.boundary_bytes = v; }); });
  row("numa_node", [&](u64 v) { with([&](placement& p) { p.numa_node = static_cast<int>(v); }); });
  EXPECT_EQ(large[299999], 7);
}

TEST_F(at_its_extremes, addresses_and_handles) {
  row("resolve", [&](u64 v) { (void)is_done(h.resolve(handle{v})); });
  row("address_of", [&](u64 v) { EXPECT_EQ(h.address_of(iova{v}), nullptr); });
  row("handle_of", [&](u64 v) { EXPECT_EQ(h.handle_of(reinterpret_cast<void*>(v)), null_handle); });
  row("locate", [&](u64 v) { EXPECT_FALSE(heap::locate(reinterpret_cast<void*>(v))); });
  row("usable_size", [&](u64 v) { EXPECT_EQ(heap::usable_size(reinterpret_cast<void*>(v)), 0u); });
  row("reap", [&](u64 v) { (void)is_done(h.reap(member_id{static_cast<u32>(v)})); });
}

TEST_F(at_its_extremes, zones_pools_and_rings) {
  auto zone_with = [&](auto change) {
    for (const bool contiguous : {false, true}) {
      placement p{.size_bytes = 1000, .iova_contiguous = contiguous};
      change(p);
      if (is_done(h.reserve_zone("zone", p))) must(h.release_zone("zone"));
    }
  };
  row("zone, size_bytes", [&](u64 v) { zone_with([&](placement& p) { p.size_bytes = v; }); });
  row("zone, align_bytes", [&](u64 v) { zone_with([&](placement& p) { p.align_bytes = v; }); });
  row("zone, boundary_bytes",
      [&](u64 v) { zone_with([&](placement& p) { p.boundary_bytes = v; }); });
  row("zone, the largest within",
      [&](u64 v) { zone_with([&](placement& p) { p.size_bytes = 0, p.boundary_bytes = v; }); });
  row("zone, the largest aligned to",
      [&](u64 v) { zone_with([&](placement& p) { p.size_bytes = 0, p.align_bytes = v; }); });
  row("zone, numa_node",
      [&](u64 v) { zone_with([&](placement& p) { p.numa_node = static_cast<int>(v); }); });
  row("zone, length of the name", [&](u64 v) {
    const std::string name(std::min<u64>(v, 70000), 'z');
    if (is_done(h.reserve_zone(name, {.size_bytes = 10}))) must(h.release_zone(name));
    (void)is_done(h.find_zone(name));
  });
  auto pool_with = [&](auto change) {
    for (const bool contiguous : {false, true}) {
      pool_options o{.object_bytes = 64, .object_count = 10, .iova_contiguous = contiguous};
      change(o);
      {
        auto made = raw_pool::create(h, "pool", o);
        if (!is_done(made)) continue;
        void* const object = made->take();
        EXPECT_NE(object, nullptr);
        made->give(object);
      }
      must(raw_pool::release(h, "pool"));
    }
  };
  row("pool, object_bytes",
      [&](u64 v) { pool_with([&](pool_options& o) { o.object_bytes = v; }); });
  row("pool, one object of",
      [&](u64 v) { pool_with([&](pool_options& o) { o.object_bytes = v, o.object_count = 1; }); });
  row("pool, object_count",
      [&](u64 v) { pool_with([&](pool_options& o) { o.object_count = static_cast<u32>(v); }); });
  row("pool, many objects of", [&](u64 v) {
    pool_with([&](pool_options& o) { o.object_bytes = v, o.object_count = 1u << 30; });
  });
  row("pool, align_bytes", [&](u64 v) { pool_with([&](pool_options& o) { o.align_bytes = v; }); });
  row("pool, size and alignment", [&](u64 v) {
    pool_with([&](pool_options& o) { o.object_bytes = v, o.align_bytes = u64{1} << 63; });
  });
  row("pool, cache_objects",
      [&](u64 v) { pool_with([&](pool_options& o) { o.cache_objects = static_cast<u32>(v); }); });
  row("pool, numa_node",
      [&](u64 v) { pool_with([&](pool_options& o) { o.numa_node = static_cast<int>(v); }); });
  row("ring, capacity", [&](u64 v) {
    if (is_done(ring::create(h, "ring", v))) must(ring::release(h, "ring"));
  });
}

TEST_F(at_its_extremes, the_c_face) {
  annex_heap* c = nullptr;
  ASSERT_EQ(annex_heap_attach("extremes", nullptr, &c), 0);
  auto back = [](void* block) { annex_free(block); };
  row("annex_allocate", [&](u64 v) { back(annex_allocate(c, v)); });
  row("annex_allocate_bulk", [&](u64 v) {
    void* blocks[2] = {};
    annex_free_bulk(blocks, annex_allocate_bulk(c, v, blocks, 2));
    EXPECT_EQ(annex_allocate_bulk(c, 64, nullptr, v), 0u);
    annex_free_bulk(nullptr, v);
  });
  row("annex_reallocate", [&](u64 v) {
    void* const block = annex_allocate(c, 300000);
    const std::size_t before = annex_usable_size(block);
    if (void* moved = annex_reallocate(c, block, v); moved != nullptr) return annex_free(moved);
    if (v == 0) return;
    EXPECT_EQ(annex_usable_size(block), before);
    annex_free(block);
  });
  auto placed = [&](auto change) {
    annex_placement p{};
    p.struct_bytes = sizeof p;
    p.size_bytes = 1000;
    change(p);
    back(annex_allocate_placed(c, &p));
    void* const block = annex_allocate(c, 100);
    void* const moved = annex_reallocate_placed(c, block, &p);
    if (moved != nullptr || p.size_bytes != 0) annex_free(moved != nullptr ? moved : block);
    annex_zone z{};
    z.struct_bytes = sizeof z;
    EXPECT_TRUE(annex_zone_reserve(c, "zone", &p, &z) != 0 || annex_zone_release(c, "zone") == 0);
  };
  row("annex_placement.size_bytes",
      [&](u64 v) { placed([&](annex_placement& p) { p.size_bytes = v; }); });
  row("annex_placement.align_bytes",
      [&](u64 v) { placed([&](annex_placement& p) { p.align_bytes = v; }); });
  row("annex_placement.boundary_bytes",
      [&](u64 v) { placed([&](annex_placement& p) { p.boundary_bytes = v; }); });
  row("annex_placement.numa_node_plus_1", [&](u64 v) {
    placed([&](annex_placement& p) { p.numa_node_plus_1 = static_cast<int>(v); });
  });
  row("annex_placement.flags",
      [&](u64 v) { placed([&](annex_placement& p) { p.flags = static_cast<u32>(v); }); });
  auto added = [&](auto change) {
    annex_memory_range m{};
    m.struct_bytes = sizeof m;
    m.base = spare.data();
    m.length_bytes = spare.size();
    change(m);
    u32 region = 0;
    EXPECT_TRUE(annex_heap_add_memory(c, &m, &region) != 0 ||
                annex_heap_remove_memory(c, region) == 0);
  };
  u64 bus[256] = {};
  row("annex_memory_range.length_bytes",
      [&](u64 v) { added([&](annex_memory_range& m) { m.length_bytes = v; }); });
  row("annex_memory_range.page_bytes",
      [&](u64 v) { added([&](annex_memory_range& m) { m.page_bytes = v; }); });
  row("annex_memory_range.page_iova_count", [&](u64 v) {
    added([&](annex_memory_range& m) { m.page_iovas = bus, m.page_iova_count = v; });
  });
  row("annex_memory_range.fd_plus_1", [&](u64 v) {
    added([&](annex_memory_range& m) { m.fd_plus_1 = static_cast<int>(v | 1u << 30); });
  });
  row("annex_memory_range.numa_node_plus_1", [&](u64 v) {
    added([&](annex_memory_range& m) {
      m.numa_node_plus_1 = static_cast<int>(v), m.flags = ANNEX_NO_CPU_ACCESS;
    });
  });
  row("annex_heap_drain_memory, deadline",
      [&](u64 v) { EXPECT_NE(annex_heap_drain_memory(c, 1, v), 0); });
  row("annex_heap_attach_memory",
      [&](u64 v) { EXPECT_NE(annex_heap_attach_memory(c, static_cast<u32>(v), nullptr), 0); });
  row("annex_resolve", [&](u64 v) {
    void* address = nullptr;
    (void)annex_resolve(c, v, &address);
  });
  row("annex_strerror",
      [&](u64 v) { EXPECT_GT(std::strlen(annex_strerror(static_cast<int>(v))), 0u); });
  struct annex_stats_with_room {
    annex_stats stats;
    u64 behind;
  } mine{};
  row("struct_bytes", [&](u64 v) {
    mine = {};
    mine.stats.struct_bytes = v;
    mine.behind = 42;
    EXPECT_EQ(annex_heap_stats(c, &mine.stats),
              v < sizeof(std::size_t) ? ANNEX_E_invalid_argument : 0);
    EXPECT_EQ(mine.behind, 42u);
    annex_zone z{};
    z.struct_bytes = v;
    annex_placement p{};
    p.struct_bytes = sizeof p;
    p.size_bytes = 100;
    EXPECT_TRUE(annex_zone_reserve(c, "zone", &p, &z) != 0 || annex_zone_release(c, "zone") == 0);
  });
  annex_heap_close(c);
}

}  // namespace
}  // namespace annex
