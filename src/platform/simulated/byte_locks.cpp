// platform/simulated/byte_locks.cpp - byte locks that are refused, and questions that are not
// answered.
#include "platform/byte_locks.hpp"

#include <cerrno>

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os {

life_lock hold_byte(int fd, u64 position, bool shared) {
  return simulated::ask(__func__, {{nullptr, ENOLCK}, {nullptr, EMFILE}, {nullptr, ENOMEM}},
                        beneath::hold_byte, fd, position, shared);
}

void let_go_of_byte(void* pin) {
  simulated::pass(__func__, beneath::let_go_of_byte, pin);
}

bool is_byte_locked(int fd, u64 position) {
  return simulated::ask(__func__, {true}, beneath::is_byte_locked, fd, position);
}

bool is_any_byte_locked(int fd, u64 from, u64 bytes) {
  return simulated::ask(__func__, {true}, beneath::is_any_byte_locked, fd, from, bytes);
}

}  // namespace annex::os
