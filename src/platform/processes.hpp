// platform/processes.hpp - who this process and its threads are, who else there is, what happens at
// a fork or at a thread's end, and the barrier across processes.
//
// None of it fails, but for what says so. Any thread may call.
#pragma once
#include <string>

#include "base/units.hpp"

namespace annex::os {

u32 process_id();
u32 user_id();  // whose rights this process has
std::string program_name();
// Empty when unset, or not to be heeded (set-user-id programs).
std::string environment(const char* name);
u64 random_number();

u64 start_time(u32 process);  // 0: unknown
constexpr u32 nobody_known = ~u32{0};
// Nobody_known: there is none, or it can't be told.
u32 owner_of_process(u32 process);

/// before: in the parent; after: in the parent; in_child: in the child. Called in reverse, as
/// registered, as registered.
void at_fork(void (*before)(), void (*after)(), void (*in_child)());
// How often this process's forebears have forked to make it.
u64 fork_count();

u32 thread_id();
bool thread_exists(u32 thread);  // of this process
/// Calls the handler when this thread ends, after the destructors of its thread_locals; once. A
/// handler that is asked for by another one at that time is called in the next of up to four
/// rounds. Not for the main thread, unless it ends alone.
void at_end_of_this_thread(void (*handler)());
// From this thread: others get them.
void keep_signals_away();

/// Orders this thread's earlier stores before later loads of every thread of every process that
/// called prepare; false where the kernel does not offer it.
bool prepare_process_barrier();
bool process_barrier();

}  // namespace annex::os
