// See arena.h.
#include "cpu/arena.h"

#include "memory/huge_pages.h"

#include <algorithm>
#include <cstdint>
#include <new>

namespace rwkv::cpu {

namespace {

std::shared_ptr<void> map(size_t bytes) {
    return {map_huge(bytes), [bytes](void *p) { unmap_huge(p, bytes); }};
}

}  // namespace

Arena::Piece Arena::take(size_t bytes) {
    if (bytes > SIZE_MAX / 4) throw std::bad_alloc();
    bytes = round_up(std::max<size_t>(bytes, 1), 64);
    if (bytes >= mapping_bytes / 4) {
        std::shared_ptr<void> own = map(bytes);
        return {own.get(), own};
    }
    const std::lock_guard lock(mutex_);
    if (bytes > left_) {
        mapping_ = map(mapping_bytes);
        next_ = static_cast<std::byte *>(mapping_.get());
        left_ = mapping_bytes;
    }
    Piece piece{next_, mapping_};
    next_ += bytes;
    left_ -= bytes;
    return piece;
}

}  // namespace rwkv::cpu
