// torture/crowd.hpp - workers that use one heap for everything at once, and what they keep in
// shared memory about it.
//
// Blocks change hands through a mailbox: whoever allocated a block puts it in, anybody takes it out
// and frees it. A worker notes in its hand what it is about to take, with the block's stamp, and
// clears the stamp before it frees: so after its death it is known whether a block was left in its
// hands.
//
// Beside that they come and go: workers close and attach, start threads that end with full caches,
// and fork children that allocate, outlive them, execute another program, or are killed by a timer
// of their own at a random instruction. Pools and rings are made and released while others have
// them open. What children hold is in nobody's book: it is reaped.
#pragma once
#include <annex/annex.hpp>

#include <atomic>
#include <cstdint>
#include <string>

namespace annex::torture {

inline constexpr int workers = 8, mailboxes = 256;

struct hand {
  std::atomic<std::uint64_t> block, stamp;
};
/// asleep: neither running nor ready to run, so the machine's load is left out. What waits because
/// it was asked to is not counted.
struct counters {
  std::atomic<std::uint64_t> operations, longest_wait_ns, longest_asleep_ns, stalls, attaches,
      forks, threads, views, reaps;
};

struct common_room {
  std::atomic<std::uint64_t> mail[mailboxes];
  hand hands[workers];
  counters count[workers];
  std::atomic<std::uint64_t> next_stamp;
  std::atomic<std::uint64_t> kills_by_timer;  // of children, as far as their parents have seen them
};

/// What every block of the mailbox begins with.
struct letter {
  std::atomic<std::uint64_t> stamp;
  std::uint64_t self, size_bytes;
};

/// A refusal that no one deserves here: nothing is damaged, and there is room for everybody.
bool is_wrong(const error& refusal);

/// Works until it is killed. Ends the process with exit code 3 when something it relies on does not
/// hold.
[[noreturn]] void work(common_room& room, int worker, unsigned seed);

/// Is the block in the mailbox, or in the hands of a worker other than `except`?
bool is_in_use(const common_room& room, std::uint64_t block, int except);

}  // namespace annex::torture
