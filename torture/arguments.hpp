// torture/arguments.hpp - what may be written behind the programs of torture/. One file reads it,
// since CLI11 takes longer to compile than any of them.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace annex::torture {

/// The options of one program. Each is written into a variable of the caller's, who keeps it until
/// read() is over.
class arguments {
 public:
  explicit arguments(const char* what_the_program_does);
  ~arguments();
  arguments(const arguments&) = delete;
  arguments& operator=(const arguments&) = delete;

  void number(const char* name, std::uint64_t* into, const char* help, std::uint64_t low = 0,
              std::uint64_t high = UINT64_MAX);
  void seed(unsigned* into, const char* help);
  void seconds(double* into, const char* help);
  void text(const char* name, std::string* into, const char* help);
  void flag(const char* name, bool* into, const char* help);

  /// Ends the program after --help, and after what was not understood.
  void read(int argc, char** argv);

 private:
  struct reader;
  std::unique_ptr<reader> reader_;
};

}  // namespace annex::torture
