// annex/devices/verbs.hpp - every region of a heap as memory regions (MRs) of an RDMA device
// (library annex_verbs).
//
//   heap region ── one MR, or pieces of what the device takes ──▶ lkey, rkey
//   block       ── find(block): a few ns ──▶ lkey, rkey, address
//                                            address: what a work request and a peer call it
//
// By default that address is remote_address() of the block's handle: the same in every process of
// the heap wherever it maps the region, so an index or a list with handles in it can be followed by
// a peer that knows the region's length and rkey alone. It has no generation: whether the block is
// still the one that was meant, only heap::resolve() can say.
//
//   auto memory = must(annex::verbs_memory::create(pd));
//   auto seen = must(heap.observe(*memory));
//   auto k = memory->find(block);
//   ibv_sge from{k->address, bytes, k->lkey};           // bytes <= k->contiguous_bytes
//   … send k->address and k->rkey to the peer, who puts them into wr.rdma
//
// A region is registered before its first block is handed out and deregistered after the last one
// is free; then the device refuses its keys.
// Source: ibv_reg_mr(3), ibv_reg_dmabuf_mr(3).
#pragma once
#include <annex/standard.hpp>
#ifdef ANNEX_HAS_STANDARD
#include <annex/observer.hpp>

#include <functional>
#include <memory>
#include <optional>

struct ibv_pd;

namespace annex {

/// What work requests and peers call a byte. handles: remote_address() of heap::handle_of. iovas:
/// the region's own IOVAs, which must be one run. here: its address in this process.
enum class verbs_addresses : std::uint8_t { handles, iovas, here };

/// How regions are registered.
struct verbs_options {
  /// What work requests and peers call a byte.
  verbs_addresses addresses = verbs_addresses::handles;
  /// Ibv_access_flags: local write, remote write, remote read.
  unsigned access = 7;
  /// Of one MR: power of two, from one page up; 0: the region, or what the device takes at most.
  std::size_t piece_bytes = 0;
  unsigned threads = 0;  ///< that register pieces; 0: one per CPU
  /// Of a region, by any of them, one call at a time.
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress{};
};

/// What a work request needs of a block.
struct memory_key {
  std::uint32_t lkey;            ///< for work requests here
  std::uint32_t rkey;            ///< for those of peers
  std::uint64_t address;         ///< of the block, as verbs_options::addresses says
  std::size_t contiguous_bytes;  ///< under these keys, from the block's address on
};

/// Observes one heap, in one process. Threads: any. The protection domain must outlive it. A
/// process that dies takes its MRs with it; others' stay.
class ANNEX_PUBLIC verbs_memory final : public observer {
 public:
  /// Errors: invalid_argument (a piece, no protection domain), os_failure.
  static result<std::unique_ptr<verbs_memory>> create(::ibv_pd* domain,
                                                      const verbs_options& options = {});
  /// Its observation must have ended.
  ~verbs_memory() override;

  /// The keys of a block; nothing for memory of no region that is registered. Wait-free.
  std::optional<memory_key> find(const void* block) const noexcept;
  /// MRs there are.
  std::size_t registered() const noexcept;

  /// As observer::name().
  std::string_view name() const noexcept override;
  /// Memory the CPU may not touch is registered by its descriptor, which must be a dma-buf.
  result<void> on_add(const region_view& region) override;
  quiesce begin_remove(const region_view& region) override;
  result<void> finish_remove(const region_view& region,
                             std::chrono::steady_clock::time_point deadline) override;

 private:
  struct state;
  explicit verbs_memory(std::unique_ptr<state> s) noexcept;
  std::unique_ptr<state> state_;
};

}  // namespace annex

#endif
