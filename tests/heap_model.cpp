// tests/heap_model.cpp - see heap_model.hpp.
#include "heap_model.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace annex {
namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t most_past = 5000;

std::size_t pick_size(choices& c) {
  switch (c.next(8)) {
    case 0: return 1 + c.next(16);
    case 1:
    case 2:
    case 3: return 1 + c.next(1024);
    case 4:
    case 5: return 1 + c.next(8192);
    case 6: return 1 + c.next(70000);
    default: return 65537 + c.next(400000);
  }
}

}  // namespace

heap_model::heap_model(heap& h, char* arena, std::size_t arena_bytes, std::size_t region_limit)
    : heap_(h), arena_(arena), arena_bytes_(arena_bytes), region_limit_(region_limit) {}

std::string heap_model::note(void* p, std::size_t size, std::size_t align, bool is_zone,
                             std::string name) {
  char* const at = static_cast<char*>(p);
  if (reinterpret_cast<std::uintptr_t>(at) % align != 0)
    return fmt::format("{} is not aligned to {}", p, align);
  const auto region = std::find_if(regions_.begin(), regions_.end(), [&](const added& r) {
    return at >= r.base && at + size <= r.base + r.bytes;
  });
  if (region == regions_.end()) return fmt::format("[{}, +{}) lies in no region", p, size);
  const auto after = live_.lower_bound(at);
  if (after != live_.end() && after->first < at + size)
    return fmt::format("[{}, +{}) overlaps the live block at {}", p, size,
                       static_cast<void*>(after->first));
  if (after != live_.begin() && std::prev(after)->second.end > at)
    return fmt::format("[{}, +{}) overlaps the live block at {}", p, size,
                       static_cast<void*>(std::prev(after)->first));
  live_.emplace(at, live_one{at + size, size, is_zone, std::move(name)});
  if (!is_zone) order_.push_back(at);
  return {};
}

std::string heap_model::drop(std::map<char*, live_one>::iterator at) {
  if (!at->second.is_zone) order_.erase(std::find(order_.begin(), order_.end(), at->first));
  live_.erase(at);
  return {};
}

std::string heap_model::ask_name(std::map<char*, live_one>::iterator at) {
  live_one& one = at->second;
  const handle named = heap_.handle_of(at->first);
  if (named == null_handle)
    return fmt::format("the live block at {} has no handle", static_cast<void*>(at->first));
  if (one.named != null_handle && named != one.named)
    return fmt::format("the live block at {} has another handle than before",
                       static_cast<void*>(at->first));
  if (heap_.resolve(named).value_or(nullptr) != at->first)
    return fmt::format("the handle of {} does not lead there", static_cast<void*>(at->first));
  const std::size_t inside = one.asked - 1;
  if (heap_.resolve(handle{static_cast<std::uint64_t>(named) + inside}).value_or(nullptr) !=
      at->first + inside)
    return "the handle of a block's last byte does not lead there";
  one.named = named;
  return {};
}

std::string heap_model::retire(handle named) {
  if (named == null_handle) return {};
  if (const auto found = heap_.resolve(named))
    return fmt::format("the handle {:#x} of a block that was freed leads to {}",
                       static_cast<std::uint64_t>(named), *found);
  if (past_.size() < most_past)
    past_.push_back(named);
  else
    past_[operations_ % most_past] = named;
  return {};
}

