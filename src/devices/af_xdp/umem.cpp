// devices/af_xdp/umem.cpp - the block that is leased: a pool, and where it lies.
#include <annex/devices/af_xdp.hpp>

#include "base/failure.hpp"
#include "base/limits.hpp"
#include "devices/af_xdp/umem_state.hpp"

namespace annex {
umem::umem(std::shared_ptr<state> s) noexcept : state_(std::move(s)) {}
umem::umem(umem&&) noexcept = default;
umem& umem::operator=(umem&&) noexcept = default;
umem::~umem() = default;

result<umem> umem::create(heap& h, std::string_view name, const umem_options& o) {
  if (o.frame_bytes != 2048 && o.frame_bytes != 4096)
    return refuse(errc::invalid_argument,
                  "frames of {} bytes are no AF_XDP chunks: use 2048 or 4096", o.frame_bytes);
  auto frames = raw_pool::create(
      h, name,
      {.object_bytes = o.frame_bytes, .object_count = o.frames, .align_bytes = o.frame_bytes});
  if (!frames) return std::unexpected(frames.error());
  auto made = open(h, name);
  if (!made) (void)raw_pool::release(h, name);
  return made;
}

result<umem> umem::open(heap& h, std::string_view name) {
  auto frames = raw_pool::open(h, name);
  if (!frames) return std::unexpected(frames.error());
  auto s = std::make_shared<state>();
  s->frames = *frames;
  s->frame_bytes = static_cast<u32>(frames->object_bytes());
  if (s->frame_bytes != 2048 && s->frame_bytes != 4096)
    return refuse(errc::wrong_kind,
                  "the objects of \"{}\" have {} bytes: no AF_XDP frames (2048 or 4096)", name,
                  s->frame_bytes);
  s->length_bytes = u64{frames->object_count()} * s->frame_bytes;
  h.for_each_zone([&](const zone_summary& z) {
    if (z.name != name) return;
    if (const auto at = h.resolve(z.where)) s->base = static_cast<char*>(*at);
  });
  if (s->base == nullptr)
    return refuse(errc::not_attached, "the region of \"{}\" is not attached here", name);
  if (reinterpret_cast<u64>(s->base) % limits::smallest_page_bytes != 0)
    return refuse(errc::bad_alignment,
                  "\"{}\" begins at {}, inside a page: the kernel takes whole pages; create it in "
                  "a heap with free whole pages",
                  name, static_cast<void*>(s->base));
  auto held = h.hold(heap::locate(s->base)->region);
  if (!held) return std::unexpected(held.error());
  s->held = std::move(*held);
  return umem(std::move(s));
}

raw_pool& umem::frames() noexcept {
  return state_->frames;
}
u32 umem::frame_bytes() const noexcept {
  return state_->frame_bytes;
}
char* umem::base() const noexcept {
  return state_->base;
}
std::size_t umem::length_bytes() const noexcept {
  return state_->length_bytes;
}

}  // namespace annex
