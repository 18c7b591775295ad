// devices/vhost_user/connection.hpp - messages to a back end: one at a time, answered or
// acknowledged.
#pragma once
#include <annex/devices/vhost_user.hpp>

#include <array>
#include <mutex>
#include <vector>

#include "base/units.hpp"

namespace annex::vhost {

enum class request : u32 {
  get_features = 1,
  set_features = 2,
  set_owner = 3,
  set_mem_table = 5,
  set_vring_num = 8,
  set_vring_addr = 9,
  set_vring_base = 10,
  get_vring_base = 11,
  set_vring_kick = 12,
  set_vring_call = 13,
  get_protocol_features = 15,
  set_protocol_features = 16,
  set_vring_enable = 18,
  get_config = 24,
  get_max_mem_slots = 36,
  add_mem_reg = 37,
  rem_mem_reg = 38,
};
constexpr u64 feature_protocol = u64{1} << 30, feature_version_1 = u64{1} << 32;
constexpr u64 protocol_reply_ack = u64{1} << 3, protocol_config = u64{1} << 9,
              protocol_slots = u64{1} << 15;

struct table_entry {
  u64 guest_address, bytes, user_address, fd_offset;
};
static_assert(sizeof(table_entry) == 32);
struct vring_state {
  u32 index, value;
};
struct vring_address {
  u32 index, flags;
  u64 descriptors, used, available, log;
};
static_assert(sizeof(vring_address) == 40);

/// A connected socket. Every function: an errno value, 0 done; ECONNRESET once the back end is
/// gone.
class connection {
 public:
  connection() = default;
  connection(const connection&) = delete;
  connection& operator=(const connection&) = delete;
  ~connection();
  int open(const std::string& path, std::chrono::milliseconds patience);
  int send(request what, std::span<const std::byte> payload, std::span<const int> fds = {},
           bool acknowledge = false);
  /// A request whose answer has this many bytes.
  int ask(request what, std::span<const std::byte> payload, std::span<std::byte> answer);
  int ask_number(request what, u64* answer) {
    return ask(what, {}, std::as_writable_bytes(std::span(answer, 1)));
  }
  template <class T>
  int send_value(request what, const T& value, std::span<const int> fds = {},
                 bool acknowledge = false) {
    return send(what, std::as_bytes(std::span(&value, 1)), fds, acknowledge);
  }
  bool is_open() const noexcept { return fd_ >= 0 && !broken_; }
  bool acknowledges = false;  // REPLY_ACK was agreed upon

 private:
  int write_message(request what, u32 flags, std::span<const std::byte> payload,
                    std::span<const int> fds);
  int read_exactly(std::span<std::byte> into);
  int read_answer(request what, std::span<std::byte> answer);
  std::mutex mutex_;
  int fd_ = -1;
  bool broken_ = false;
};

}  // namespace annex::vhost
