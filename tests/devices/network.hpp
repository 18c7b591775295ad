// tests/devices/network.hpp - a veth pair in a network namespace of its own, for tests that send
// packets.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include <sched.h>

namespace annex {

/// The process goes into a new network namespace with the pair ax0, ax1, both up, without the
/// kernel's own packets. False: not allowed here.
inline bool enter_own_network() {
  static const bool done = ::unshare(CLONE_NEWNET) == 0 &&
                           std::system(
                               "ip link add ax0 type veth peer name ax1 && for i in ax0 ax1; do "
                               "sysctl -qw net.ipv6.conf.$i.disable_ipv6=1 2>/dev/null || "
                               "echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; ip link set $i "
                               "up; done 2>/dev/null") == 0;
  return done;
}

}  // namespace annex
