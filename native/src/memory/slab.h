// Blocks of one size, cut from large mappings of huge pages, for states that are kept and forgotten
// all the time while running streams wait: the first write to memory costs 0.52 ms per MB in small
// pages, 0.12 in huge ones, and 0.04 where it has been written to before. Called by
// cpu/snapshots.cpp, and by engine.cpp for logits; one thread at a time.
#pragma once

#include "memory/prefault.h"

#include <cstddef>
#include <map>
#include <memory>
#include <vector>

namespace rwkv {

class Slab {
public:
    // Maps 64 MB of blocks at a time and four of them at least, or as many blocks as it is told.
    explicit Slab(size_t block_bytes, size_t blocks = 0);
    ~Slab() { clear(); }
    Slab(const Slab &) = delete;
    Slab &operator=(const Slab &) = delete;

    // A block at a multiple of 64 bytes, whatever it holds. Throws std::bad_alloc.
    void *take();
    // From now on so many bytes of blocks are written to before they are taken, in the background.
    void write_ahead(size_t bytes);
    // Its memory stays for the next one, unless there is enough for that elsewhere.
    void give(void *block);
    // Every block at once, and all memory.
    void clear();

    size_t mapped() const { return mappings_.size(); }

private:
    struct Mapping {
        size_t cut = 0;            // blocks so far
        std::vector<void *> free;  // of these: given back
    };

    void *cut();
    void send_ahead() noexcept;

    size_t block_, blocks_;               // bytes of one; how many a mapping holds
    size_t ahead_ = 0;                    // blocks to have been written to
    std::unique_ptr<Prefault> prefault_;  // if there are any
    std::map<std::byte *, Mapping> mappings_;
};

}  // namespace rwkv
