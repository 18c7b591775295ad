// bench/trace.cpp - see trace.hpp.
#include "trace.hpp"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <unordered_map>
#include <vector>

namespace annex::bench {
namespace {

std::string unpack(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " can't be read");
  const std::string packed((std::istreambuf_iterator<char>(file)), {});
  std::string bytes;
  std::vector<char> piece(1 << 20);
  ZSTD_DStream* const stream = ZSTD_createDStream();
  ZSTD_inBuffer in{packed.data(), packed.size(), 0};
  std::size_t left = 1;
  while (in.pos < in.size) {
    ZSTD_outBuffer out{piece.data(), piece.size(), 0};
    left = ZSTD_decompressStream(stream, &out, &in);
    if (ZSTD_isError(left) != 0) break;
    bytes.append(piece.data(), out.pos);
  }
  for (ZSTD_outBuffer out{piece.data(), piece.size(), 0}; left != 0 && ZSTD_isError(left) == 0;
       out.pos = 0) {
    left = ZSTD_decompressStream(stream, &out, &in);
    if (ZSTD_isError(left) != 0 || out.pos == 0) break;
    bytes.append(piece.data(), out.pos);
  }
  ZSTD_freeDStream(stream);
  if (!bytes.starts_with(trace_magic)) throw std::runtime_error(path + " is no trace");
  return bytes;
}

struct decoded {
  std::vector<trace_event> events;
  trace head;
};

decoded decode(const std::string& path) {
  const std::string bytes = unpack(path);
  std::size_t at = std::strlen(trace_magic);
  auto next = [&] {
    std::uint64_t value = 0;
    for (unsigned shift = 0; at < bytes.size(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes[at++]);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if ((byte & 0x80) == 0) return value;
    }
    throw std::runtime_error(path + " ends in the middle of an event");
  };
  decoded d;
  trace& t = d.head;
  struct live_block {
    std::uint32_t slot;
    std::uint64_t bytes;
  };
  std::unordered_map<std::uint64_t, live_block> live;  // by number
  std::vector<std::uint32_t> unused;
  std::uint64_t live_bytes = 0;
  while (at < bytes.size()) {
    const std::uint64_t word = next(), argument = word >> 2;
    trace_event e{0, 0, static_cast<trace_kind>(word & 3), 0};
    if (e.kind == trace_kind::allocate || e.kind == trace_kind::aligned) {
      e.bytes = argument;
      if (e.kind == trace_kind::aligned) e.align_shift = static_cast<std::uint8_t>(next());
      if (unused.empty()) {
        e.slot = t.slots++;
      } else {
        e.slot = unused.back();
        unused.pop_back();
      }
      live[t.allocations++] = {e.slot, e.bytes};
      live_bytes += e.bytes;
    } else {
      const auto found = live.find(t.allocations - argument);
      if (found == live.end()) throw std::runtime_error(path + " frees what is not live");
      e.slot = found->second.slot;
      live_bytes -= found->second.bytes;
      if (e.kind == trace_kind::free) {
        unused.push_back(e.slot);
        live.erase(found);
      } else {
        e.bytes = next();
        found->second.bytes = e.bytes;
        live_bytes += e.bytes;
      }
    }
    t.peak_bytes = std::max(t.peak_bytes, live_bytes);
    d.events.push_back(e);
  }
  // What the program left.
  for (const auto& [number, block] : live)
    d.events.push_back({0, block.slot, trace_kind::free, 0});
  return d;
}

}  // namespace

trace read_trace(const std::string& path) {
  struct shared_head {
    std::uint64_t events, slots, allocations, peak_bytes;
    char failure[200];
  };
  const int file = ::memfd_create("trace", MFD_CLOEXEC);
  const pid_t child = ::fork();
  if (child == 0) {
    shared_head head{};
    try {
      const decoded d = decode(path);
      head = {d.events.size(), d.head.slots, d.head.allocations, d.head.peak_bytes, {}};
      const auto* at = reinterpret_cast<const char*>(d.events.data());
      for (std::size_t left = d.events.size() * sizeof(trace_event), to = 4096; left != 0;) {
        const ssize_t n = ::pwrite(file, at, left, static_cast<off_t>(to));
        if (n <= 0) throw std::runtime_error("no memory for the trace");
        at += n;
        to += static_cast<std::size_t>(n);
        left -= static_cast<std::size_t>(n);
      }
    } catch (const std::exception& e) {
      std::snprintf(head.failure, sizeof head.failure, "%s", e.what());
    }
    ::_exit(::pwrite(file, &head, sizeof head, 0) == sizeof head ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  shared_head head{};
  if (status != 0 || ::pread(file, &head, sizeof head, 0) != sizeof head)
    throw std::runtime_error(path + " can't be decoded");
  if (head.failure[0] != 0) throw std::runtime_error(head.failure);
  const std::size_t bytes = head.events * sizeof(trace_event);
  void* const space = ::mmap(nullptr, bytes + 4096, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
  ::close(file);
  if (space == MAP_FAILED) throw std::runtime_error("no address space for the trace");
  return {std::filesystem::path(path).stem(),
          {reinterpret_cast<const trace_event*>(static_cast<char*>(space) + 4096), head.events},
          static_cast<std::uint32_t>(head.slots),
          head.allocations,
          head.peak_bytes};
}

}  // namespace annex::bench
