// The time mixing of versions 5 and 6 for one head. Included by kernels.inl only.
//
//   w = exp(−exp(time_decay + w2 zw))               version 5: w is given
//   y = rᵀ s + (Σ r ⊙ U ⊙ k) v                      s ← diag(w) s + k ⊗ v        s [key][value]
//   y ← GroupNorm(y) ⊙ g                            eps 64e-5
//
// The lanes are values, so that a key's row of s is scaled, added to and summed without crossing lanes.
#pragma once

#include "cpu/low_rank.inl"

namespace {

using rwkv::cpu::kWkv7Rows;
using rwkv::cpu::Wkv6Task;

// One step for the `lanes` · V values from column j on; y += rᵀ s before the update.
template <int lanes, class T>
RWKV_INLINE void columns_step(T *s, float *y, const float *w, const float *r, const float *k,
                              const float *v, float bonus, int64_t n, int64_t left) {
    F sums[lanes], values[lanes];
#pragma GCC unroll 4
    for (int j = 0; j < lanes; ++j) {
        values[j] = load_upto(v + j * V, left - j * V);
        sums[j] = values[j] * splat(bonus);
    }
    for (int64_t i = 0; i < n; ++i) {
        T *row = s + i * n;
        const F ri = splat(r[i]), wi = splat(w[i]), ki = splat(k[i]);
#pragma GCC unroll 4
        for (int j = 0; j < lanes; ++j) {
            const F old = load_state_upto(row + j * V, left - j * V);
            sums[j] = fma(old, ri, sums[j]);
            store_state_upto(row + j * V, fma(ki, values[j], old * wi), left - j * V);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < lanes; ++j) store_upto(y + j * V, sums[j], left - j * V);
}

template <class T>
void wkv6_with(const Wkv6Task &t) {
    const int64_t N = t.head_size, padded = (N + 15) / 16 * 16, channel = t.head * N;
    const int64_t wide = padded + 2 * kPanel;
    float *w = t.scratch, *y = w + padded, *out_w = y + padded, *rounded = out_w + kWkv7Rows * wide;
    for (int64_t i = 0; i < N; ++i) w[i] = t.decay[i];

    for (int64_t first = 0; first < t.rows; first += kWkv7Rows) {
        const int64_t rows = t.rows - first < kWkv7Rows ? t.rows - first : kWkv7Rows;
        const float *zw = nullptr;
        if (t.w2.data)
            zw = low_rank(out_w, wide, rounded, t.w2, t.zw + first * t.w2.in, rows, channel, N);
        for (int64_t m = 0; m < rows; ++m) {
            const int64_t row = (first + m) * t.width;
            const float *r = t.r + row, *k = t.k + row, *v = t.v + row;
            F bonus = {};
            for (int64_t i = 0; i < N; i += V) {
                const int64_t left = N - i;
                bonus = fma(load_upto(r + i, left) * load_upto(k + i, left),
                            load_upto(t.bonus + i, left), bonus);
                if (zw) {
                    const F e = load_upto(t.decay + i, left) + load_upto(zw + m * wide + i, left);
                    store_upto(w + i, exp(-exp(e)), left);
                }
            }
            const float total = sum(bonus);
            T *s = reinterpret_cast<T *>(t.state[first + m]) + t.head * N * N;
            int64_t j = 0;
            for (; j + 4 * V <= N; j += 4 * V)
                columns_step<4>(s + j, y + j, w, r, k, v + j, total, N, N - j);
            for (; j < N; j += V) columns_step<1>(s + j, y + j, w, r, k, v + j, total, N, N - j);

            layer_norm(y, y, t.ln_weight, t.ln_bias, N, 64e-5f);
            for (int64_t i = 0; i < N; i += V) {
                const int64_t left = N - i;
                F out = load_upto(y + i, left);
                if (t.g) out *= load_upto(t.g + row + i, left);
                store_upto(t.y + row + i, out, left);
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
