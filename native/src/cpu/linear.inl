// Products of packed matrices with a block of rows: which blocks a matrix takes, in which order,
// and what happens to their results. Included by kernels.inl only.
#pragma once

#include "cpu/linear_bytes.inl"

namespace {

using rwkv::cpu::Input;
using rwkv::cpu::LinearTask;

Input input(Type stored, [[maybe_unused]] Type compute) {
    if (stored == rwkv::cpu::kI8) return rwkv::cpu::kBytes;
    if (stored == rwkv::cpu::kI4) return rwkv::cpu::kHalfBytes;
#if defined(RWKV_PAIRS)
    if (stored == rwkv::cpu::kBf16 && compute == rwkv::cpu::kBf16) return rwkv::cpu::kPairs;
#endif
    return rwkv::cpu::kFloats;
}

using Block = void (*)(float *, const char *, int64_t, const char *, int64_t, int64_t, Fetch);

// The blocks that fit the register file: kWide panels at once for up to kWideRows rows, kMain for
// up to kMaxRows, single panels for what is left over.
#define RWKV_1(B, S, P) B<S, 1, P>
#define RWKV_2(B, S, P) RWKV_1(B, S, P), B<S, 2, P>
#define RWKV_4(B, S, P) RWKV_2(B, S, P), B<S, 3, P>, B<S, 4, P>
#define RWKV_6(B, S, P) RWKV_4(B, S, P), B<S, 5, P>, B<S, 6, P>
#define RWKV_12(B, S, P) \
    RWKV_6(B, S, P), B<S, 7, P>, B<S, 8, P>, B<S, 9, P>, B<S, 10, P>, B<S, 11, P>, B<S, 12, P>
#if defined(RWKV_512_BITS)
constexpr int kWide = 4, kWideRows = 6, kMain = 2, kMaxRows = 12;  // 24 sums in 32 registers
#define RWKV_WIDE RWKV_6
#define RWKV_SPARSE RWKV_4
#define RWKV_MAIN RWKV_12
#elif defined(__AVX2__)
constexpr int kWide = 4, kWideRows = 1, kMain = 1, kMaxRows = 6;  // 8 and 12 in 16
#define RWKV_WIDE RWKV_1
#define RWKV_SPARSE RWKV_1
#define RWKV_MAIN RWKV_6
#elif defined(__aarch64__)
constexpr int kWide = 2, kWideRows = 2, kMain = 1, kMaxRows = 6;  // 16 and 24 in 32
#define RWKV_WIDE RWKV_2
#define RWKV_SPARSE RWKV_2
#define RWKV_MAIN RWKV_6
#else
constexpr int kWide = 2, kWideRows = 1, kMain = 1, kMaxRows = 2;  // 8 in 16
#define RWKV_WIDE RWKV_1
#define RWKV_SPARSE RWKV_1
#define RWKV_MAIN RWKV_2
#endif
static_assert(kWide >= kMain);

// Up to so many rows, those of which most inputs are zero take blocks that skip them.
constexpr int64_t kSparseRows = kWideRows < 4 ? kWideRows : 4;
using SparseBlock = void (*)(float *, const char *, int64_t, const char *, int64_t,
                             const uint16_t *, int64_t);

struct Blocks {
    Block wide[kWideRows], main[kMaxRows], single[kMaxRows];
    SparseBlock sparse[kSparseRows];  // kWide panels
};
#define RWKV_DENSE(B, S) \
    {RWKV_WIDE(B, S, kWide)}, {RWKV_MAIN(B, S, kMain)}, { RWKV_MAIN(B, S, 1) }
#define RWKV_WORDS(S)                                                 \
    {                                                                 \
        RWKV_DENSE(block, S), { RWKV_SPARSE(block_sparse, S, kWide) } \
    }

const Blocks kF32Blocks = RWKV_WORDS(StoredF32);
const Blocks kF16Blocks = RWKV_WORDS(StoredF16);
const Blocks kBf16Blocks = RWKV_WORDS(StoredBf16);
const Blocks kInt8Blocks = {RWKV_DENSE(block_bytes, Int8), {}};
const Blocks kInt4Blocks = {RWKV_DENSE(block_bytes, Int4), {}};
#if defined(RWKV_PAIRS)
const Blocks kPairBlocks = RWKV_WORDS(StoredPairs);
#endif

RWKV_INLINE const Blocks &blocks_of(Type stored, [[maybe_unused]] Type compute) {
#if defined(RWKV_PAIRS)
    if (input(stored, compute) == rwkv::cpu::kPairs) return kPairBlocks;
#endif
    switch (stored) {
    case rwkv::cpu::kI8: return kInt8Blocks;
    case rwkv::cpu::kI4: return kInt4Blocks;
    case rwkv::cpu::kF16: return kF16Blocks;
    case rwkv::cpu::kBf16: return kBf16Blocks;
    default: return kF32Blocks;
    }
}

// Hands a tile of `width` outputs per row, of which n exist, to y.
RWKV_INLINE void finish(const LinearTask &task, const float *tile, int64_t width, int64_t n,
                        int64_t row, int64_t rows, int64_t output) {
    for (int64_t m = 0; m < rows; ++m) {
        const int64_t at = (row + m) * task.stride_y + output;
        float *y = task.y + at;
        for (int64_t i = 0; i < n; i += V) {
            F v = load(tile + m * width + i);
            if (task.bias) v += load_upto(task.bias + output + i, n - i);
            v = activate(v, task.act);
            if (task.gate) v *= load_upto(task.gate + at + i, n - i);
            if (task.add) v += load_upto(y + i, n - i);
            store_upto(y + i, v, n - i);
        }
    }
}

// Lists the pairs of inputs that are not zero in all rows, and returns how many; or −1 if they are
// so many that skipping the others does not pay: memory delivers lines that lie apart at less than
// half the speed. The first pairs tell whether a list is worth making.
constexpr int64_t kMostListed = 1 << 14, kLooked = 64;

template <class Pair>
RWKV_INLINE int64_t list_nonzero(uint16_t *list, const LinearTask &task, int64_t pairs) {
    int64_t count = 0;
    for (int64_t i = 0; i < pairs; ++i) {
        Pair any = 0;
        for (int64_t m = 0; m < task.rows; ++m) {
            Pair pair;
            __builtin_memcpy(&pair,
                             task.x + m * task.stride_x + i * static_cast<int64_t>(sizeof pair),
                             sizeof pair);
            any |= pair;
        }
        list[count] = static_cast<uint16_t>(i);
        count += any != 0;
        if (i == kLooked - 1 && count > kLooked / 2) return -1;
    }
    if (count > pairs / 3) return -1;
    for (int64_t i = 0; i < kSparseAhead; ++i) list[count + i] = count ? list[i % count] : 0;
    return count;
}

int64_t nonzero_pairs(uint16_t *list, const LinearTask &task, Input form) {
    const int64_t pairs = (task.w.in + 1) / 2;
    if (rwkv::cpu::in_groups(form) || task.rows > kSparseRows || pairs < kLooked ||
        pairs > kMostListed)
        return -1;
    return form == rwkv::cpu::kPairs ? list_nonzero<uint32_t>(list, task, pairs)
                                     : list_nonzero<uint64_t>(list, task, pairs);
}

// How far ahead of its own loads the only block of rows fetches weights, in bytes of each panel:
// what memory takes to answer, in the time that few rows and many take for it; the core's own loads
// run ahead by some hundred instructions, which are fewer bytes of int4. Of several blocks each
// fetches one of the panels that follow, so that memory has the time of all to bring them: the
// first alone would wait for it.
constexpr int64_t kAheadOfFew = 1024, kAheadOfFewInt4 = 1536, kAheadOfMany = 4096;
// Rows are taken in turns of so many that their inputs stay in the second-level cache while all
// panels pass.
constexpr int64_t kTurnBytes = 512 << 10;

void linear(const LinearTask *given) {
    const LinearTask task = *given;
    const Blocks &forms = blocks_of(task.w.stored, task.w.compute);
    const int64_t panel_bytes = rwkv::cpu::panel_bytes(task.w.stored, task.w.in);
    alignas(64) float tile[kMaxRows * kWide * kPanel];
    uint16_t list[kMostListed + kSparseAhead];
    const int64_t listed = nonzero_pairs(list, task, input(task.w.stored, task.w.compute));
    const int64_t ahead_of_few = task.w.stored == rwkv::cpu::kI4 ? kAheadOfFewInt4 : kAheadOfFew;
    const int64_t blocks = (task.rows + kMaxRows - 1) / kMaxRows;
    const int64_t fit = kTurnBytes / (kMaxRows * task.stride_x), turn = fit < 1 ? 1 : fit;

    for (int64_t first = 0; first < blocks; first += turn) {
        const int64_t last = first + turn < blocks ? first + turn : blocks;
        const int64_t end = task.panel + task.panels;
        for (int64_t panel = task.panel; panel < end;) {
            const int64_t left = end - panel;
            const Block *choice = forms.single;
            int64_t width = 1;
            if (task.rows <= kWideRows && left >= kWide) {
                choice = forms.wide;
                width = kWide;
            } else if (left >= kMain) {
                choice = forms.main;
                width = kMain;
            }
            const char *w = task.w.data + panel * panel_bytes;
            const int64_t output = panel * kPanel;
            const int64_t exist = task.w.out - output, wide = width * kPanel;
            const int64_t n = exist < wide ? exist : wide;
            for (int64_t b = first; b < last; ++b) {  // rows in equal parts, as far as that goes
                const int64_t row = task.rows * b / blocks;
                const int64_t rows = task.rows * (b + 1) / blocks - row;
                Fetch fetch = {task.x, 0, 0, task.x, 0};
                if (panel + width < end)
                    fetch.next = w + width * panel_bytes, fetch.next_bytes = panel_bytes;
                else if (task.next)
                    fetch.next = task.next, fetch.next_bytes = task.next_bytes;
                if (last - first == 1) {
                    const int64_t ahead = choice == forms.wide ? ahead_of_few : kAheadOfMany;
                    fetch.from = w + ahead, fetch.panel_bytes = panel_bytes, fetch.step = 64;
                } else if (b - first < width && fetch.next_bytes != 0) {
                    fetch.next += (b - first) * fetch.next_bytes, fetch.next_bytes = 0;
                    fetch.from = fetch.next, fetch.step = 64;
                }
                for (int64_t m = row; m < row + rows; ++m)  // where finish() will write
                    for (int64_t i = 0; i < wide; i += 16)
                        __builtin_prefetch(task.y + m * task.stride_y + output + i, 1, 3);
                if (listed >= 0 && width == kWide)
                    forms.sparse[rows - 1](tile, task.x, task.stride_x, w, panel_bytes, list,
                                           listed);
                else
                    choice[rows - 1](tile, task.x + row * task.stride_x, task.stride_x, w,
                                     panel_bytes, task.w.in, fetch);
                finish(task, tile, wide, n, row, rows, output);
            }
            panel += width;
        }
    }
}

}  // namespace
