// interop/dpdk/statistics.cpp - what DPDK's statistics, dumps and telemetry say of memory that
// annex holds.
//
//   total       what the real heap says: chunks are part of it
//   allocated   total - free: block sizes as they are, plus a constant for the heap's own part
//   free        the real heap's free bytes, and what no live block has in the chunks: caches and
//               empty slabs are free
//   count       the real heap's blocks, less the chunks, plus the blocks in them
//
// A free element is a run without a live byte, or a slab with room. Nobody is stopped while they
// are counted.
#include <algorithm>
#include <cinttypes>
#include <climits>
#include <cstring>
#include <string>

#include "base/sentence.hpp"
#include "heap/local_heap.hpp"
#include "interop/dpdk/drop_in.hpp"

namespace annex::dpdk {
namespace {

struct tally {
  u64 total = 0, live = 0, largest = 0, elements = 0, blocks = 0, regions = 0;
};

tally count(served_heap& h) {
  tally out;
  u64 run = 0;
  region_id last{};
  auto end_run = [&] {
    if (run != 0) ++out.elements;
    out.largest = std::max(out.largest, run);
    run = 0;
  };
  h.annex.for_each_map_piece([&](const map_piece& p) {
    if (p.region != last) {
      end_run();
      ++out.regions;
      last = p.region;
    }
    out.total += p.length_bytes;
    out.live += p.live_bytes;
    if (p.live_bytes == 0) {
      run += p.length_bytes;
      return;
    }
    end_run();
    if (p.use == map_use::slab) {
      out.blocks += p.live_bytes / p.block_bytes;
      out.elements += p.cached_bytes != 0;
    } else {
      ++out.blocks;
    }
  });
  end_run();
  return out;
}

// The fields have 32 bits: a count that does not fit is the most they can say.
u32 capped(u64 count) noexcept {
  return static_cast<u32>(std::min<u64>(count, UINT_MAX));
}

// out: what the real heap says of the same socket. Neither asks for EAL's memory lock.
void add_blocks_of(served_heap& h, socket_stats* out) {
  const tally ours = count(h);
  const u64 free_bytes = ours.total - std::min(ours.total, ours.live);
  out->heap_freesz_bytes += free_bytes;
  // Registered, not added: docs/dpdk.md.
  out->heap_totalsz_bytes = std::max(out->heap_totalsz_bytes, out->heap_freesz_bytes + ours.live);
  out->greatest_free_size = std::max(out->greatest_free_size, ours.largest);
  out->free_count = capped(out->free_count + ours.elements);
  out->alloc_count =
      capped(ours.blocks + out->alloc_count - std::min<u64>(ours.regions, out->alloc_count));
  out->heap_allocsz_bytes = out->heap_totalsz_bytes - out->heap_freesz_bytes;
}

int statistics(int socket, socket_stats* out) {
  if (out == nullptr) return -1;
  if (real().rte_malloc_get_socket_stats(socket, out) != 0) return -1;
  // sync(phase): what serving was set up with is seen.
  if (current_phase.load(std::memory_order_acquire) != phase::serving) return 0;
  if (served_heap* const h = known_heap(socket)) add_blocks_of(*h, out);
  return 0;
}

bool is_all_here() {
  bool all = true;
  // sync(phase): what serving was set up with is seen.
  if (current_phase.load(std::memory_order_acquire) != phase::serving) return all;
  (void)follow_others();
  for_each_served(
      [](served_heap& h, void* argument) {
        if (h.is_external)
          h.annex.for_each_region(
              [&](const region_summary& r) { *static_cast<bool*>(argument) &= r.base != nullptr; });
      },
      &all);
  return all;
}

void print(std::FILE* out, bool with_pieces) {
  struct request {
    std::FILE* out;
    bool with_pieces;
  } how{out, with_pieces};
  for_each_served(
      [](served_heap& h, void* argument) {
        const auto& r = *static_cast<request*>(argument);
        const heap_stats s = h.annex.stats();
        std::fprintf(r.out,
                     "annex heap %s (socket %d): %" PRIu64 " bytes in %" PRIu64 " %s, %" PRIu64
                     " used in %" PRIu64 " blocks, %" PRIu64 " cached, %" PRIu64
                     " free, largest %" PRIu64 "\n",
                     std::string(h.annex.name()).c_str(), h.socket, s.total_bytes, s.region_count,
                     h.is_external ? "areas" : "chunks", s.used_bytes, s.live_blocks,
                     s.cached_bytes, s.free_bytes, s.largest_free_bytes);
        if (!r.with_pieces) return;
        h.annex.for_each_map_piece([&](const map_piece& p) {
          const char* const use = p.use == map_use::free    ? "free"
                                  : p.use == map_use::large ? "block"
                                  : p.use == map_use::zone  ? "memzone"
                                                            : "slab";
          std::fprintf(r.out,
                       "  region %u +%#" PRIx64 " %-7s %10" PRIu64 " bytes, %" PRIu64
                       " live, %" PRIu64 " cached\n",
                       static_cast<u32>(p.region), p.offset_bytes, use, p.length_bytes,
                       p.live_bytes, p.cached_bytes);
        });
      },
      &how);
}

// ---- telemetry ---------------------------------------------------------------------------------
// Nothing here waits for EAL's memory lock, which stock's answers do not either: a process that
// dies inside EAL holds it for ever, and then telemetry is what an operator has left. Heaps are
// found by the names in the stamp. Names in a dictionary may have letters, digits, '_' and '/';
// values may be any text.
//
// /eal/heap_info says the figures above: the real handler writes its dictionary, and they are put
// right on the way.
thread_local bool is_heap_info = false;
thread_local socket_stats heap_info{};
thread_local bool has_heap_info = false;
telemetry_callback real_heap_info = nullptr;

// The number that is all of the text; -1: it is none, or has more than most_digits.
int number_in(const char* text, size_t most_digits) noexcept {
  const size_t length = text != nullptr ? std::strlen(text) : 0;
  if (length == 0 || length > most_digits || std::strspn(text, "0123456789") != length) return -1;
  int number = 0;
  for (const char* digit = text; *digit != '\0'; ++digit)
    number = number * 10 + (*digit - '0');
  return number;
}

int corrected_heap_info(const char* command, const char* parameters, telemetry_data* info) {
  // The real handler indexes its table with whatever number it is given.
  constexpr int heap_slots = 32;
  const int slot = number_in(parameters, 2);
  if (slot < 0 || slot >= heap_slots) return -1;
  is_heap_info = true;
  has_heap_info = false;
  const int done = real_heap_info(command, parameters, info);
  is_heap_info = false;
  return done;
}

// The heap that the real handler has just named. Nobody's heap is kept while the real one is asked:
// it may wait for the lock of its own heap, as its handler does.
void look_at_heap(const char* dpdk_name) noexcept {
  int socket = -1;
  if (const looking guard; served_heap* const h = heap_named(dpdk_name)) socket = h->socket;
  if (socket < 0 || real().rte_malloc_get_socket_stats(socket, &heap_info) != 0) return;
  const looking guard;
  if (served_heap* const h = heap_named(dpdk_name)) {
    add_blocks_of(*h, &heap_info);
    has_heap_info = true;
  }
}

// False: the name is none of those that are put right.
bool is_corrected(const char* name, u64* value) noexcept {
  if (!is_heap_info || !has_heap_info) return false;
  const struct {
    const char* name;
    u64 value;
  } figures[] = {
      {"Heap_size", heap_info.heap_totalsz_bytes},
      {"Free_size", heap_info.heap_freesz_bytes},
      {"Alloc_size", heap_info.heap_allocsz_bytes},
      {"Greatest_free_size", heap_info.greatest_free_size},
      {"Alloc_count", heap_info.alloc_count},
      {"Free_count", heap_info.free_count},
  };
  for (const auto& figure : figures)
    if (std::strcmp(name, figure.name) == 0) {
      *value = figure.value;
      return true;
    }
  return false;
}

int add_number(telemetry_data* d, const char* name, u64 value) noexcept {
  const real_functions& r = real();
  if (r.rte_tel_data_add_dict_u64 != nullptr) return r.rte_tel_data_add_dict_u64(d, name, value);
  if (r.rte_tel_data_add_dict_uint != nullptr) return r.rte_tel_data_add_dict_uint(d, name, value);
  return -1;
}

int add_text(telemetry_data* d, const char* name, const char* text) noexcept {
  return real().rte_tel_data_add_dict_string(d, name, text);
}

// /annex/heaps: one entry per heap, as the socket's blocks are asked for: "socket_0": "dpdk.rte.0".
int tell_heaps(const char*, const char*, telemetry_data* d) {
  const looking guard;
  (void)follow_others();
  real().rte_tel_data_start_dict(d);
  struct answer {
    telemetry_data* dictionary;
    int done;
  } a{d, 0};
  for_each_served(
      [](served_heap& h, void* argument) {
        auto& told = *static_cast<answer*>(argument);
        char key[32] = {};
        write_sentence(key, "socket_{}", h.socket);
        if (told.done == 0)
          told.done = add_text(told.dictionary, key, std::string(h.annex.name()).c_str());
      },
      &a);
  return a.done;
}

// /annex/heap,SOCKET: the figures of one heap.
int tell_heap(const char*, const char* parameters, telemetry_data* d) {
  const int socket = number_in(parameters, 9);
  if (socket < 0) return -1;
  const looking guard;
  served_heap* const h = known_heap(socket);
  if (h == nullptr) return -1;
  const heap_stats s = h->annex.stats();
  real().rte_tel_data_start_dict(d);
  int done = add_text(d, "name", std::string(h->annex.name()).c_str());
  const struct {
    const char* name;
    u64 value;
  } figures[] = {
      {"total_bytes", s.total_bytes},
      {"used_bytes", s.used_bytes},
      {"cached_bytes", s.cached_bytes},
      {"free_bytes", s.free_bytes},
      {"largest_free_bytes", s.largest_free_bytes},
      {"live_blocks", s.live_blocks},
      {"regions", s.region_count},
      {"members", s.member_count},
      {"threads", s.thread_count},
      {"metadata_bytes", s.metadata_bytes},
      {"misuse_count", s.misuse_count},
  };
  for (const auto& figure : figures)
    if (done == 0) done = add_number(d, figure.name, figure.value);
  return done;
}

}  // namespace

void register_telemetry() noexcept {
  const real_functions& r = real();
  if (r.rte_telemetry_register_cmd == nullptr || r.rte_tel_data_start_dict == nullptr) return;
  static const int once =
      (r.rte_telemetry_register_cmd(
           "/annex/heaps", tell_heaps,
           "The annex heaps that serve this process: name and socket. Takes no parameters"),
       r.rte_telemetry_register_cmd("/annex/heap", tell_heap,
                                    "Figures of one annex heap. Parameters: int socket_id"));
  (void)once;
}

}  // namespace annex::dpdk

