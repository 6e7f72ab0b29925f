// Memory for the buffers of the CPU backend. Large ones of one size lie side by side in huge pages
// (slab.h): a step with many sequences walks through all their states, which are more small pages
// than the processor knows the places of. Called by cpu_backend.cpp. Never for packed weights: see
// arena.h.
#pragma once

#include "memory/slab.h"

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>

namespace rwkv::cpu {

class Shelves {
public:
    // At a multiple of 64 bytes, whatever it holds. What is given back stays for the next one of
    // that size as long as there are others of it. Throws std::bad_alloc. Thread-safe.
    std::shared_ptr<void> take(size_t bytes);

private:
    struct Shelf {
        explicit Shelf(size_t bytes) : slab(bytes) {}
        std::mutex mutex;
        Slab slab;
        size_t taken = 0;
    };
    std::shared_ptr<Shelf> shelf(size_t bytes);

    std::mutex mutex_;
    std::map<size_t, std::shared_ptr<Shelf>> shelves_;  // by the size of a buffer
};

}  // namespace rwkv::cpu
