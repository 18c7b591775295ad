// api/heap.cpp - the C++ face: annex::heap over detail::local_heap, and the two calls worth
// inlining into.
#include <annex/heap.hpp>

#include <cerrno>
#include <utility>

#include <annex/version.hpp>

#include "base/size_class.hpp"
#include "heap/closing.hpp"
#include "heap/creating.hpp"
#include "heap/destroying.hpp"
#include "heap/fast_path.hpp"
#include "heap/listing.hpp"
#include "heap/opening.hpp"
#include "heap/repairing.hpp"

namespace annex {

using detail::local_heap;
using detail::requests;

heap::heap(heap&& other) noexcept : impl_(std::exchange(other.impl_, nullptr)) {}
heap& heap::operator=(heap&& other) noexcept {
  if (this != &other) {
    if (impl_ != nullptr) detail::close_heap(impl_);
    impl_ = std::exchange(other.impl_, nullptr);
  }
  return *this;
}
heap::~heap() {
  if (impl_ != nullptr) detail::close_heap(impl_);
}

namespace {

template <class Make>
result<heap> made(Make make, result<local_heap*> opened) {
  if (!opened) return std::unexpected(opened.error());
  return make(*opened);
}

}  // namespace

result<heap> heap::create(std::string_view name, const heap_options& o) {
  return made([](local_heap* h) { return heap(h); }, detail::create_heap(name, o, false));
}
result<heap> heap::create_private(const heap_options& o) {
  auto opened = detail::create_heap({}, o, true);
  // Nobody else has to map it, so where address space is short (valgrind, ulimit -v) less will do,
  // unless a size was asked for.
  heap_options smaller = o;
  for (const std::size_t limit :
       {std::size_t{1} << 30, std::size_t{256} << 20, std::size_t{64} << 20}) {
    const bool is_short =
        !opened && (opened.error().os_errno == ENOMEM || opened.error().os_errno == EINVAL);
    if (!is_short || o.metadata_limit_bytes != heap_options{}.metadata_limit_bytes) break;
    smaller.metadata_limit_bytes = limit;
    if (auto again = detail::create_heap({}, smaller, true)) opened = again;
  }
  return made([](local_heap* h) { return heap(h); }, opened);
}
result<heap> heap::open(std::string_view name, const heap_options& o, bool* is_new) {
  return made([](local_heap* h) { return heap(h); }, detail::open_heap(name, o, is_new));
}
result<heap> heap::attach(std::string_view name, const attach_options& o) {
  return made([](local_heap* h) { return heap(h); }, detail::attach_heap(name, o));
}
result<void> heap::destroy(std::string_view name) {
  return detail::destroy_heap(name);
}
result<repair_report> heap::repair(std::string_view name) {
  return detail::repair_heap(name);
}
result<std::vector<heap_summary>> heap::list() {
  return detail::list_heaps();
}

std::string_view heap::name() const noexcept {
  return impl_->here.name;
}
heap_id heap::id() const noexcept {
  return impl_->here.id();
}
member_id heap::self() const noexcept {
  return member_id{impl_->here.self.member};
}

result<region_id> heap::add_memory(const memory_range& m) {
  return impl_->memory.add_memory(m);
}
result<region_id> heap::bring_memory(const memory_source& m) {
  return impl_->memory.bring_memory(m);
}
result<void> heap::remove_memory(region_id r) {
  return impl_->memory.remove_memory(r, {}, false);
}
result<void> heap::drain_memory(region_id r, std::chrono::nanoseconds deadline) {
  return impl_->memory.remove_memory(r, deadline, true);
}
result<void> heap::cancel_drain(region_id r) {
  return impl_->memory.cancel_drain(r);
}
result<void> heap::attach_memory(region_id r, void* base) {
  if (base == nullptr)
    return std::unexpected(
        error{errc::invalid_argument, 0,
              "the base is null; attach_memory(region) maps the region by itself"});
  return impl_->memory.attach_memory(r, base);
}
result<void> heap::attach_memory(region_id r) {
  return impl_->memory.attach_memory(r, nullptr);
}
result<void> heap::detach_memory(region_id r) {
  return impl_->memory.detach_memory(r);
}
result<void> heap::prefault(region_id r, unsigned threads,
                            const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  return impl_->memory.prefault(r, threads, progress);
}
void heap::synchronize() {
  impl_->memory.synchronize();
}

// Kept out of the way so that the hit needs no stack.
[[gnu::noinline]] static void* allocate_elsewhere(local_heap& h, std::size_t size_bytes) noexcept {
  return detail::allocate_past_hit(h, size_bytes);
}

void* heap::allocate(std::size_t size_bytes) noexcept {
  void* block = nullptr;
  if (!detail::allocate_hit(*impl_, size_bytes, &block)) [[unlikely]]
    return allocate_elsewhere(*impl_, size_bytes);
  return block;
}
void* heap::allocate(const placement& p) noexcept {
  return impl_->blocks.allocate(p);
}
std::size_t heap::allocate_bulk(std::size_t size_bytes, std::span<void*> blocks) noexcept {
  return impl_->blocks.allocate_bulk(size_bytes, blocks);
}
void* heap::reallocate(void* block, std::size_t size_bytes) noexcept {
  return impl_->blocks.reallocate(block, size_bytes);
}
void* heap::reallocate(void* block, const placement& p) noexcept {
  return impl_->blocks.reallocate(block, p);
}
void heap::free(void* block) noexcept {
  if (!detail::free_hit(block)) [[unlikely]]
    return requests::free_past_hit(block);
}
void heap::free_bulk(std::span<void* const> blocks) noexcept {
  for (void* block : blocks)
    requests::free(block);
}
std::size_t heap::usable_size(const void* block) noexcept {
  return requests::usable_size(block);
}
explanation heap::last_failure() noexcept {
  return requests::last_failure();
}
void heap::on_shortage(std::function<bool(std::size_t)> grow) {
  impl_->blocks.on_shortage(std::move(grow));
}
void heap::trim() noexcept {
  impl_->care.trim_own();
}

// Results are made where the caller wants them: a copy would wait for the stores of its halves.
[[gnu::noinline]] static std::optional<location> locate_with_iova(const local_region& r,
                                                                  std::size_t offset) noexcept {
  const auto bus = r.iovas.find(offset);
  return std::optional<location>(std::in_place, heap_id{r.heap_id}, region_id{r.id}, offset,
                                 iova{bus.address}, bus.contiguous_bytes);
}

[[gnu::noinline]] static std::optional<location> locate_far(const void* p) noexcept;

[[gnu::always_inline]] static inline std::optional<location> locate_in(const local_region* r,
                                                                       const void* p) noexcept {
  const std::size_t offset = static_cast<std::size_t>(static_cast<const char*>(p) - r->base);
  if (!is_zero(r->iova_run_count)) return locate_with_iova(*r, offset);
  return std::optional<location>(std::in_place, heap_id{r->heap_id}, region_id{r->id}, offset,
                                 std::nullopt, r->length_bytes - offset);
}
static std::optional<location> locate_far(const void* p) noexcept {
  const local_region* const r = address_index::find(p);
  return r != nullptr ? locate_in(r, p) : std::nullopt;
}

std::optional<location> heap::locate(const void* p) noexcept {
  const local_region* const r = address_index::find_near(p);
  return r != nullptr ? locate_in(r, p) : locate_far(p);
}
void* heap::address_of(iova address) const noexcept {
  return impl_->bytes.address_of(address);
}
handle heap::handle_of(const void* p) const noexcept {
  return impl_->bytes.handle_of(p);
}
result<void*> heap::resolve(handle h) const {
  return impl_->bytes.resolve(h);
}

result<zone> heap::reserve_zone(std::string_view name, const placement& p, visibility seen) {
  return impl_->zones.reserve_zone(name, p, {.seen = seen}, {});
}
result<void> heap::commit_zone(std::string_view name, const zone& filled) {
  return impl_->zones.commit_zone(name, filled.generation);
}
result<zone> heap::wait_zone(std::string_view name, std::chrono::nanoseconds deadline,
                             std::uint64_t after_generation) const {
  return impl_->zones.wait_zone(name, deadline, after_generation);
}
result<zone> heap::find_zone(std::string_view name) const {
  return impl_->zones.find_zone(name, zone_type::plain);
}
result<void> heap::release_zone(std::string_view name) {
  return impl_->zones.release_zone(name, zone_type::plain);
}

result<observation> heap::observe(observer& who) {
  return impl_->observing.observe(who);
}
result<lease> heap::hold(region_id r) {
  return impl_->observing.hold(r);
}

heap_stats heap::stats() const {
  return impl_->care.stats();
}
heap_snapshot heap::snapshot(const snapshot_options& o) const {
  return impl_->care.snapshot(o);
}
result<audit_report> heap::audit() const {
  return impl_->care.audit();
}
void heap::for_each_region(const std::function<void(const region_summary&)>& visit) const {
  impl_->care.for_each_region(visit);
}
result<std::uint64_t> heap::huge_bytes(region_id r) const {
  return impl_->care.huge_bytes(r);
}
void heap::for_each_zone(const std::function<void(const zone_summary&)>& visit) const {
  impl_->care.for_each_zone(visit);
}
result<void> heap::for_each_block(const std::function<void(const block_summary&)>& visit) const {
  return impl_->care.for_each_block(visit);
}
void heap::for_each_map_piece(const std::function<void(const map_piece&)>& visit) const {
  impl_->care.for_each_map_piece(visit);
}
std::vector<member_summary> heap::members() const {
  return impl_->care.members();
}
std::size_t heap::recover() noexcept {
  return impl_->care.recover();
}
result<std::size_t> heap::reap(member_id m,
                               const std::function<reap_choice(const block_summary&)>& look) {
  return impl_->care.reap(static_cast<u32>(m), look);
}

version library_version() noexcept {
  return {ANNEX_VERSION_MAJOR, ANNEX_VERSION_MINOR, ANNEX_VERSION_PATCH};
}

}  // namespace annex
