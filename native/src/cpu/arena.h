// Memory for packed weights, which live as long as their model. Used by pack.cpp. Not for buffers
// that come and go: a piece is only returned together with its whole mapping.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

namespace rwkv::cpu {

// Hands out zeroed memory, 64-byte aligned, out of large mappings that ask for huge pages: a
// decoding step walks through all weights, and with 4 KiB pages every page costs a walk of the
// page table. A mapping is returned to the system when nothing in it is owned any more.
// Thread-safe.
class Arena {
public:
    struct Piece {
        void *data = nullptr;
        std::shared_ptr<void> owner;
    };

    // Throws std::bad_alloc.
    Piece take(size_t bytes);

private:
    std::mutex mutex_;
    std::shared_ptr<void> mapping_;
    std::byte *next_ = nullptr;
    size_t left_ = 0;
};

}  // namespace rwkv::cpu
