// tests/dpdk/refusals.cpp - every call that the drop-in stands in front of, with what must be
// refused: extreme sizes, counts and alignments, wrong names, memory that is none, full tables. The
// answer and rte_errno are those of stock DPDK, or what the row says; and nothing has changed
// afterwards. Prints what differs; exit 0: nothing does.
//
//   refusals [--stock] EAL options      --stock: the same table against DPDK alone, less what it
//                                       does not survive
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include <rte_memory.h>
#include <rte_memzone.h>

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace {

constexpr std::size_t area_bytes = 4 << 20, page = 4096;
constexpr int untouched = 77777;  // rte_errno as it was before the call
constexpr int any_errno = 77778;  // whatever stock leaves there
constexpr long none = 0, some = 1;

bool is_stock = false;
int rows = 0, failures = 0;
char* area = nullptr;
int outside = -1;

std::string name_of(int why) {
  if (why == untouched) return "untouched";
  if (why == any_errno) return "any";
  return std::string(rte_strerror(why)) + " (" + std::to_string(why) + ")";
}

struct answer {
  long value;
  int why;
};

// What stock DPDK does with the row, where it is not what the drop-in does.
struct on_stock {
  bool is_asked = true;  // false: it does not survive, or its answer is a defect (docs/dpdk.md)
  bool is_same = true;
  answer expected{};
};
constexpr on_stock the_same{};
constexpr on_stock not_asked{.is_asked = false};
constexpr on_stock says(answer a) {
  return {.is_same = false, .expected = a};
}

void row(const std::string& what, answer expected, const std::function<long()>& call,
         on_stock stock = the_same) {
  if (is_stock && !stock.is_asked) return;
  if (is_stock && !stock.is_same) expected = stock.expected;
  ++rows;
  rte_errno = untouched;
  const long value = call();
  const int why = rte_errno;
  if (value == expected.value && (why == expected.why || expected.why == any_errno)) return;
  ++failures;
  std::printf("%-60s %ld, %s; expected %ld, %s\n", what.c_str(), value, name_of(why).c_str(),
              expected.value, name_of(expected.why).c_str());
}

// A call that gives a pointer; what it gives is given back.
void block_row(const std::string& what, const std::function<void*()>& call,
               on_stock stock = says({none, any_errno})) {
  row(
      what, {none, untouched},
      [&] {
        void* const block = call();
        rte_free(block);
        return block != nullptr ? some : none;
      },
      stock);
}

struct zone_request {
  const char* name = "refused";
  std::size_t length = 64;
  unsigned flags = 0, alignment = 0, boundary = 0;
};

void zone_row(const std::string& what, answer expected, int socket, const zone_request& q,
              on_stock stock = the_same) {
  row(
      "zone: " + what, expected,
      [&] {
        const rte_memzone* const zone =
            rte_memzone_reserve_bounded(q.name, q.length, socket, q.flags, q.alignment, q.boundary);
        if (zone == nullptr) return none;
        rte_memzone_free(zone);
        return some;
      },
      stock);
}

// Everything a refused call could have changed.
struct state {
  rte_malloc_socket_stats figures{};
  unsigned zones = 0, lists = 0;
  bool operator==(const state& other) const {
    return std::memcmp(&figures, &other.figures, sizeof figures) == 0 && zones == other.zones &&
           lists == other.lists;
  }
};
state now() {
  state s;
  rte_malloc_get_socket_stats(outside, &s.figures);
  rte_memzone_walk([](const rte_memzone*, void* count) { ++*static_cast<unsigned*>(count); },
                   &s.zones);
  rte_memseg_list_walk(
      [](const rte_memseg_list* list, void* count) {
        *static_cast<unsigned*>(count) += list->external;
        return 0;
      },
      &s.lists);
  return s;
}
void unchanged_since(const state& before, const char* what) {
  row(std::string("nothing has changed after ") + what, {1, any_errno},
      [&] { return now() == before ? 1 : 0; });
}

const std::size_t hopeless_sizes[] = {0,
                                      SIZE_MAX,
                                      SIZE_MAX - 1,
                                      SIZE_MAX - 62,
                                      SIZE_MAX - 63,
                                      SIZE_MAX - 64,
                                      SIZE_MAX - 127,
                                      SIZE_MAX - 128,
                                      SIZE_MAX - 191,
                                      SIZE_MAX - 192,
                                      SIZE_MAX - 255,
                                      SIZE_MAX - 4095,
                                      std::size_t{1} << 63,
                                      (std::size_t{1} << 63) - 1,
                                      (std::size_t{1} << 63) + 1,
                                      (std::size_t{1} << 63) - 64,
                                      std::size_t{1} << 62,
                                      std::size_t{1} << 48,
                                      std::size_t{1} << 45,
                                      (std::size_t{1} << 44) + 1,
                                      std::size_t{1} << 44,
                                      (std::size_t{1} << 44) - 1};
const unsigned wrong_alignments[] = {
    3, 5, 63, 65, 100, INT_MAX, (1u << 31) + 1, 0x8000'0040u, UINT_MAX - 1, UINT_MAX};

void blocks(int socket) {
  const state before = now();
  const std::string where = " on socket " + std::to_string(socket);
  auto* const live = static_cast<unsigned char*>(rte_malloc_socket(nullptr, 200, 0, outside));
  std::memset(live, 7, 200);
  std::size_t room = 0;
  rte_malloc_validate(live, &room);
  for (const std::size_t size : hopeless_sizes) {
    const std::string of = " of " + std::to_string(size) + where;
    block_row("malloc" + of, [=] { return rte_malloc_socket(nullptr, size, 0, socket); });
    block_row("malloc, aligned" + of,
              [=] { return rte_malloc_socket(nullptr, size, 1u << 31, socket); });
    block_row("zmalloc" + of, [=] { return rte_zmalloc_socket(nullptr, size, 64, socket); });
    block_row("calloc" + of, [=] { return rte_calloc_socket(nullptr, 1, size, 0, socket); });
    block_row("calloc, the other way" + of,
              [=] { return rte_calloc_socket(nullptr, size, 1, 0, socket); });
    block_row("realloc of nothing" + of,
              [=] { return rte_realloc_socket(nullptr, size, 0, socket); });
    // There it shrinks to nothing.
    const on_stock of_realloc = size > SIZE_MAX - page ? not_asked : says({none, any_errno});
    if (size != 0)
      block_row(
          "realloc" + of, [=] { return rte_realloc_socket(live, size, 64, socket); }, of_realloc);
    if (socket == SOCKET_ID_ANY) {
      block_row("malloc of any" + of, [=] { return rte_malloc(nullptr, size, 0); });
      block_row("zmalloc of any" + of, [=] { return rte_zmalloc(nullptr, size, 0); });
      block_row("calloc of any" + of, [=] { return rte_calloc(nullptr, size, 1, 0); });
      if (size != 0)
        block_row(
            "realloc of any" + of, [=] { return rte_realloc(live, size, 0); }, of_realloc);
    }
  }
  for (const unsigned alignment : wrong_alignments)
    for (const std::size_t size :
         {std::size_t{1}, std::size_t{64}, std::size_t{100'000}, std::size_t{1} << 21}) {
      const std::string of =
          ", " + std::to_string(size) + " aligned to " + std::to_string(alignment) + where;
      block_row("malloc" + of, [=] { return rte_malloc_socket(nullptr, size, alignment, socket); });
      block_row("zmalloc" + of,
                [=] { return rte_zmalloc_socket(nullptr, size, alignment, socket); });
      block_row("realloc of nothing" + of,
                [=] { return rte_realloc_socket(nullptr, size, alignment, socket); });
      // Moves it anyhow.
      block_row(
          "realloc" + of, [=] { return rte_realloc_socket(live, size, alignment, socket); },
          not_asked);
    }
  const std::size_t half = std::size_t{1} << 32;
  const std::size_t products[][2] = {{half, half},
                                     {SIZE_MAX, 2},
                                     {2, SIZE_MAX},
                                     {SIZE_MAX, SIZE_MAX},
                                     {(std::size_t{1} << 63) + 1, 2},
                                     {(std::size_t{1} << 61) + 8, 8},
                                     {SIZE_MAX / 3 + 1, 3}};
  for (const auto& [count, size] : products)
    // B11.
    block_row(
        "calloc of " + std::to_string(count) + " times " + std::to_string(size) + where,
        [=] { return rte_calloc_socket(nullptr, count, size, 0, socket); }, not_asked);
  std::size_t room_now = 0;
  bool is_whole = rte_malloc_validate(live, &room_now) == 0 && room_now == room;
  for (int i = 0; i < 200; ++i)
    is_whole &= live[i] == 7;
  row("the live block is as it was" + where, {1, any_errno}, [=] { return is_whole; });
  rte_free(live);
  unchanged_since(before, "hopeless blocks");
}

void no_such_socket() {
  const state before = now();
  rte_malloc_heap_create("empty");
  const int empty = rte_malloc_heap_get_socket("empty");
  std::vector<int> sockets = {empty};
  // Without, it is any socket's.
  if (rte_eal_has_hugepages()) sockets.insert(sockets.end(), {9999, 255, 100, 32, INT_MAX});
  for (const int socket : sockets) {
    const std::string where = " on socket " + std::to_string(socket);
    for (const std::size_t size : {64, 100'000}) {
      block_row("malloc of " + std::to_string(size) + where,
                [=] { return rte_malloc_socket(nullptr, size, 0, socket); });
      block_row("zmalloc of " + std::to_string(size) + where,
                [=] { return rte_zmalloc_socket(nullptr, size, 0, socket); });
    }
    zone_row("64 bytes" + where, {none, ENOMEM}, socket, {});
    zone_row("the largest" + where, {none, ENOMEM}, socket, {.length = 0}, not_asked);  // B6
    if (socket != empty)
      row("statistics" + where, {-1, untouched}, [=] {
        rte_malloc_socket_stats s;
        return rte_malloc_get_socket_stats(socket, &s);
      });
  }
  for (const int socket : {-2, INT_MIN}) {
    zone_row("64 bytes on socket " + std::to_string(socket), {none, EINVAL}, socket, {});
    row("statistics of socket " + std::to_string(socket), {-1, untouched}, [=] {
      rte_malloc_socket_stats s;
      return rte_malloc_get_socket_stats(socket, &s);
    });
  }
  rte_malloc_heap_destroy("empty");
  unchanged_since(before, "sockets that are none");
}

void zones(int socket) {
  const char* const longest = "0123456789012345678901234567890";
  const char* const too_long = "01234567890123456789012345678901";
  const rte_memzone* const taken = rte_memzone_reserve("taken", 64, socket, 0);
  const rte_memzone* const long_taken = rte_memzone_reserve(longest, 64, socket, 0);
  const state before = now();
  const std::string where = " on socket " + std::to_string(socket);
  zone_row("a taken name" + where, {none, EEXIST}, socket, {.name = "taken"});
  zone_row("a taken name, the largest" + where, {none, EEXIST}, socket,
           {.name = "taken", .length = 0});
  zone_row("a taken name beats an alignment" + where, {none, EEXIST}, socket,
           {.name = "taken", .alignment = 3});
  zone_row("a taken name beats a length" + where, {none, EEXIST}, socket,
           {.name = "taken", .length = SIZE_MAX});
  zone_row("a taken name beats flags" + where, {none, EEXIST}, socket,
           {.name = "taken", .flags = 8});
  zone_row("a taken name of 31 characters" + where, {none, EEXIST}, socket, {.name = longest});
  zone_row("32 characters" + where, {none, ENAMETOOLONG}, socket, {.name = too_long});
  zone_row("32 characters beat an alignment" + where, {none, ENAMETOOLONG}, socket,
           {.name = too_long, .alignment = 3});
  for (const unsigned alignment : wrong_alignments)
    zone_row("aligned to " + std::to_string(alignment) + where, {none, EINVAL}, socket,
             {.alignment = alignment});
  for (const std::size_t length : hopeless_sizes)
    if (length != 0)
      for (const unsigned alignment : {0u, 64u, 1u << 31}) {
        const bool wraps = length > SIZE_MAX - 63;
        zone_row(std::to_string(length) + " bytes, aligned to " + std::to_string(alignment) + where,
                 {none, wraps ? EINVAL : ENOMEM}, socket,
                 {.length = length, .alignment = alignment});
        zone_row(std::to_string(length) + " bytes, bounded, aligned to " +
                     std::to_string(alignment) + where,
                 {none, EINVAL}, socket,
                 {.length = length, .alignment = alignment, .boundary = 1u << 31});
      }
  for (const unsigned boundary : {1u, 3u, 32u, 63u, 65u, 100u, (1u << 31) + 1, UINT_MAX}) {
    zone_row("within " + std::to_string(boundary) + where, {none, EINVAL}, socket,
             {.boundary = boundary});
    zone_row("the largest within " + std::to_string(boundary) + where, {none, EINVAL}, socket,
             {.length = 0, .boundary = boundary});
  }
  zone_row("65 bytes within 64" + where, {none, EINVAL}, socket, {.length = 65, .boundary = 64});
  for (const unsigned flags : {0x8u, 0x10u, 0x80000000u, UINT_MAX})
    zone_row("flags " + std::to_string(flags) + where, {none, EINVAL}, socket, {.flags = flags});
  if (socket == outside) {
    // B6.
    zone_row("the largest of memory that is not of 16 GiB pages", {none, ENOMEM}, socket,
             {.length = 0, .flags = RTE_MEMZONE_16GB}, not_asked);
    // B6.
    zone_row("IOVA-contiguous over pages without IOVAs", {none, ENOMEM}, socket,
             {.length = 2 * page, .flags = RTE_MEMZONE_IOVA_CONTIG}, not_asked);
    zone_row("IOVA-contiguous within a page without an IOVA", {some, untouched}, socket,
             {.length = 100, .flags = RTE_MEMZONE_IOVA_CONTIG}, says({some, any_errno}));
    zone_row("IOVA-contiguous, the page without an IOVA", {some, untouched}, socket,
             {.length = page, .flags = RTE_MEMZONE_IOVA_CONTIG}, says({some, any_errno}));
    zone_row("no name", {none, EINVAL}, socket, {.name = nullptr}, not_asked);  // crashes
    zone_row("64 bytes", {some, untouched}, socket, {}, says({some, any_errno}));
    zone_row("a boundary below the alignment", {some, untouched}, socket,
             {.alignment = 1024, .boundary = 128}, says({some, any_errno}));
  }
  unchanged_since(before, "zones that were refused");
  row("free of a taken zone" + where, {0, untouched}, [=] { return rte_memzone_free(taken); });
  row("free of it again" + where, {-EINVAL, untouched}, [=] { return rte_memzone_free(taken); });
  row("free of a zone of 31 characters" + where, {0, untouched},
      [=] { return rte_memzone_free(long_taken); });
}

void zones_freed_wrongly() {
  const rte_memzone* const zone = rte_memzone_reserve("zone", 64, outside, 0);
  rte_memzone copy = *zone;
  const state before = now();
  row("free of no zone", {-EINVAL, untouched}, [] { return rte_memzone_free(nullptr); });
  row("free of a zone's copy", {-EINVAL, EINVAL}, [&] { return rte_memzone_free(&copy); });
  row(
      "free of what is not mapped", {-EINVAL, EINVAL},
      [=] {
        return rte_memzone_free(reinterpret_cast<const rte_memzone*>(
            reinterpret_cast<std::uintptr_t>(zone) % sizeof(rte_memzone) + 1));
      },
      not_asked);
  row(
      "free of half a zone", {-EINVAL, EINVAL},
      [=] {
        return rte_memzone_free(
            reinterpret_cast<const rte_memzone*>(reinterpret_cast<const char*>(zone) + 8));
      },
      not_asked);
  row("look-up of a name that is none", {none, ENOENT},
      [] { return rte_memzone_lookup("none") != nullptr ? some : none; });
  unchanged_since(before, "zones freed wrongly");
  rte_memzone_free(zone);
}

// Names that look alike to whoever shortens them.
void names_alike() {
  const state before = now();
  const rte_memzone* const first =
      rte_memzone_reserve("012345678901234567890123456789a", 64, outside, 0);
  const rte_memzone* const second =
      rte_memzone_reserve("012345678901234567890123456789b", 64, outside, 0);
  row("two names that differ in character 31", {1, any_errno},
      [=] { return first != nullptr && second != nullptr && first != second; });
  rte_memzone_free(first);
  rte_memzone_free(second);
  const rte_memzone* const unnamed = rte_memzone_reserve("", 1 << 20, outside, 0);
  const rte_memzone* const alike = rte_memzone_reserve("(unnamed memzone)", 64, outside, 0);
  row("the name of a zone without a name", {1, any_errno},
      [=] { return unnamed != nullptr && alike != nullptr; });
  rte_memzone_free(alike);
  auto* const other = static_cast<char*>(rte_malloc_socket(nullptr, 1 << 20, 0, outside));
  const auto* const begin = static_cast<char*>(unnamed->addr);
  row("its memory is not handed out again", {1, any_errno},
      [=] { return other == nullptr || other + (1 << 20) <= begin || begin + (1 << 20) <= other; });
  rte_free(other);
  rte_memzone_free(unnamed);
  unchanged_since(before, "names alike");
}

void full_table() {
  std::vector<const rte_memzone*> all;
  for (;;) {
    const std::string name = "one of many " + std::to_string(all.size());
    const rte_memzone* const zone = rte_memzone_reserve(name.c_str(), 64, outside, 0);
    if (zone == nullptr) break;
    all.push_back(zone);
  }
  for (const int socket : {outside, SOCKET_ID_ANY}) {
    zone_row("in a full table", {none, ENOSPC}, socket, {});
    zone_row("a taken name in a full table", {none, ENOSPC}, socket, {.name = "one of many 0"});
    zone_row("a long name in a full table", {none, ENOSPC}, socket,
             {.name = "01234567890123456789012345678901"});
    zone_row("an alignment in a full table", {none, ENOSPC}, socket, {.alignment = 3});
  }
  for (const rte_memzone* zone : all)
    rte_memzone_free(zone);
}

int add(const char* heap, void* base, std::size_t length, rte_iova_t* iovas = nullptr,
        unsigned count = 0, std::size_t page_bytes = page) {
  return rte_malloc_heap_memory_add(heap, base, length, iovas, count, page_bytes);
}
void* at(std::uint64_t address) {
  return reinterpret_cast<void*>(address);
}

void heaps() {
  const state before = now();
  constexpr std::uint64_t top = std::uint64_t{1} << 63, quarter = std::uint64_t{1} << 62;
  char* const free_memory = area + area_bytes;
  rte_iova_t iovas[4] = {0x1000, 0x2000, 0x3000, 0x4000};
  struct named {
    const char* name;
    int why;
  };
  struct verb {
    const char* name;
    int (*call)(const char*, void*, std::size_t);
  };
  for (const auto& [name, why] :
       {named{nullptr, EINVAL},
        {"", EINVAL},
        {"01234567890123456789012345678901", EINVAL},
        {"a name that is far longer than any heap of DPDK may have", EINVAL},
        {"absent", ENOENT},
        {"socket_0", EPERM},
        {"outside", 0}}) {
    const std::string of = " of \"" + std::string(name != nullptr ? name : "(null)") + "\"";
    const int or_unknown = why != 0 ? why : ENOENT;
    if (why == EINVAL)
      row("create" + of, {-1, EINVAL}, [=] { return rte_malloc_heap_create(name); });
    if (why == EPERM || why == 0)
      row("create" + of, {-1, EEXIST}, [=] { return rte_malloc_heap_create(name); });
    row("destroy" + of, {-1, why != 0 ? why : EBUSY},
        [=] { return rte_malloc_heap_destroy(name); });
    struct addition {
      const char* what;
      void* base;
      std::size_t length;
      rte_iova_t* iovas;
      unsigned count;
      std::size_t page_bytes;
    };
    const addition wrong[] = {
        {"no memory", nullptr, area_bytes, nullptr, 0, page},
        {"half a page", free_memory, page + 1, nullptr, 0, page},
        {"pages of 0", free_memory, area_bytes, nullptr, 0, 0},
        {"pages of 3", free_memory, 3 * page, nullptr, 0, 3},
        {"pages of SIZE_MAX", free_memory, area_bytes, nullptr, 0, SIZE_MAX},
        {"pages of 2^63", free_memory, area_bytes, nullptr, 0, top},
        {"a page of 2^63", free_memory, top, nullptr, 0, top},
        {"not at a page", free_memory + 64, page, nullptr, 0, page},
        {"SIZE_MAX bytes", free_memory, SIZE_MAX, nullptr, 0, page},
        {"no IOVA", free_memory, 4 * page, iovas, 0, page},
        {"an IOVA less", free_memory, 4 * page, iovas, 3, page},
        {"an IOVA more", free_memory, 4 * page, iovas, 5, page},
        {"2^32 - 1 IOVAs", free_memory, 4 * page, iovas, UINT_MAX, page},
        {"a count of IOVAs beyond 32 bits", free_memory, ((std::size_t{1} << 32) + 4) * page, iovas,
         4, page},
        {"the last page of SIZE_MAX", at(SIZE_MAX), 1, nullptr, 0, 2},
    };
    for (const addition& w : wrong)
      row("add " + std::string(w.what) + of, {-1, EINVAL},
          [=] { return add(name, w.base, w.length, w.iovas, w.count, w.page_bytes); });
    const addition impossible[] = {
        // stock writes to it
        {"2^63 bytes", free_memory, top, nullptr, 0, page},
        {"all there is", free_memory, SIZE_MAX - page + 1, nullptr, 0, page},
        {"2^62 bytes that are not mapped", at(quarter), quarter, nullptr, 0, quarter},
        {"2^63 bytes at 2^63", at(top), top, nullptr, 0, top},
        {"2^63 bytes that wrap", at(top + quarter), top, nullptr, 0, quarter},
        {"the last page there is", at(SIZE_MAX - page + 1), page, nullptr, 0, page},
        {"2^63 pages of a byte", free_memory, top, nullptr, 0, 1},
        {"2^32 pages of 64 bytes", free_memory, (std::size_t{1} << 32) * 64, nullptr, 0, 64},
        {"INT_MAX + 1 pages", free_memory, (std::size_t{1} << 31) * page, nullptr, 0, page},
    };
    row("add no length" + of, {-1, why != 0 ? why : EINVAL},
        [=] { return add(name, free_memory, 0); });
    for (const addition& w : impossible)
      row(
          "add " + std::string(w.what) + of,
          {-1, why != 0 && w.page_bytes <= UINT_MAX ? why : EINVAL},
          [=] { return add(name, w.base, w.length, w.iovas, w.count, w.page_bytes); }, not_asked);
    for (const auto& [verb, call] : {verb{"remove", rte_malloc_heap_memory_remove},
                                     {"attach", rte_malloc_heap_memory_attach},
                                     {"detach", rte_malloc_heap_memory_detach}}) {
      row(verb + std::string(" no memory") + of, {-1, EINVAL},
          [=, call = call] { return call(name, nullptr, area_bytes); });
      row(verb + std::string(" no length") + of, {-1, EINVAL},
          [=, call = call] { return call(name, area, 0); });
      for (const std::size_t length : {area_bytes / 2, area_bytes - 1, area_bytes + 1, SIZE_MAX,
                                       SIZE_MAX - page + 1, std::size_t{top}, std::size_t{1}})
        row(verb + (" " + std::to_string(length) + " bytes") + of, {-1, or_unknown},
            [=, call = call] { return call(name, area, length); });
      row(verb + std::string(" another base") + of, {-1, or_unknown},
          [=, call = call] { return call(name, area + page, area_bytes); });
      row(verb + std::string(" of the last page there is") + of, {-1, or_unknown},
          [=, call = call] { return call(name, at(SIZE_MAX - page + 1), page); });
    }
  }
  row("attach again", {-1, EEXIST},
      [=] { return rte_malloc_heap_memory_attach("outside", area, area_bytes); });
  // B2, B16.
  row(
      "add again", {-1, EEXIST}, [=] { return add("outside", area, area_bytes); }, not_asked);
  row(
      "add what overlaps", {-1, EEXIST}, [=] { return add("outside", area + page, area_bytes); },
      not_asked);
  void* const live = rte_malloc_socket(nullptr, 64, 0, outside);
  row("remove with a live block", {-1, EBUSY},
      [=] { return rte_malloc_heap_memory_remove("outside", area, area_bytes); });
  row("destroy with a live block", {-1, EBUSY}, [=] { return rte_malloc_heap_destroy("outside"); });
  rte_free(live);
  row("unregister nothing", {-1, EINVAL},
      [=] { return rte_extmem_unregister(nullptr, area_bytes); });
  row("unregister no length", {-1, EINVAL}, [=] { return rte_extmem_unregister(area, 0); });
  row("unregister what is not registered", {-1, ENOENT},
      [=] { return rte_extmem_unregister(free_memory, area_bytes); });
  for (const std::size_t length : {SIZE_MAX, SIZE_MAX - page + 1, std::size_t{top}})
    row("unregister " + std::to_string(length), {-1, ENOENT},
        [=] { return rte_extmem_unregister(area, length); });
  // B4.
  row(
      "unregister a heap's area", {-1, EBUSY},
      [=] { return rte_extmem_unregister(area, area_bytes); }, not_asked);
  row("validate nothing", {-1, untouched}, [] { return rte_malloc_validate(nullptr, nullptr); });
  row("the bus address of nothing", {static_cast<long>(RTE_BAD_IOVA), untouched},
      [] { return static_cast<long>(rte_malloc_virt2iova(nullptr)); });
  unchanged_since(before, "heaps' refusals");
}

void many_heaps() {
  std::vector<std::string> made;
  for (;;) {
    const std::string name = "one of many " + std::to_string(made.size());
    if (rte_malloc_heap_create(name.c_str()) != 0) break;
    made.push_back(name);
  }
  row("create where there is no room", {-1, ENOSPC},
      [] { return rte_malloc_heap_create("one more"); });
  row("create a taken one where there is no room", {-1, EEXIST},
      [] { return rte_malloc_heap_create("one of many 3"); });
  for (const std::string& name : made)
    rte_malloc_heap_destroy(name.c_str());
}

// ---- memory that is none, or not the CPU's ------------------------------------------------------
char* map(std::size_t bytes, int rights, int fd = -1) {
  void* const p =
      ::mmap(nullptr, bytes, rights,
             (fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | MAP_NORESERVE, fd, 0);
  return p != MAP_FAILED ? static_cast<char*>(p) : nullptr;
}

void memory_of_every_kind() {
  const state before = now();
  rte_malloc_heap_create("kinds");
  constexpr std::size_t bytes = 2 << 20;
  struct part {
    std::size_t begin, length;
    int rights;
  };  // rights -1: unmapped
  struct kind {
    const char* what;
    int whole;
    std::vector<part> parts;
    int why;
  };
  constexpr int rw = PROT_READ | PROT_WRITE, gone = -1;
  const kind kinds[] = {
      {"not mapped", rw, {{0, bytes, gone}}, EINVAL},
      {"not mapped at its begin", rw, {{0, page, gone}}, EINVAL},
      {"not mapped in its middle", rw, {{bytes / 2, page, gone}}, EINVAL},
      {"not mapped at its end", rw, {{bytes - page, page, gone}}, EINVAL},
      {"PROT_NONE, not mapped in its middle", PROT_NONE, {{bytes / 2, page, gone}}, EINVAL},
      {"read-only", PROT_READ, {}, EINVAL},
      {"read-only and executable", PROT_READ | PROT_EXEC, {}, EINVAL},
      {"read-only at its begin", rw, {{0, page, PROT_READ}}, EINVAL},
      {"read-only in its middle", rw, {{bytes / 2, page, PROT_READ}}, EINVAL},
      {"read-only at its end", rw, {{bytes - page, page, PROT_READ}}, EINVAL},
      {"PROT_NONE at its begin", rw, {{0, page, PROT_NONE}}, EINVAL},
      {"PROT_NONE in its middle", rw, {{bytes / 2, page, PROT_NONE}}, EINVAL},
      {"PROT_NONE at its end", rw, {{bytes - page, page, PROT_NONE}}, EINVAL},
      {"writable in its middle only", PROT_NONE, {{bytes / 2, page, rw}}, EINVAL},
      {"readable in its middle only", PROT_NONE, {{bytes / 2, page, PROT_READ}}, EINVAL},
      {"PROT_NONE", PROT_NONE, {}, 0},
      {"PROT_NONE, in two mappings", PROT_NONE, {{bytes / 2, bytes / 2, PROT_NONE}}, 0},
      {"readable and writable", rw, {}, 0},
      {"readable, writable and executable", rw | PROT_EXEC, {}, 0},
      {"in two mappings", rw, {{bytes / 2, bytes / 2, rw | PROT_EXEC}}, 0},
  };
  for (const kind& k : kinds)
    // Annex holds the larger one, DPDK's own heap the smaller.
    for (const std::size_t length : {bytes, bytes / 4}) {
      char* const base = map(length, k.whole);
      const double scale = static_cast<double>(length) / bytes;
      for (const part& p : k.parts) {
        const auto begin = p.begin == bytes - page
                               ? length - page
                               : static_cast<std::size_t>(static_cast<double>(p.begin) * scale);
        const std::size_t n = p.length == page
                                  ? page
                                  : static_cast<std::size_t>(static_cast<double>(p.length) * scale);
        if (p.rights == gone)
          ::munmap(base + begin, n);
        else
          ::mprotect(base + begin, n, p.rights);
      }
      const std::string what = std::string(k.what) + ", " + std::to_string(length) + " bytes";
      // It writes to it.
      const on_stock stock =
          k.why == 0 && (k.whole & PROT_WRITE) != 0 ? says({0, any_errno}) : not_asked;
      row(
          "add memory that is " + what, {k.why == 0 ? 0 : -1, k.why == 0 ? any_errno : k.why},
          [=] { return add("kinds", base, length); }, stock);
      if (is_stock && !stock.is_asked) continue;
      const int socket = rte_malloc_heap_get_socket("kinds");
      for (const std::size_t size : {100, 70'000}) {
        auto* const block = static_cast<char*>(rte_malloc_socket(nullptr, size, 0, socket));
        row("a block of memory that is " + what, {k.why == 0, any_errno},
            [=] { return block >= base && block + size <= base + length; });
        if (block != nullptr && (k.whole & PROT_WRITE) != 0) std::memset(block, 1, size);
        rte_free(block);
      }
      if (k.why == 0)
        row("remove memory that is " + what, {0, any_errno},
            [=] { return rte_malloc_heap_memory_remove("kinds", base, length); });
      ::munmap(base, length);
    }
  // A file that is shorter than its mapping.
  const int fd = ::memfd_create("short", 0);
  (void)::ftruncate(fd, bytes / 2);
  char* const cut = map(bytes, rw, fd);
  // SIGBUS.
  row(
      "add a file that ends in the middle", {-1, ENOMEM}, [=] { return add("kinds", cut, bytes); },
      not_asked);
  (void)::ftruncate(fd, bytes);
  row("add it when it has its length", {0, any_errno}, [=] { return add("kinds", cut, bytes); });
  row("and remove it", {0, any_errno},
      [=] { return rte_malloc_heap_memory_remove("kinds", cut, bytes); });
  ::close(fd);
  ::munmap(cut, bytes);
  // What was refused has not been written to, and can be added when it is right.
  char* const kept = map(bytes, rw);
  std::memset(kept, 9, bytes);
  ::mprotect(kept + bytes - page, page, PROT_READ);
  row(
      "add memory with one page that is read-only", {-1, EINVAL},
      [=] { return add("kinds", kept, bytes); }, not_asked);
  row("it has its contents", {1, any_errno}, [=] {
    return kept[0] == 9 && kept[bytes - 1] == 9 && std::memcmp(kept, kept + 1, bytes - 1) == 0;
  });
  ::mprotect(kept + bytes - page, page, rw);
  row("add it when all of it may be written", {0, any_errno},
      [=] { return add("kinds", kept, bytes); });
  row("and remove that", {0, any_errno},
      [=] { return rte_malloc_heap_memory_remove("kinds", kept, bytes); });
  ::munmap(kept, bytes);
  row("the heap ends", {0, any_errno}, [] { return rte_malloc_heap_destroy("kinds"); });
  unchanged_since(before, "memory of every kind");
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc > 1 && std::strcmp(argv[1], "--stock") == 0) {
    is_stock = true;
    argv[1] = argv[0];
    ++argv;
    --argc;
  }
  if (rte_eal_init(argc, argv) < 0) return 2;
  area = map(2 * area_bytes, PROT_READ | PROT_WRITE);
  if (area == nullptr || rte_malloc_heap_create("outside") != 0 ||
      add("outside", area, area_bytes) != 0)
    return 2;
  outside = rte_malloc_heap_get_socket("outside");
  rte_free(rte_malloc_socket(nullptr, 200, 0, outside));  // what its first block costs once
  for (const int socket : {outside, 0, SOCKET_ID_ANY})
    blocks(socket);
  no_such_socket();
  for (const int socket : {outside, 0, SOCKET_ID_ANY})
    zones(socket);
  zones_freed_wrongly();
  names_alike();
  full_table();
  heaps();
  many_heaps();
  memory_of_every_kind();
  row("remove", {0, any_errno},
      [] { return rte_malloc_heap_memory_remove("outside", area, area_bytes); });
  row("destroy", {0, any_errno}, [] { return rte_malloc_heap_destroy("outside"); });
  std::printf("%d of %d refusals are as they should be\n", rows - failures, rows);
  return rte_eal_cleanup() != 0 || failures != 0;
}
