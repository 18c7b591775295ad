// interop/dpdk/statistics.cpp - what DPDK's statistics, dumps and telemetry say of memory that annex holds.
//
//   total       what the real heap says: chunks are part of it
//   allocated   total - free: block sizes as they are, plus a constant for the heap's own part
//   free        the real heap's free bytes, and what no live block has in the chunks: caches and empty slabs are free
//   count       the real heap's blocks, less the chunks, plus the blocks in them
// A free element is a run without a live byte, or a slab with room. Nobody is stopped while they are counted.
#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <string>

#include "heap/local_heap.hpp"
#include "interop/dpdk/drop_in.hpp"

namespace annex::dpdk {
namespace {

struct tally { u64 total = 0, live = 0, largest = 0, elements = 0, blocks = 0, regions = 0; };

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

int statistics(int socket, socket_stats* out) {
  if (out == nullptr) return -1;
  if (real().rte_malloc_get_socket_stats(socket, out) != 0) return -1;
  if (current_phase.load(std::memory_order_acquire) != phase::serving) return 0;
  served_heap* const h = heap_of(socket);
  if (h == nullptr) return 0;
  const tally ours = count(*h);
  const u64 free_bytes = ours.total - std::min(ours.total, ours.live);
  out->heap_freesz_bytes += free_bytes;
  out->heap_totalsz_bytes = std::max(out->heap_totalsz_bytes, out->heap_freesz_bytes + ours.live);  // registered, not added: docs/dpdk.md
  out->greatest_free_size = std::max(out->greatest_free_size, ours.largest);
  out->free_count += static_cast<u32>(ours.elements);
  out->alloc_count += static_cast<u32>(ours.blocks) - static_cast<u32>(std::min<u64>(ours.regions, out->alloc_count));
  out->heap_allocsz_bytes = out->heap_totalsz_bytes - out->heap_freesz_bytes;
  return 0;
}

bool is_all_here() {
  bool all = true;
  if (current_phase.load(std::memory_order_acquire) != phase::serving) return all;
  (void)follow_others();
  for_each_served([](served_heap& h, void* argument) {
    if (h.is_external) h.annex.for_each_region([&](const region_summary& r) { *static_cast<bool*>(argument) &= r.base != nullptr; });
  }, &all);
  return all;
}

void print(std::FILE* out, bool with_pieces) {
  struct request { std::FILE* out; bool with_pieces; } how{out, with_pieces};
  for_each_served([](served_heap& h, void* argument) {
    const auto& r = *static_cast<request*>(argument);
    const heap_stats s = h.annex.stats();
    std::fprintf(r.out, "annex heap %s (socket %d): %" PRIu64 " bytes in %" PRIu64 " %s, %" PRIu64 " used in %" PRIu64 " blocks, %" PRIu64 " cached, %" PRIu64 " free, largest %" PRIu64 "\n",
                 std::string(h.annex.name()).c_str(), h.socket, s.total_bytes, s.region_count, h.is_external ? "areas" : "chunks", s.used_bytes, s.live_blocks, s.cached_bytes, s.free_bytes, s.largest_free_bytes);
    if (!r.with_pieces) return;
    h.annex.for_each_map_piece([&](const map_piece& p) {
      const char* const use = p.use == map_use::free ? "free" : p.use == map_use::large ? "block" : p.use == map_use::zone ? "memzone" : "slab";
      std::fprintf(r.out, "  region %u +%#" PRIx64 " %-7s %10" PRIu64 " bytes, %" PRIu64 " live, %" PRIu64 " cached\n", static_cast<u32>(p.region), p.offset_bytes, use, p.length_bytes, p.live_bytes, p.cached_bytes);
    });
  }, &how);
}

// ---- telemetry: /eal/heap_info says the figures above, while the real handler writes its dictionary ------------------------------
thread_local bool is_heap_info = false;
thread_local socket_stats heap_info{};
thread_local bool has_heap_info = false;
telemetry_callback real_heap_info = nullptr;

int corrected_heap_info(const char* command, const char* parameters, telemetry_data* info) {
  // The real handler indexes its table with whatever number it is given.
  if (parameters == nullptr || std::strlen(parameters) == 0 || std::strspn(parameters, "0123456789") != std::strlen(parameters) || std::strlen(parameters) > 2 || std::stoul(parameters) >= 32) return -1;
  is_heap_info = true;
  has_heap_info = false;
  const int done = real_heap_info(command, parameters, info);
  is_heap_info = false;
  return done;
}

u64 corrected(const char* name, u64 value) noexcept {
  if (!is_heap_info || !has_heap_info) return value;
  if (std::strcmp(name, "Heap_size") == 0) return heap_info.heap_totalsz_bytes;
  if (std::strcmp(name, "Free_size") == 0) return heap_info.heap_freesz_bytes;
  if (std::strcmp(name, "Alloc_size") == 0) return heap_info.heap_allocsz_bytes;
  if (std::strcmp(name, "Greatest_free_size") == 0) return heap_info.greatest_free_size;
  if (std::strcmp(name, "Alloc_count") == 0) return heap_info.alloc_count;
  if (std::strcmp(name, "Free_count") == 0) return heap_info.free_count;
  return value;
}

int add_number(telemetry_data* d, const char* name, u64 value) noexcept {
  const real_functions& r = real();
  return r.rte_tel_data_add_dict_u64 != nullptr ? r.rte_tel_data_add_dict_u64(d, name, value) : r.rte_tel_data_add_dict_uint(d, name, value);
}

// /annex/heaps: one dictionary entry per heap: name → socket.
int tell_heaps(const char*, const char*, telemetry_data* d) {
  real().rte_tel_data_start_dict(d);
  for_each_served([](served_heap& h, void* argument) {
    const std::string name(h.annex.name());
    real().rte_tel_data_add_dict_int(static_cast<telemetry_data*>(argument), name.c_str(), h.socket);
  }, d);
  return 0;
}

// /annex/heap,SOCKET: the figures of one heap.
int tell_heap(const char*, const char* parameters, telemetry_data* d) {
  if (parameters == nullptr || std::strlen(parameters) == 0 || std::strspn(parameters, "0123456789") != std::strlen(parameters) || std::strlen(parameters) > 9) return -1;
  served_heap* const h = heap_of(std::stoi(parameters));
  if (h == nullptr) return -1;
  const heap_stats s = h->annex.stats();
  real().rte_tel_data_start_dict(d);
  real().rte_tel_data_add_dict_string(d, "name", std::string(h->annex.name()).c_str());
  for (const auto& [name, value] : {std::pair{"total_bytes", s.total_bytes}, {"used_bytes", s.used_bytes}, {"cached_bytes", s.cached_bytes}, {"free_bytes", s.free_bytes},
                                    {"largest_free_bytes", s.largest_free_bytes}, {"live_blocks", s.live_blocks}, {"regions", s.region_count}, {"members", s.member_count},
                                    {"threads", s.thread_count}, {"metadata_bytes", s.metadata_bytes}, {"misuse_count", s.misuse_count}})
    add_number(d, name, value);
  return 0;
}

}  // namespace

void register_telemetry() noexcept {
  const real_functions& r = real();
  if (r.rte_telemetry_register_cmd == nullptr || r.rte_tel_data_start_dict == nullptr) return;
  static const int once = (r.rte_telemetry_register_cmd("/annex/heaps", tell_heaps, "The annex heaps that serve this process: name and socket. Takes no parameters"),
                           r.rte_telemetry_register_cmd("/annex/heap", tell_heap, "Figures of one annex heap. Parameters: int socket_id"));
  (void)once;
}

}  // namespace annex::dpdk

