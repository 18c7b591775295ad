// api/c_seeing.cpp - the C face: figures, lists, the audit, and what the dead left.
#include "api/c_summaries.hpp"

using namespace annex::c_face;

namespace annex::c_face {
namespace {

int refuse_nulls() noexcept {
  return refuse_argument("heap or visit is null");
}

// Shows every item that a function of the heap shows.
template <class Item, class Visit, class List>
auto show(Visit visit, void* context, List list) {
  visitor next(visit, context);
  return list([&](const Item& item) {
    const auto c = as_c(item);
    next(&c);
  });
}

}  // namespace
}  // namespace annex::c_face

int annex_heap_stats(annex_heap* heap, annex_stats* out) {
  if (heap == nullptr) return refuse_argument("heap is null");
  if (const int why = check_out(out); why != 0) return why;
  return give(as_c(heap->heap.stats()), out);
}

int annex_heap_audit(annex_heap* heap) {
  return annex_heap_audit_report(heap, nullptr, nullptr, nullptr);
}
int annex_heap_audit_report(annex_heap* heap, annex_audit_report* out, annex_visit_sentence visit,
                            void* context) {
  if (heap == nullptr) return refuse_argument("heap is null");
  if (out != nullptr)
    if (const int why = check_out(out); why != 0) return why;
  const auto report = heap->heap.audit();
  if (!report) return refuse(report.error());
  visitor<const char*> next(visit, context);
  for (const std::string& sentence : report->broken)
    next(sentence.c_str());
  annex_audit_report r{};
  r.checked = report->checked;
  r.broken = report->broken.size();
  r.exact = as_number(report->exact);
  if (out != nullptr) (void)give(r, out);
  return report->holds() ? 0
                         : refuse(annex::make_error(annex::errc::corrupt, 0,
                                                    "{} invariants are broken; the first: {}",
                                                    report->broken.size(), report->broken.front()));
}

int annex_for_each_region(annex_heap* heap, annex_visit_region visit, void* context) {
  if (heap == nullptr || visit == nullptr) return refuse_nulls();
  show<annex::region_summary>(visit, context, [&](auto each) { heap->heap.for_each_region(each); });
  return 0;
}
int annex_huge_bytes(annex_heap* heap, uint32_t region, uint64_t* out) {
  if (heap == nullptr || out == nullptr) return refuse_argument("heap or out is null");
  const auto bytes = heap->heap.huge_bytes(annex::region_id{region});
  if (!bytes) return refuse(bytes.error());
  *out = *bytes;
  return 0;
}
int annex_for_each_zone(annex_heap* heap, annex_visit_zone visit, void* context) {
  if (heap == nullptr || visit == nullptr) return refuse_nulls();
  show<annex::zone_summary>(visit, context, [&](auto each) { heap->heap.for_each_zone(each); });
  return 0;
}
int annex_for_each_block(annex_heap* heap, annex_visit_block visit, void* context) {
  if (heap == nullptr || visit == nullptr) return refuse_nulls();
  return done(show<annex::block_summary>(
      visit, context, [&](auto each) { return heap->heap.for_each_block(each); }));
}
int annex_for_each_map_piece(annex_heap* heap, annex_visit_map_piece visit, void* context) {
  if (heap == nullptr || visit == nullptr) return refuse_nulls();
  show<annex::map_piece>(visit, context, [&](auto each) { heap->heap.for_each_map_piece(each); });
  return 0;
}
int annex_for_each_member(annex_heap* heap, annex_visit_member visit, void* context) {
  if (heap == nullptr || visit == nullptr) return refuse_nulls();
  show<annex::member_summary>(visit, context, [&](auto each) {
    for (const annex::member_summary& m : heap->heap.members())
      each(m);
  });
  return 0;
}

int annex_recover(annex_heap* heap, uint64_t* dead) {
  if (heap == nullptr) return refuse_argument("heap is null");
  const size_t count = heap->heap.recover();
  if (dead != nullptr) *dead = count;
  return 0;
}
int annex_reap(annex_heap* heap, uint32_t member, annex_look look, void* context, uint64_t* freed) {
  if (heap == nullptr) return refuse_argument("heap is null");
  std::function<annex::reap_choice(const annex::block_summary&)> choose;
  if (look != nullptr)
    choose = [look, context](const annex::block_summary& block) {
      const annex_block_summary c = as_c(block);
      return look(context, &c) == ANNEX_REAP_free ? annex::reap_choice::free
                                                  : annex::reap_choice::keep;
    };
  const auto count = heap->heap.reap(annex::member_id{member}, choose);
  if (!count) return refuse(count.error());
  if (freed != nullptr) *freed = *count;
  return 0;
}
