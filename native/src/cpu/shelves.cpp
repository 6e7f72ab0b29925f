// See shelves.h.
#include "cpu/shelves.h"

#include <new>

namespace rwkv::cpu {

namespace {

constexpr std::align_val_t kLine{64};
// Smaller ones are few pages anyway; larger ones are few, and a slab is mapped for several.
constexpr size_t kSmallest = size_t{1} << 20, kLargest = size_t{16} << 20;

}  // namespace

std::shared_ptr<Shelves::Shelf> Shelves::shelf(size_t bytes) {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<Shelf> &found = shelves_[bytes];
    if (!found) found = std::make_shared<Shelf>(bytes);
    return found;
}

std::shared_ptr<void> Shelves::take(size_t bytes) {
    if (bytes < kSmallest || bytes > kLargest)
        return {::operator new(bytes, kLine), [](void *p) { ::operator delete(p, kLine); }};
    const std::shared_ptr<Shelf> on = shelf(bytes);
    const auto give = [on](void *p) {
        const std::lock_guard lock(on->mutex);
        on->slab.give(p);
        if (--on->taken == 0) on->slab.clear();
    };
    void *taken = nullptr;
    {
        const std::lock_guard lock(on->mutex);
        taken = on->slab.take();
        ++on->taken;
    }
    return {taken, give};  // gives back itself if it finds no memory for its count
}

}  // namespace rwkv::cpu
