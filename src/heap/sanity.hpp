// heap/sanity.hpp - may these numbers be believed? The rules that the heap asks before it uses a
// record; each stands beside its structure.
#pragma once
#include "heap/local_heap.hpp"
#include "named/pool_rules.hpp"
#include "named/ring_rules.hpp"
