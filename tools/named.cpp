// tools/named.cpp - zones: what a heap has under names; release: ends one of them.
#include "named.hpp"

#include <algorithm>
#include <memory>

#include "output.hpp"
#include "terminal.hpp"

namespace annex::tool {
namespace {

void zones(session& s, const std::string& name) {
  std::vector<named_thing> things;
  // Into pools and rings one sees through a writable attach, into pools where their memory can be
  // mapped; who may not have that sees the names.
  if (auto opened = heap::attach(name)) {
    things = named_things_within(*opened);
  } else {
    const auto seen = look_at(s, name);
    if (!seen) return;
    things = named_things(*seen);
  }
  if (s.json) {
    json all = json::list();
    for (const named_thing& n : things)
      all.add(json_of(n));
    return print(all);
  }
  if (things.empty()) return fmt::print("\"{}\" has no zones, pools or rings.\n", name);
  table t{{{"KIND"}, {"SIZE", true}, {"HANDLE", true}, {"HOLDS", true}, {"NAME"}}, {}};
  for (const named_thing& n : things) {
    const std::string holds =
        !n.count           ? ""
        : n.kind == "pool" ? fmt::format("{} of {} free", *n.free_count, *n.count)
                           : fmt::format("{} of {} full", *n.count - *n.free_count, *n.count);
    t.rows.push_back({n.kind, n.kind == "ring" ? "" : bytes_text(n.size_bytes),
                      n.where ? hex(static_cast<std::uint64_t>(*n.where)) : "", holds,
                      printable(n.name)});
  }
  fmt::print("{}", t.text());
}

struct release_arguments {
  std::string heap, name;
  bool force = false;
};

void release(session& s, const release_arguments& a) {
  auto opened = heap::attach(a.heap, {.regions = attach_policy::manual});
  if (!opened) return refuse(s, opened.error());
  const auto things = named_things(*opened);
  // By its name, or by how the name is shown.
  auto found = std::find_if(things.begin(), things.end(),
                            [&](const named_thing& n) { return n.name == a.name; });
  if (found == things.end())
    found = std::find_if(things.begin(), things.end(),
                         [&](const named_thing& n) { return printable(n.name) == a.name; });
  if (found == things.end()) {
    std::vector<std::string> names;
    for (const named_thing& n : things)
      names.push_back(printable(n.name));
    const auto meant = nearest(a.name, names);
    return refuse(
        s, fmt::format("\"{}\" has no zone, pool or ring \"{}\"; {}", a.heap, a.name,
                       meant ? fmt::format("do you mean \"{}\"?", *meant)
                             : fmt::format("`annex zones {}` shows those there are", a.heap)));
  }
  std::vector<std::string> users;
  for (const member_summary& m : opened->members())
    if (m.alive && !m.self)
      users.push_back(fmt::format("{} ({})", m.process_id, printable(m.program)));
  if (!users.empty() && !a.force)
    return refuse(s,
                  fmt::format("\"{}\" is used by process {}, which may use {} \"{}\" too; close it "
                              "there first, or say --force",
                              a.heap, fmt::join(users, ", "), found->kind, printable(found->name)));
  if (const auto done = release_named(*opened, *found); !done) return refuse(s, done.error());
  if (s.json)
    print({{"released", found->name}, {"kind", found->kind}, {"size_bytes", found->size_bytes}});
  else
    fmt::print("Released {} \"{}\" of \"{}\".\n", found->kind, printable(found->name), a.heap);
}

}  // namespace

std::vector<named_thing> named_things(const heap& h) {
  std::vector<named_thing> things;
  h.for_each_zone([&](const zone_summary& z) {
    things.push_back({z.name, z.kind, z.size_bytes,
                      z.where == null_handle ? std::nullopt : std::optional(z.where)});
  });
  return things;
}

std::vector<named_thing> named_things_within(heap& h) {
  auto things = named_things(h);
  for (named_thing& n : things) {
    if (n.kind == "ring")
      if (auto opened = ring::open(h, n.name))
        n.count = opened->capacity(),
        n.free_count = opened->capacity() - std::min(opened->count(), opened->capacity());
    if (n.kind == "pool")
      if (auto opened = raw_pool::open(h, n.name))
        n.count = opened->object_count(), n.free_count = opened->free_count();
  }
  return things;
}

json json_of(const named_thing& n) {
  json j{{"name", n.name},
         {"kind", n.kind},
         {"size_bytes", n.size_bytes},
         {"handle", n.where ? json(hex(static_cast<std::uint64_t>(*n.where))) : json()}};
  if (n.count && n.kind == "pool") j.set("objects", *n.count), j.set("free_objects", *n.free_count);
  if (n.count && n.kind == "ring")
    j.set("capacity", *n.count), j.set("handles", *n.count - *n.free_count);
  return j;
}

std::string text_of(const named_thing& n) {
  std::string text = fmt::format("\"{}\"", printable(n.name));
  if (n.kind != "ring") text += " " + bytes_text(n.size_bytes);
  if (n.where) text += ", handle " + hex(static_cast<std::uint64_t>(*n.where));
  return text;
}

result<void> release_named(heap& h, const named_thing& n) {
  if (n.kind == "ring") return ring::release(h, n.name);
  if (n.kind == "pool") return raw_pool::release(h, n.name);
  return h.release_zone(n.name);
}

void add_name_commands(command_line& line, session& s) {
  auto a = std::make_shared<release_arguments>();
  command zones_command;
  zones_command.name = "zones";
  zones_command.summary = "List what has a name: zones, pools and rings";
  zones_command.details =
      "Handles in rings and free objects of pools are counted where the heap may be written to. "
      "Names that are no text are shown with \\xNN.";
  zones_command.heap(&a->heap);
  zones_command.run = [&s, a] { zones(s, a->heap); };
  line.commands.push_back(std::move(zones_command));

  command release_command;
  release_command.name = "release";
  release_command.summary = "Release a zone, pool or ring by its name";
  release_command.details =
      "Its memory serves other blocks from then on. Refused while other processes are attached, "
      "who may use it, and while objects of a "
      "pool are out: annex reap gives back those of the dead.";
  release_command.examples = {"annex zones packets", "annex release packets work"};
  release_command.heap(&a->heap);
  option& name = release_command.text("name", "NAME", &a->name,
                                      "The zone, pool or ring, as annex zones shows it");
  name.is_required = true;
  name.completes = completion::zone;
  release_command.flag("--force", &a->force,
                       "Also while other processes are attached: a zone's bytes may be somebody "
                       "else's the next moment");
  release_command.run = [&s, a] { release(s, *a); };
  line.commands.push_back(std::move(release_command));
}

}  // namespace annex::tool
