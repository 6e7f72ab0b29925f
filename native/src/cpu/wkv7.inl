// The time mixing of version 7 for one head. Included by kernels.inl only.
//
//   w = exp(−e^(−1/2) σ(w0 + w2 zw))   a = σ(a0 + a2 za)   g = g2 zg
//   v ← v + (v_first − v) ⊙ σ(v0 + v2 zv)                  layer 0: v_first = v
//   κ = k ⊙ k_k / max(‖k ⊙ k_k‖, 1e-12)                    k ← k ⊙ (1 + (a − 1) ⊙ k_a)
//   S ← S diag(w) + (S (−κ)) ⊗ (κ ⊙ a) + v ⊗ k             S [value][key]
//   y = (GroupNorm(S r) + (Σ r ⊙ k ⊙ r_k) v) ⊙ g           eps 64e-5
//
// Up to kWkv7Rows rows at a time: their low-rank products, so that those weights are read once; the
// vectors that they bring to the recurrence; the recurrence itself; and what follows it. Of one
// sequence's rows the recurrence takes four rows of S at a time through all of them where the
// registers hold as much, else row after row through the whole S, which (16 KiB for N = 64 in fp32)
// stays in the first level. S is rounded to the type that it is kept in after every row, so that it
// does not matter which rows come together.
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

// What rows bring to the recurrence, and y = S r: row m lies at + m · stride.
struct Wkv7Rows {
    int64_t stride;
    float *w, *nk, *b, *k, *v, *r, *y;
};

// One row through S [n][stride]. stride is J · V, or any multiple of V if J is 0. Fetches the S of
// the next row, if that is another sequence's, on the way: 16 KiB that nobody has touched since the
// last token.
template <int J, class T>
void step(T *S, const Wkv7Rows &at, int64_t row, int64_t n, const T *next) {
    const int64_t stride = J ? J * V : at.stride, m = row * stride;
    const float *w = at.w + m, *nk = at.nk + m, *b = at.b + m;
    const float *k = at.k + m, *v = at.v + m, *r = at.r + m;
    float *y = at.y + m;
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
            accumulate(t0, v0, kj), accumulate(t1, v1, kj);
            accumulate(t2, v2, kj), accumulate(t3, v3, kj);
            accumulate(t0, a0, bj), accumulate(t1, a1, bj);
            accumulate(t2, a2, bj), accumulate(t3, a3, bj);
            store_state(s0 + j, t0), store_state(s1 + j, t1);
            store_state(s2 + j, t2), store_state(s3 + j, t3);
            accumulate(d0, t0, rj), accumulate(d1, t1, rj);
            accumulate(d2, t2, rj), accumulate(d3, t3, rj);
        }
        sum4(y + i, d0, d1, d2, d3);
    }
}

#if defined(RWKV_512_BITS)
// Of four vectors: their sums, each in all of 128 bits, added up in the order of sum4.
RWKV_INLINE F quarters(F a, F b, F c, F d) {
    const F ab = F(_mm512_mask_blend_ps(0xff00, a, b)) + F(_mm512_shuffle_f32x4(a, b, 0x4e));
    const F cd = F(_mm512_mask_blend_ps(0xff00, c, d)) + F(_mm512_shuffle_f32x4(c, d, 0x4e));
    F q = F(_mm512_shuffle_f32x4(ab, cd, 0x88)) + F(_mm512_shuffle_f32x4(ab, cd, 0xdd));
    q += F(_mm512_permute_ps(q, 0x4e));
    return q + F(_mm512_permute_ps(q, 0xb1));
}

// d = x times four rows of S.
RWKV_INLINE void multiply_four(F (&d)[4], const F (&s)[4][4], const float *x) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) d[i] = F{};
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        const F xj = load(x + j * V);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) accumulate(d[i], s[i][j], xj);
    }
}

