// See snapshots.h.
#include "cpu/snapshots.h"

namespace rwkv::cpu {

std::shared_ptr<Snapshots::Blocks> Snapshots::blocks_of(size_t bytes) {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<Blocks> &found = blocks_[bytes];
    if (!found) found = std::make_shared<Blocks>(bytes);
    return found;
}

std::shared_ptr<void> Snapshots::take(size_t bytes) {
    const std::shared_ptr<Blocks> from = blocks_of(bytes);
    const auto give = [from](void *block) {
        const std::lock_guard lock(from->mutex);
        from->slab.give(block);
        if (--from->taken == 0) from->slab.clear();
    };
    void *taken = nullptr;
    {
        const std::lock_guard lock(from->mutex);
        taken = from->slab.take();
        ++from->taken;
    }
    return {taken, give};  // gives back itself if it finds no memory for its count
}

void Snapshots::expect(size_t bytes, size_t ahead) {
    const std::shared_ptr<Blocks> blocks = blocks_of(bytes);
    const std::lock_guard lock(blocks->mutex);
    blocks->slab.write_ahead(ahead);
    if (ahead == 0 && blocks->taken == 0) blocks->slab.clear();
}

}  // namespace rwkv::cpu
