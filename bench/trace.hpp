// bench/trace.hpp - what a program asked of its allocator, in order, small enough to ship.
//
//   file     zstd of: "annextrace1\n" event…
//   event    varint: argument << 2 | kind
//     0 allocate   argument: bytes. A block's number is the count of allocations before it
//     1 free       argument: how many allocations ago the block was made
//     2 resize     argument: how many allocations ago; then varint: bytes. It keeps its number
//     3 aligned    argument: bytes; then varint: log2 of the alignment
//
// Several threads' events stand in the order in which they happened; they are replayed by one.
// trace_recorder.cpp writes it.
#pragma once
#include <cstdint>
#include <span>
#include <string>

namespace annex::bench {

enum class trace_kind : std::uint8_t { allocate = 0, free = 1, resize = 2, aligned = 3 };
inline constexpr char trace_magic[] = "annextrace1\n";

struct trace_event {
  std::uint64_t bytes;
  std::uint32_t slot;  // reused after a free: so many places as blocks are ever live at once
  trace_kind kind;
  std::uint8_t align_shift;
};

struct trace {
  std::string name;
  std::span<const trace_event> events;  // never unmapped
  std::uint32_t slots = 0;
  std::uint64_t allocations = 0, peak_bytes = 0;  // peak_bytes: asked for and live at once
};

/// Throws std::runtime_error for a file that is none. Decodes in a process of its own: what that
/// leaves in glibc's heap would otherwise be a present to glibc.
trace read_trace(const std::string& path);

}  // namespace annex::bench
