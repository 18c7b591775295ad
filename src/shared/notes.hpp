// shared/notes.hpp - what each structure leaves for those that are looked at after it.
//
// An audit and a repair go over one list of structures (care/structures.cpp). What one of them
// found out, and others need, it keeps in a struct of its own, declared beside it: whoever needs it
// names that struct. So a new structure adds a struct, and nothing to what the others share.
//
//   notes.of<slabs_seen>().records.contains(ref)
//
// Of one thread, for as long as one audit or repair takes. Nothing of it lies in the segment.
#pragma once
#include <map>
#include <memory>

namespace annex::detail {

class notebook {
 public:
  /// The one Notes of this look; made when it is asked for first.
  template <class Notes>
  Notes& of() {
    static char page = 0;  // its address stands for the type
    std::shared_ptr<void>& kept = pages_[&page];
    if (kept == nullptr) kept = std::make_shared<Notes>();
    return *static_cast<Notes*>(kept.get());
  }

 private:
  std::map<const void*, std::shared_ptr<void>> pages_;
};

}  // namespace annex::detail
