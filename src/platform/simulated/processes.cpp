// platform/simulated/processes.cpp - processes that can't be seen, and a kernel without barriers.
#include "platform/processes.hpp"

#include <string>

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os {

u32 process_id() {
  return simulated::pass(__func__, beneath::process_id);
}

u32 user_id() {
  return simulated::pass(__func__, beneath::user_id);
}

std::string program_name() {
  return simulated::pass(__func__, beneath::program_name);
}

std::string environment(const char* name) {
  return simulated::pass(__func__, beneath::environment, name);
}

u64 random_number() {
  return simulated::pass(__func__, beneath::random_number);
}

u64 start_time(u32 process) {
  return simulated::ask(__func__, {0}, beneath::start_time, process);
}

u32 owner_of_process(u32 process) {
  return simulated::ask(__func__, {nobody_known}, beneath::owner_of_process, process);
}

void at_fork(void (*before)(), void (*after)(), void (*in_child)()) {
  simulated::pass(__func__, beneath::at_fork, before, after, in_child);
}

u64 fork_count() {
  return simulated::pass(__func__, beneath::fork_count);
}

u32 thread_id() {
  return simulated::pass(__func__, beneath::thread_id);
}

bool thread_exists(u32 thread) {
  return simulated::pass(__func__, beneath::thread_exists, thread);
}

void at_end_of_this_thread(void (*handler)()) {
  simulated::pass(__func__, beneath::at_end_of_this_thread, handler);
}

void keep_signals_away() {
  simulated::pass(__func__, beneath::keep_signals_away);
}

bool prepare_process_barrier() {
  return simulated::ask(__func__, {false}, beneath::prepare_process_barrier);
}

bool process_barrier() {
  return simulated::ask(__func__, {false}, beneath::process_barrier);
}

}  // namespace annex::os
