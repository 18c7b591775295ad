// tests/another_member.cpp - see another_member.hpp.
#include "another_member.hpp"

#include "heap/local_heap.hpp"
#include "heap/opening.hpp"

namespace annex {

result<heap> attach_as_another(std::string_view name, const attach_options& options) {
  auto opened = detail::attach_heap(name, options, true);
  if (!opened) return std::unexpected(opened.error());
  return detail::local_heap::face_of(*opened);
}

}  // namespace annex
