// devices/vhost_user/vhost_user_state.hpp - a connection and the table it has: what the front end
// and its queues share.
#pragma once
#include "devices/region_table.hpp"
#include "devices/vhost_user/connection.hpp"

namespace annex {

struct vhost_user::state {
  struct entry {
    region_id region;
    int fd;
    vhost::table_entry where;
  };
  vhost::connection link;
  u64 agreed = 0;
  bool slots = false, config = false;
  unsigned limit = 0;
  heap_id observed{};
  devices::region_table known;
  std::mutex mutex;
  std::vector<entry> table;
  int send_whole_table(const std::vector<entry>& table);
  int send_entry(vhost::request what, const entry& e);
};

}  // namespace annex
