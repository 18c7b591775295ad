// bench/table.hpp - a hash table whose nodes are blocks of the allocator that is measured.
//
// Two threads use it at once. A bucket is locked by its stripe; a node is allocated before the lock
// is taken and freed after it is let go, so that nobody waits for somebody else's allocator.
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include "rows.hpp"

namespace annex::bench {

template <class Calls>
class table {
 public:
  table(Calls calls, unsigned long items) : calls_(calls) {
    while (buckets_.size() < items)
      buckets_.resize(buckets_.empty() ? 1024 : buckets_.size() * 2);
  }
  ~table() { clear(); }
  table(const table&) = delete;
  table& operator=(const table&) = delete;

  /// Inserts, or takes the place of the one that is there. No block for it: the cell ends, as its
  /// threads can't hand an exception on.
  void put(unsigned long key, std::size_t bytes) {
    auto* const made = static_cast<node*>(calls_.allocate(sizeof(node) + bytes));
    if (made == nullptr) std::abort();
    made->key = key;
    // Its ends and a byte of every page, as somebody would who fills it.
    auto* const value = reinterpret_cast<volatile char*>(made + 1);
    for (std::size_t at = 0; at < bytes; at += 4096)
      value[at] = 1;
    value[bytes - 1] = 2;
    node* before = nullptr;
    {
      const locked own(*this, key);
      node*& first = bucket(key);
      before = unlink(&first, key);
      made->next = first;
      first = made;
    }
    if (before != nullptr) calls_.free(before);
  }
  void get(unsigned long key) {
    const locked own(*this, key);
    for (const node* n = bucket(key); n != nullptr; n = n->next)
      if (n->key == key) {
        keep(*reinterpret_cast<const volatile char*>(n + 1));
        return;
      }
  }
  void remove(unsigned long key) {
    node* found = nullptr;
    {
      const locked own(*this, key);
      found = unlink(&bucket(key), key);
    }
    if (found != nullptr) calls_.free(found);
  }
  /// One thread.
  void clear() {
    for (node*& first : buckets_)
      while (first != nullptr) {
        node* const n = first;
        first = n->next;
        calls_.free(n);
      }
  }

 private:
  struct node {
    node* next;
    unsigned long key;
  };
  struct alignas(64) stripe {
    std::atomic_flag taken = ATOMIC_FLAG_INIT;
  };
  static unsigned long hash(unsigned long key) { return key * 0x9e3779b97f4a7c15ul >> 20; }
  node*& bucket(unsigned long key) { return buckets_[hash(key) & (buckets_.size() - 1)]; }

  class locked {
   public:
    locked(table& of, unsigned long key) : stripe_(of.stripes_[hash(key) % 1024]) {
      for (unsigned waited = 0; stripe_.taken.test_and_set(std::memory_order_acquire);)
        if (++waited % 256 == 0) std::this_thread::yield();
    }
    ~locked() { stripe_.taken.clear(std::memory_order_release); }
    locked(const locked&) = delete;
    locked& operator=(const locked&) = delete;

   private:
    stripe& stripe_;
  };

  static node* unlink(node** from, unsigned long key) {
    for (; *from != nullptr; from = &(*from)->next)
      if ((*from)->key == key) {
        node* const found = *from;
        *from = found->next;
        return found;
      }
    return nullptr;
  }

  Calls calls_;
  std::vector<node*> buckets_;
  std::array<stripe, 1024> stripes_;  // of buckets that agree in their last ten bits
};

}  // namespace annex::bench
