// devices/verbs/verbs_memory.cpp - the MRs of each region, and the way from a block to its keys.
//
//   on_add        MRs of the pieces, by several threads → found;
//                 a refusal deregisters those that are there
//   begin_remove  no longer found
//   finish_remove deregistered: from here on the device refuses their keys
//
// place ─ region ─▶ registration ─ offset / piece ─▶ keys of the piece.
// If the process dies the kernel closes its protection domains: peers' requests are refused.
#include <annex/devices/verbs.hpp>

#include <infiniband/verbs.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "base/failure.hpp"
#include "base/in_parallel.hpp"
#include "base/limits.hpp"
#include "devices/registrations.hpp"

namespace annex {

struct verbs_memory::state {
  struct keys {
    u32 lkey = 0, rkey = 0;
  };
  struct registration {
    u64 address = 0, length_bytes = 0, piece_bytes = 1;
    std::vector<::ibv_mr*> mrs;
    std::unique_ptr<keys[]> of_piece;
  };
  ::ibv_pd* domain;
  verbs_options options;
  u64 most_bytes;
  devices::registrations<registration> regions;
  mutable std::mutex mutex;

  // 0, or why an MR stays.
  static int deregister(registration& r) {
    for (; !r.mrs.empty(); r.mrs.pop_back())
      if (r.mrs.back() != nullptr)
        if (const int why = ::ibv_dereg_mr(r.mrs.back()); why != 0) return why;
    return 0;
  }
  result<u64> address_of(const region_view& region) const {
    if (options.addresses == verbs_addresses::handles) return region.remote_base;
    if (options.addresses == verbs_addresses::here) return reinterpret_cast<u64>(region.base);
    if (region.runs.size() != 1)
      return refuse(errc::bad_iova,
                    "region {} has {} runs of IOVAs; an MR is called by one: add it with IOVAs "
                    "that follow each other, or use verbs_addresses::handles",
                    static_cast<u32>(region.region), region.runs.size());
    return static_cast<u64>(region.runs[0].bus_address);
  }
  ::ibv_mr* register_piece(const region_view& region, u64 address, u64 at, u64 bytes) const {
    const int access = static_cast<int>(options.access);
    if (region.access == touch::none)
      return ::ibv_reg_dmabuf_mr(domain, region.fd_offset + at, bytes, address + at, region.fd,
                                 access);
    return ::ibv_reg_mr_iova2(domain, static_cast<char*>(region.base) + at, bytes, address + at,
                              options.access);
  }
};

namespace {

std::unexpected<error> cannot_register(int why, const region_view& region, const char* device) {
  const u32 id = static_cast<u32>(region.region);
  if (region.access == touch::none)
    return refuse_os(errc::not_supported, why,
                     "device {} does not take region {} by its descriptor: {}; it must be a "
                     "dma-buf, and the device one that can (peer memory)",
                     device, id, std::strerror(why));
  if (why == ENOMEM)
    return refuse_os(errc::out_of_memory, why,
                     "device {} can't register {} bytes: the locked-memory limit is too low "
                     "(ulimit -l, or CAP_IPC_LOCK), or it has no MR left",
                     device, region.length_bytes);
  if (why == EFAULT || why == EOPNOTSUPP)
    return refuse_os(errc::not_supported, why,
                     "region {} can't be pinned for device {}: it is not mapped readable and "
                     "writable, or is a disk file mapped shared",
                     id, device);
  return refuse_os(errc::os_failure, why, "device {} refused region {} of {} bytes: {}", device, id,
                   region.length_bytes, std::strerror(why));
}

}  // namespace

verbs_memory::verbs_memory(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}

verbs_memory::~verbs_memory() {
  state_->regions.for_each([](state::registration& r) { (void)state::deregister(r); });
}

result<std::unique_ptr<verbs_memory>> verbs_memory::create(::ibv_pd* domain,
                                                           const verbs_options& o) {
  if (domain == nullptr)
    return refuse(errc::invalid_argument, "there is no protection domain; ibv_alloc_pd makes one");
  if (o.piece_bytes != 0 &&
      (!is_power_of_two(o.piece_bytes) || o.piece_bytes < limits::smallest_page_bytes))
    return refuse(errc::invalid_argument,
                  "pieces of {} bytes can't be registered: use a power of two from {}, or 0",
                  o.piece_bytes, limits::smallest_page_bytes);
  ::ibv_device_attr device{};
  if (const int why = ::ibv_query_device(domain->context, &device); why != 0)
    return refuse_os(errc::os_failure, why, "device {} does not say what it can: {}",
                     ::ibv_get_device_name(domain->context->device), std::strerror(why));
  const u64 most = std::bit_floor(std::max<u64>(device.max_mr_size, limits::smallest_page_bytes));
  if (o.piece_bytes > most)
    return refuse(errc::invalid_argument, "pieces of {} bytes are more than device {} takes: {}",
                  o.piece_bytes, ::ibv_get_device_name(domain->context->device), most);
  auto s = std::make_unique<state>();
  s->domain = domain;
  s->options = o;
  s->most_bytes = o.piece_bytes != 0 ? o.piece_bytes : std::min(most, limits::largest_region_bytes);
  return std::unique_ptr<verbs_memory>(new verbs_memory(std::move(s)));
}

std::optional<memory_key> verbs_memory::find(const void* block) const noexcept {
  const auto [r, offset_bytes] = state_->regions.find(block);
  if (r == nullptr) return {};
  const u64 piece = offset_bytes / r->piece_bytes;
  const state::keys k = r->of_piece[piece];
  return memory_key{k.lkey, k.rkey, r->address + offset_bytes,
                    std::min((piece + 1) * r->piece_bytes, r->length_bytes) - offset_bytes};
}

std::size_t verbs_memory::registered() const noexcept {
  std::lock_guard guard(state_->mutex);
  size_t count = 0;
  state_->regions.for_each([&](const state::registration& r) { count += r.mrs.size(); });
  return count;
}

std::string_view verbs_memory::name() const noexcept {
  return "verbs";
}

result<void> verbs_memory::on_add(const region_view& region) {
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  if (s.regions.is_of_another_heap(region.heap))
    return refuse(errc::invalid_argument,
                  "these MRs are another heap's; make one verbs_memory for each heap");
  if (s.regions.of(region.region) != nullptr) {  // a removal was refused before it came to the MRs
    s.regions.publish(region);
    return {};
  }
  const auto address = s.address_of(region);
  if (!address) return std::unexpected(address.error());
  auto& r = s.regions.begin(region.region);
  const u64 piece_bytes = std::min(s.most_bytes, std::bit_ceil(u64{region.length_bytes})),
            pieces = divide_up(region.length_bytes, piece_bytes);
  r.mrs.assign(pieces, nullptr);
  const int why = in_parallel(
      region.length_bytes, piece_bytes, s.options.threads,
      [&](unsigned, u64 at, u64 bytes) {
        ::ibv_mr* const mr = s.register_piece(region, *address, at, bytes);
        if (mr == nullptr) return errno != 0 ? errno : EINVAL;
        r.mrs[at / piece_bytes] = mr;
        return 0;
      },
      s.options.progress);
  if (why != 0) {
    (void)state::deregister(r);
    return cannot_register(why, region, ::ibv_get_device_name(s.domain->context->device));
  }
  r.of_piece = std::make_unique<state::keys[]>(pieces);
  for (u64 i = 0; i < pieces; ++i)
    r.of_piece[i] = {r.mrs[i]->lkey, r.mrs[i]->rkey};
  r.address = *address;
  r.length_bytes = region.length_bytes;
  r.piece_bytes = piece_bytes;
  s.regions.publish(region);
  return {};
}

quiesce verbs_memory::begin_remove(const region_view& region) {
  std::lock_guard guard(state_->mutex);
  state_->regions.hide(region.region);
  return quiesce::done;
}

result<void> verbs_memory::finish_remove(const region_view& region,
                                         std::chrono::steady_clock::time_point) {
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  auto* const r = s.regions.of(region.region);
  if (r == nullptr) return {};
  s.regions.hide(region.region);
  if (const int why = state::deregister(*r); why != 0)
    return refuse_os(
        errc::os_failure, why,
        "an MR of region {} can't be deregistered: {}; are memory windows still bound to it?",
        static_cast<u32>(region.region), std::strerror(why));
  s.regions.end(region.region);
  return {};
}

}  // namespace annex
