// tests/another_member.hpp - a second member in one process, as another process would be one.
#pragma once
#include <annex/annex.hpp>

namespace annex {

/// heap::attach() shares what this process has attached already; this never does.
result<heap> attach_as_another(std::string_view name, const attach_options& options = {});

}  // namespace annex
