#include "arguments.hpp"

#include <cstdlib>

#include <CLI/CLI.hpp>

namespace annex::torture {

struct arguments::reader {
  CLI::App app;
};

arguments::arguments(const char* what_the_program_does) : reader_(std::make_unique<reader>()) {
  reader_->app.description(what_the_program_does);
}
arguments::~arguments() = default;

void arguments::number(const char* name, std::uint64_t* into, const char* help, std::uint64_t low,
                       std::uint64_t high) {
  reader_->app.add_option(name, *into, help)->capture_default_str()->check(CLI::Range(low, high));
}

void arguments::seed(unsigned* into, const char* help) {
  reader_->app.add_option("--seed", *into, help)->capture_default_str();
}

void arguments::seconds(double* into, const char* help) {
  reader_->app.add_option("--seconds", *into, help)->capture_default_str();
}

void arguments::text(const char* name, std::string* into, const char* help) {
  reader_->app.add_option(name, *into, help);
}

void arguments::flag(const char* name, bool* into, const char* help) {
  reader_->app.add_flag(name, *into, help);
}

void arguments::read(int argc, char** argv) {
  try {
    reader_->app.parse(argc, argv);
  } catch (const CLI::ParseError& wrong) {
    std::exit(reader_->app.exit(wrong));
  }
}

}  // namespace annex::torture
