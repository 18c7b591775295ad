// heap/forking.cpp - see forking.hpp.
#include "heap/forking.hpp"

#include <mutex>
#include <new>

#include "heap/local_heap.hpp"

namespace annex::detail {

void before_fork(local_heap& heap) noexcept {
  heap.bytes.before_fork();
  heap.here.views.before_fork();
}

void after_fork(local_heap& heap) noexcept {
  heap.here.views.after_fork();
  heap.bytes.after_fork();
}

void become_child(local_heap& heap) noexcept {
  heap.here.forked = true;
  heap.observing.become_child();
  // Other threads may have held these; what they were changing is looked through when the child
  // becomes a member.
  new (&heap.here.memory_mutex) std::mutex;
  new (&heap.here.service_mutex) std::mutex;
  heap.memory.become_child();
  heap.membership.become_child();
}

}  // namespace annex::detail
