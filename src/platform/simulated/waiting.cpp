// platform/simulated/waiting.cpp - waits that end early and threads that come late.
#include "platform/waiting.hpp"

#include <cerrno>

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os {

u64 now_ns() {
  return simulated::pass(__func__, beneath::now_ns);
}

void yield() {
  simulated::pass(__func__, beneath::yield);
}

void sleep_ns(u64 ns) {
  simulated::begin_call(__func__);
  // Ended by a signal.
  if (simulated::refusal_of(__func__, 1) != simulated::none) return beneath::yield();
  beneath::sleep_ns(ns);
}

void wait_on(const u32* word, u32 expected, u64 ns) {
  simulated::begin_call(__func__);
  // Woken for nothing, or by a signal.
  if (simulated::refusal_of(__func__, 1) != simulated::none) return beneath::yield();
  beneath::wait_on(word, expected, ns);
}

void wake_all(const u32* word) {
  simulated::pass(__func__, beneath::wake_all, word);
}

void wake_one(const u32* word) {
  simulated::pass(__func__, beneath::wake_one, word);
}

open_result open_event() {
  return simulated::ask(__func__, {{-1, EMFILE}, {-1, ENFILE}, {-1, ENOMEM}}, beneath::open_event);
}

void signal_event(int fd) {
  simulated::pass(__func__, beneath::signal_event, fd);
}

void clear_event(int fd) {
  simulated::pass(__func__, beneath::clear_event, fd);
}

}  // namespace annex::os
