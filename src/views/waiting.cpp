// views/waiting.cpp - see waiting.hpp.
#include "views/waiting.hpp"

#include <algorithm>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include "platform/files.hpp"
#include "platform/open_result.hpp"
#include "platform/processes.hpp"
#include "platform/waiting.hpp"

namespace annex {
namespace detail {
namespace {

constexpr u64 look_again_without_barrier_ns = 10'000'000;
constexpr auto for_ever = std::chrono::nanoseconds::max();

// Another process had it while this one had, and no other process is left in the heap.
bool is_nobody_left(const waiting_place& p) noexcept {
  const bool had_others =
      p.had_others || p.changes->load(std::memory_order_relaxed) != p.changes_at_open;
  return had_others && !p.heap->membership.has_living_others();
}

}  // namespace

result<void> wait_at(const waiting_place& p, std::chrono::nanoseconds deadline,
                     const std::atomic<bool>* stop) {
  const u64 begun_ns = os::now_ns(),
            longest_ns = deadline.count() > 0 ? static_cast<u64>(deadline.count()) : 0;
  const bool has_barrier =
      p.heap->here.seg.header().no_barrier.load(std::memory_order_relaxed) == 0;
  u64 looked_for_others_ns = begun_ns;
  for (;;) {
    if (!p.heap->membership.ensure_member())
      return refuse(errc::forked_away, "a private heap can't be used in a forked child");
    const auto signal = p.begin();
    if (!signal) return std::unexpected(signal.error());
    if (p.look()) return {};
    ANNEX_TRY(p.heap->here.refuse_if_damaged());
    if (stop != nullptr && stop->load()) return refuse(errc::canceled, "the event was closed");
    const u64 now_ns = os::now_ns(), waited_ns = now_ns - begun_ns;
    const bool is_late = waited_ns >= longest_ns;
    if (is_late || now_ns - looked_for_others_ns >= waiter_looks_again_ns) {
      looked_for_others_ns = now_ns;
      if (is_nobody_left(p)) {
        if (p.look()) return {};  // the last one's last
        return refuse(errc::others_gone,
                      "no other living process has heap \"{}\" attached any more: nobody is left "
                      "who could end this wait; those who come later can",
                      p.heap->here.name);
      }
    }
    if (is_late)
      return refuse(errc::deadline_passed, "nothing came in {} ms", longest_ns / 1'000'000);
    // W4.
    os::wait_on(&p.signal->value, *signal,
                std::min(longest_ns - waited_ns,
                         has_barrier ? waiter_looks_again_ns : look_again_without_barrier_ns));
  }
}

// One thread per event: a descriptor can't be put into the segment, and whoever adds must not need
// to reach each waiter's.
//
//   armed ──wait_at() says so──▶ told: the descriptor is readable ──rearm()──▶ armed
struct watching {
  waiting_place place;
  int fd = -1;
  const u64 forks = os::fork_count();
  std::atomic<bool> stop{false};
  std::atomic<u32> armed{1};
  std::thread thread{};

  void work() noexcept {
    os::keep_signals_away();
    while (!stop.load()) {
      armed.wait(0);
      if (stop.load()) return;
      const auto ended = wait_at(place, for_ever, &stop);
      if (!ended && ended.error().code == errc::canceled) return;
      armed.store(0);
      os::signal_event(fd);
    }
  }
};

result<ready_event> watch_at(const waiting_place& place) {
  const os::open_result event = os::open_event();
  if (event.fd < 0)
    return refuse_os(errc::os_failure, event.error, "no descriptor for an event: {}",
                     std::strerror(event.error));
  auto* const made = new watching{.place = place, .fd = event.fd};
  try {
    made->thread = std::thread([made] { made->work(); });
  } catch (const std::system_error&) {
    os::close_file(event.fd);
    delete made;
    return refuse(errc::limit_reached, "no thread for an event: this process may have no more");
  }
  return ready_event(made);
}

}  // namespace detail

ready_event::ready_event(ready_event&& other) noexcept
    : watching_(std::exchange(other.watching_, nullptr)) {}
ready_event& ready_event::operator=(ready_event&& other) noexcept {
  std::swap(watching_, other.watching_);
  return *this;
}

ready_event::~ready_event() {
  if (watching_ == nullptr) return;
  // Its thread is not in this process.
  const bool is_parents = watching_->forks != os::fork_count();
  if (is_parents) new (&watching_->thread) std::thread;
  if (!is_parents) {
    watching_->stop.store(true);
    watching_->armed.store(1);
    watching_->armed.notify_all();
    os::wake_all(&watching_->place.signal->value);
    watching_->thread.join();
  }
  os::close_file(watching_->fd);
  delete watching_;
}

int ready_event::fd() const noexcept {
  return watching_ != nullptr ? watching_->fd : -1;
}

void ready_event::rearm() noexcept {
  if (watching_ == nullptr || watching_->forks != os::fork_count()) return;
  os::clear_event(watching_->fd);
  watching_->armed.store(1);  // after it was cleared: what the thread then finds makes it readable
  watching_->armed.notify_all();
}

}  // namespace annex
