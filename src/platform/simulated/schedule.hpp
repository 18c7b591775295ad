// platform/simulated/schedule.hpp - which calls of the platform are refused, and which are late.
//
// Tests link this folder in place of the system's (cmake's annex_simulated). Every function of
// platform/*.hpp goes through here and then to the real one:
//
//   annex  ──▶  annex::os, simulated/  ──▶  late?  ──▶  refused?  ──▶  annex::os::beneath, linux/
//                                           a while     an error that this call can really give
//
// What happens follows from the seed, from which thread of the process it is (in the order in which
// they first call) and from how many calls that thread has made: a seed that found something finds
// it again, as far as the kernel's own scheduling lets it.
//
// Threads: any may call, follow() too. A child has its parent's plan, and its parent's number: let
// it follow one of its own.
#pragma once
#include <string_view>

#include "base/units.hpp"

namespace annex::os::simulated {

struct plan {
  u64 seed = 0;
  /// So many of a million calls.
  u32 late = 0, refused = 0;
  u64 longest_delay_ns = 50'000;
  /// The n-th of the calls that can be refused is, with what is the likeliest for it; 0: none. All
  /// further ones too when lasting.
  u32 refused_call = 0;
  bool lasting = false;
};
/// From now on, in this process; its calls are counted from 0 again.
void follow(const plan& next) noexcept;

/// Calls since then that could have been refused.
u32 calls() noexcept;
/// The function that was refused last since then, or null.
const char* last_refused() noexcept;
/// Whether this one was, ever since then.
bool was_refused(std::string_view function) noexcept;

/// From now on listener is told each function of the platform before it is called, by the thread
/// that calls it; null: nobody is. Each name has one address.
void tell_of_calls(void (*listener)(const char* function) noexcept) noexcept;

}  // namespace annex::os::simulated
