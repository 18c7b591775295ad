// examples/must.hpp - what a result holds; a refusal ends the program with its sentence.
#pragma once
#include <annex/error.hpp>

#include <cstdio>
#include <cstdlib>
#include <type_traits>
#include <utility>

template <class T>
T must(annex::result<T> r) {
  if (!r) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(r.error().message().size()),
                 r.error().message().data());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}
