// Memory for snapshots: blocks of one size each, side by side in huge pages (slab.h). Called by
// cpu_backend.cpp, from any thread.
#pragma once

#include "memory/slab.h"

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>

namespace rwkv::cpu {

class Snapshots {
public:
    // At a multiple of 64 bytes, whatever it holds. What is given back stays for the next one of
    // that size as long as there are others of it. Throws std::bad_alloc.
    std::shared_ptr<void> take(size_t bytes);
    // So many bytes of blocks of that size are written to before they are taken, in the background.
    void expect(size_t bytes, size_t ahead);

private:
    struct Blocks {
        explicit Blocks(size_t bytes) : slab(bytes) {}
        std::mutex mutex;
        Slab slab;
        size_t taken = 0;
    };
    std::shared_ptr<Blocks> blocks_of(size_t bytes);

    std::mutex mutex_;
    std::map<size_t, std::shared_ptr<Blocks>> blocks_;  // by the size of one
};

}  // namespace rwkv::cpu
