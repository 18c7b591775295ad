// torture/visible.hpp - which machine instructions change something that outlives the process: the
// moments worth dying at.
//
//   visible:    a store into memory that others map too, a system call
//   invisible:  registers, stack, private memory: all gone with the process
//
// A death after an invisible instruction leaves the same bytes as a death before it, so one of the
// two is enough. What can't be decided (an instruction the decoder doesn't know, an address nobody
// maps) counts as visible.
#pragma once
#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace annex::torture {

class visibility {
 public:
  /// The traced process runs our own code at our own addresses: it is a forked child.
  explicit visibility(pid_t process) : process_(process) { read_mappings(); }

  /// Will the instruction it is about to execute change what outlives it?
  bool is_visible(const user_regs_struct& registers);

 private:
  // Register numbers of the decoder.
  struct store {
    int base, index;
    std::uint8_t scale;
    bool is_thread_local;
    std::int64_t displacement;
  };
  struct instruction {
    bool always = false, calls_kernel = false;
    std::vector<store> stores;
  };
  const instruction& decode(std::uint64_t address);
  bool is_shared(std::uint64_t address) const;
  void read_mappings();

  struct range {
    std::uint64_t begin, end;
  };
  pid_t process_;
  std::vector<range> private_;  // mappings of its own, by address
  bool stale_ = false;          // a system call may have changed them
  std::unordered_map<std::uint64_t, instruction> decoded_;
};

}  // namespace annex::torture
