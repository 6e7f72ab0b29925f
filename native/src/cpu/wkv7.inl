// The time mixing of version 7 for one head. Included by kernels.inl only.
//
//   w = exp(−e^(−1/2) σ(w0 + w2 zw))   a = σ(a0 + a2 za)   g = g2 zg
//   v ← v + (v_first − v) ⊙ σ(v0 + v2 zv)                  layer 0: v_first = v
//   κ = k ⊙ k_k / max(‖k ⊙ k_k‖, 1e-12)                    k ← k ⊙ (1 + (a − 1) ⊙ k_a)
//   S ← S diag(w) + (S (−κ)) ⊗ (κ ⊙ a) + v ⊗ k             S [value][key]
//   y = (GroupNorm(S r) + (Σ r ⊙ k ⊙ r_k) v) ⊙ g           eps 64e-5
//
// The low-rank products are computed for up to kWkv7Rows rows at a time, so that their weights are
// read once; the recurrence then runs row by row. The head's S (16 KiB for N = 64 in fp32) stays in
// the first level. It is rounded to the type that it is kept in after every row, so that it does not
// matter which rows come together.
#pragma once

#include "cpu/low_rank.inl"

namespace {

using rwkv::cpu::kWkv7Rows;
using rwkv::cpu::Wkv7Task;

// out = {Σ a, Σ b, Σ c, Σ d}
RWKV_INLINE void sum4(float *out, F a, F b, F c, F d) {
#if defined(__x86_64__)
    const F v[4] = {a, b, c, d};
    __m128 q[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#if defined(RWKV_512_BITS)
        const __m256 h = _mm512_castps512_ps256(v[i]) + _mm512_extractf32x8_ps(v[i], 1);
        q[i] = _mm256_castps256_ps128(h) + _mm256_extractf128_ps(h, 1);
#elif defined(__AVX2__)
        q[i] = _mm256_castps256_ps128(v[i]) + _mm256_extractf128_ps(v[i], 1);
#else
        q[i] = v[i];
#endif
    }
    const __m128 ab = _mm_unpacklo_ps(q[0], q[1]) + _mm_unpackhi_ps(q[0], q[1]);
    const __m128 cd = _mm_unpacklo_ps(q[2], q[3]) + _mm_unpackhi_ps(q[2], q[3]);
    _mm_storeu_ps(out, _mm_movelh_ps(ab, cd) + _mm_movehl_ps(cd, ab));
#elif defined(__aarch64__)
    store(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
#else
    out[0] = sum(a), out[1] = sum(b), out[2] = sum(c), out[3] = sum(d);
#endif
}

// One step of the recurrence on S [n][stride]: y = S r after the update. stride is J · V, or any
// multiple of V if J is 0. Fetches the S of the next row, if that is another sequence's, on the
// way: 16 KiB that nobody has touched since the last token.
template <int J, class T>
void step(T *S, float *y, const float *w, const float *nk, const float *b, const float *k,
          const float *v, const float *r, int64_t n, int64_t any_stride, const T *next) {
    const int64_t stride = J ? J * V : any_stride;
    constexpr int64_t in_line = 64 / sizeof(T);
    for (int64_t i = 0; i < n; i += 4) {
        T *s0 = S + i * stride, *s1 = s0 + stride, *s2 = s1 + stride, *s3 = s2 + stride;
        if (next)
            for (int64_t j = 0; j < 4 * stride; j += in_line)
                __builtin_prefetch(next + i * stride + j, 0, 2);
        F d0 = {}, d1 = {}, d2 = {}, d3 = {};
#pragma GCC unroll 8
        for (int64_t j = 0; j < stride; j += V) {
            const F x = load(nk + j);
            accumulate(d0, load_state(s0 + j), x);
            accumulate(d1, load_state(s1 + j), x);
            accumulate(d2, load_state(s2 + j), x);
            accumulate(d3, load_state(s3 + j), x);
        }
        float sa[4];
        sum4(sa, d0, d1, d2, d3);
        const F a0 = splat(sa[0]), a1 = splat(sa[1]), a2 = splat(sa[2]), a3 = splat(sa[3]);
        const F v0 = splat(v[i]), v1 = splat(v[i + 1]), v2 = splat(v[i + 2]), v3 = splat(v[i + 3]);
        d0 = d1 = d2 = d3 = F{};
#pragma GCC unroll 8
        for (int64_t j = 0; j < stride; j += V) {
            const F wj = load(w + j), bj = load(b + j), kj = load(k + j), rj = load(r + j);
            F t0 = load_state(s0 + j) * wj, t1 = load_state(s1 + j) * wj;
            F t2 = load_state(s2 + j) * wj, t3 = load_state(s3 + j) * wj;
            accumulate(t0, a0, bj), accumulate(t1, a1, bj);
            accumulate(t2, a2, bj), accumulate(t3, a3, bj);
            accumulate(t0, v0, kj), accumulate(t1, v1, kj);
            accumulate(t2, v2, kj), accumulate(t3, v3, kj);
            store_state(s0 + j, t0), store_state(s1 + j, t1);
            store_state(s2 + j, t2), store_state(s3 + j, t3);
            accumulate(d0, t0, rj), accumulate(d1, t1, rj);
            accumulate(d2, t2, rj), accumulate(d3, t3, rj);
        }
        sum4(y + i, d0, d1, d2, d3);
    }
}

// Copies S from the state [n][n] to a padded square [..][stride], and back.
template <class T>
void copy_in(float *square, int64_t stride, const T *S, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; j += V)
            store_upto(square + i * stride + j, load_state_upto(S + i * n + j, n - j), n - j);
}
template <class T>
void copy_out(T *S, const float *square, int64_t stride, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; j += V)
            store_state_upto(S + i * n + j, load_upto(square + i * stride + j, n - j), n - j);
}

