// api/c_observers.cpp - the C face: observers made of functions, and leases.
#include <memory>

#include "api/c_face.hpp"

using namespace annex::c_face;

namespace annex::c_face {
namespace {

// What an observer is told, as C has it. Refers to the view it was made of.
class c_view {
 public:
  explicit c_view(const region_view& v) {
    runs_.reserve(v.runs.size());
    for (const region_view::run& run : v.runs)
      runs_.push_back(
          {run.offset_bytes, run.length_bytes, static_cast<std::uint64_t>(run.bus_address)});
    view_.struct_bytes = sizeof view_;
    view_.heap = static_cast<std::uint64_t>(v.heap);
    view_.region = static_cast<std::uint32_t>(v.region);
    view_.no_cpu_access = as_number(v.access == touch::none);
    view_.base = v.base;
    view_.length_bytes = v.length_bytes;
    view_.page_bytes = v.page_bytes;
    view_.fd = v.fd;
    view_.numa_node = v.numa_node;
    view_.fd_offset = v.fd_offset;
    view_.runs = runs_.empty() ? nullptr : runs_.data();
    view_.run_count = runs_.size();
    view_.remote_base = v.remote_base;
  }
  c_view(const c_view&) = delete;
  c_view& operator=(const c_view&) = delete;
  const annex_region_view* get() const noexcept { return &view_; }

 private:
  annex_region_view view_{};
  std::vector<annex_iova_run> runs_;
};

class c_observer : public observer {
 public:
  c_observer(const annex_observer& functions, void* context)
      : functions_(functions),
        context_(context),
        name_(functions.name != nullptr ? functions.name : "observer") {}
  std::string_view name() const noexcept override { return name_; }
  result<void> on_add(const region_view& v) override {
    return told(functions_.on_add(context_, c_view(v).get()));
  }
  quiesce begin_remove(const region_view& v) override {
    if (functions_.begin_remove == nullptr) return quiesce::done;
    const bool is_done = functions_.begin_remove(context_, c_view(v).get()) == ANNEX_QUIESCE_done;
    return is_done ? quiesce::done : quiesce::pending;
  }
  result<void> finish_remove(const region_view& v,
                             std::chrono::steady_clock::time_point deadline) override {
    const auto since_boot =
        std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time_since_epoch());
    return told(functions_.finish_remove(context_, c_view(v).get(),
                                         static_cast<std::uint64_t>(since_boot.count())));
  }

 private:
  static result<void> told(int code) {
    if (code == 0) return {};
    return std::unexpected(refusal_by(code));
  }
  const annex_observer functions_;
  void* const context_;
  const std::string name_;
};

}  // namespace
}  // namespace annex::c_face

// The observer goes after what calls it.
struct annex_observation {
  std::unique_ptr<c_observer> who;
  annex::observation kept;
};
struct annex_lease {
  annex::lease kept;
};

int annex_observe(annex_heap* heap, const annex_observer* observer, void* context,
                  annex_observation** out) {
  annex_observer functions;
  if (heap == nullptr || observer == nullptr || out == nullptr)
    return refuse_argument("heap, observer or out is null");
  if (const int why = take(observer, &functions); why != 0) return why;
  if (functions.on_add == nullptr || functions.finish_remove == nullptr)
    return refuse_argument("on_add or finish_remove is null");
  auto who = std::make_unique<c_observer>(functions, context);
  auto kept = heap->heap.observe(*who);
  if (!kept) return refuse(kept.error());
  *out = new annex_observation{std::move(who), std::move(*kept)};
  return 0;
}
void annex_observation_end(annex_observation* observation) {
  delete observation;
}

int annex_hold(annex_heap* heap, uint32_t region, annex_lease** out) {
  if (heap == nullptr || out == nullptr) return refuse_argument("heap or out is null");
  return give_new(heap->heap.hold(annex::region_id{region}), out);
}
void annex_lease_end(annex_lease* lease) {
  delete lease;
}
