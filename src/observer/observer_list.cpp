// observer/observer_list.cpp - see observer_list.hpp.
#include "observer/observer_list.hpp"

#include <algorithm>

namespace annex {
namespace {

class callback_scope;
constinit thread_local const callback_scope* innermost = nullptr;

// A callback may add memory to another heap, whose observers are then called inside it.
class callback_scope {
 public:
  explicit callback_scope(heap_id of) noexcept : heap(of), outer(innermost) { innermost = this; }
  ~callback_scope() { innermost = outer; }
  callback_scope(const callback_scope&) = delete;
  callback_scope& operator=(const callback_scope&) = delete;

  const heap_id heap;
  const callback_scope* const outer;
};

}  // namespace

bool is_inside_callback() noexcept {
  return innermost != nullptr;
}

bool is_inside_callback_of(heap_id heap) noexcept {
  for (const callback_scope* scope = innermost; scope != nullptr; scope = scope->outer)
    if (scope->heap == heap) return true;
  return false;
}

void observer_list::append(observer* who) {
  std::lock_guard guard(mutex_);
  observers_.push_back(who);
}

void observer_list::erase(observer* who) {
  std::lock_guard guard(mutex_);
  std::erase(observers_, who);
}

bool observer_list::empty() const {
  std::lock_guard guard(mutex_);
  return observers_.empty();
}

std::vector<observer*> observer_list::copy() const {
  std::lock_guard guard(mutex_);
  return observers_;
}

result<void> observer_list::ask(observer& who, const region_view& region) {
  callback_scope scope(region.heap);
  if (auto agreed = who.on_add(region); !agreed)
    return refuse_os(
        errc::vetoed, agreed.error().os_errno, "observer \"{}\" refused region {} ({} bytes): {}",
        who.name(), static_cast<u32>(region.region), region.length_bytes, agreed.error().message());
  return {};
}

result<void> observer_list::dismiss(observer& who, const region_view& region,
                                    std::chrono::steady_clock::time_point deadline) {
  callback_scope scope(region.heap);
  who.begin_remove(region);
  if (auto done = who.finish_remove(region, deadline); !done)
    return refuse_os(
        errc::deadline_passed, done.error().os_errno,
        "observer \"{}\" has not let go of region {}: {}; try again when its device is idle",
        who.name(), static_cast<u32>(region.region), done.error().message());
  return {};
}

result<void> observer_list::agree(const region_view& region) {
  const std::vector<observer*> all = copy();
  for (size_t i = 0; i < all.size(); ++i) {
    auto agreed = ask(*all[i], region);
    if (agreed) continue;
    while (i-- > 0)
      (void)dismiss(*all[i], region, std::chrono::steady_clock::now() + detach_time);
    return agreed;
  }
  return {};
}

result<void> observer_list::let_go(const region_view& region,
                                   std::chrono::steady_clock::time_point deadline) {
  const std::vector<observer*> all = copy();
  callback_scope scope(region.heap);
  for (auto who = all.rbegin(); who != all.rend(); ++who)
    (*who)->begin_remove(region);
  for (auto who = all.rbegin(); who != all.rend(); ++who)
    if (auto done = (*who)->finish_remove(region, deadline); !done)
      return refuse_os(
          errc::deadline_passed, done.error().os_errno,
          "observer \"{}\" has not let go of region {}: {}; try again when its device is idle",
          (*who)->name(), static_cast<u32>(region.region), done.error().message());
  return {};
}

region_view view_for_observers(const local_region& v) {
  const region_record& r = *v.record;
  region_view view{heap_id{v.heap_id},
                   region_id{v.id},
                   v.base,
                   r.length_bytes,
                   r.page_bytes,
                   fd_of(v),
                   r.fd_offset,
                   r.numa_node,
                   v.access,
                   {},
                   0};
  view.remote_base =
      remote_address(handle_from(v.slot, v.generations.number(0, 0)), r.length_bytes);
  for (u32 i = 0; i < v.iovas.run_count; ++i)
    view.runs.push_back({v.iovas.runs[i].offset, v.iovas.end_of(i) - v.iovas.runs[i].offset,
                         iova{v.iovas.runs[i].address}});
  return view;
}

}  // namespace annex
