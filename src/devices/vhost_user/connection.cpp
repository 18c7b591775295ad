// devices/vhost_user/connection.cpp - see connection.hpp.
//
//   message   request u32 │ flags u32: version 1, 4 answer, 8 acknowledge │ bytes u32 │ payload
//             descriptors travel beside it
#include "devices/vhost_user/connection.hpp"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace annex::vhost {
namespace {

constexpr u32 version = 1, is_answer = 4, needs_acknowledgement = 8;
constexpr size_t most_descriptors = 8;
struct header {
  u32 what, flags, bytes;
};

}  // namespace

connection::~connection() {
  if (fd_ >= 0) ::close(fd_);
}

int connection::open(const std::string& path, std::chrono::milliseconds patience) {
  ::sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return ENAMETOOLONG;
  path.copy(address.sun_path, path.size());
  fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd_ < 0) return errno;
  const ::timeval limit{patience.count() / 1000, (patience.count() % 1000) * 1000};
  (void)::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  (void)::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  return ::connect(fd_, reinterpret_cast<const ::sockaddr*>(&address), sizeof address) == 0 ? 0
                                                                                            : errno;
}

int connection::write_message(request what, u32 flags, std::span<const std::byte> payload,
                              std::span<const int> fds) {
  if (broken_) return ECONNRESET;
  header h{static_cast<u32>(what), flags, static_cast<u32>(payload.size())};
  std::array<::iovec, 2> parts{::iovec{&h, sizeof h},
                               ::iovec{const_cast<std::byte*>(payload.data()), payload.size()}};
  alignas(::cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * most_descriptors)> room{};
  ::msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = payload.empty() ? 1 : 2;
  if (!fds.empty()) {
    message.msg_control = room.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    ::cmsghdr* const control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(control), fds.data(), fds.size_bytes());
  }
  ssize_t sent = 0;
  do
    sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  // Messages are far smaller than the socket's buffer.
  if (sent == static_cast<ssize_t>(sizeof h + payload.size())) return 0;
  broken_ = true;
  return sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? ETIMEDOUT : ECONNRESET;
}

int connection::read_exactly(std::span<std::byte> into) {
  while (!into.empty()) {
    const ssize_t got = ::recv(fd_, into.data(), into.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      broken_ = true;  // half an answer: what comes next can't be told apart
      return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? ETIMEDOUT : ECONNRESET;
    }
    into = into.subspan(static_cast<size_t>(got));
  }
  return 0;
}

int connection::read_answer(request what, std::span<std::byte> answer) {
  header h{};
  if (const int why = read_exactly(std::as_writable_bytes(std::span(&h, 1))); why != 0) return why;
  if (h.what != static_cast<u32>(what) || (h.flags & is_answer) == 0 || h.bytes > 4096) {
    broken_ = true;
    return EPROTO;
  }
  std::vector<std::byte> payload(h.bytes);
  if (const int why = read_exactly(payload); why != 0) return why;
  // An empty answer: the request failed there.
  if (payload.size() < answer.size()) return EOPNOTSUPP;
  std::copy_n(payload.begin(), answer.size(), answer.begin());
  return 0;
}

int connection::send(request what, std::span<const std::byte> payload, std::span<const int> fds,
                     bool acknowledge) {
  std::lock_guard guard(mutex_);
  const bool wait = acknowledge && acknowledges;
  if (const int why =
          write_message(what, version | (wait ? needs_acknowledgement : 0), payload, fds);
      why != 0 || !wait)
    return why;
  u64 refused = 0;
  if (const int why = read_answer(what, std::as_writable_bytes(std::span(&refused, 1))); why != 0)
    return why;
  return refused == 0 ? 0 : EINVAL;
}

int connection::ask(request what, std::span<const std::byte> payload, std::span<std::byte> answer) {
  std::lock_guard guard(mutex_);
  if (const int why = write_message(what, version, payload, {}); why != 0) return why;
  return read_answer(what, answer);
}

}  // namespace annex::vhost
