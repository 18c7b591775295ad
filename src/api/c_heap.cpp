// api/c_heap.cpp - the C face: heaps as such, made, joined, listed, repaired and ended.
#include "api/c_face.hpp"

using namespace annex::c_face;

namespace annex::c_face {
namespace {

int take_options(const annex_heap_options* in, heap_options* full) noexcept {
  annex_heap_options o;
  if (const int why = take(in, &o); why != 0) return why;
  constexpr std::uint32_t known =
      ANNEX_CHECKED | ANNEX_RECLAIM_DEAD | ANNEX_REFUSE_MISUSE | ANNEX_EPHEMERAL;
  if (const int why = check_flags(o.flags, known, "annex_heap_options"); why != 0) return why;
  full->checked = (o.flags & ANNEX_CHECKED) != 0;
  full->reclaim_dead = (o.flags & ANNEX_RECLAIM_DEAD) != 0;
  full->ephemeral = (o.flags & ANNEX_EPHEMERAL) != 0;
  if ((o.flags & ANNEX_REFUSE_MISUSE) != 0) full->on_misuse = misuse_policy::refuse;
  if (o.file_mode != 0) full->file_mode = o.file_mode;
  if (o.metadata_limit_bytes != 0) full->metadata_limit_bytes = o.metadata_limit_bytes;
  if (o.member_limit != 0) full->member_limit = o.member_limit;
  if (o.thread_limit != 0) full->thread_limit = o.thread_limit;
  if (o.region_limit != 0) full->region_limit = o.region_limit;
  if (o.zone_limit != 0) full->zone_limit = o.zone_limit;
  return 0;
}

int take_attach_options(const annex_attach_options* in, attach_options* full) noexcept {
  annex_attach_options o;
  if (const int why = take(in, &o); why != 0) return why;
  constexpr std::uint32_t known =
      ANNEX_READ_ONLY | ANNEX_MANUAL_REGIONS | ANNEX_VERIFY | ANNEX_FOREIGN_MEMORY;
  if (const int why = check_flags(o.flags, known, "annex_attach_options"); why != 0) return why;
  full->read_only = (o.flags & ANNEX_READ_ONLY) != 0;
  if ((o.flags & ANNEX_MANUAL_REGIONS) != 0) full->regions = attach_policy::manual;
  full->verify = (o.flags & ANNEX_VERIFY) != 0;
  full->foreign_memory = (o.flags & ANNEX_FOREIGN_MEMORY) != 0;
  return 0;
}

}  // namespace
}  // namespace annex::c_face

int annex_heap_create(const char* name, const annex_heap_options* options, annex_heap** out) {
  annex::heap_options full;
  if (out == nullptr) return refuse_argument("out is null");
  if (const int why = take_options(options, &full); why != 0) return why;
  return give_new(
      name != nullptr ? annex::heap::create(name, full) : annex::heap::create_private(full), out);
}

int annex_heap_attach(const char* name, const annex_attach_options* options, annex_heap** out) {
  annex::attach_options full;
  if (out == nullptr || name == nullptr) return refuse_argument("name or out is null");
  if (const int why = take_attach_options(options, &full); why != 0) return why;
  return give_new(annex::heap::attach(name, full), out);
}

int annex_open(const char* name, const annex_heap_options* options, annex_heap** out, int* is_new) {
  annex::heap_options full;
  if (out == nullptr || name == nullptr) return refuse_argument("name or out is null");
  if (const int why = take_options(options, &full); why != 0) return why;
  bool made_here = false;
  const int code = give_new(annex::heap::open(name, full, &made_here), out);
  if (is_new != nullptr) *is_new = made_here ? 1 : 0;
  return code;
}

void annex_heap_close(annex_heap* heap) {
  delete heap;
}

int annex_heap_destroy(const char* name) {
  return name != nullptr ? done(annex::heap::destroy(name)) : refuse_argument("name is null");
}

const char* annex_heap_name(const annex_heap* heap) {
  return heap != nullptr && !heap->heap.name().empty() ? heap->heap.name().data() : "";
}
uint64_t annex_heap_id(const annex_heap* heap) {
  return heap != nullptr ? static_cast<uint64_t>(heap->heap.id()) : 0;
}
uint32_t annex_heap_self(const annex_heap* heap) {
  return heap != nullptr ? static_cast<uint32_t>(heap->heap.self()) : 0;
}

int annex_list(annex_visit_heap visit, void* context) {
  if (visit == nullptr) return refuse_argument("visit is null");
  const auto heaps = annex::heap::list();
  if (!heaps) return refuse(heaps.error());
  visitor<const annex_heap_summary*> next(visit, context);
  for (const annex::heap_summary& h : *heaps) {
    annex_heap_summary s{};
    s.struct_bytes = sizeof s;
    s.name = h.name.c_str();
    s.id = static_cast<uint64_t>(h.id);
    s.total_bytes = h.total_bytes;
    s.used_bytes = h.used_bytes;
    s.metadata_bytes = h.metadata_bytes;
    s.region_count = h.region_count;
    s.zone_count = h.zone_count;
    s.member_count = h.member_count;
    s.problem = h.problem.c_str();
    next(&s);
  }
  return 0;
}

int annex_heap_repair(const char* name, annex_repair_report* out, annex_visit_repair visit,
                      void* context) {
  if (name == nullptr) return refuse_argument("name is null");
  if (out != nullptr)
    if (const int why = check_out(out); why != 0) return why;
  const auto report = annex::heap::repair(name);
  if (!report) return refuse(report.error());
  visitor<annex_repair_part, const char*> next(visit, context);
  auto say = [&](annex_repair_part part, const std::vector<std::string>& sentences) {
    for (const std::string& sentence : sentences)
      next(part, sentence.c_str());
    return sentences.size();
  };
  annex_repair_report r{};
  r.found = say(ANNEX_REPAIR_found, report->found);
  r.changed = say(ANNEX_REPAIR_changed, report->changed);
  r.uncertain = say(ANNEX_REPAIR_uncertain, report->uncertain);
  r.broken_still = say(ANNEX_REPAIR_broken_still, report->after.broken);
  return out != nullptr ? give(r, out) : 0;
}
