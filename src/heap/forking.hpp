// heap/forking.hpp - what a heap does around a fork.
//
// before: nobody is in the middle of what a child would find half done. In the child: the parent's
// identity is left alone; a named heap is joined anew on first use.
#pragma once

namespace annex::detail {

class local_heap;

void before_fork(local_heap& heap) noexcept;
void after_fork(local_heap& heap) noexcept;
void become_child(local_heap& heap) noexcept;

}  // namespace annex::detail