std::string heap_model::step(choices& c) {
  ++operations_;
  const auto choice = c.next(1000);
  if (regions_.empty() || choice < 2) {  // a region more
    const std::size_t bytes = page * (1 + c.next(regions_.empty() ? 4000 : 600));
    if (next_base_ + bytes > arena_bytes_) next_base_ = 0;
    const auto added_here = heap_.add_memory(
        {.base = arena_ + next_base_, .length_bytes = bytes, .access = touch::none});
    const bool clash = std::any_of(regions_.begin(), regions_.end(), [&](const added& r) {
      return arena_ + next_base_ < r.base + r.bytes && r.base < arena_ + next_base_ + bytes;
    });
    const bool full = regions_.size() == region_limit_;
    if ((clash || full) == added_here.has_value())
      return fmt::format("adding {} bytes at {}: {}", bytes, next_base_,
                         clash  ? "overlap accepted"
                         : full ? "a region too many accepted"
                                : added_here.error().text);
    if (added_here) regions_.push_back({*added_here, arena_ + next_base_, bytes});
    next_base_ += bytes + page;
    return {};
  }
  if (choice < 5) {  // a region less
    const std::size_t at = c.next(static_cast<std::uint32_t>(regions_.size()));
    const added r = regions_[at];
    const bool in_use = std::any_of(live_.begin(), live_.end(), [&](const auto& b) {
      return b.first >= r.base && b.first < r.base + r.bytes;
    });
    const auto removed = heap_.remove_memory(r.id);
    if (removed.has_value() == in_use)
      return fmt::format("removing region {}: {}", static_cast<unsigned>(r.id),
                         in_use ? "removed with live blocks" : removed.error().text);
    if (removed) regions_.erase(regions_.begin() + static_cast<std::ptrdiff_t>(at));
    return {};
  }
  if (choice < 20) {  // zones
    if (!zones_.empty() && c.next(2) == 0) {
      const std::size_t at = c.next(static_cast<std::uint32_t>(zones_.size()));
      const auto found = heap_.find_zone(zones_[at]);
      if (!found || !live_.contains(static_cast<char*>(found->address)))
        return "a zone is not where it was";
      if (!heap_.release_zone(zones_[at])) return "a zone can't be released";
      zones_.erase(zones_.begin() + static_cast<std::ptrdiff_t>(at));
      drop(live_.find(static_cast<char*>(found->address)));
      return retire(found->where);
    }
    const std::string name = "z" + std::to_string(zone_number_++);
    const std::size_t size = pick_size(c);
    const auto made = heap_.reserve_zone(name, {.size_bytes = size});
    if (!made) return {};
    zones_.push_back(name);
    return note(made->address, size, 64, true, name);
  }
  if (choice < 540 && order_.size() < 3000) {  // a block more
    placement p{.size_bytes = pick_size(c)};
    void* block = nullptr;
    if (choice < 60) {
      p.align_bytes = std::size_t{16} << c.next(12);
      if (c.next(4) == 0) p.boundary_bytes = std::bit_ceil(p.size_bytes) << c.next(3);
      block = heap_.allocate(p);
    } else {
      p.align_bytes = 16;
      block = heap_.allocate(p.size_bytes);
    }
    if (block == nullptr)
      return heap::last_failure().message().empty() ? "a failure without explanation"
                                                    : std::string();
    const auto at = reinterpret_cast<std::uintptr_t>(block);
    if (p.boundary_bytes != 0 &&
        at / p.boundary_bytes != (at + p.size_bytes - 1) / p.boundary_bytes)
      return fmt::format("{} of {} bytes crosses a multiple of {}", block, p.size_bytes,
                         p.boundary_bytes);
    if (heap::usable_size(block) < p.size_bytes)
      return fmt::format("{} has {} usable bytes of {}", block, heap::usable_size(block),
                         p.size_bytes);
    return note(block, p.size_bytes, p.align_bytes, false, {});
  }
  if (order_.empty()) return {};
  const std::size_t at = c.next(static_cast<std::uint32_t>(order_.size()));
  char* const block = order_[at];
  if (choice < 560) {  // in place, or refused: the bytes may not be touched
    const std::size_t size = pick_size(c);
    void* same = heap_.reallocate(block, size);
    if (same == nullptr) return {};
    if (same != block) return "a block of untouchable memory was moved";
    const handle named = live_.find(block)->second.named;
    drop(live_.find(block));
    if (std::string wrong = note(block, size, 16, false, {}); !wrong.empty()) return wrong;
    live_.find(block)->second.named = named;
    return named != null_handle ? ask_name(live_.find(block)) : std::string();
  }
  if (choice < 562) {
    heap_.trim();
    return {};
  }
  if (!heap::locate(block)) return "a live block is not found by its address";
  if (choice < 650) return ask_name(live_.find(block));
  if (choice < 750)
    if (std::string wrong = ask_name(live_.find(block)); !wrong.empty()) return wrong;
  const handle named = live_.find(block)->second.named;
  order_[at] = order_.back();
  order_.pop_back();
  live_.erase(block);
  heap::free(block);
  return retire(named);
}

std::string heap_model::check() {
  const auto report = heap_.audit();
  if (!report) return std::string(report.error().message());
  if (!report->holds()) return report->broken.front();
  const heap_stats s = heap_.stats();
  std::uint64_t total = 0;
  for (const added& r : regions_)
    total += r.bytes;
  if (s.live_blocks != live_.size())
    return fmt::format("{} blocks are live, the heap says {}", live_.size(), s.live_blocks);
  if (s.total_bytes != total)
    return fmt::format("the regions have {} bytes, the heap says {}", total, s.total_bytes);
  for (const auto& [at, one] : live_)
    if (one.named != null_handle && heap_.resolve(one.named).value_or(nullptr) != at)
      return fmt::format("the handle of the live block at {} does not lead there",
                         static_cast<void*>(at));
  for (const handle past : past_)
    if (const auto found = heap_.resolve(past))
      return fmt::format("the handle {:#x} of a block freed long ago leads to {}",
                         static_cast<std::uint64_t>(past), *found);
  if (s.used_bytes + s.cached_bytes + s.free_bytes != total)
    return fmt::format("used {} + cached {} + free {} is not {}", s.used_bytes, s.cached_bytes,
                       s.free_bytes, total);
  return {};
}

std::string heap_model::finish() {
  for (const std::string& name : zones_)
    if (!heap_.release_zone(name)) return "a zone can't be released";
  for (char* block : order_)
    heap::free(block);
  heap_.trim();
  live_.clear();
  if (std::string wrong = check(); !wrong.empty()) return wrong;
  for (const added& r : regions_)
    if (const auto removed = heap_.remove_memory(r.id); !removed) return removed.error().text;
  regions_.clear();
  return heap_.stats().total_bytes == 0 ? std::string() : "memory is left";
}

}  // namespace annex
