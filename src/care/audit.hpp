// care/audit.hpp - every invariant of a segment, checked against numbers that are not believed.
//
// A segment that it passes is safe to work on, whoever wrote it: each number is compared with what
// it may be before it is used, no list is walked further than it can be long, and it is known which
// bytes of the arena belong to whom. The invariants stand where they are checked, in each
// structure's …_rules.hpp; care/structures.cpp lists them.
//
// Called by whoever attaches, by audit() and by repair. Nothing is written: a death leaves nothing.
#pragma once
#include <vector>

#include <annex/types.hpp>

#include "shared/segment.hpp"

namespace annex::detail {

/// Checks a segment nobody vouches for: every number in it is compared with what it may be before
/// it is used. One sentence per broken invariant. still: threads whose caches do not move (empty:
/// all threads are dead); locked: nobody changes anything else; after_a_death: whoever had the lock
/// died with it, and what it stored without a log may be half done.
void inspect_segment(const segment& s, const std::vector<bool>& still, bool locked,
                     audit_report* report, bool after_a_death = false);

}  // namespace annex::detail
