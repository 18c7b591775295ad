// torture/crowd.hpp - workers that use one heap for everything at once, and what they keep in shared memory about it.
//
// Blocks change hands through a mailbox: whoever allocated a block puts it in, anybody takes it out and frees it. A worker
// notes in its hand what it is about to take, with the block's stamp, and clears the stamp before it frees: so after its
// death it is known whether a block was left in its hands.
#pragma once
#include <annex/annex.hpp>

#include <atomic>
#include <cstdint>
#include <string>

namespace annex::torture {

inline constexpr int workers = 8, mailboxes = 256;

struct hand { std::atomic<std::uint64_t> block, stamp; };
struct counters { std::atomic<std::uint64_t> operations, longest_wait_ns; };

struct common_room {
  std::atomic<std::uint64_t> mail[mailboxes];
  hand hands[workers];
  counters count[workers];
  std::atomic<std::uint64_t> next_stamp;
};

/// What every block of the mailbox begins with.
struct letter { std::atomic<std::uint64_t> stamp; std::uint64_t self, size_bytes; };

/// Works until it is killed. Ends the process with exit code 3 when something it relies on does not hold.
[[noreturn]] void work(common_room& room, int worker, unsigned seed);

/// Is the block in the mailbox, or in the hands of a worker other than `except`?
bool is_in_use(const common_room& room, std::uint64_t block, int except);

}  // namespace annex::torture