template <class T>
void wkv7_with(const Wkv7Task &t) {
    const int64_t N = t.head_size, padded = (N + 15) / 16 * 16, channel = t.head * N;
    const int64_t wide = padded + 2 * kPanel;
    const bool in_place = N % V == 0;
    const int64_t stride = in_place ? N : padded;

    float *at = t.scratch;
    const auto take = [&](int64_t count) {
        float *p = at;
        at += count;
        return p;
    };
    float *w = take(padded), *nk = take(padded), *b = take(padded), *k = take(padded);
    float *v = take(padded), *r = take(padded), *y = take(padded), *a = take(padded);
    float *square = take(padded * padded);
    float *out_w = take(kWkv7Rows * wide), *out_a = take(kWkv7Rows * wide);
    float *out_v = take(kWkv7Rows * wide), *out_g = take(kWkv7Rows * wide);
    float *rounded = at;
    // Lanes beyond N count as zeros; where there are none, nothing is read that was not written.
    if (!in_place)
        for (float *p = t.scratch; p < square + padded * padded; ++p) *p = 0;

    // The low-rank products give the first S time to arrive.
    const auto state_of = [&](int64_t row) {
        return reinterpret_cast<T *>(t.state[row]) + t.head * N * N;
    };
    for (int64_t i = 0; i < N * N; i += 64 / sizeof(T))
        __builtin_prefetch(state_of(0) + i, 0, 2);
    for (int64_t first = 0; first < t.rows; first += kWkv7Rows) {
        const int64_t rows = t.rows - first < kWkv7Rows ? t.rows - first : kWkv7Rows;
        const auto second = [&](float *out, const Panels &w2, const float *z) {
            return low_rank(out, wide, rounded, w2, z + first * w2.in, rows, channel, N);
        };
        const float *zw = second(out_w, t.w2, t.zw), *za = second(out_a, t.a2, t.za);
        const float *zg = second(out_g, t.g2, t.zg);
        const float *zv = t.v2.data ? second(out_v, t.v2, t.zv) : nullptr;

        for (int64_t m = 0; m < rows; ++m) {
            const int64_t row = (first + m) * t.width;
            F squares = {}, bonus = {};
            for (int64_t i = 0; i < N; i += V) {
                const int64_t left = N - i;
                const int64_t low = m * wide + i;
                const F ki = load_upto(t.k + row + i, left), ri = load_upto(t.r + row + i, left);
                const F ai = sigmoid(load_upto(t.a0 + i, left) + load_upto(za + low, left));
                const F wi = decay(load_upto(t.w0 + i, left) + load_upto(zw + low, left));
                const F kk = ki * load_upto(t.k_k + i, left);
                const F ka = ki * fma(ai - splat(1.0f), load_upto(t.k_a + i, left), splat(1.0f));
                F vi = load_upto(t.v + row + i, left);
                if (zv) {
                    const F mixing = sigmoid(load_upto(t.v0 + i, left) + load_upto(zv + low, left));
                    vi = fma(load_upto(t.v_first + row + i, left) - vi, mixing, vi);
                } else {
                    store_upto(t.v_first + row + i, vi, left);
                }
                squares = fma(kk, kk, squares);
                bonus = fma(ri * ka, load_upto(t.r_k + i, left), bonus);
                store(w + i, wi), store(nk + i, kk), store(a + i, ai);
                store(k + i, ka), store(v + i, vi), store(r + i, ri);
            }
            const F norm = at_least(square_root(splat(sum(squares))), splat(1e-12f));
            for (int64_t i = 0; i < N; i += V) {
                const F kappa = load(nk + i) / norm;
                store(nk + i, -kappa);
                store(b + i, kappa * load(a + i));
            }

            T *S = state_of(first + m);
            if (in_place) {
                const T *next = first + m + 1 < t.rows ? state_of(first + m + 1) : S;
                if (next == S) next = nullptr;
                (stride == 64 ? step<64 / V, T> : step<0, T>)(S, y, w, nk, b, k, v, r, N, stride,
                                                              next);
            } else {
                copy_in(square, padded, S, N);
                step<0, float>(square, y, w, nk, b, k, v, r, N, stride, nullptr);
                copy_out(S, square, padded, N);
            }

            const F total = splat(sum(bonus));
            layer_norm(y, y, t.ln_weight, t.ln_bias, N, 64e-5f);
            for (int64_t i = 0; i < N; i += V) {
                const int64_t left = N - i;
                const F gi = load_upto(zg + m * wide + i, left);
                store_upto(t.y + row + i, fma(total, load(v + i), load(y + i)) * gi, left);
            }
        }
    }
}

void wkv7(const Wkv7Task *task) {
    if (task->kept == rwkv::cpu::kBf16)
        wkv7_with<Bf16>(*task);
    else if (task->kept == rwkv::cpu::kF16)
        wkv7_with<Half>(*task);
    else
        wkv7_with<float>(*task);
}

}  // namespace
