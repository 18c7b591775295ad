// torture/survivor.hpp - the process that lives on: what it had, what the dead may have had, and
// whether it all adds up.
//
// Every block is in somebody's book: the survivor's, or the victim's, who enters a block after it
// got it and crosses it out before it frees it. Both books lie in shared memory and outlive a
// death. After a death
//   - the survivor goes on at once: it allocates and frees, small and large; the wait is measured
//   - the audit holds, exactly, and every byte of regions and metadata belongs to somebody
//   - every block in the survivor's book is live, its own, and unharmed
//   - every block in the victim's book is live and listed under the dead victim
//   - besides those, the dead hold at most what one operation can have in its hands
//   - when the dead are reaped, exactly the survivor's blocks are left
//   - a handle that somebody asked for leads to its block while that is in a book, and is stale for
//   ever once it has been freed
//
// Books say where a block lies, not its handle: a block that nobody named is freed in another way
// than one with a name.
#pragma once
#include <annex/annex.hpp>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace annex::torture {

inline constexpr int survivor_blocks = 24, victim_blocks = 1024, most_names = 512;
inline constexpr const char* heap_name = "steps";

struct books {
  std::atomic<std::uint64_t> survivor[survivor_blocks], victim[victim_blocks];  // places; 0: none
  std::atomic<std::uint32_t> victims;                                           // entries used
  std::atomic<std::uint32_t> victim_member;
  // Handles that were asked for; 0: none.
  std::atomic<std::uint64_t> survivors_name[survivor_blocks];
  // By the victim; place 0: given back, or about to be.
  struct {
    std::atomic<std::uint64_t> name, place;
  } named[most_names];
  std::atomic<std::uint32_t> names;  // entries used
};

/// Ends the torture with a sentence; it names the operation and the instruction.
[[noreturn]] void fail(const std::string& what);
extern std::string where_we_are;

template <class T>
T must(result<T> r) {
  if (!r) fail("refused: " + std::string(r.error().message()));
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

class survivor {
 public:
  explicit survivor(const heap_options& options);
  ~survivor();
  heap& own() { return heap_; }
  books& book() { return *book_; }
  /// Replaces what was freed of its blocks, and forgets the victim's book.
  void set_the_scene();
  /// All the checks above. held_in_hand: how many blocks the operation can have had in its hands.
  void check_after_death(std::uint64_t held_in_hand);
  std::uint64_t longest_wait_ns() const { return longest_wait_ns_; }
  /// Waits of allocate, free, zone and recover right after a death.
  void go_on_at_once();
  /// Asks for the handles of all its blocks.
  void name_blocks();

 private:
  void check_books(std::uint64_t held_in_hand);
  void check_names();
  void forget(std::atomic<std::uint64_t>& name);
  heap heap_;
  books* book_;
  std::vector<void*> blocks_, lent_;
  std::vector<handle> past_;
  std::string directory_;
  std::uint64_t longest_wait_ns_ = 0, deaths_ = 0;
};

// ---- for the victim -----------------------------------------------------------------------------
/// Where a block lies, as one number that means the same in every process. Asks for no handle.
std::uint64_t place_of(heap& h, const void* block);
std::uint64_t place_of(heap& h, const block_summary& block);
void* at_place(heap& h, std::uint64_t place);
/// Enters the block into the victim's book.
void* keep(heap& h, books& b, void* block);
/// Asks for the handle of what lies there.
void name_block(heap& h, books& b, const void* block);
/// Crosses a block out.
void* take_out(heap& h, books& b, std::uint32_t index);
/// Crosses the latest block out and frees it.
void drop(heap& h, books& b);
/// Crosses a block of the survivor out and frees it.
void drop_survivors(heap& h, books& b, int index);

}  // namespace annex::torture
