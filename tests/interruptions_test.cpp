// tests/interruptions_test.cpp - a kernel that answers otherwise: signals interrupt system calls,
// and a call in the middle of a function of the platform is refused. This is the real platform.
//
//   a thread's system calls ──▶ filter (seccomp) ──▶ those of a list: another thread of the process
//                                                    says "go on", or which error they return
//
// A filter can't be taken away again, so each test is a child process.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

#include "everything.hpp"
#include "platform/byte_locks.hpp"
#include "platform/files.hpp"
#include "platform/memory.hpp"
#include "support.hpp"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define ANNEX_MAPS_ONLY_ITS_OWN false
#else
#define ANNEX_MAPS_ONLY_ITS_OWN true
#endif

namespace annex {
namespace {

using platform_of_linux = in_own_directory;

/// Which error a call of a list gets; 0: it goes on.
using answer = std::function<int(const seccomp_data&)>;

// For this thread and those that it makes from now on; false: this kernel, or who guards this
// process, does not let us.
bool answer_calls(const std::vector<int>& calls, answer say) {
  static std::atomic<int> listener{-1};
  std::thread([say = std::move(say)] {
    while (listener < 0)
      std::this_thread::yield();
    for (;;) {
      seccomp_notif asked{};
      if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) continue;
      seccomp_notif_resp response{};
      response.id = asked.id;
      response.error = -say(asked.data);
      if (response.error == 0) response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
      (void)::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
    }
  }).detach();
  std::vector<sock_filter> program = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const int call : calls) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
  const long fd =
      ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
  listener = static_cast<int>(fd);
  return fd >= 0;
}

constexpr int impossible = 77;

// Those that the platform makes and that the manual says a signal may interrupt.
bool can_be_interrupted(const seccomp_data& call) {
  switch (call.nr) {
    case SYS_fcntl: return call.args[1] == F_OFD_SETLK;
    case SYS_madvise: return call.args[2] == 23 /* MADV_POPULATE_WRITE */;
    case SYS_futex:
      return call.args[1] == FUTEX_WAIT;  // not the C library's own, which are private
    default: return true;
  }
}

TEST_F(platform_of_linux, lets_no_interruption_be_seen) {
  child_process child([&] {
    const mapped_memory plain(1 << 20);
    std::atomic<unsigned> asked{0}, interrupted{0};
    if (!answer_calls({SYS_openat, SYS_ftruncate, SYS_fallocate, SYS_fcntl, SYS_madvise,
                       SYS_fstatfs, SYS_futex},
                      [&](const seccomp_data& call) {
                        if (!can_be_interrupted(call) || asked++ % 2 != 0) return 0;
                        ++interrupted;
                        return EINTR;
                      }))
      return impossible;
    EXPECT_EQ(use_everything(plain), 0);
    EXPECT_GT(interrupted, 50u);
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  const int code = child.wait_for_exit_code();
  if (code == impossible) GTEST_SKIP() << "no filters for system calls here";
  EXPECT_EQ(code, 0);
}

// What the platform is asked for, and the call in the middle of it that is refused.
struct refused_halfway {
  const char* what;
  int call, error;
  std::function<bool(const seccomp_data&)> is_it;
  std::function<int(int fd)> ask;  // the error
};

TEST_F(platform_of_linux, leaves_nothing_behind_when_a_call_is_refused_halfway) {
  const auto is_of_a_file = [](const seccomp_data& call) {
    return static_cast<int>(call.args[4]) >= 0;
  };
  const auto lock = [](int fd) { return os::hold_byte(fd, 7).error; };
  const std::vector<refused_halfway> cases = {
      {"no lock", SYS_fcntl, ENOLCK,
       [](const seccomp_data& call) { return call.args[1] == F_OFD_SETLK; }, lock},
      {"no mapping for a lock", SYS_mmap, ENOMEM, is_of_a_file, lock},
      {"a mapping that children would have", SYS_madvise, ENOMEM,
       [](const seccomp_data&) { return true; }, lock},
      {"no mapping at the place that was found for it", SYS_mmap, ENOMEM, is_of_a_file,
       [](int fd) { return os::map_file(fd, 0, 4096, true, 2 << 20).error; }},
  };
  for (const refused_halfway& c : cases) {
    child_process child([&] {
      const int fd = os::open_or_create((path() + "/file").c_str(), 0600).fd;
      EXPECT_EQ(os::set_length(fd, 4096), 0);
      std::atomic<bool> is_refused{false};
      (void)mappings_of("");  // so that its memory is there
      if (!answer_calls({c.call}, [&](const seccomp_data& call) {
            return is_refused && c.is_it(call) ? c.error : 0;
          }))
        return impossible;
      // A sanitizer maps memory of its own meanwhile: then those of the file count.
      const std::string counted = ANNEX_MAPS_ONLY_ITS_OWN ? "" : path() + "/file";
      const int descriptors = open_descriptors(), mappings = mappings_of(counted.c_str());
      is_refused = true;
      EXPECT_EQ(c.ask(fd), c.error) << c.what;
      is_refused = false;
      EXPECT_EQ(open_descriptors(), descriptors) << c.what;
      EXPECT_EQ(mappings_of(counted.c_str()), mappings) << c.what;
      EXPECT_FALSE(os::is_byte_locked(fd, 7)) << c.what;
      return ::testing::Test::HasFailure() ? 1 : 0;
    });
    const int code = child.wait_for_exit_code();
    if (code == impossible) GTEST_SKIP() << "no filters for system calls here";
    EXPECT_EQ(code, 0) << c.what;
  }
}

}  // namespace
}  // namespace annex
