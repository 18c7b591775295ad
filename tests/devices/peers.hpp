// tests/devices/peers.hpp - what two processes of a test tell each other over a socket: values, and
// descriptors.
#pragma once
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace annex {

template <class T>
void send_to(int peer, const T& value) {
  if (::write(peer, &value, sizeof value) != sizeof value) std::abort();
}
template <class T>
T receive_from(int peer) {
  T value{};
  if (::recv(peer, &value, sizeof value, MSG_WAITALL) != sizeof value) std::abort();
  return value;
}

inline void pass_descriptor(int peer, int fd) {
  char byte = 'd', room[CMSG_SPACE(sizeof(int))] = {};
  ::iovec data{&byte, 1};
  ::msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1, message.msg_control = room,
  message.msg_controllen = sizeof room;
  ::cmsghdr* const c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  if (::sendmsg(peer, &message, 0) != 1) std::abort();
}
/// -1: none came.
inline int take_descriptor(int peer) {
  char byte = 0, room[CMSG_SPACE(sizeof(int))] = {};
  ::iovec data{&byte, 1};
  ::msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1, message.msg_control = room,
  message.msg_controllen = sizeof room;
  if (::recvmsg(peer, &message, 0) != 1) return -1;
  int fd = -1;
  if (const ::cmsghdr* c = CMSG_FIRSTHDR(&message)) std::memcpy(&fd, CMSG_DATA(c), sizeof fd);
  return fd;
}

}  // namespace annex
