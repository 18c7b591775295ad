// platform/os.hpp - all that annex asks of the operating system, for files that do not yet name what
// they use.
#pragma once
#include "platform/byte_locks.hpp"
#include "platform/directories.hpp"
#include "platform/files.hpp"
#include "platform/libraries.hpp"
#include "platform/memory.hpp"
#include "platform/numa.hpp"
#include "platform/output.hpp"
#include "platform/pinning.hpp"
#include "platform/processes.hpp"
#include "platform/resource_limits.hpp"
#include "platform/waiting.hpp"