using namespace annex::dpdk;

extern "C" {

int ANNEX_DPDK_NAME(rte_malloc_get_socket_stats)(int socket, socket_stats* out) { return statistics(socket, out); }

void ANNEX_DPDK_NAME(rte_malloc_dump_stats)(std::FILE* out, const char* type) {
  real().rte_malloc_dump_stats(out, type);
  if (current_phase.load() == phase::serving) print(out, false);
}

void ANNEX_DPDK_NAME(rte_malloc_dump_heaps)(std::FILE* out) {
  // The real one reads the header of every block: it would fault on an area that this process has not attached.
  if (is_all_here()) real().rte_malloc_dump_heaps(out);
  else std::fprintf(out, "DPDK's own heaps are not shown: this process has not attached every external area (rte_malloc_heap_memory_attach)\n");
  if (current_phase.load() == phase::serving) print(out, true);
}

int ANNEX_DPDK_NAME(rte_telemetry_register_cmd)(const char* command, telemetry_callback handler, const char* help) {
  if (real().rte_telemetry_register_cmd == nullptr) return -1;
  if (std::strcmp(command, "/eal/heap_info") == 0) {
    real_heap_info = handler;
    handler = corrected_heap_info;
  }
  return real().rte_telemetry_register_cmd(command, handler, help);
}

int ANNEX_DPDK_NAME(rte_tel_data_add_dict_string)(telemetry_data* d, const char* name, const char* value) {
  if (is_heap_info && std::strcmp(name, "Name") == 0) {
    const int socket = real().rte_malloc_heap_get_socket(value);
    has_heap_info = socket >= 0 && statistics(socket, &heap_info) == 0;
  }
  return real().rte_tel_data_add_dict_string(d, name, value);
}
int ANNEX_DPDK_NAME(rte_tel_data_add_dict_int)(telemetry_data* d, const char* name, int value) {
  return real().rte_tel_data_add_dict_int(d, name, static_cast<int>(corrected(name, static_cast<annex::u64>(value))));
}
int ANNEX_DPDK_NAME(rte_tel_data_add_dict_u64)(telemetry_data* d, const char* name, annex::u64 value) { return real().rte_tel_data_add_dict_u64(d, name, corrected(name, value)); }
int ANNEX_DPDK_NAME(rte_tel_data_add_dict_uint)(telemetry_data* d, const char* name, annex::u64 value) { return real().rte_tel_data_add_dict_uint(d, name, corrected(name, value)); }

}
