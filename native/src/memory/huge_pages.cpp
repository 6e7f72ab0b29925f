// See huge_pages.h.
#include "memory/huge_pages.h"

#include <cstdint>
#include <new>

#include <sys/mman.h>

namespace rwkv {

std::byte *map_huge(size_t bytes) {
    bytes = round_up(bytes, huge_page);
    void *address = mmap(nullptr, bytes + huge_page, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) throw std::bad_alloc();
    auto *const start = static_cast<std::byte *>(address);
    const size_t before = -reinterpret_cast<uintptr_t>(start) % huge_page;
    std::byte *const aligned = start + before;
    if (before != 0) munmap(start, before);
    munmap(aligned + bytes, huge_page - before);
#if defined(MADV_HUGEPAGE)
    madvise(aligned, bytes, MADV_HUGEPAGE);  // advice: without it everything works, more slowly
#endif
    return aligned;
}

void unmap_huge(void *address, size_t bytes) noexcept {
    munmap(address, round_up(bytes, huge_page));
}

}  // namespace rwkv
