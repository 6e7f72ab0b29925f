// See slab.h.
#include "memory/slab.h"

#include "memory/huge_pages.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <new>
#include <utility>

namespace rwkv {

Slab::Slab(size_t block_bytes, size_t blocks)
    : block_(round_up(std::max<size_t>(block_bytes, 1), 64)),
      blocks_(blocks ? blocks : std::max<size_t>(mapping_bytes / block_, 4)) {}

void *Slab::take() {
    for (auto &[base, mapping] : mappings_) {  // first what has been touched before
        if (mapping.free.empty()) continue;
        void *block = mapping.free.back();
        mapping.free.pop_back();
        return block;
    }
    void *block = prefault_ ? prefault_->take() : nullptr;
    if (!block) block = cut();
    send_ahead();
    return block;
}

void Slab::write_ahead(size_t bytes) {
    ahead_ = bytes / block_;
    if (ahead_ > 0 && !prefault_) prefault_ = std::make_unique<Prefault>(block_);
    send_ahead();
}

// Only when half of the blocks are gone, so that most requests meet none of it. Without memory or a
// thread there is nothing ahead.
void Slab::send_ahead() noexcept {
    if (!prefault_ || prefault_->out() > ahead_ / 2) return;
    try {
        while (prefault_->out() < ahead_) {
            void *block = cut();
            try {
                prefault_->send(block);
            } catch (...) {
                give(block);
                throw;
            }
        }
    } catch (const std::exception &) {
        ahead_ = 0;
    }
}

// A block that nobody has written to.
void *Slab::cut() {
    for (auto &[base, mapping] : mappings_)
        if (mapping.cut < blocks_) return base + block_ * mapping.cut++;
    Mapping made;
    made.free.reserve(blocks_);  // give() needs no memory
    std::byte *const base = map_huge(block_ * blocks_);
    made.cut = 1;
    try {
        mappings_.emplace(base, std::move(made));
    } catch (...) {
        unmap_huge(base, block_ * blocks_);
        throw;
    }
    return base;
}

void Slab::give(void *block) {
    const auto owner = std::prev(mappings_.upper_bound(static_cast<std::byte *>(block)));
    Mapping &mapping = owner->second;
    mapping.free.push_back(block);
    if (mapping.free.size() < mapping.cut) return;
    const auto has_room = [&](const auto &other) {
        return other.first != owner->first &&
               (!other.second.free.empty() || other.second.cut < blocks_);
    };
    if (std::none_of(mappings_.begin(), mappings_.end(), has_room)) return;
    unmap_huge(owner->first, block_ * blocks_);
    mappings_.erase(owner);
}

void Slab::clear() {
    if (prefault_) prefault_->recall();
    for (const auto &[base, mapping] : mappings_) unmap_huge(base, block_ * blocks_);
    mappings_.clear();
}

}  // namespace rwkv
