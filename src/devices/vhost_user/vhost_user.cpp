// devices/vhost_user/vhost_user.cpp - the memory table of a back end follows the heap's regions.
//
//   on_add          entries of the region (one per IOVA run) → slots: ADD_MEM_REG each,
//                   acknowledged; else SET_MEM_TABLE, acknowledged
//   finish_remove   REM_MEM_REG each, or SET_MEM_TABLE without them; the acknowledgement is the
//                   back end's word that it has let go
//
// Limits are kept here: a back end that gets one entry too many ends its service.
// If this process dies the back end sees the connection close.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <annex/heap.hpp>

#include "base/failure.hpp"
#include "devices/region_table.hpp"
#include "devices/vhost_user/connection.hpp"
#include "devices/vhost_user/vhost_user_state.hpp"

namespace annex {

using vhost::request;

namespace {

constexpr unsigned whole_table_entries = 8;  // the protocol's, without slots
constexpr size_t most_config_bytes = 256;

std::unexpected<error> lost(int why, std::string_view doing) {
  return refuse_os(errc::os_failure, why, "the vhost-user back end {} while {}",
                   why == ECONNRESET  ? "closed the connection"
                   : why == ETIMEDOUT ? "did not answer"
                                      : std::strerror(why),
                   doing);
}

}  // namespace

int vhost_user::state::send_whole_table(const std::vector<entry>& whole) {
  struct {
    u32 count, padding;
    std::array<vhost::table_entry, whole_table_entries> entries;
  } payload{};
  std::vector<int> fds;
  for (const entry& e : whole) {
    payload.entries[payload.count++] = e.where;
    fds.push_back(e.fd);
  }
  return link.send(
      request::set_mem_table,
      std::as_bytes(std::span(&payload, 1)).first(8 + payload.count * sizeof(vhost::table_entry)),
      fds, true);
}

int vhost_user::state::send_entry(request what, const entry& e) {
  struct {
    u64 padding;
    vhost::table_entry where;
  } payload{0, e.where};
  return link.send_value(what, payload, {&e.fd, 1}, true);
}

vhost_user::vhost_user(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}
vhost_user::~vhost_user() = default;

result<std::unique_ptr<vhost_user>> vhost_user::connect(const std::string& path,
                                                        const vhost_user_options& o) {
  auto s = std::make_unique<state>();
  if (const int why = s->link.open(path, o.patience); why != 0)
    return refuse_os(errc::invalid_argument, why, "no vhost-user back end at \"{}\": {}", path,
                     std::strerror(why));
  u64 offered = 0, protocol = 0;
  if (const int why = s->link.ask_number(request::get_features, &offered); why != 0)
    return lost(why, "saying what it offers");
  if ((offered & vhost::feature_protocol) == 0)
    return refuse(errc::not_supported,
                  "the back end at \"{}\" knows no protocol features: it can't acknowledge that it "
                  "has let go of memory",
                  path);
  if (const int why = s->link.ask_number(request::get_protocol_features, &protocol); why != 0)
    return lost(why, "saying what it offers");
  if ((protocol & vhost::protocol_reply_ack) == 0)
    return refuse(errc::not_supported,
                  "the back end at \"{}\" can't acknowledge (REPLY_ACK): nobody would know when "
                  "memory may go",
                  path);
  s->slots = (protocol & vhost::protocol_slots) != 0;
  s->config = (protocol & vhost::protocol_config) != 0;
  protocol &= vhost::protocol_reply_ack | vhost::protocol_slots | vhost::protocol_config;
  if (const int why = s->link.send_value(request::set_protocol_features, protocol); why != 0)
    return lost(why, "agreeing on the protocol");
  s->link.acknowledges = true;
  s->limit = whole_table_entries;
  if (s->slots) {
    u64 most = 0;
    if (const int why = s->link.ask_number(request::get_max_mem_slots, &most); why != 0)
      return lost(why, "saying how many memory slots it has");
    s->limit = static_cast<unsigned>(std::min<u64>(most, 1u << 16));
  }
  if (const int why = s->link.send(request::set_owner, {}); why != 0)
    return lost(why, "taking us as its owner");
  s->agreed = offered & (o.device_features | vhost::feature_protocol | vhost::feature_version_1);
  if (const int why = s->link.send_value(request::set_features, s->agreed, {}, true); why != 0)
    return lost(why, "agreeing on features");
  return std::unique_ptr<vhost_user>(new vhost_user(std::move(s)));
}

u64 vhost_user::features() const noexcept {
  return state_->agreed;
}
unsigned vhost_user::most_entries() const noexcept {
  return state_->limit;
}
bool vhost_user::has_slots() const noexcept {
  return state_->slots;
}
bool vhost_user::is_connected() const noexcept {
  return state_->link.is_open();
}
unsigned vhost_user::entries() const noexcept {
  std::lock_guard guard(state_->mutex);
  return static_cast<unsigned>(state_->table.size());
}

std::optional<u64> vhost_user::device_address(const void* byte) const noexcept {
  const auto place = heap::locate(byte);
  if (!place || place->heap != state_->observed || !state_->known.find(place->region)) return {};
  return place->bus_address ? static_cast<u64>(*place->bus_address) : reinterpret_cast<u64>(byte);
}

result<void> vhost_user::read_config(size_t offset, std::span<std::byte> into) {
  if (!state_->config)
    return refuse(errc::not_supported, "the back end does not show its device's configuration");
  if (offset + into.size() > most_config_bytes)
    return refuse(errc::invalid_argument,
                  "bytes {} to {} of the configuration: there are at most {}", offset,
                  offset + into.size(), most_config_bytes);
  std::vector<std::byte> payload(12 + into.size());
  const std::array<u32, 3> head{static_cast<u32>(offset), static_cast<u32>(into.size()), 0};
  std::memcpy(payload.data(), head.data(), sizeof head);
  std::vector<std::byte> answer(payload.size());
  if (const int why = state_->link.ask(request::get_config, payload, answer); why != 0)
    return lost(why, "showing its configuration");
  std::copy_n(answer.begin() + 12, into.size(), into.begin());
  return {};
}

std::string_view vhost_user::name() const noexcept {
  return "vhost-user";
}

result<void> vhost_user::on_add(const region_view& region) {
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  const u32 id = static_cast<u32>(region.region);
  if (s.observed != heap_id{} && s.observed != region.heap)
    return refuse(errc::invalid_argument,
                  "this connection is another heap's; make one for each heap");
  if (region.fd < 0)
    return refuse(errc::not_supported,
                  "region {} has no descriptor: the back end can't map it; bring shared, hugetlb, "
                  "file or device memory",
                  id);
  std::vector<state::entry> added;
  const u64 base = reinterpret_cast<u64>(region.base);
  if (region.runs.empty())
    added.push_back(
        {region.region, region.fd, {base, region.length_bytes, base, region.fd_offset}});
  for (const region_view::run& run : region.runs)
    added.push_back({region.region,
                     region.fd,
                     {static_cast<u64>(run.bus_address), run.length_bytes, base + run.offset_bytes,
                      region.fd_offset + run.offset_bytes}});
  // After a removal that was refused halfway, some or all of them are still there.
  std::erase_if(added, [&](const state::entry& e) {
    return std::any_of(s.table.begin(), s.table.end(), [&](const state::entry& t) {
      return t.region == e.region && t.where.guest_address == e.where.guest_address;
    });
  });
  if (s.table.size() + added.size() > s.limit)
    return refuse(errc::limit_reached,
                  "region {} needs {} entries of the back end's memory table, which has {} of {}; "
                  "add larger regions with fewer IOVA runs, or remove some",
                  id, added.size(), s.table.size(), s.limit);
  int why = 0;
  if (s.slots) {
    size_t done = 0;
    while (done < added.size() && (why = s.send_entry(request::add_mem_reg, added[done])) == 0)
      ++done;
    while (why != 0 && done-- > 0)
      (void)s.send_entry(request::rem_mem_reg, added[done]);
  } else if (!added.empty()) {
    auto whole = s.table;
    whole.insert(whole.end(), added.begin(), added.end());
    why = s.send_whole_table(whole);
    if (why != 0 && s.link.is_open()) (void)s.send_whole_table(s.table);
  }
  if (why != 0)
    return why == EINVAL
               ? refuse_os(
                     errc::os_failure, why, "the back end refused region {} ({} bytes at {:#x})",
                     id, region.length_bytes,
                     region.runs.empty() ? base : static_cast<u64>(region.runs[0].bus_address))
               : result<void>(lost(why, "taking a region"));
  s.table.insert(s.table.end(), added.begin(), added.end());
  s.observed = region.heap;
  s.known.enter(region.region, 0);
  return {};
}

result<void> vhost_user::finish_remove(const region_view& region,
                                       std::chrono::steady_clock::time_point) {
  state& s = *state_;
  std::lock_guard guard(s.mutex);
  s.known.leave(region.region);
  auto is_of_region = [&](const state::entry& e) { return e.region == region.region; };
  std::vector<state::entry> left = s.table;
  std::erase_if(left, is_of_region);
  if (left.size() == s.table.size()) return {};
  int why = 0;
  if (s.link.is_open()) {
    if (s.slots)
      for (auto at = s.table.begin(); at != s.table.end() && why == 0;) {
        if (!is_of_region(*at))
          ++at;
        else if ((why = s.send_entry(request::rem_mem_reg, *at)) == 0)
          at = s.table.erase(at);
      }
    else
      why = s.send_whole_table(left);
  }
  if (why != 0 && s.link.is_open()) return lost(why, "letting go of a region");
  s.table = std::move(left);  // a back end that is gone has let go
  return {};
}

}  // namespace annex
