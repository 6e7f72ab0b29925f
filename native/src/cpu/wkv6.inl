// The time mixing of versions 5 and 6 for one head. Included by kernels.inl only.
//
//   w = exp(−exp(time_decay + w2 zw))               version 5: w is given
//   y = rᵀ s + (Σ r ⊙ U ⊙ k) v                      s ← diag(w) s + k ⊗ v        s [key][value]
//   y ← GroupNorm(y) ⊙ g                            eps 64e-5
//
// The lanes are values, so that a key's row of s is scaled, added to and summed without crossing
// lanes. Up to kWkv7Rows rows at a time: of each sequence first what its rows bring, then a few
// keys of s at a time, held in registers, through all of them; what follows comes last.
#pragma once

#include "cpu/low_rank.inl"

namespace {

using rwkv::cpu::kWkv7Rows;
using rwkv::cpu::Wkv6Task;

// What rows bring to the recurrence, and y: row m lies at + m · stride, which is a multiple of V.
struct Wkv6Rows {
    int64_t stride;
    float *w, *r, *k, *v, *y;
};

// `rows` rows from `row` on for the keys [i, i + keys) and the `lanes` · V values from column j on
// (or, if lanes is 1, what is left of them); y += rᵀ s before each update. Inlined, GCC 12 would
// keep s in memory.
template <int keys, int lanes, class T>
__attribute__((noinline)) void keys_step(T *state, const Wkv6Rows &at, int64_t row, int64_t rows,
                                         int64_t i, int64_t j, int64_t n) {
    const int64_t left = n - j;
    T *first = state + i * n + j;
    F s[keys][lanes];
#pragma GCC unroll 4
    for (int a = 0; a < keys; ++a)
#pragma GCC unroll 4
        for (int b = 0; b < lanes; ++b)
            s[a][b] = lanes > 1 ? load_state(first + a * n + b * V)
                                : load_state_upto(first + a * n, left);
    for (int64_t m = row * at.stride; m < (row + rows) * at.stride; m += at.stride) {
        F y[lanes], v[lanes];
#pragma GCC unroll 4
        for (int b = 0; b < lanes; ++b) {
            y[b] = load(at.y + m + j + b * V);
            v[b] = load(at.v + m + j + b * V);
        }
#pragma GCC unroll 4
        for (int a = 0; a < keys; ++a) {
            const F r = splat(at.r[m + i + a]), w = splat(at.w[m + i + a]),
                    k = splat(at.k[m + i + a]);
#pragma GCC unroll 4
            for (int b = 0; b < lanes; ++b) {
                y[b] = fma(s[a][b], r, y[b]);
                s[a][b] = fma(k, v[b], s[a][b] * w);
                if constexpr (sizeof(T) < sizeof(float)) s[a][b] = as_kept<T>(s[a][b]);
            }
        }
#pragma GCC unroll 4
        for (int b = 0; b < lanes; ++b) store(at.y + m + j + b * V, y[b]);
    }
#pragma GCC unroll 4
    for (int a = 0; a < keys; ++a)
#pragma GCC unroll 4
        for (int b = 0; b < lanes; ++b)
            if (lanes > 1)
                store_state(first + a * n + b * V, s[a][b]);
            else
                store_state_upto(first + a * n, s[a][b], left);
}

template <int keys, class T>
void all_values(T *state, const Wkv6Rows &at, int64_t row, int64_t rows, int64_t i, int64_t n) {
#if defined(RWKV_512_BITS)
    constexpr int lanes = 4;  // of 32 registers, s takes 16
#else
    constexpr int lanes = 2;
#endif
    int64_t j = 0;
    for (; j + lanes * V <= n; j += lanes * V)
        keys_step<keys, lanes>(state, at, row, rows, i, j, n);
    for (; j < n; j += V) keys_step<keys, 1>(state, at, row, rows, i, j, n);
}

// Row `row` of the task as row m of what the recurrence takes, with y = (Σ r ⊙ U ⊙ k) v; zw is null
// in version 5.
void prepare_row(const Wkv6Task &t, const float *zw, const Wkv6Rows &at, int64_t row, int64_t m) {
    const int64_t N = t.head_size, from = row * t.width, to = m * at.stride;
    F bonus = {};
    for (int64_t i = 0; i < N; i += V) {
        const int64_t left = N - i;
        const F r = load_upto(t.r + from + i, left), k = load_upto(t.k + from + i, left);
        F w = load_upto(t.decay + i, left);
        if (zw) w = exp(-exp(w + load_upto(zw + i, left)));
        bonus = fma(r * k, load_upto(t.bonus + i, left), bonus);
        store(at.r + to + i, r), store(at.k + to + i, k), store(at.w + to + i, w);
    }
    const F total = splat(sum(bonus));
    for (int64_t i = 0; i < N; i += V) {
        const F v = load_upto(t.v + from + i, N - i);
        store(at.v + to + i, v), store(at.y + to + i, v * total);
    }
}

template <class T>
void wkv6_with(const Wkv6Task &t) {
    const int64_t N = t.head_size, padded = (N + 15) / 16 * 16, channel = t.head * N;
    const int64_t wide = padded + 2 * kPanel, all = kWkv7Rows * padded;
    float *w = t.scratch, *r = w + all, *k = r + all, *v = k + all, *y = v + all;
    float *out_w = y + all, *rounded = out_w + kWkv7Rows * wide;
    const Wkv6Rows at = {padded, w, r, k, v, y};

    for (int64_t first = 0; first < t.rows; first += kWkv7Rows) {
        const int64_t rows = t.rows - first < kWkv7Rows ? t.rows - first : kWkv7Rows;
        const float *zw = nullptr;
        if (t.w2.data)
            zw = low_rank(out_w, wide, rounded, t.w2, t.zw + first * t.w2.in, rows, channel, N);
        float *const *state = t.state + first;
        for (int64_t m = 0, end = 0; m < rows; m = end) {
            for (end = m + 1; end < rows && state[end] == state[m];) ++end;
            for (int64_t i = m; i < end; ++i)
                prepare_row(t, zw ? zw + i * wide : nullptr, at, first + i, i);
            T *s = reinterpret_cast<T *>(state[m]) + t.head * N * N;
            int64_t i = 0;
            for (; i + 4 <= N; i += 4) all_values<4>(s, at, m, end - m, i, N);
            for (; i < N; ++i) all_values<1>(s, at, m, end - m, i, N);
        }

        for (int64_t m = 0; m < rows; ++m) {
            float *from = y + m * padded;
            layer_norm(from, from, t.ln_weight, t.ln_bias, N, 64e-5f);
            const int64_t row = (first + m) * t.width;
            for (int64_t i = 0; i < N; i += V) {
                F out = load(from + i);
                if (t.g) out *= load_upto(t.g + row + i, N - i);
                store_upto(t.y + row + i, out, N - i);
            }
        }
    }
}

void wkv6(const Wkv6Task *task) {
    if (task->kept == rwkv::cpu::kBf16)
        wkv6_with<Bf16>(*task);
    else if (task->kept == rwkv::cpu::kF16)
        wkv6_with<Half>(*task);
    else
        wkv6_with<float>(*task);
}

}  // namespace
