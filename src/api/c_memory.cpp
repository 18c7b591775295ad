// api/c_memory.cpp - the C face: memory that is brought, drained, attached here and let go.
#include "api/c_face.hpp"

using namespace annex::c_face;

namespace annex::c_face {
namespace {

std::function<void(std::uint64_t, std::uint64_t)> call_progress(annex_progress progress,
                                                                void* context) {
  if (progress == nullptr) return {};
  return
      [progress, context](std::uint64_t at, std::uint64_t total) { progress(context, at, total); };
}

int give_region(const result<region_id>& added, std::uint32_t* region) noexcept {
  if (!added) return refuse(added.error());
  if (region != nullptr) *region = static_cast<std::uint32_t>(*added);
  return 0;
}

int take_kind(std::uint32_t from, memory_source* full) noexcept {
  using kind = memory_source::kind;
  switch (from) {
    case ANNEX_MEMORY_default: return 0;
    case ANNEX_MEMORY_anonymous: full->from = kind::anonymous; return 0;
    case ANNEX_MEMORY_shared: full->from = kind::shared; return 0;
    case ANNEX_MEMORY_hugetlb: full->from = kind::hugetlb; return 0;
    case ANNEX_MEMORY_file: full->from = kind::file; return 0;
    case ANNEX_MEMORY_device: full->from = kind::device; return 0;
    case ANNEX_MEMORY_descriptor: full->from = kind::descriptor; return 0;
    default:
      return refuse(make_error(
          errc::invalid_argument, 0, "from is {}, but kinds of memory go from {} to {}", from,
          static_cast<int>(ANNEX_MEMORY_default), static_cast<int>(ANNEX_MEMORY_descriptor)));
  }
}

int take_huge(std::uint32_t asked, huge_pages* huge) noexcept {
  if (asked > ANNEX_HUGE_always)
    return refuse(make_error(
        errc::invalid_argument, 0, "huge is {}, but what can be asked goes from {} to {}", asked,
        static_cast<int>(ANNEX_HUGE_automatic), static_cast<int>(ANNEX_HUGE_always)));
  *huge = static_cast<huge_pages>(asked);
  return 0;
}

template <class Do>
int in_heap(annex_heap* heap, Do act) noexcept {
  return heap != nullptr ? done(act(heap->heap)) : refuse_argument("heap is null");
}

}  // namespace

int take_iovas(const std::uint64_t* page_iovas, std::size_t count,
               std::span<const iova>* out) noexcept {
  if (page_iovas == nullptr && count != 0)
    return refuse(
        make_error(errc::bad_iova, 0, "{} IOVAs are announced, but page_iovas is null", count));
  if (page_iovas != nullptr && count == 0)
    return refuse(make_error(errc::bad_iova, 0, "page_iovas is given, but page_iova_count is 0"));
  if (page_iovas != nullptr) *out = {reinterpret_cast<const iova*>(page_iovas), count};
  return 0;
}

}  // namespace annex::c_face

int annex_heap_add_memory(annex_heap* heap, const annex_memory_range* range, uint32_t* region) {
  annex_memory_range m;
  if (heap == nullptr || range == nullptr) return refuse_argument("heap or range is null");
  if (const int why = take(range, &m); why != 0) return why;
  constexpr uint32_t known =
      ANNEX_ZERO_ON_ADD | ANNEX_NO_CPU_ACCESS | ANNEX_IS_ZERO | ANNEX_PIN | ANNEX_SAME_ADDRESS;
  if (const int why = check_flags(m.flags, known, "annex_memory_range"); why != 0) return why;
  annex::memory_range full;
  if (const int why = take_huge(m.huge, &full.huge); why != 0) return why;
  full.base = m.base;
  full.length_bytes = m.length_bytes;
  if (m.page_bytes != 0) full.page_bytes = m.page_bytes;
  if (const int why = take_iovas(m.page_iovas, m.page_iova_count, &full.page_iovas); why != 0)
    return why;
  full.fd = minus_one(m.fd_plus_1);
  full.fd_offset = m.fd_offset;
  full.numa_node = minus_one(m.numa_node_plus_1);
  if ((m.flags & ANNEX_NO_CPU_ACCESS) != 0) full.access = annex::touch::none;
  if ((m.flags & ANNEX_ZERO_ON_ADD) != 0)
    full.contents = annex::fill::zero;
  else if ((m.flags & ANNEX_IS_ZERO) != 0)
    full.contents = annex::fill::is_zero;
  full.pin = (m.flags & ANNEX_PIN) != 0;
  full.same_address = (m.flags & ANNEX_SAME_ADDRESS) != 0;
  full.threads = m.threads;
  full.progress = call_progress(m.progress, m.progress_context);
  return give_region(heap->heap.add_memory(full), region);
}

