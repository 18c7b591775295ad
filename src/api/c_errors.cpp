// api/c_errors.cpp - the C face: refusals and failures of this thread, and what the library says of
// itself.
#include <algorithm>

#include "api/c_face.hpp"

using namespace annex::c_face;

namespace annex::c_face {
namespace {

constinit thread_local error last_error{};
constinit thread_local explanation last_failure{};
// Not within the storage of threads, which a library that is loaded late has little of.
thread_local std::string last_directory;

errc code_of(int code) noexcept {
  return static_cast<errc>(static_cast<int>(0u - static_cast<unsigned>(code)));
}

template <std::size_t room>
void copy_text(std::string_view text, char (&out)[room]) noexcept {
  const std::size_t bytes = std::min(text.size(), room - 1);
  std::memcpy(out, text.data(), bytes);
  out[bytes] = '\0';
}

#define ANNEX_SAME(name) \
  static_assert(static_cast<int>(explanation::cause::name) == ANNEX_CAUSE_##name)
ANNEX_SAME(none);
ANNEX_SAME(no_region);
ANNEX_SAME(no_fit);
ANNEX_SAME(alignment);
ANNEX_SAME(boundary);
ANNEX_SAME(contiguity);
ANNEX_SAME(no_addresses);
ANNEX_SAME(limit);
ANNEX_SAME(bad_request);
ANNEX_SAME(not_attached);
ANNEX_SAME(no_cpu_access);
ANNEX_SAME(read_only);
ANNEX_SAME(forked_away);
ANNEX_SAME(damaged);
ANNEX_SAME(one_region);
#undef ANNEX_SAME
static_assert(sizeof(annex_error::text) == sizeof(error::text));
static_assert(sizeof(annex_explanation::text) == sizeof(explanation::text));

#define ANNEX_TEXT(number) #number
#define ANNEX_JOIN(major, minor, patch) \
  ANNEX_TEXT(major) "." ANNEX_TEXT(minor) "." ANNEX_TEXT(patch)
constexpr const char* version_text =
    ANNEX_JOIN(ANNEX_VERSION_MAJOR, ANNEX_VERSION_MINOR, ANNEX_VERSION_PATCH);

}  // namespace

int refuse(const error& e) noexcept {
  last_error = e;
  return -static_cast<int>(e.code);
}

error refusal_by(int code) noexcept {
  if (code != -static_cast<int>(last_error.code)) (void)annex_refuse(code, nullptr);
  return last_error;
}

}  // namespace annex::c_face

const char* annex_strerror(int code) {
  return annex::describe(code_of(code)).data();
}
const char* annex_errc_name(int code) {
  return annex::name_of(code_of(code)).data();
}
const char* annex_last_error_text(void) {
  return last_error.text;
}
int annex_last_error(annex_error* out) {
  annex_error e{};
  e.code = -static_cast<int>(last_error.code);
  e.os_errno = last_error.os_errno;
  std::memcpy(e.text, last_error.text, sizeof e.text);
  return give(e, out);
}
int annex_refuse(int code, const char* text) {
  annex::error e{code_of(code), 0, {}};
  if (code >= 0 || annex::name_of(e.code) == annex::name_of(code_of(ANNEX_E_last_)))
    e.code = annex::errc::invalid_argument;
  copy_text(text != nullptr && *text != '\0' ? std::string_view(text) : annex::describe(e.code),
            e.text);
  return refuse(e);
}
const char* annex_last_failure_text(void) {
  last_failure = annex::heap::last_failure();
  return last_failure.text;
}
int annex_last_failure(annex_explanation* out) {
  const annex::explanation why = annex::heap::last_failure();
  annex_explanation e{};
  e.why = static_cast<uint32_t>(why.why);
  e.requested_bytes = why.requested_bytes;
  e.free_bytes = why.free_bytes;
  e.largest_free_bytes = why.largest_free_bytes;
  e.hole_count = why.hole_count;
  e.cached_bytes = why.cached_bytes;
  for (std::size_t i = 0; i < std::size(why.top); ++i)
    e.top[i] = {static_cast<uint32_t>(why.top[i].who), why.top[i].process_id, why.top[i].bytes};
  std::memcpy(e.text, why.text, sizeof e.text);
  return give(e, out);
}
size_t annex_printable(const char* bytes, size_t length_bytes, char* out, size_t room) {
  const std::string text = annex::printable(bytes != nullptr ? std::string_view(bytes, length_bytes)
                                                             : std::string_view{});
  if (out != nullptr && room != 0) {
    const std::size_t copied = std::min(text.size(), room - 1);
    std::memcpy(out, text.data(), copied);
    out[copied] = '\0';
  }
  return text.size();
}

const char* annex_version(void) {
  return version_text;
}
int annex_version_number(void) {
  const annex::version v = annex::library_version();
  return v.major * 1'000'000 + v.minor * 1'000 + v.patch;
}
const char* annex_directory(void) {
  last_directory = annex::directory();
  return last_directory.c_str();
}
