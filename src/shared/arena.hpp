// shared/arena.hpp - chunks of the segment for records and tables; nothing of the user's ever lies here.
//
//   up to 2 KiB   whole units of 64 bytes, one free list per unit count, cut from 64 KiB runs
//   above         four sizes per doubling of pages, one free list each, cut from the arena's end; the file grows as needed
//
// A chunk is zero when it is handed out. Free chunks are linked through their first word. Called inside a transaction, so
// a death undoes it; a file that has grown stays longer, which is harmless. Sparse chunks cost memory where touched.
#pragma once
#include "shared/heap_lock.hpp"

namespace annex {

/// 0: the metadata limit is reached, or the file system of the annex directory is full.
chunk_ref allocate_chunk(transaction& t, u64 bytes) noexcept;
void free_chunk(transaction& t, chunk_ref ref, u64 bytes) noexcept;

}  // namespace annex
