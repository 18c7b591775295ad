// annex/annex.hpp - all of annex.
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/heap.hpp>
#include <annex/offset_allocator.hpp>
#include <annex/offset_ptr.hpp>
#include <annex/pool.hpp>
#include <annex/resource.hpp>
#include <annex/ring.hpp>
#include <annex/version.hpp>

#endif
