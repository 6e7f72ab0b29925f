// See arena.h.
#include "cpu/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <new>

namespace rwkv::cpu {

namespace {

constexpr size_t kHuge = size_t{2} << 20;
// Address space only: a page costs memory once it is written to.
constexpr size_t kMapping = size_t{64} << 20;

constexpr size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// `bytes`, a multiple of kHuge, at a multiple of kHuge.
std::shared_ptr<void> map(size_t bytes) {
    const size_t length = bytes + kHuge;
    void *address = mmap(nullptr, length, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) throw std::bad_alloc();
    std::byte *const start = static_cast<std::byte *>(address);
    std::byte *const aligned =
        reinterpret_cast<std::byte *>(round_up(reinterpret_cast<size_t>(start), kHuge));
    if (aligned != start) munmap(start, static_cast<size_t>(aligned - start));
    const size_t behind = kHuge - static_cast<size_t>(aligned - start);
    if (behind != 0) munmap(aligned + bytes, behind);
#if defined(MADV_HUGEPAGE)
    madvise(aligned, bytes, MADV_HUGEPAGE);  // advice: without it everything works, more slowly
#endif
    return {aligned, [bytes](void *p) { munmap(p, bytes); }};
}

}  // namespace

Arena::Piece Arena::take(size_t bytes) {
    if (bytes > SIZE_MAX / 4) throw std::bad_alloc();
    bytes = round_up(std::max<size_t>(bytes, 1), 64);
    if (bytes >= kMapping / 4) {
        std::shared_ptr<void> own = map(round_up(bytes, kHuge));
        return {own.get(), own};
    }
    const std::lock_guard lock(mutex_);
    if (bytes > left_) {
        mapping_ = map(kMapping);
        next_ = static_cast<std::byte *>(mapping_.get());
        left_ = kMapping;
    }
    Piece piece{next_, mapping_};
    next_ += bytes;
    left_ -= bytes;
    return piece;
}

}  // namespace rwkv::cpu
