// api/c_face.hpp - what every part of the C face needs: how structs go in and out, and how a
// refusal is kept.
//
//   struct of the caller ──take()──▶ all of ours, zero where it is shorter ──▶ C++
//   struct of the caller ◀──give()── as much as there is room for ◀── ours ◀── C++
//
//   c_errors.cpp  refusals, the library     c_views.cpp      pools, rings
//   c_heap.cpp    the heap itself           c_observers.cpp  observers, leases
//   c_memory.cpp  regions                   c_seeing.cpp     lists, figures, the dead
//   c_blocks.cpp  blocks, addresses         c_snapshot.cpp   snapshots
//   c_zones.cpp   zones
#pragma once
#include <annex.h>

#include <cstring>

#include <annex/annex.hpp>

#include "base/failure.hpp"

struct annex_heap {
  annex::heap heap;
};

namespace annex::c_face {

/// Keeps it as this thread's last refusal; what a C function returns.
int refuse(const error& e) noexcept;
/// What a callback refused with: in full, if it said so by annex_refuse(). code is not 0.
error refusal_by(int code) noexcept;
inline int refuse_argument(std::string_view what) noexcept {
  return refuse(make_error(errc::invalid_argument, 0, "{}", what));
}
template <class R>
int done(const R& r) noexcept {
  return r ? 0 : refuse(r.error());
}

/// What is counted from 1 in a struct, so that zero means none: one less, whatever it is.
inline int minus_one(int number) noexcept {
  return static_cast<int>(static_cast<unsigned>(number) - 1u);
}
inline std::uint32_t as_number(bool yes) noexcept {
  return yes ? 1u : 0u;
}

/// No struct of this face is longer, in any version: what says so was not set.
inline constexpr std::size_t most_struct_bytes = 4096;

/// Copies as much of the caller's struct as he knows; the rest is zero, which means default. Null:
/// all of it. He may know more than this library as long as he does not use it.
template <class T>
int take(const T* in, T* out) noexcept {
  *out = {};
  if (in == nullptr) return 0;
  const std::size_t bytes = in->struct_bytes;
  if (bytes < sizeof(std::size_t) || bytes > most_struct_bytes)
    return refuse(make_error(errc::invalid_argument, 0,
                             "struct_bytes is {}: set it to sizeof the struct", bytes));
  std::memcpy(out, in, bytes < sizeof(T) ? bytes : sizeof(T));
  for (std::size_t i = sizeof(T); i < bytes; ++i)
    if (reinterpret_cast<const char*>(in)[i] != 0)
      return refuse(
          make_error(errc::not_supported, 0,
                     "byte {} of a struct of {} is set, but this library knows {} only: it is "
                     "older than the header; use a newer one, or leave the field zero",
                     i, bytes, sizeof(T)));
  return 0;
}
/// Whether a struct can be filled; asked before anything is done for which it is needed.
template <class T>
int check_out(const T* out) noexcept {
  if (out == nullptr) return refuse_argument("out is null");
  if (out->struct_bytes < sizeof(std::size_t))
    return refuse(
        make_error(errc::invalid_argument, 0,
                   "struct_bytes of what is to be filled is {}: set it to sizeof the struct",
                   out->struct_bytes));
  return 0;
}
/// Fills as much of the caller's struct as he has room for.
template <class T>
int give(T from, T* out) noexcept {
  if (const int why = check_out(out); why != 0) return why;
  from.struct_bytes = out->struct_bytes;
  std::memcpy(out, &from, out->struct_bytes < sizeof(T) ? out->struct_bytes : sizeof(T));
  return 0;
}

/// Refuses flags that do not exist (here).
inline int check_flags(std::uint32_t flags, std::uint32_t known, const char* of) noexcept {
  if ((flags & ~known) == 0) return 0;
  return refuse(make_error(errc::invalid_argument, 0,
                           "flags {:#x} of {} are unknown; {:#x} are known", flags & ~known, of,
                           known));
}

/// How long to wait, from now: no longer than a year.
inline std::chrono::nanoseconds as_wait(std::uint64_t deadline_ns) noexcept {
  constexpr std::chrono::nanoseconds longest = std::chrono::hours(24 * 365);
  const auto most = static_cast<std::uint64_t>(longest.count());
  return std::chrono::nanoseconds(
      static_cast<std::int64_t>(deadline_ns < most ? deadline_ns : most));
}

/// flags: those of this placement that it may have.
int take_placement(const annex_placement* in, placement* out,
                   std::uint32_t flags = ANNEX_ZEROED | ANNEX_IOVA_CONTIGUOUS) noexcept;
/// One IOVA per page, or none.
int take_iovas(const std::uint64_t* page_iovas, std::size_t count,
               std::span<const iova>* out) noexcept;

/// A new object of this face, or its refusal.
template <class Face, class R>
int give_new(R&& made, Face** out) noexcept {
  if (!made) return refuse(made.error());
  *out = new Face{std::move(*made)};
  return 0;
}

/// A visitor that may have had enough.
template <class... Args>
class visitor {
 public:
  visitor(int (*visit)(void*, Args...), void* context) noexcept
      : visit_(visit), context_(context) {}
  void operator()(Args... args) noexcept {
    if (visit_ != nullptr && visit_(context_, args...) != 0) visit_ = nullptr;
  }

 private:
  int (*visit_)(void*, Args...);
  void* context_;
};

}  // namespace annex::c_face