using namespace annex::dpdk;

extern "C" {

int ANNEX_DPDK_NAME(rte_malloc_get_socket_stats)(int socket, socket_stats* out) {
  return statistics(socket, out);
}

void ANNEX_DPDK_NAME(rte_malloc_dump_stats)(std::FILE* out, const char* type) {
  real().rte_malloc_dump_stats(out, type);
  if (current_phase.load() == phase::serving) print(out, false);
}

void ANNEX_DPDK_NAME(rte_malloc_dump_heaps)(std::FILE* out) {
  // The real one reads the header of every block: it would fault on an area that this process has
  // not attached.
  if (is_all_here())
    real().rte_malloc_dump_heaps(out);
  else
    std::fprintf(out,
                 "DPDK's own heaps are not shown: this process has not attached every external "
                 "area (rte_malloc_heap_memory_attach)\n");
  if (current_phase.load() == phase::serving) print(out, true);
}

int ANNEX_DPDK_NAME(rte_telemetry_register_cmd)(const char* command, telemetry_callback handler,
                                                const char* help) {
  if (real().rte_telemetry_register_cmd == nullptr) return -1;
  if (std::strcmp(command, "/eal/heap_info") == 0) {
    real_heap_info = handler;
    handler = corrected_heap_info;
  }
  return real().rte_telemetry_register_cmd(command, handler, help);
}

int ANNEX_DPDK_NAME(rte_tel_data_add_dict_string)(telemetry_data* d, const char* name,
                                                  const char* value) {
  if (is_heap_info && std::strcmp(name, "Name") == 0) look_at_heap(value);
  return real().rte_tel_data_add_dict_string(d, name, value);
}

// Since 23.03 the value has 64 bits; before, an int is in the lower half of the same register, and
// stays there.
int ANNEX_DPDK_NAME(rte_tel_data_add_dict_int)(telemetry_data* d, const char* name,
                                               annex::i64 value) {
  annex::u64 figure = 0;
  if (!is_corrected(name, &figure)) return real().rte_tel_data_add_dict_int(d, name, value);
  return figure > INT_MAX
             ? add_number(d, name, figure)
             : real().rte_tel_data_add_dict_int(d, name, static_cast<annex::i64>(figure));
}
int ANNEX_DPDK_NAME(rte_tel_data_add_dict_u64)(telemetry_data* d, const char* name,
                                               annex::u64 value) {
  (void)is_corrected(name, &value);
  return real().rte_tel_data_add_dict_u64(d, name, value);
}
int ANNEX_DPDK_NAME(rte_tel_data_add_dict_uint)(telemetry_data* d, const char* name,
                                                annex::u64 value) {
  (void)is_corrected(name, &value);
  return real().rte_tel_data_add_dict_uint(d, name, value);
}
}
