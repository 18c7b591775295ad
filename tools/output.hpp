// tools/output.hpp - how the command speaks: tables for people, JSON for programs, errors as
// sentences, exit codes.
//
// Under --json standard output has one JSON document, whatever happens: the answer, or {"error":
// …}. Without it, answers go to standard output and refusals to standard error.
#pragma once
#include <fmt/format.h>

#include <annex/annex.hpp>
#include <vector>

#include "command_line.hpp"
#include "json.hpp"

namespace annex::tool {

enum exit_code {
  exit_ok = 0,
  exit_refused = 1,
  exit_usage = 2,
  exit_not_executable = 126,
  exit_not_found = 127
};

/// What every command is given; a command sets exit when it was refused.
struct session {
  bool json = false;
  bool wants_help = false, wants_version = false;
  std::string directory{};  ///< --dir
  int exit = exit_ok;
};

/// Prints the refusal and sets the exit code.
void refuse(session& s, const error& e);
void refuse(session& s, const std::string& sentence, int exit = exit_refused);
/// What was wrong, the usage, where more is said; exit 2.
void refuse_usage(session& s, const misunderstanding& m);
/// Of a command that was understood word by word, but not as a whole.
void refuse_usage(session& s, const std::string& command_name, const std::string& sentence);
void print(const json& j);
/// The same figures with what is said to people about them.
json json_of(const error& e);

/// 1536 → "1.5 KiB".
std::string bytes_text(std::uint64_t bytes);
/// "0x1f": how handles, addresses and ids are written, in text and in JSON.
std::string hex(std::uint64_t value);
/// An id as it is shown everywhere: 16 digits.
std::string id_text(heap_id id);
/// "1 block", "2 blocks".
std::string counted(std::uint64_t count, std::string_view noun);
/// "automatic", "never", "aligned", "always".
const char* huge_text(huge_pages huge);
/// "huge pages aligned, 62 MiB now": what is asked for and what is had; empty: neither.
std::string huge_state(const heap& h, const region_summary& r);
/// At most `columns` wide, shortened in the middle.
std::string shortened(const std::string& text, std::size_t columns);
/// Rows below one another, columns as wide as their widest text; right: columns of figures. Without
/// a last column's blanks.
struct table {
  struct column {
    std::string head;
    bool right = false;
  };
  std::vector<column> columns;
  std::vector<std::vector<std::string>> rows;
  std::string text(std::string_view indent = "") const;
};

/// Opens a heap to look at it only; says why not.
result<heap> look_at(session& s, const std::string& name);

void add_heap_commands(command_line& line, session& s);
void add_destroy_command(command_line& line, session& s);
void add_list_commands(command_line& line, session& s);
void add_memory_commands(command_line& line, session& s);
void add_see_commands(command_line& line, session& s);
void add_block_commands(command_line& line, session& s);
void add_name_commands(command_line& line, session& s);
void add_reap_command(command_line& line, session& s);
void add_run_command(command_line& line, session& s);
void add_doctor_command(command_line& line, session& s);
void add_demo_command(command_line& line, session& s);
void add_completion_command(command_line& line, session& s);
void add_man_command(command_line& line, session& s);

}  // namespace annex::tool