// `rows` rows from `row` on through S [64][64], bit for bit as by step: four rows of S at a time,
// in 16 registers. S (−κ) of the next row (of whatever follows the last one) comes before y of this
// one: its sums then cross the lanes behind multiplications that do not wait for them; where S is
// kept in 16 bits it comes after, of S as it is rounded then. Inlined, GCC 12 would keep S in
// memory.
template <class T>
__attribute__((noinline)) void sweep(T *S, const Wkv7Rows &at, int64_t row, int64_t rows,
                                     const T *next) {
    constexpr int64_t n = 64, in_line = 64 / sizeof(T);
    for (int64_t i = 0; i < n; i += 4) {
        if (next)
            for (int64_t j = 0; j < 4 * n; j += in_line) __builtin_prefetch(next + i * n + j, 0, 2);
        F s[4][4], sa[4], sums[4];
#pragma GCC unroll 4
        for (int l = 0; l < 4; ++l)
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) s[l][j] = load_state(S + (i + l) * n + j * V);
        multiply_four(sa, s, at.nk + row * n);
        for (int64_t m = row; m < row + rows; ++m) {
            const float *w = at.w + m * n, *b = at.b + m * n;
            const float *k = at.k + m * n, *v = at.v + m * n + i;
            const F q = quarters(sa[0], sa[1], sa[2], sa[3]);
            sa[0] = _mm512_shuffle_f32x4(q, q, 0x00), sa[1] = _mm512_shuffle_f32x4(q, q, 0x55);
            sa[2] = _mm512_shuffle_f32x4(q, q, 0xaa), sa[3] = _mm512_shuffle_f32x4(q, q, 0xff);
            const F vs[4] = {splat(v[0]), splat(v[1]), splat(v[2]), splat(v[3])};
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const F wj = load(w + j * V), kj = load(k + j * V);
#pragma GCC unroll 4
                for (int l = 0; l < 4; ++l) s[l][j] *= wj, accumulate(s[l][j], vs[l], kj);
            }
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const F bj = load(b + j * V);
#pragma GCC unroll 4
                for (int l = 0; l < 4; ++l) accumulate(s[l][j], sa[l], bj);
            }
            if constexpr (sizeof(T) == sizeof(float)) {
                multiply_four(sa, s, at.nk + (m + 1) * n);
                multiply_four(sums, s, at.r + m * n);
            } else {
                multiply_four(sums, s, at.r + m * n);
                if (m + 1 < row + rows) {
#pragma GCC unroll 4
                    for (int l = 0; l < 4; ++l)
#pragma GCC unroll 4
                        for (int j = 0; j < 4; ++j) s[l][j] = as_kept<T>(s[l][j]);
                    multiply_four(sa, s, at.nk + (m + 1) * n);
                }
            }
            const F y = quarters(sums[0], sums[1], sums[2], sums[3]);
            _mm_storeu_ps(at.y + m * n + i,
                          _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, y)));
        }
#pragma GCC unroll 4
        for (int l = 0; l < 4; ++l)
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) store_state(S + (i + l) * n + j * V, s[l][j]);
    }
}
#endif

