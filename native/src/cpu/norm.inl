// Layer norm, the time-shift mix, and the preparation of the rows that enter products. Included by
// kernels.inl.
#pragma once

#include "cpu/math.inl"

namespace {

using rwkv::cpu::Input;

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

// One group of a row in int8 (quant.h). Adding 1.5 · 2^23 rounds to even and leaves p in the low
// byte. NaN and infinity anywhere make s one, and so the whole product.
template <Type Stored>
RWKV_INLINE void quantise(char *to, const F *x) {
    constexpr int group = rwkv::cpu::group_of(Stored), count = group / V;
    constexpr uint32_t magic = 0x4b400000;  // the bits of 1.5 · 2^23
    U magnitude = {};
    for (int j = 0; j < count; ++j) magnitude = larger(magnitude, bits(absolute(x[j])));
    const float most = largest(magnitude);
    const bool nothing = most < 0x1p-120f;  // but not where it is a NaN
    const float s = nothing ? 0.0f : most / 127.0f;
    const F inverse = splat(nothing ? 0.0f : 127.0f / most);
    U total = {};
    for (int j = 0; j < count; ++j) {
        const U p = bits(x[j] * inverse + splat(12582912.0f));
        total += p;
        store_bytes(to + j * V, reinterpret_cast<I>(p));
    }
    constexpr int32_t zero = Stored == rwkv::cpu::kI8 ? 128 : 8;
    const bool finite = s - s == 0;
    const int32_t offset =
        finite ? -zero * sum_words(reinterpret_cast<I>(total - count * magic)) : 0;
    __builtin_memcpy(to + group, &s, 4);
    __builtin_memcpy(to + group + 4, &offset, 4);
}

// All groups of the row whose V values from i on are value(i), zero beyond n.
template <Type Stored, class Value>
RWKV_INLINE void quantise_row(char *y, int64_t n, Value value) {
    constexpr int count = rwkv::cpu::group_of(Stored) / V;
    for (int64_t i = 0; i < n; y += rwkv::cpu::group_bytes(Stored)) {
        F x[count];
        for (int j = 0; j < count; ++j, i += V) x[j] = i < n ? value(i) : F{};
        quantise<Stored>(y, x);
    }
}

// Prepares such a row in any form.
template <class Value>
RWKV_INLINE void prepare(char *y, int64_t n, Type compute, Input form, Value value) {
    if (form == rwkv::cpu::kBytes) return quantise_row<rwkv::cpu::kI8>(y, n, value);
    if (form == rwkv::cpu::kHalfBytes) return quantise_row<rwkv::cpu::kI4>(y, n, value);
#if defined(RWKV_PAIRS)
    if (form == rwkv::cpu::kPairs) {
        for (int64_t i = 0; i < n; i += V) store_bf16(y + 2 * i, value(i));
        return;
    }
#endif
    float *to = reinterpret_cast<float *>(y);
    for (int64_t i = 0; i < n; i += V) store_upto(to + i, round_to(value(i), compute), n - i);
    for (; n % 16 != 0; ++n) to[n] = 0;  // products read pairs
}

void mix(char *y, const float *xn, const float *prev, const float *mu, const float *delta,
         int64_t n, Type compute, Input form) {
    prepare(y, n, compute, form, [=](int64_t i) __attribute__((always_inline)) {
        const int64_t left = n - i;
        const F a = load_upto(xn + i, left), b = load_upto(prev + i, left);
        F weight = load_upto(mu + i, left);
        if (delta) weight += load_upto(delta + i, left);
        return fma(b - a, weight, a);
    });
}

void round_row(char *y, const float *x, int64_t n, Type compute, Input form) {
    prepare(y, n, compute, form,
            [=](int64_t i) __attribute__((always_inline)) { return load_upto(x + i, n - i); });
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
