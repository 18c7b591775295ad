// base/never_destroyed.hpp - one object of a type for the whole process, made when it is first
// asked for and never destroyed: threads, and destructors of statics, may need it to the very end.
//
// It lies in static storage: nothing is allocated for it. Any thread.
#pragma once
#include <cstddef>
#include <new>

namespace annex {

template <class T>
T& never_destroyed() {
  alignas(T) static std::byte place[sizeof(T)];
  static T& only = *new (place) T;
  return only;
}

}  // namespace annex
