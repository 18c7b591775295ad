// platform/byte_locks.hpp - a lock that ends with its holder: one byte of a file.
//
// It is how others learn who lives (docs/design/0002). Errors are errno values. Any thread may
// call; no fork of this process falls between a lock's opening and its being held by memory alone.
#pragma once
#include "base/units.hpp"

namespace annex::os {

/// A lock that is held by this process's memory itself: through an open file description that only
/// a mapping refers to. It ends with the process or its exec, and with nothing else: a forked child
/// does not have the mapping, and no descriptor is left that could be inherited, sent or closed.
/// How the kernel keeps it: the mapping holds the description, the description the lock.
struct life_lock {
  void* pin = nullptr;
  int error = 0;
};
// At once; EAGAIN: somebody else has it.
life_lock hold_byte(int fd, u64 position, bool shared = false);
void let_go_of_byte(void* pin);  // null: nothing
// By anybody, ourselves too. What can't be told counts as locked: an error must not read as death.
bool is_byte_locked(int fd, u64 position);
bool is_any_byte_locked(int fd, u64 from, u64 bytes);

}  // namespace annex::os
