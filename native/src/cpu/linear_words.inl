// Blocks of products whose weights are words of 32 or 16 bits. Included by linear.inl only.
//
// A register holds outputs; the inputs run through one accumulator in order (see kernels.h), so
// blocking is free to follow the register file: M rows times P panels. Weights are widened once
// per block of rows, x enters as broadcasts.
#pragma once

#include "cpu/math.inl"

namespace {

using rwkv::cpu::kPanel;

constexpr int NV = kPanel / V;  // vectors per panel

// How stored weights meet prepared rows: `halves` steps take a pair of inputs, and step Half of
// them multiplies weights<Half>(), for the V outputs that start at lane v · V of a panel, by the
// word Half of the pair.
struct Floats {
    static constexpr int halves = 2;
    RWKV_INLINE void add(F &sum, F w, F x) { accumulate(sum, w, x); }
};
struct StoredF32 : Floats {
    static constexpr int bytes = 4;
    template <int Half>
    RWKV_INLINE F weights(const char *p, int v) {
        return load(reinterpret_cast<const float *>(p) + Half * kPanel + v * V);
    }
};
struct StoredF16 : Floats {
    static constexpr int bytes = 2;
    template <int Half>
    RWKV_INLINE F weights(const char *p, int v) {
        return widen_f16(reinterpret_cast<const uint16_t *>(p) + Half * kPanel + v * V);
    }
};
struct StoredBf16 : Floats {
    static constexpr int bytes = 2;
    template <int Half>
    RWKV_INLINE F weights(const char *p, int v) {
        const U u = *reinterpret_cast<const Uu *>(p + v * V * 4);
        return floats(Half == 0 ? u << 16 : u & 0xffff0000u);
    }
};
#if defined(RWKV_PAIRS)
// Both inputs of a pair at once, from the words as they are stored.
struct StoredPairs {
    static constexpr int bytes = 2, halves = 1;
    template <int Half>
    RWKV_INLINE F weights(const char *p, int v) {
        return load(reinterpret_cast<const float *>(p) + v * V);
    }
    RWKV_INLINE void add(F &sum, F w, F x) { accumulate_pairs(sum, w, x); }
};
#endif

// sums[m][j] += w[j] x[m] for one step; rows are addressed from every fourth, see block().
template <class Stored, int Half, int M, int P>
RWKV_INLINE void multiply_add(F (&sums)[M][P * NV], const char *const (&x)[(M + 3) / 4],
                              int64_t stride, int64_t stride3, const char *w, int64_t panel_bytes) {
    F weights[P * NV];
#pragma GCC unroll 16
    for (int j = 0; j < P * NV; ++j)
        weights[j] = Stored::template weights<Half>(w + (j / NV) * panel_bytes, j % NV);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        const int64_t offset = m % 4 == 3 ? stride3 : (m % 4) * stride;
        const F xm = splat_word(x[m / 4] + offset + Half * 4);
#pragma GCC unroll 16
        for (int j = 0; j < P * NV; ++j) Stored::add(sums[m][j], weights[j], xm);
    }
}

// What a block fetches from memory while it multiplies: for each of its panels a line at every step
// of 64 bytes. If that is ahead in its own panels, it comes to the end of the first and goes on at
// the start of those that follow.
struct Fetch {
    const char *from;
    int64_t panel_bytes;  // 0: the same line for every panel
    int64_t step;         // 64, or 0: always this line
    const char *next;     // the panels that follow
    int64_t next_bytes;   // of one of them
};

// tile[m][p · 16 ..] = Σ_k W[k] x[m][k].
//
// The empty asm keeps the compiler from giving each of the M rows a pointer of its own: with 12 of
// them it runs out of general registers and reloads one for every broadcast.
template <class Stored, int M, int P>
void block(float *tile, const char *x, int64_t stride, const char *w, int64_t panel_bytes,
           int64_t in, Fetch fetch) {
    constexpr int64_t step = 2 * kPanel * Stored::bytes;
    F sums[M][P * NV];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
        for (int j = 0; j < P * NV; ++j) sums[m][j] = F{};
    const char *rows[(M + 3) / 4];
#pragma GCC unroll 4
    for (int i = 0; i < (M + 3) / 4; ++i) rows[i] = x + 4 * i * stride;
    int64_t stride3 = 3 * stride;
    for (const char *end = w + (in + 1) / 2 * step; w != end; w += step) {
        if (fetch.from == end) fetch.from = fetch.next, fetch.panel_bytes = fetch.next_bytes;
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
            for (int64_t i = 0; i < step; i += 64)
                __builtin_prefetch(fetch.from + p * fetch.panel_bytes + i, 0, 2);
        fetch.from += step / 64 * fetch.step;
        multiply_add<Stored, 0, M, P>(sums, rows, stride, stride3, w, panel_bytes);
        if constexpr (Stored::halves == 2)
            multiply_add<Stored, 1, M, P>(sums, rows, stride, stride3, w, panel_bytes);
#pragma GCC unroll 4
        for (int i = 0; i < (M + 3) / 4; ++i) {
            rows[i] += Stored::halves * 4;
            asm("" : "+r"(rows[i]));
        }
        asm("" : "+r"(stride3));
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
        for (int j = 0; j < P * NV; ++j) store(tile + (m * P * NV + j) * V, sums[m][j]);
}

// The same, bit for bit, for rows of which only the pairs of inputs in the list of `count` numbers
// are not all zero: +0 times a weight, which is finite, leaves a sum that began at +0 as it is. The
// weights of the others are not read. After its end the list begins again, for kSparseAhead
// numbers.
constexpr int64_t kSparseAhead = 16;

template <class Stored, int M, int P>
void block_sparse(float *tile, const char *x, int64_t stride, const char *w, int64_t panel_bytes,
                  const uint16_t *list, int64_t count) {
    constexpr int64_t step = 2 * kPanel * Stored::bytes;
    F sums[M][P * NV];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
        for (int j = 0; j < P * NV; ++j) sums[m][j] = F{};
    for (int64_t n = 0; n < count; ++n) {
        const char *const rows[] = {x + list[n] * (Stored::halves * 4)};
        const char *const weights = w + list[n] * step;
        const char *const turn = n + kSparseAhead < count ? w : w + P * panel_bytes;
        const char *const next = turn + list[n + kSparseAhead] * step;
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
            for (int64_t i = 0; i < step; i += 64)
                __builtin_prefetch(next + p * panel_bytes + i, 0, 2);
        multiply_add<Stored, 0, M, P>(sums, rows, stride, 3 * stride, weights, panel_bytes);
        if constexpr (Stored::halves == 2)
            multiply_add<Stored, 1, M, P>(sums, rows, stride, 3 * stride, weights, panel_bytes);
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
        for (int j = 0; j < P * NV; ++j) store(tile + (m * P * NV + j) * V, sums[m][j]);
}

}  // namespace
