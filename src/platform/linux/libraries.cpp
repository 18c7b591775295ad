// platform/linux/libraries.cpp - the dynamic linker's look-ups.
#include "platform/libraries.hpp"

#include <dlfcn.h>
#include <link.h>

#include <cstddef>
#include <cstring>

#include "platform/linux/call.hpp"

namespace ANNEX_OS {

void* first_symbol(const char* name) noexcept {
  return ::dlsym(RTLD_DEFAULT, name);
}

// The linker goes by who asks: this function, and so what it is linked into.
void* next_symbol(const char* name) noexcept {
  return ::dlsym(RTLD_NEXT, name);
}

void* loaded_library(const char* part_of_name) noexcept {
  struct search {
    const char* part;
    char path[1024];
  } wanted{part_of_name, {}};
  ::dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void* argument) {
        auto* const w = static_cast<search*>(argument);
        if (object->dlpi_name == nullptr || std::strstr(object->dlpi_name, w->part) == nullptr)
          return 0;
        std::strncpy(w->path, object->dlpi_name, sizeof w->path - 1);
        return 1;
      },
      &wanted);
  return wanted.path[0] != '\0' ? ::dlopen(wanted.path, RTLD_NOW | RTLD_NOLOAD) : nullptr;
}

void* symbol_of(void* library, const char* name) noexcept {
  return ::dlsym(library, name);
}

}  // namespace ANNEX_OS
