// Layer norm, the time-shift mix, and rounding of the rows that enter products. Included by
// kernels.inl.
#pragma once

#include "cpu/math.inl"

namespace {

// y = (x − mean) / sqrt(var + eps) ⊙ weight + bias; the biased variance in a second pass over the
// differences, because a residual stream whose mean is large would cancel in E[x²] − mean².
void layer_norm(float *y, const float *x, const float *weight, const float *bias, int64_t n,
                float eps) {
    F s[4] = {};
    int64_t i = 0;
    for (; i + 4 * V <= n; i += 4 * V)
        for (int j = 0; j < 4; ++j) s[j] += load(x + i + j * V);
    for (; i < n; i += V) s[0] += load_upto(x + i, n - i);
    const float count = static_cast<float>(n);
    const F mean = splat(sum((s[0] + s[1]) + (s[2] + s[3])) / count);

    F q[4] = {};
    for (i = 0; i + 4 * V <= n; i += 4 * V)
        for (int j = 0; j < 4; ++j) {
            const F d = load(x + i + j * V) - mean;
            q[j] = fma(d, d, q[j]);
        }
    for (; i + V <= n; i += V) {
        const F d = load(x + i) - mean;
        q[0] = fma(d, d, q[0]);
    }
    if (i < n) {
        F d = {};
        for (int64_t j = 0; j < n - i; ++j) d[j] = x[i + j] - mean[0];
        q[0] = fma(d, d, q[0]);
    }
    const F variance = splat(sum((q[0] + q[1]) + (q[2] + q[3])) / count);
    const F scale = splat(1.0f) / square_root(variance + splat(eps));
    for (i = 0; i < n; i += V) {
        const int64_t left = n - i;
        const F d = (load_upto(x + i, left) - mean) * scale;
        store_upto(y + i, fma(d, load_upto(weight + i, left), load_upto(bias + i, left)), left);
    }
}

// Zeros from n up to the next multiple of 16, which products read in pairs.
RWKV_INLINE void pad(float *y, int64_t n) {
    for (; n % 16 != 0; ++n) y[n] = 0;
}

void mix(float *y, const float *xn, const float *prev, const float *mu, const float *delta, int64_t n,
         Type compute) {
    for (int64_t i = 0; i < n; i += V) {
        const int64_t left = n - i;
        const F a = load_upto(xn + i, left), b = load_upto(prev + i, left);
        F weight = load_upto(mu + i, left);
        if (delta) weight += load_upto(delta + i, left);
        store_upto(y + i, round_to(fma(b - a, weight, a), compute), left);
    }
    pad(y, n);
}

void round_row(float *y, const float *x, int64_t n, Type compute) {
    for (int64_t i = 0; i < n; i += V)
        store_upto(y + i, round_to(load_upto(x + i, n - i), compute), n - i);
    pad(y, n);
}

void widen(float *y, const uint16_t *x, int64_t n, Type stored) {
    for (int64_t i = 0; i < n; i += V) {
        const int64_t left = n - i < V ? n - i : V;
        uint16_t h[V] = {};
        __builtin_memcpy(h, x + i, static_cast<size_t>(left) * sizeof(uint16_t));
        F f;
        if (stored == rwkv::cpu::kF16) {
            f = widen_f16(h);
        } else {
            U u;
            for (int j = 0; j < V; ++j) u[j] = static_cast<uint32_t>(h[j]) << 16;
            f = floats(u);
        }
        store_upto(y + i, f, left);
    }
}

}  // namespace
