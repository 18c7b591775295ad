// examples/direct_copy.cpp - copies a file past the page cache, out of blocks of a heap that
// io_uring knows as fixed buffers.
//
//   example_direct_copy [SOURCE TARGET [BLOCK-BYTES]]
//       without files: 64 MiB of its own making in /var/tmp
//
// Copies with fixed buffers and without in turns, five times each, and says what an operation costs
// the CPU. Then every byte of the target is compared with the source.
#include <annex/annex.hpp>
#include <annex/devices/io_uring.hpp>

#include <fcntl.h>
#include <liburing.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "must.hpp"

namespace {

constexpr unsigned depth = 16, rounds = 5;

void check(bool fine, const char* doing) {
  if (fine) return;
  std::perror(doing);
  std::exit(1);
}

double cpu_seconds() {
  rusage u{};
  ::getrusage(RUSAGE_SELF, &u);
  return static_cast<double>(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
         static_cast<double>(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

// Opens past the page cache where the file system allows it.
int open_direct(const char* path, int flags, bool* direct) {
  int fd = ::open(path, flags | O_DIRECT | O_CLOEXEC, 0644);
  if (fd < 0 && errno == EINVAL) {
    *direct = false;
    fd = ::open(path, flags | O_CLOEXEC, 0644);
  }
  check(fd >= 0, path);
  return fd;
}

struct part {
  char* block;
  unsigned index;
  std::uint64_t offset;
  unsigned bytes;
  bool is_read;
};

// One copy. Returns the number of operations.
std::uint64_t copy(io_uring& ring, std::vector<part>& parts, int from, int to, std::uint64_t length,
                   unsigned block_bytes, bool fixed) {
  std::uint64_t next = 0, operations = 0;
  unsigned under_way = 0;
  auto submit = [&](part& p) {
    io_uring_sqe* const entry = ::io_uring_get_sqe(&ring);
    const int fd = p.is_read ? from : to;
    if (fixed && p.is_read)
      ::io_uring_prep_read_fixed(entry, fd, p.block, p.bytes, p.offset, static_cast<int>(p.index));
    else if (fixed)
      ::io_uring_prep_write_fixed(entry, fd, p.block, p.bytes, p.offset, static_cast<int>(p.index));
    else if (p.is_read)
      ::io_uring_prep_read(entry, fd, p.block, p.bytes, p.offset);
    else
      ::io_uring_prep_write(entry, fd, p.block, p.bytes, p.offset);
    ::io_uring_sqe_set_data(entry, &p);
    ++under_way;
    ++operations;
  };
  auto begin = [&](part& p) {
    if (next >= length) return;
    p.offset = next;
    p.bytes = block_bytes;
    p.is_read = true;
    next += block_bytes;
    submit(p);
  };
  for (part& p : parts)
    begin(p);
  while (under_way != 0) {
    check(::io_uring_submit_and_wait(&ring, 1) >= 0, "submit");
    io_uring_cqe* completion = nullptr;
    while (::io_uring_peek_cqe(&ring, &completion) == 0) {
      part& p = *static_cast<part*>(::io_uring_cqe_get_data(completion));
      const int done = completion->res;
      ::io_uring_cqe_seen(&ring, completion);
      --under_way;
      const std::uint64_t wanted = std::min<std::uint64_t>(p.bytes, length - p.offset);
      if (done < 0 || static_cast<std::uint64_t>(done) < wanted) {
        std::fprintf(stderr, "%s of %u bytes at %llu: %s\n", p.is_read ? "read" : "write", p.bytes,
                     static_cast<unsigned long long>(p.offset),
                     done < 0 ? std::strerror(-done) : "short");
        std::exit(1);
      }
      if (p.is_read) {
        p.is_read = false;
        submit(p);
      } else {
        begin(p);
      }
    }
  }
  return operations;
}

void make_file(const char* path, std::uint64_t bytes) {
  const int fd = ::open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  check(fd >= 0, path);
  std::vector<std::uint32_t> words(1 << 18);
  std::uint32_t x = 1;
  for (std::uint64_t at = 0; at < bytes; at += words.size() * 4) {
    for (auto& w : words)
      w = x = x * 1664525 + 1013904223;
    check(::write(fd, words.data(), words.size() * 4) == static_cast<ssize_t>(words.size() * 4),
          "write");
  }
  ::fsync(fd);
  ::close(fd);
}

std::uint64_t differing_bytes(const char* a, const char* b) {
  std::FILE *const left = std::fopen(a, "rb"), *const right = std::fopen(b, "rb");
  check(left != nullptr && right != nullptr, "open for comparison");
  std::vector<char> x(1 << 20), y(1 << 20);
  std::uint64_t different = 0;
  for (;;) {
    const std::size_t n = std::fread(x.data(), 1, x.size(), left),
                      m = std::fread(y.data(), 1, y.size(), right);
    different += n > m ? n - m : m - n;
    for (std::size_t i = 0; i < std::min(n, m); ++i)
      different += x[i] != y[i] ? 1u : 0u;
    if (n == 0 && m == 0) break;
  }
  std::fclose(left);
  std::fclose(right);
  return different;
}

}  // namespace

int main(int count, char** arguments) {
  const bool own_files = count < 3;
  const std::string source = own_files ? "/var/tmp/annex-direct-copy.source" : arguments[1],
                    target = own_files ? "/var/tmp/annex-direct-copy.target" : arguments[2];
  const unsigned block_bytes =
      count > 3 ? static_cast<unsigned>(std::atoi(arguments[3])) : 128 << 10;
  if (block_bytes < 4096 || block_bytes % 4096 != 0) {
    std::fprintf(stderr, "blocks of %u bytes: use a multiple of 4096\n", block_bytes);
    return 2;
  }
  if (own_files) make_file(source.c_str(), 64 << 20);

  annex::heap heap = must(annex::heap::create_private());
  must(heap.bring_memory(
      {.from = annex::memory_source::kind::anonymous,
       .length_bytes = std::max<std::size_t>(32 << 20, std::size_t{4} * depth * block_bytes)}));
  auto buffers = must(annex::fixed_buffers::create());
  io_uring ring{};
  check(::io_uring_queue_init(2 * depth, &ring, 0) == 0, "io_uring");
  const auto cloned = buffers->add_ring(ring);
  if (!cloned) must(buffers->add_ring(ring, annex::ring_mode::tagged));
  {
    auto observation = must(heap.observe(*buffers));
    std::vector<part> parts(depth);
    for (part& p : parts) {
      p.block = static_cast<char*>(heap.allocate({.size_bytes = block_bytes, .align_bytes = 4096}));
      check(p.block != nullptr, "allocate");
      p.index = buffers->find(p.block)->index;
    }
    bool direct = true;
    const int from = open_direct(source.c_str(), O_RDONLY, &direct),
              to = open_direct(target.c_str(), O_RDWR | O_CREAT | O_TRUNC, &direct);
    struct stat s {};
    check(::fstat(from, &s) == 0, "stat");
    const auto length = static_cast<std::uint64_t>(s.st_size);
    std::vector<double> costs[2];
    std::uint64_t operations = 0;
    for (unsigned round = 0; round < 2 * rounds; ++round) {
      const bool fixed = round % 2 == 0;
      const double before = cpu_seconds();
      operations = copy(ring, parts, from, to, length, block_bytes, fixed);
      costs[fixed ? 1 : 0].push_back((cpu_seconds() - before) * 1e6 /
                                     static_cast<double>(std::max<std::uint64_t>(1, operations)));
    }
    // The last block may have been written whole.
    check(::ftruncate(to, s.st_size) == 0, "truncate");
    ::close(from);
    ::close(to);
    for (auto& c : costs)
      std::sort(c.begin(), c.end());
    const std::uint64_t wrong = differing_bytes(source.c_str(), target.c_str());
    std::printf(
        "%llu bytes copied %u times in %llu operations of %u bytes each time%s, buffers %s; CPU "
        "per operation: fixed %.2f us, not fixed %.2f us; %llu bytes differ\n",
        static_cast<unsigned long long>(length), 2 * rounds,
        static_cast<unsigned long long>(operations), block_bytes,
        direct ? ", past the page cache" : "", cloned ? "cloned" : "registered",
        costs[1][rounds / 2], costs[0][rounds / 2], static_cast<unsigned long long>(wrong));
    if (own_files) {
      ::unlink(source.c_str());
      ::unlink(target.c_str());
    }
    if (wrong != 0) return 1;
    for (part& p : parts)
      annex::heap::free(p.block);
    must(buffers->remove_ring(ring));
  }
  ::io_uring_queue_exit(&ring);
  return 0;
}
