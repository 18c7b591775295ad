// attached/misuse.cpp - see misuse.hpp.
#include "attached/misuse.hpp"

#include "platform/processes.hpp"
#include "platform/report.hpp"

namespace annex::detail {

void report_misuse(const attachment& heap, std::string_view what, const void* block,
                   const local_region* region) noexcept {
  char report[512];
  const std::string_view whose =
      region != nullptr ? std::string_view(heap.name.empty() ? "(private)" : heap.name.c_str())
                        : "(none)";
  const std::string_view text = write_sentence(
      report, "annex: {}: {}\n  heap {}, region {}, offset {:#x}; member {} (process {})\n  {}\n",
      what, block, whose, region != nullptr ? region->id : 0,
      region != nullptr ? static_cast<u64>(static_cast<const char*>(block) - region->base) : 0,
      heap.self.member, os::process_id(),
      "the program freed or used a block that is not live; a checked heap (heap_options::checked) "
      "finds the first such use");
  if (!heap.has_option(option_refuse_misuse)) stop_program(text);
  if (!heap.is_read_only()) heap.seg.header().misuse_count.fetch_add(1, std::memory_order_relaxed);
  log_line(log_level::error, text);
}

void say_doubles(const attachment& heap, const double_frees& found) noexcept {
  const bool is_private = heap.has_option(option_private);
  const u32 ours = found.ours + (is_private ? found.anybodys : 0),
            anybodys = is_private ? 0 : found.anybodys;
  if (anybodys != 0) {  // said before the program may be stopped
    heap.seg.header().misuse_count.fetch_add(anybodys, std::memory_order_relaxed);
    log(log_level::error,
        "{} blocks or pool objects of heap {} had been freed twice, by this process or another",
        anybodys, heap.name);
  }
  if (ours == 0) return;
  // One is counted with the report.
  heap.seg.header().misuse_count.fetch_add(ours - 1, std::memory_order_relaxed);
  char what[160];
  report_misuse(heap,
                write_sentence(what,
                               "{} blocks or pool objects were freed twice (found when they left a "
                               "cache of this process)",
                               ours),
                nullptr, nullptr);
}

}  // namespace annex::detail
