// tools/heaps.cpp - create: an empty heap under a name.
#include <charconv>
#include <memory>

#include "output.hpp"

namespace annex::tool {
namespace {

struct create_arguments {
  std::string name;
  heap_options options;
  bool refuse_misuse = false;
};

void create(session& s, create_arguments& a) {
  if (a.refuse_misuse) a.options.on_misuse = misuse_policy::refuse;
  const auto made = heap::create(a.name, a.options);
  if (!made) return refuse(s, made.error());
  if (s.json)
    print({{"name", a.name}, {"id", id_text(made->id())}, {"directory", directory()}});
  else
    fmt::print("Created heap \"{}\" in {}. Add memory with: annex add {} 256M\n", a.name,
               printable(directory()), a.name);
}

std::string take_mode(const std::string& text, unsigned* into) {
  unsigned mode = 0;
  const char* const end = text.data() + text.size();
  const auto [behind, why] = std::from_chars(text.data(), end, mode, 8);
  if (why != std::errc() || behind != end || mode > 0777)
    return fmt::format("\"{}\" is no file mode; write it in octal, for example 660",
                       printable(text));
  *into = mode;
  return {};
}

}  // namespace

void add_heap_commands(command_line& line, session& s) {
  auto a = std::make_shared<create_arguments>();
  command c;
  c.name = "create";
  c.summary = "Make an empty heap";
  c.details =
      "It stays until annex destroy ends it, whoever comes and goes, as long as its place does: "
      "/dev/shm and run-time directories are empty after a "
      "restart of the machine.";
  c.examples = {"annex create packets", "annex add packets 256M"};
  c.text("name", "NAME", &a->name, "1 to 31 of [A-Za-z0-9_.-], no dot in front").is_required = true;
  option& mode =
      c.text("--mode", "MODE", nullptr,
             "File mode of the segment and of memory, octal: 660 shares it with the group");
  mode.take = [a](const std::string& text) { return take_mode(text, &a->options.file_mode); };
  mode.otherwise = "600";
  c.flag("--checked", &a->options.checked, "Catch every double free at once");
  c.flag("--reclaim-dead", &a->options.reclaim_dead, "Free the blocks of killed processes");
  c.flag("--refuse-misuse", &a->refuse_misuse,
         "Count program mistakes instead of stopping the program");
  const auto limit = [&](const char* name, std::uint32_t* into, const char* help) {
    constexpr std::uint64_t most = std::numeric_limits<std::uint32_t>::max();
    c.number(
         name, "COUNT", 0, most,
         [a, into](std::uint64_t value) { *into = static_cast<std::uint32_t>(value); }, help)
        .otherwise = fmt::format("{}", *into);
  };
  limit("--members", &a->options.member_limit, "Limit of members");
  limit("--regions", &a->options.region_limit, "Limit of regions");
  limit("--zones", &a->options.zone_limit, "Limit of zones");
  c.bytes("--metadata", nullptr, "Address space for metadata").take = [a](const std::string& text) {
    const auto bytes = parse_bytes(text);
    if (!bytes) return fmt::format("\"{}\" is no size; write for example 64G", printable(text));
    a->options.metadata_limit_bytes = *bytes;
    return std::string();
  };
  c.options.back().otherwise = "64G";
  c.run = [&s, a] { create(s, *a); };
  line.commands.push_back(std::move(c));
}

}  // namespace annex::tool