// `rows` rows of one sequence, from `row` on.
template <class T>
void recur(T *S, const Wkv7Rows &at, int64_t row, int64_t rows, int64_t n, const T *next) {
#if defined(RWKV_512_BITS)
    // One row of fp32 is sooner done by step; 16 bits are widened only once here.
    if (n == 64 && (rows > 1 || sizeof(T) < sizeof(float))) {
        sweep(S, at, row, rows, next);
        return;
    }
#endif
    for (int64_t m = row; m < row + rows; ++m) {
        const T *other = m + 1 == row + rows ? next : nullptr;
        (at.stride == 64 ? step<64 / V, T> : step<0, T>)(S, at, m, n, other);
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

// The second factors' results for the rows at hand: row m at + m · stride. v is null in layer 0.
struct Wkv7Factors {
    int64_t stride;
    const float *w, *a, *v, *g;
};

// Sends for what prepare_row will read of a row, and for where its results go.
RWKV_INLINE void fetch_row(const Wkv7Task &t, int64_t row) {
    for (int64_t i = row * t.width; i < row * t.width + t.head_size; i += 16) {
        __builtin_prefetch(t.r + i, 0, 2), __builtin_prefetch(t.k + i, 0, 2);
        __builtin_prefetch(t.v + i, 0, 2), __builtin_prefetch(t.v_first + i, 0, 2);
        __builtin_prefetch(t.y + i, 1, 2);
    }
}

// Row `row` of the task as row m of what the recurrence takes; returns Σ r ⊙ k ⊙ r_k.
float prepare_row(const Wkv7Task &t, const Wkv7Factors &z, const Wkv7Rows &at, int64_t row,
                  int64_t m) {
    const int64_t N = t.head_size, from = row * t.width, to = m * at.stride;
    F squares = {}, bonus = {};
    for (int64_t i = 0; i < N; i += V) {
        const int64_t left = N - i, low = m * z.stride + i;
        const F ki = load_upto(t.k + from + i, left), ri = load_upto(t.r + from + i, left);
        const F ai = sigmoid(load_upto(t.a0 + i, left) + load_upto(z.a + low, left));
        const F wi = decay(load_upto(t.w0 + i, left) + load_upto(z.w + low, left));
        const F kk = ki * load_upto(t.k_k + i, left);
        const F ka = ki * fma(ai - splat(1.0f), load_upto(t.k_a + i, left), splat(1.0f));
        F vi = load_upto(t.v + from + i, left);
        if (z.v) {
            const F mixing = sigmoid(load_upto(t.v0 + i, left) + load_upto(z.v + low, left));
            vi = fma(load_upto(t.v_first + from + i, left) - vi, mixing, vi);
        } else {
            store_upto(t.v_first + from + i, vi, left);
        }
        squares = fma(kk, kk, squares);
        bonus = fma(ri * ka, load_upto(t.r_k + i, left), bonus);
        store(at.w + to + i, wi), store(at.nk + to + i, kk), store(at.b + to + i, ai);
        store(at.k + to + i, ka), store(at.v + to + i, vi), store(at.r + to + i, ri);
    }
    const F norm = at_least(square_root(splat(sum(squares))), splat(1e-12f));
    const F inverse = splat(1.0f) / norm;
    for (int64_t i = to; i < to + N; i += V) {
        const F kappa = load(at.nk + i) * inverse;
        store(at.nk + i, -kappa);
        store(at.b + i, kappa * load(at.b + i));
    }
    return sum(bonus);
}

template <class T>
void wkv7_with(const Wkv7Task &t) {
    const int64_t N = t.head_size, padded = (N + 15) / 16 * 16, channel = t.head * N;
    const int64_t wide = padded + 2 * kPanel;
    const bool in_place = N % V == 0;

    float *free = t.scratch;
    const auto take = [&](int64_t count) {
        float *p = free;
        free += count;
        return p;
    };
    const auto vectors = [&] { return take(kWkv7Rows * padded); };
    const Wkv7Rows at = {in_place ? N : padded,
                         vectors(),
                         vectors(),
                         vectors(),
                         vectors(),
                         vectors(),
                         vectors(),
                         vectors()};
    float *square = take(padded * padded);
    float *out_w = take(kWkv7Rows * wide), *out_a = take(kWkv7Rows * wide);
    float *out_v = take(kWkv7Rows * wide), *out_g = take(kWkv7Rows * wide);
    float *rounded = free;
    // Lanes beyond N count as zeros; where there are none, nothing is read that was not written.
    if (!in_place)
        for (float *p = t.scratch; p < square + padded * padded; ++p) *p = 0;

    // The low-rank products give the first S and the first rows time to arrive.
    for (int64_t m = 0; m < t.rows && m < kWkv7Rows; ++m) fetch_row(t, m);
    const auto state_of = [&](int64_t row) {
        return reinterpret_cast<T *>(t.state[row]) + t.head * N * N;
    };
    for (int64_t i = 0; i < N * N; i += 64 / sizeof(T)) __builtin_prefetch(state_of(0) + i, 0, 2);
    for (int64_t first = 0; first < t.rows; first += kWkv7Rows) {
        const int64_t rows = t.rows - first < kWkv7Rows ? t.rows - first : kWkv7Rows;
        const auto second = [&](float *out, const Panels &w2, const float *z) -> const float * {
            if (!w2.data) return nullptr;
            return low_rank(out, wide, rounded, w2, z + first * w2.in, rows, channel, N);
        };
        const Wkv7Factors z = {wide, second(out_w, t.w2, t.zw), second(out_a, t.a2, t.za),
                               second(out_v, t.v2, t.zv), second(out_g, t.g2, t.zg)};
        float bonus[kWkv7Rows];
        for (int64_t m = 0, end = 0; m < rows; m = end) {
            T *S = state_of(first + m);
            end = m + 1;
            while (in_place && end < rows && state_of(first + end) == S) ++end;
            // Not all of them first: meanwhile the next S arrives.
            for (int64_t i = m; i < end; ++i) {
                if (first + i + kWkv7Rows < t.rows) fetch_row(t, first + i + kWkv7Rows);
                bonus[i] = prepare_row(t, z, at, first + i, i);
            }
            if (in_place) {
                const T *next = first + end < t.rows ? state_of(first + end) : S;
                recur(S, at, m, end - m, N, next != S ? next : nullptr);
            } else {
                copy_in(square, padded, S, N);
                step<0, float>(square, at, m, N, nullptr);
                copy_out(S, square, padded, N);
            }
        }

        for (int64_t m = 0; m < rows; ++m) {
            float *y = at.y + m * at.stride;
            const float *v = at.v + m * at.stride;
            layer_norm(y, y, t.ln_weight, t.ln_bias, N, 64e-5f);
            for (int64_t i = 0; i < N; i += V) {
                const int64_t left = N - i;
                const F gi = load_upto(z.g + m * wide + i, left);
                store_upto(t.y + (first + m) * t.width + i,
                           fma(splat(bonus[m]), load(v + i), load(y + i)) * gi, left);
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
