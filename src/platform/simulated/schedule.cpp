// platform/simulated/schedule.cpp - see schedule.hpp; ask.hpp has what each call does with it.
#include "platform/simulated/schedule.hpp"

#include <array>
#include <atomic>

#include "platform/simulated/ask.hpp"
#include "platform/simulated/beneath.hpp"

namespace annex::os::simulated {
namespace {

constexpr u64 million = 1'000'000;

// Each a word of its own: a thread that sees one plan's words mixed with the next one's does
// nothing worse than to be late or refused once more.
std::atomic<u64> seed{0}, longest_delay_ns{0};
std::atomic<u32> late{0}, refused{0}, refused_call{0}, plan_number{1}, threads{0}, count{0};
std::atomic<bool> lasting{false};
std::atomic<const char*> last{nullptr};
std::atomic<void (*)(const char*) noexcept> listener{nullptr};
// All of them, in the order in which they were refused first; null from some place on.
std::array<std::atomic<const char*>, 128> names{};

// A thread's own numbers: each is a mix of the seed, the thread's place and a count.
struct stream {
  u32 plan_number;
  u64 state;
};
constinit thread_local stream mine{0, 0};

u64 mix(
    u64 value) noexcept {  // of the bits of each, every one of the result; Stafford's variant 13
  value = (value ^ (value >> 30)) * 0xbf58'476d'1ce4'e5b9;
  value = (value ^ (value >> 27)) * 0x94d0'49bb'1331'11eb;
  return value ^ (value >> 31);
}

u64 next_number() noexcept {
  if (const u32 current = plan_number.load(); mine.plan_number != current)
    mine = {current, mix(seed.load() ^ mix(threads.fetch_add(1) + 1))};
  mine.state += 0x9e37'79b9'7f4a'7c15;
  return mix(mine.state);
}

// Each name comes from one place, so that its address tells it.
void remember(const char* name) noexcept {
  last = name;
  for (auto& known : names) {
    const char* there = nullptr;
    if (known.compare_exchange_strong(there, name) || there == name) return;
  }
}

bool happens(u32 of_a_million) noexcept {
  return of_a_million != 0 && next_number() % million < of_a_million;
}

}  // namespace

void follow(const plan& next) noexcept {
  refused_call = 0;
  seed = next.seed;
  late = next.late;
  refused = next.refused;
  longest_delay_ns = next.longest_delay_ns;
  lasting = next.lasting;
  threads = 0;
  count = 0;
  last = nullptr;
  for (auto& name : names)
    name = nullptr;
  ++plan_number;
  refused_call = next.refused_call;
}

u32 calls() noexcept {
  return count;
}

const char* last_refused() noexcept {
  return last;
}

bool was_refused(std::string_view function) noexcept {
  for (const auto& name : names)
    if (const char* const known = name; known == nullptr || known == function)
      return known != nullptr;
  return false;
}

void tell_of_calls(void (*next)(const char*) noexcept) noexcept {
  listener = next;
}

void begin_call(const char* name) noexcept {
  if (auto* const told = listener.load()) told(name);
  if (!happens(late)) return;
  const u64 number = next_number(), longest = longest_delay_ns;
  if (number % 3 == 0 || longest == 0) return beneath::yield();
  beneath::sleep_ns(number / 3 % longest);
}

std::size_t refusal_of(const char* name, std::size_t choices) noexcept {
  if (choices == 0) return none;
  const u32 n = ++count, chosen = refused_call;
  const bool is_chosen = chosen != 0 && (n == chosen || (n > chosen && lasting));
  if (!is_chosen && !happens(refused)) return none;
  remember(name);
  return is_chosen ? 0 : next_number() % choices;
}

}  // namespace annex::os::simulated
