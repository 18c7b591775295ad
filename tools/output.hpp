// tools/output.hpp - how the command speaks: tables for people, JSON for programs, errors as sentences, exit codes.
#pragma once
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <annex/annex.hpp>

namespace annex::tool {

enum exit_code { exit_ok = 0, exit_refused = 1, exit_usage = 2 };

/// What every command is given; a command sets exit when it was refused.
struct session {
  bool json = false;
  int exit = exit_ok;
};

/// Prints the refusal on stderr (or as JSON) and sets the exit code.
void refuse(session& s, const error& e);
void refuse(session& s, const std::string& sentence);
void print(nlohmann::json j);

/// 1536 → "1.5 KiB".
std::string bytes_text(std::uint64_t bytes);
/// "64M", "1G", "4096", "2MiB". Throws CLI::ValidationError.
std::uint64_t parse_bytes(const std::string& text);
/// Adds an option whose value is a number of bytes.
CLI::Option* add_bytes(CLI::App* app, const std::string& name, std::uint64_t* into, const std::string& help);
std::string hex(std::uint64_t value);

void add_heap_commands(CLI::App& app, session& s);
void add_memory_commands(CLI::App& app, session& s);
void add_see_commands(CLI::App& app, session& s);
void add_run_command(CLI::App& app, session& s);
void add_doctor_command(CLI::App& app, session& s);
void add_demo_command(CLI::App& app, session& s);
void add_man_command(CLI::App& app, session& s);

}  // namespace annex::tool
