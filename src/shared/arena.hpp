// shared/arena.hpp - chunks of the segment for records and tables; nothing of the user's ever lies
// here.
//
//   up to 2 KiB   whole units of 64 bytes, one free list per unit count, cut from 64 KiB runs
//   above         four sizes per doubling of pages, one free list each, cut from the arena's end;
//                 the file grows as needed
//
// A chunk is zero when it is handed out. Free chunks are linked through their first word. Called
// inside a transaction, so a death undoes it; a file that has grown stays longer, which is
// harmless.
// The contents of a chunk are not logged: what a transaction has freed it must not allocate again
// before it commits, or a death would bring the old chunk back with the new one's contents.
//
// A write to a page that a full file system can't provide is a SIGBUS, so pages are made sure of
// first: those of a whole chunk when it is handed out, those of a sparse one (tables of huge
// regions, claims) by back_pages() before they are written.
//
// Invariant A2 (audit): every byte between arena_at and top is in a chunk somebody has, on a free
// list, or in the run that small chunks are cut from.
#pragma once
#include "shared/heap_lock.hpp"

namespace annex {

enum class backing { whole, sparse };

/// 0: the metadata limit is reached, or the file system of the annex directory is full.
chunk_ref allocate_chunk(transaction& t, u64 bytes, backing pages = backing::whole) noexcept;
void free_chunk(transaction& t, chunk_ref ref, u64 bytes) noexcept;

/// Whether a chunk of so many bytes can begin there: behind the tables, and below the top.
bool lies_in_arena(const segment& s, chunk_ref ref, u64 bytes) noexcept;

/// What a chunk of so many bytes really occupies.
u64 chunk_bytes(u64 bytes) noexcept;
/// The size of the chunks on free list `index` of arena_lists::large_free.
u64 large_chunk_bytes(u32 index) noexcept;
/// Files free space [begin, end) as chunks on the free lists. For repair, which begins with empty
/// lists.
void free_space(const segment& s, u64 begin, u64 end) noexcept;

}  // namespace annex