int annex_bring_memory(annex_heap* heap, const annex_memory_source* source, uint32_t* region) {
  annex_memory_source m;
  if (heap == nullptr || source == nullptr) return refuse_argument("heap or source is null");
  if (const int why = take(source, &m); why != 0) return why;
  constexpr uint32_t known =
      ANNEX_PIN | ANNEX_PREFAULT | ANNEX_PHYSICAL_IOVAS | ANNEX_RESERVE | ANNEX_OVERCOMMIT;
  if (const int why = check_flags(m.flags, known, "annex_memory_source"); why != 0) return why;
  annex::memory_source full;
  if (const int why = take_huge(m.huge, &full.huge); why != 0) return why;
  if (const int why = take_kind(m.from, &full); why != 0) return why;
  full.length_bytes = m.length_bytes;
  if (m.page_bytes != 0)
    full.page_bytes = m.page_bytes;
  else if (full.from == annex::memory_source::kind::hugetlb)
    full.page_bytes = size_t{2} << 20;
  if (m.path != nullptr) full.path = m.path;
  full.offset_bytes = m.offset_bytes;
  full.fd = minus_one(m.fd_plus_1);
  full.numa_node = minus_one(m.numa_node_plus_1);
  full.prefault = (m.flags & ANNEX_PREFAULT) != 0;
  full.threads = m.threads;
  if (const int why = take_iovas(m.page_iovas, m.page_iova_count, &full.page_iovas); why != 0)
    return why;
  full.pin = (m.flags & ANNEX_PIN) != 0;
  full.physical_iovas = (m.flags & ANNEX_PHYSICAL_IOVAS) != 0;
  full.reserve = (m.flags & ANNEX_RESERVE) != 0;
  full.overcommit = (m.flags & ANNEX_OVERCOMMIT) != 0;
  full.progress = call_progress(m.progress, m.progress_context);
  return give_region(heap->heap.bring_memory(full), region);
}

int annex_heap_remove_memory(annex_heap* heap, uint32_t region) {
  return in_heap(heap, [&](annex::heap& h) { return h.remove_memory(annex::region_id{region}); });
}
int annex_heap_drain_memory(annex_heap* heap, uint32_t region, uint64_t deadline_ns) {
  return in_heap(heap, [&](annex::heap& h) {
    return h.drain_memory(annex::region_id{region}, as_wait(deadline_ns));
  });
}
int annex_cancel_drain(annex_heap* heap, uint32_t region) {
  return in_heap(heap, [&](annex::heap& h) { return h.cancel_drain(annex::region_id{region}); });
}
int annex_heap_attach_memory(annex_heap* heap, uint32_t region, void* base) {
  return in_heap(heap, [&](annex::heap& h) {
    const annex::region_id id{region};
    return base != nullptr ? h.attach_memory(id, base) : h.attach_memory(id);
  });
}
int annex_heap_detach_memory(annex_heap* heap, uint32_t region) {
  return in_heap(heap, [&](annex::heap& h) { return h.detach_memory(annex::region_id{region}); });
}
int annex_prefault(annex_heap* heap, uint32_t region, unsigned threads, annex_progress progress,
                   void* context) {
  return in_heap(heap, [&](annex::heap& h) {
    return h.prefault(annex::region_id{region}, threads, call_progress(progress, context));
  });
}
void annex_synchronize(annex_heap* heap) {
  if (heap != nullptr) heap->heap.synchronize();
}
int annex_on_shortage(annex_heap* heap, annex_grow grow, void* context) {
  if (heap == nullptr) return refuse_argument("heap is null");
  if (grow == nullptr)
    heap->heap.on_shortage({});
  else
    heap->heap.on_shortage(
        [grow, context](size_t size_bytes) { return grow(context, size_bytes) != 0; });
  return 0;
}
void annex_trim(annex_heap* heap) {
  if (heap != nullptr) heap->heap.trim();
}
