// Blocks of products whose weights are int8 or int4 (quant.h). Included by linear.inl only.
//
//   y = Σ_g fp32(Σ_k q p) · (d s)      over the groups g of inputs in order
//
// The inner sums are exact integers, however an instruction set comes by them; the outer one has
// one accumulator per output. So the result is the same for every blocking, as it is for words.
#pragma once

#include "cpu/linear_words.inl"

namespace {

using rwkv::cpu::group_bytes;
using rwkv::cpu::groups_of;

// How four inputs of an output enter its integer sum. `Sum` may be narrower than 32 bits within a
// group: start() begins it with the row's offset, add() takes a word of weights and a word of x,
// total() ends it.
#if defined(RWKV_BYTE_PRODUCTS)
// Four products and their sum at once, u8 · s8 with VNNI, s8 · s8 with NEON, where int8 loses its
// offset before.
struct Int8 {
    static constexpr Type type = rwkv::cpu::kI8;
    static constexpr int halves = 1;
    struct Weights {
        U q;
    };
#if defined(__aarch64__)
    template <int Half>
    RWKV_INLINE Weights weights(U word) {
        return {word ^ 0x80808080u};
    }
    RWKV_INLINE I start(int32_t) { return I{}; }
#else
    template <int Half>
    RWKV_INLINE Weights weights(U word) {
        return {word};
    }
    RWKV_INLINE I start(int32_t offset) { return I{} + offset; }
#endif
    RWKV_INLINE void add(I &sum, const Weights &w, U x) { accumulate_bytes(sum, w.q, x); }
    RWKV_INLINE I total(I sum, int32_t) { return sum; }
};
struct Int4 {
    static constexpr Type type = rwkv::cpu::kI4;
    static constexpr int halves = 2;
    struct Weights {
        U q;
    };
    template <int Half>
    RWKV_INLINE Weights weights(U word) {
        return {(Half ? word >> 4 : word) & 0x0f0f0f0fu};
    }
    RWKV_INLINE I start(int32_t offset) { return I{} + offset; }
    RWKV_INLINE void add(I &sum, const Weights &w, U x) { accumulate_bytes(sum, w.q, x); }
    RWKV_INLINE I total(I sum, int32_t) { return sum; }
};
#elif defined(__AVX2__)
// u8 · s8 -> s16, two neighbours added with saturation: exact for |q| · (±p), both at most 127 (a
// |q| of 128 would pass, too), and for the half bytes of int4, of which a whole group fits 16 bits
// (32 / 2 · 15 · 127 = 30480).
struct Int8 {
    static constexpr Type type = rwkv::cpu::kI8;
    static constexpr int halves = 1;
    struct Weights {
        U q, magnitude;
    };
    template <int Half>
    RWKV_INLINE Weights weights(U word) {
        const U q = word ^ 0x80808080u;
        return {q, absolute_bytes(q)};
    }
    RWKV_INLINE I start(int32_t) { return I{}; }
    RWKV_INLINE void add(I &sum, const Weights &w, U x) {
        sum += widen_sum(multiply_bytes(w.magnitude, with_sign_of(x, w.q)));
    }
    RWKV_INLINE I total(I sum, int32_t) { return sum; }
};
struct Int4 {
    static constexpr Type type = rwkv::cpu::kI4;
    static constexpr int halves = 2;
    struct Weights {
        U q;
    };
    template <int Half>
    RWKV_INLINE Weights weights(U word) {
        return {(Half ? word >> 4 : word) & 0x0f0f0f0fu};
    }
    RWKV_INLINE I start(int32_t) { return I{}; }
    RWKV_INLINE void add(I &sum, const Weights &w, U x) {
        sum = reinterpret_cast<I>(add_shorts(reinterpret_cast<U>(sum), multiply_bytes(w.q, x)));
    }
    RWKV_INLINE I total(I sum, int32_t offset) {
        return widen_sum(reinterpret_cast<U>(sum)) + offset;
    }
};
#else
// In fp32, which holds every sum of a group (below 2^22) exactly.
struct InFloats {
    struct Weights {
        F q[4];
    };
    RWKV_INLINE void split(Weights &to, U word, uint32_t mask) {
        for (int i = 0; i < 4; ++i)
            to.q[i] = __builtin_convertvector(reinterpret_cast<I>(word >> (8 * i) & mask), F);
    }
    RWKV_INLINE void add(I &sum, const Weights &w, U x) {
        F s = reinterpret_cast<F>(sum);
        for (int i = 0; i < 4; ++i)
            s += w.q[i] * splat(static_cast<float>(static_cast<int8_t>(x[0] >> (8 * i))));
        sum = reinterpret_cast<I>(s);
    }
    RWKV_INLINE I total(I sum, int32_t) {
        return __builtin_convertvector(reinterpret_cast<F>(sum), I);
    }
};
struct Int8 : InFloats {
    static constexpr Type type = rwkv::cpu::kI8;
    static constexpr int halves = 1;
    template <int Half>
    RWKV_INLINE Weights weights(U word) {
        Weights w;
        split(w, word, 0xffu);
        return w;
    }
    RWKV_INLINE I start(int32_t offset) {
        return reinterpret_cast<I>(splat(static_cast<float>(offset)));
    }
};
struct Int4 : InFloats {
    static constexpr Type type = rwkv::cpu::kI4;
    static constexpr int halves = 2;
    template <int Half>
    RWKV_INLINE Weights weights(U word) {
        Weights w;
        split(w, Half ? word >> 4 : word, 0x0fu);
        return w;
    }
    RWKV_INLINE I start(int32_t offset) {
        return reinterpret_cast<I>(splat(static_cast<float>(offset)));
    }
};
#endif

// sums[m][j] += w[j] · x[m] for one word of x per row.
template <class Stored, int Half, int M, int P>
RWKV_INLINE void add_words(I (&sums)[M][P * NV], const U (&words)[P * NV],
                           const char *const (&x)[(M + 3) / 4], int64_t stride, int64_t stride3,
                           int64_t at) {
    typename Stored::Weights weights[P * NV];
#pragma GCC unroll 16
    for (int j = 0; j < P * NV; ++j) weights[j] = Stored::template weights<Half>(words[j]);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        const int64_t offset = m % 4 == 3 ? stride3 : (m % 4) * stride;
        const U xm = bits(splat_word(x[m / 4] + offset + at));
#pragma GCC unroll 16
        for (int j = 0; j < P * NV; ++j) Stored::add(sums[m][j], weights[j], xm);
    }
}

