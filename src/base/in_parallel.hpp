// base/in_parallel.hpp - one long piece of work over many bytes, done in pieces by several threads.
#pragma once
#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/limits.hpp"

namespace annex {

/// How many threads to use when so many were asked for (0: one per CPU) and there are so many
/// pieces.
inline unsigned threads_for(u64 pieces, unsigned wanted) noexcept {
  const u64 most = std::clamp<u64>(pieces, 1, limits::largest_worker_count);
  return static_cast<unsigned>(
      std::clamp<u64>(wanted != 0 ? wanted : std::thread::hardware_concurrency(), 1, most));
}

/// Calls work(thread, offset, length) for each piece of [0, bytes), on threads 0 to
/// threads_for(pieces, threads) - 1, and tells progress what is done, one call at a time. The first
/// that does not return 0 stops them all and is returned. Where no thread can be had those there
/// are do all of it.
template <class Work>
int in_parallel(u64 bytes, u64 piece_bytes, unsigned threads, const Work& work,
                const std::function<void(u64, u64)>& progress = {}) {
  const u64 pieces = divide_up(bytes, piece_bytes);
  std::atomic<u64> next{0};
  std::atomic<int> why{0};
  u64 done = 0;
  std::mutex progress_mutex;
  auto run = [&](unsigned thread) {
    for (u64 i = 0; why.load() == 0 && (i = next.fetch_add(1)) < pieces;) {
      const u64 length = std::min(piece_bytes, bytes - i * piece_bytes);
      if (const int failed = work(thread, i * piece_bytes, length); failed != 0)
        return why.store(failed);
      if (!progress) continue;
      std::lock_guard guard(progress_mutex);
      done += length;
      progress(done, bytes);
    }
  };
  std::vector<std::thread> others;
  try {
    for (unsigned i = 1; i < threads_for(pieces, threads); ++i)
      others.emplace_back(run, i);
    // NOLINTNEXTLINE(bugprone-empty-catch): the limit of processes is reached; fewer do it then.
  } catch (const std::system_error&) {}
  run(0);
  for (std::thread& other : others)
    other.join();
  return why.load();
}

}  // namespace annex
