// Products of packed matrices with a block of rows. Included by kernels.inl only.
//
// A register holds outputs; the inputs run through one accumulator in order (see kernels.h), so
// blocking is free to follow the register file: M rows times P panels. Weights are widened once
// per block of rows, x enters as broadcasts.
#pragma once

#include "cpu/math.inl"

namespace {

using rwkv::cpu::kPanel;
using rwkv::cpu::LinearTask;

constexpr int NV = kPanel / V;  // vectors per panel

// The weights of the first (Half = 0) or second input of a pair, for the V outputs that start at
// lane v · V of a panel.
struct StoredF32 {
    static constexpr int bytes = 4;
    template <int Half>
    RWKV_INLINE F weights(const char *p, int v) {
        return load(reinterpret_cast<const float *>(p) + Half * kPanel + v * V);
    }
};
struct StoredF16 {
    static constexpr int bytes = 2;
    template <int Half>
    RWKV_INLINE F weights(const char *p, int v) {
        return widen_f16(reinterpret_cast<const uint16_t *>(p) + Half * kPanel + v * V);
    }
};
struct StoredBf16 {
    static constexpr int bytes = 2;
    template <int Half>
    RWKV_INLINE F weights(const char *p, int v) {
        const U u = *reinterpret_cast<const Uu *>(p + v * V * 4);
        return floats(Half == 0 ? u << 16 : u & 0xffff0000u);
    }
};

// sums[m][j] += w[j] x[m] for one input; rows are addressed from every fourth, see block().
template <class Stored, int Half, int M, int P>
RWKV_INLINE void multiply_add(F (&sums)[M][P * NV], const float *const (&x)[(M + 3) / 4],
                              int64_t stride, int64_t stride3, const char *w, int64_t panel_bytes) {
    F weights[P * NV];
#pragma GCC unroll 16
    for (int j = 0; j < P * NV; ++j)
        weights[j] = Stored::template weights<Half>(w + (j / NV) * panel_bytes, j % NV);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        const int64_t offset = m % 4 == 3 ? stride3 : (m % 4) * stride;
        const F xm = splat(x[m / 4][offset + Half]);
#pragma GCC unroll 16
        for (int j = 0; j < P * NV; ++j) accumulate(sums[m][j], weights[j], xm);
    }
}

// tile[m][p · 16 ..] = Σ_k W[k] x[m][k] over `pairs` pairs of inputs.
//
// The empty asm keeps the compiler from giving each of the M rows a pointer of its own: with 12 of
// them it runs out of general registers and reloads one for every broadcast.
template <class Stored, int M, int P>
void block(float *tile, const float *x, int64_t stride, const char *w, int64_t panel_bytes,
           int64_t pairs) {
    F sums[M][P * NV];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
        for (int j = 0; j < P * NV; ++j) sums[m][j] = F{};
    const float *rows[(M + 3) / 4];
#pragma GCC unroll 4
    for (int i = 0; i < (M + 3) / 4; ++i) rows[i] = x + 4 * i * stride;
    int64_t stride3 = 3 * stride;
    for (const char *end = w + pairs * (2 * kPanel * Stored::bytes); w != end;
         w += 2 * kPanel * Stored::bytes) {
        multiply_add<Stored, 0, M, P>(sums, rows, stride, stride3, w, panel_bytes);
        multiply_add<Stored, 1, M, P>(sums, rows, stride, stride3, w, panel_bytes);
#pragma GCC unroll 4
        for (int i = 0; i < (M + 3) / 4; ++i) {
            rows[i] += 2;
            asm("" : "+r"(rows[i]));
        }
        asm("" : "+r"(stride3));
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
        for (int j = 0; j < P * NV; ++j) store(tile + (m * P * NV + j) * V, sums[m][j]);
}

using Block = void (*)(float *, const float *, int64_t, const char *, int64_t, int64_t);

// The blocks that fit the register file: kWide panels at once for up to kWideRows rows, kMain for
// up to kMaxRows, single panels for what is left over.
#define RWKV_1(S, P) block<S, 1, P>
#define RWKV_2(S, P) RWKV_1(S, P), block<S, 2, P>
#define RWKV_6(S, P) RWKV_2(S, P), block<S, 3, P>, block<S, 4, P>, block<S, 5, P>, block<S, 6, P>
#define RWKV_12(S, P)                                                                             \
    RWKV_6(S, P), block<S, 7, P>, block<S, 8, P>, block<S, 9, P>, block<S, 10, P>,                \
        block<S, 11, P>, block<S, 12, P>
#if defined(__AVX512F__)
constexpr int kWide = 4, kWideRows = 6, kMain = 2, kMaxRows = 12;  // 24 sums in 32 registers
#define RWKV_WIDE RWKV_6
#define RWKV_MAIN RWKV_12
#elif defined(__AVX2__)
constexpr int kWide = 4, kWideRows = 1, kMain = 1, kMaxRows = 6;  // 8 and 12 in 16
#define RWKV_WIDE RWKV_1
#define RWKV_MAIN RWKV_6
#else
constexpr int kWide = 2, kWideRows = 1, kMain = 1, kMaxRows = 2;  // 8 in 16
#define RWKV_WIDE RWKV_1
#define RWKV_MAIN RWKV_2
#endif
static_assert(kWide >= kMain);

const Block kWideBlocks[3][kWideRows] = {{RWKV_WIDE(StoredF32, kWide)},
                                         {RWKV_WIDE(StoredF16, kWide)},
                                         {RWKV_WIDE(StoredBf16, kWide)}};
const Block kMainBlocks[3][kMaxRows] = {{RWKV_MAIN(StoredF32, kMain)},
                                        {RWKV_MAIN(StoredF16, kMain)},
                                        {RWKV_MAIN(StoredBf16, kMain)}};
const Block kSingleBlocks[3][kMaxRows] = {{RWKV_MAIN(StoredF32, 1)},
                                          {RWKV_MAIN(StoredF16, 1)},
                                          {RWKV_MAIN(StoredBf16, 1)}};

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

void linear(const LinearTask *given) {
    const LinearTask task = *given;
    const int64_t pairs = (task.w.in + 1) / 2;
    const int64_t panel_bytes = pairs * 2 * kPanel * (task.w.stored == rwkv::cpu::kF32 ? 4 : 2);
    alignas(64) float tile[kMaxRows * kWide * kPanel];
    const int64_t blocks = (task.rows + kMaxRows - 1) / kMaxRows;

    int64_t panel = task.panel;
    const int64_t end = task.panel + task.panels;
    while (panel < end) {
        const int64_t left = end - panel;
        const Block *choice = kSingleBlocks[task.w.stored];
        int64_t width = 1;
        if (task.rows <= kWideRows && left >= kWide) {
            choice = kWideBlocks[task.w.stored];
            width = kWide;
        } else if (left >= kMain) {
            choice = kMainBlocks[task.w.stored];
            width = kMain;
        }
        const char *w = task.w.data + panel * panel_bytes;
        const int64_t output = panel * kPanel;
        const int64_t exist = task.w.out - output, wide = width * kPanel;
        const int64_t n = exist < wide ? exist : wide;
        for (int64_t b = 0; b < blocks; ++b) {  // rows in equal parts, as far as that goes
            const int64_t row = task.rows * b / blocks, rows = task.rows * (b + 1) / blocks - row;
            const float *x = task.x + row * task.stride_x;
            choice[rows - 1](tile, x, task.stride_x, w, panel_bytes, pairs);
            finish(task, tile, wide, n, row, rows, output);
        }
        panel += width;
    }
}

}  // namespace
