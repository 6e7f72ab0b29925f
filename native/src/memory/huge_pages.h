// Memory straight from the system, in huge pages where it has them: what a decoding step walks
// through is more small pages than the processor knows the places of, and each costs a walk of the
// page table. Called by slab.cpp and cpu/arena.cpp; cpu/state_memory.cpp, which opens its pages
// piece by piece, maps by itself.
#pragma once

#include <cstddef>

namespace rwkv {

constexpr size_t huge_page = size_t{2} << 20;
// What is mapped at a time where pieces of it are handed out. Address space only: a page costs
// memory once it is written to.
constexpr size_t mapping_bytes = size_t{64} << 20;

constexpr size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// At least `bytes` zeroed bytes at a multiple of huge_page. Throws std::bad_alloc.
std::byte *map_huge(size_t bytes);
// What map_huge(bytes) has returned.
void unmap_huge(void *address, size_t bytes) noexcept;

}  // namespace rwkv