// tile[m][p · 16 ..] = Σ_k W[k] x[m][k]. The integer sums live in registers, those in fp32 in the
// tile, where they are needed once per group. Rows are addressed and weights fetched as in
// linear_words.inl, and the scales of the panels that follow a whole panel before they are needed.
template <class Stored, int M, int P>
void block_bytes(float *tile, const char *x, int64_t stride, const char *w, int64_t panel_bytes,
                 int64_t in, Fetch fetch) {
    const char *scales = w;
    constexpr int64_t inputs = rwkv::cpu::group_of(Stored::type);
    w += rwkv::cpu::scale_bytes(Stored::type, in);
    fetch.from += w - scales;
    const char *const last = scales + panel_bytes, *const next = fetch.next + (w - scales);
    for (int i = 0; i < M * P * NV; ++i) store(tile + i * V, F{});
    const char *rows[(M + 3) / 4];
#pragma GCC unroll 4
    for (int i = 0; i < (M + 3) / 4; ++i) rows[i] = x + 4 * i * stride;
    int64_t stride3 = 3 * stride;
    for (int64_t group = groups_of(Stored::type, in); group != 0; --group) {
        if (fetch.from == last) fetch.from = next, fetch.panel_bytes = fetch.next_bytes;
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) __builtin_prefetch(fetch.next + p * fetch.next_bytes, 0, 2);
        fetch.next += 2 * kPanel;
        const auto row_at = [&](int m) {
            return rows[m / 4] + (m % 4 == 3 ? stride3 : (m % 4) * stride);
        };
        const auto offset_of = [&](int m) {
            return *reinterpret_cast<const int32_t *>(row_at(m) + inputs + 4);
        };
        I sums[M][P * NV];
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
            for (int j = 0; j < P * NV; ++j) sums[m][j] = Stored::start(offset_of(m));
        const char *const end = w + inputs / Stored::halves * kPanel;
#pragma GCC unroll 8  // one row takes 1.15 times as long in a loop
        for (int64_t at = 0; w != end; w += 4 * kPanel, at += 4 * Stored::halves) {
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p)
                __builtin_prefetch(fetch.from + p * fetch.panel_bytes, 0, 2);
            fetch.from += fetch.step;
            U words[P * NV];
#pragma GCC unroll 16
            for (int j = 0; j < P * NV; ++j)
                words[j] =
                    *reinterpret_cast<const Uu *>(w + (j / NV) * panel_bytes + j % NV * V * 4);
            add_words<Stored, 0, M, P>(sums, words, rows, stride, stride3, at);
            if constexpr (Stored::halves == 2)
                add_words<Stored, 1, M, P>(sums, words, rows, stride, stride3, at + 4);
        }
        F d[P * NV];
#pragma GCC unroll 16
        for (int j = 0; j < P * NV; ++j)
            d[j] = widen_f16(reinterpret_cast<const uint16_t *>(scales + (j / NV) * panel_bytes) +
                             j % NV * V);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const F s = splat_word(row_at(m) + inputs);
#pragma GCC unroll 16
            for (int j = 0; j < P * NV; ++j) {
                float *sum = tile + (m * P * NV + j) * V;
                const F exact = __builtin_convertvector(Stored::total(sums[m][j], offset_of(m)), F);
                store(sum, fma(exact, d[j] * s, load(sum)));
            }
        }
        scales += 2 * kPanel;
#pragma GCC unroll 4
        for (int i = 0; i < (M + 3) / 4; ++i) {
            rows[i] += group_bytes(Stored::type);
            asm("" : "+r"(rows[i]));
        }
        asm("" : "+r"(stride3));
    }
}

}  // namespace
