// interop/dpdk/say.hpp - a sentence of the drop-in's for whoever started the program: a line on
// standard error. Threads: any. Nothing is left if the process dies.
#pragma once
#include <fmt/format.h>

#include <utility>

#include "base/sentence.hpp"
#include "platform/report.hpp"

namespace annex::dpdk {

template <class... Args>
void say(fmt::format_string<Args...> format, Args&&... args) noexcept {
  char line[400];
  report_line(write_sentence(line, format, std::forward<Args>(args)...));
}

}  // namespace annex::dpdk
