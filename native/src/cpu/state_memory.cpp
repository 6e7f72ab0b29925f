// See state_memory.h. A large pool is a mapping that nothing may touch, of which the part in use is
// opened: so its pages count against the limits of the process when they are asked for, which can
// then be refused, and not when a step writes to them.
#include "cpu/state_memory.h"

#include "memory/huge_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <vector>

namespace rwkv::cpu {

namespace {

// Smaller pools are a part of the heap: a process may have many of one state, and not as many
// mappings.
constexpr size_t kMapped = size_t{1} << 20;

struct Reservation {
    std::byte *mapping = nullptr, *base = nullptr;  // null: `heap` has it
    size_t length = 0;                              // of the mapping
    size_t size = 0, open = 0;                      // bytes of all states; from `base`: may be used
    std::vector<std::byte> heap;

    explicit Reservation(size_t bytes) : size(round_up(bytes, huge_page)) {
        if (bytes < kMapped) {
            heap.resize(bytes + 64);
            return;
        }
        void *const address = map(nullptr, size + huge_page, 0);
        if (address == MAP_FAILED) throw std::bad_alloc();
        mapping = static_cast<std::byte *>(address);
        length = size + huge_page;
        base = mapping + (round_up(reinterpret_cast<size_t>(mapping), huge_page) -
                          reinterpret_cast<size_t>(mapping));
    }
    ~Reservation() {
        if (mapping) munmap(mapping, length);
    }
    Reservation(const Reservation &) = delete;

    static void *map(void *at, size_t bytes, int fixed) {
        return mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1,
                    0);
    }
    std::byte *data() {
        return base ? base
                    : heap.data() + (round_up(reinterpret_cast<size_t>(heap.data()), 64) -
                                     reinterpret_cast<size_t>(heap.data()));
    }
    void use(size_t bytes) {
        if (!base) return;
        const size_t wanted = std::min(round_up(bytes, huge_page), size);
        if (wanted > open) {
            if (mprotect(base + open, wanted - open, PROT_READ | PROT_WRITE) != 0)
                throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
            madvise(base + open, wanted - open, MADV_HUGEPAGE);  // advice: all works without it
#endif
        } else if (wanted < open && map(base + wanted, open - wanted, MAP_FIXED) == MAP_FAILED) {
            madvise(base + wanted, open - wanted, MADV_DONTNEED);
            return;
        }
        open = wanted;
    }
};

}  // namespace

States reserve_states(size_t floats, int32_t slots) {
    const size_t bytes = round_up(std::max<size_t>(floats, 1) * sizeof(float), 64);
    if (floats > SIZE_MAX / 8 || bytes > SIZE_MAX / 4 / static_cast<size_t>(slots))
        throw std::bad_alloc();
    const auto owner = std::make_shared<Reservation>(bytes * static_cast<size_t>(slots));
    return {reinterpret_cast<float *>(owner->data()), static_cast<int64_t>(bytes / sizeof(float)),
            slots, owner};
}

void use_states(const States &states, int32_t slots) {
    const auto bytes = static_cast<size_t>(slots * states.stride) * sizeof(float);
    static_cast<Reservation *>(states.owner.get())->use(bytes);
}

}  // namespace rwkv::cpu
