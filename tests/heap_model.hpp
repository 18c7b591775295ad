// tests/heap_model.hpp - a heap beside a model so simple that it is right: a map of live intervals,
// and handles of the past.
//
// One body serves the model test (random operations, audit after each thousand) and the fuzz target
// (operations from its input). A choice stream gives the numbers.
#pragma once
#include <map>
#include <string>
#include <vector>

#include <annex/annex.hpp>

namespace annex {

struct choices {
  virtual ~choices() = default;
  virtual std::uint32_t next(std::uint32_t below) = 0;  ///< 0 … below-1
  virtual bool more() = 0;
};

class heap_model {
 public:
  /// Memory: regions of these sizes, brought and taken away by turns.
  heap_model(heap& h, char* arena, std::size_t arena_bytes,
             std::size_t region_limit = heap_options{}.region_limit);
  /// One operation; a sentence when heap and model disagree.
  std::string step(choices& c);
  /// Audit, statistics and the model agree; a sentence when not.
  std::string check();
  std::string finish();
  std::uint64_t operations() const { return operations_; }

 private:
  struct live_one {
    char* end;
    std::size_t asked;
    bool is_zone;
    std::string name;
    handle named = null_handle;
  };
  struct added {
    region_id id;
    char* base;
    std::size_t bytes;
  };
  std::string note(void* p, std::size_t size, std::size_t align, bool is_zone, std::string name);
  std::string drop(std::map<char*, live_one>::iterator at);
  /// Asks for the block's handle: the one it had, or one that no block had before.
  std::string ask_name(std::map<char*, live_one>::iterator at);
  /// It has been freed.
  std::string retire(handle named);
  heap& heap_;
  char* arena_;
  std::size_t arena_bytes_, region_limit_, next_base_ = 0;
  std::map<char*, live_one> live_;
  std::vector<char*> order_;  // live blocks that are no zones, for choosing one
  std::vector<std::string> zones_;
  std::vector<added> regions_;
  std::vector<handle> past_;  // the latest of those whose blocks have been freed
  std::uint64_t operations_ = 0, zone_number_ = 0;
};

}  // namespace annex
