// The passes of sampling/logit_row.h over the vectors of simd.h. Included by kernels.inl alone.
#pragma once

#include "cpu/simd.h"
#include "sampling/logit_row.h"

#include <float.h>

namespace {
namespace logits {

using rwkv::Bands;
using rwkv::BlockSum;
using rwkv::LogitRow;
using rwkv::Row;
using rwkv::Survey;
using rwkv::Weighing;

constexpr size_t kLanes = V, kBlock = LogitRow::block;

typedef float F4 __attribute__((vector_size(16)));
typedef double D __attribute__((vector_size(V * 4)));
typedef uint64_t W __attribute__((vector_size(V * 4)));

// Comparisons of all lanes. Those of AVX-512 have registers of their own; written as vectors, they
// would be moved there and back.
#if defined(RWKV_512_BITS)
typedef __mmask16 Mask;
RWKV_INLINE Mask gt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
RWKV_INLINE Mask ge(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
RWKV_INLINE Mask eq(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
RWKV_INLINE F either(Mask m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
RWKV_INLINE uint32_t lane_bits(Mask m) { return m; }
RWKV_INLINE Mask lanes_of(uint64_t bits) { return static_cast<Mask>(bits); }
// The greater of two; b if a is NaN.
RWKV_INLINE F greater(F a, F b) { return _mm512_maskz_max_ps(0xffff, a, b); }
#else
typedef I Mask;
RWKV_INLINE Mask gt(F a, F b) { return a > b; }
RWKV_INLINE Mask ge(F a, F b) { return a >= b; }
RWKV_INLINE Mask eq(F a, F b) { return a == b; }
RWKV_INLINE F either(Mask m, F a, F b) { return m ? a : b; }
RWKV_INLINE F greater(F a, F b) { return a > b ? a : b; }

// A bit for every lane whose mask is set.
RWKV_INLINE uint32_t lane_bits(Mask mask) {
#if defined(__AVX2__)
    return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<F>(mask)));
#elif defined(__x86_64__)
    return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<F>(mask)));
#else
    return (mask[0] & 1u) | (mask[1] & 2u) | (mask[2] & 4u) | (mask[3] & 8u);
#endif
}
// The other way.
RWKV_INLINE Mask lanes_of(uint64_t bits) {
    U bit;
    for (int i = 0; i < V; ++i) bit[i] = 1u << i;
    return ((U{} + static_cast<uint32_t>(bits)) & bit) != 0;
}
#endif

// Eight sums; value i of a block goes into sum i mod 8.
struct Sums {
#if defined(RWKV_512_BITS)
    typedef float F8 __attribute__((vector_size(32)));
    F8 s = {};

    // The j-th vector of a block, after the one before it.
    void add(size_t, F e) {
        s += __builtin_shufflevector(e, e, 0, 1, 2, 3, 4, 5, 6, 7);
        s += __builtin_shufflevector(e, e, 8, 9, 10, 11, 12, 13, 14, 15);
    }
#else
    F s[8 / kLanes] = {};

    void add(size_t j, F e) { s[j % (8 / kLanes)] += e; }
#endif

    // ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7))
    double total() const {
        F4 a, b;
        __builtin_memcpy(&a, &s, sizeof a);
        __builtin_memcpy(&b, reinterpret_cast<const char *>(&s) + sizeof a, sizeof b);
        const F4 four = a + b;
        const F4 two = four + __builtin_shufflevector(four, four, 1, 1, 3, 3);
        return static_cast<double>(two[0] + two[2]);
    }
};

// 2^x for x <= 0, relative error 2e-7; 0 below -126. n = round(x), r = x - n in [-1/2, 1/2], a
// polynomial for 2^r (a minimax fit of ours, 2^0 exact), and n added to the exponent. Adding
// magic = 1.5 * 2^23 rounds to an integer and leaves that integer in the low bits.
//
// Step by step for kAhead vectors at once, because each step waits for the one before.
constexpr size_t kAhead = 4;

#define RWKV_EACH _Pragma("GCC unroll 4") for (size_t j = 0; j < kAhead; ++j)

RWKV_INLINE void exp2(F (&x)[kAhead]) {
    constexpr float magic = 12582912.f;
    F t[kAhead], r[kAhead], p[kAhead];
    RWKV_EACH t[j] = x[j] + magic;
    RWKV_EACH r[j] = x[j] - (t[j] - magic);
    RWKV_EACH p[j] = r[j] * 0.00132647272f + 0.00967151264f;
    RWKV_EACH p[j] = p[j] * r[j] + 0.0555073374f;
    RWKV_EACH p[j] = p[j] * r[j] + 0.240222421f;
    RWKV_EACH p[j] = p[j] * r[j] + 0.693146978f;
    RWKV_EACH p[j] = p[j] * r[j] + 1.f;
    RWKV_EACH {
        const U e = ::bits(p[j]) + (::bits(t[j]) << 23);
        x[j] = either(gt(x[j], splat(-126.f)), floats(e), F{});
    }
}

// The 64 values of a block; a short last one is copied to `tail` and filled up with -infinity.
RWKV_INLINE const float *whole(const float *x, size_t n, size_t b, float *tail) {
    const size_t start = b * kBlock;
    if (n - start >= kBlock) return x + start;
    for (size_t i = 0; i < kBlock; ++i) tail[i] = start + i < n ? x[start + i] : -__builtin_inff();
    return tail;
}

bool maxima(float *block_max, const float *x, size_t n, const uint64_t *mask, float *allowed) {
    const F none = splat(-__builtin_inff());
    float tail[kBlock];
    uint32_t fine = ~0u;
    for (size_t b = 0; b * kBlock < n; ++b) {
        if (mask && mask[b] == 0) {
            block_max[b] = -__builtin_inff();
            for (size_t i = 0; i < kBlock; i += kLanes) store(allowed + b * kBlock + i, none);
            continue;
        }
        const float *p = whole(x, n, b, tail);
        if (mask) {
            float *const to = allowed + b * kBlock;
            for (size_t i = 0; i < kBlock; i += kLanes)
                store(to + i, either(lanes_of(mask[b] >> i), load(p + i), none));
            p = to;
        }
        F m[2] = {none, none};
        Mask finite = ge(splat(FLT_MAX), load(p));
#pragma GCC unroll 8
        for (size_t i = 0; i < kBlock; i += 2 * kLanes) {
            const F v = load(p + i), w = load(p + i + kLanes);
            m[0] = greater(v, m[0]);
            m[1] = greater(w, m[1]);
            finite &= ge(splat(FLT_MAX), v) & ge(splat(FLT_MAX), w);
        }
        m[0] = greater(m[1], m[0]);
        float parts[kLanes];
        __builtin_memcpy(parts, &m[0], sizeof parts);
        F4 four;
        __builtin_memcpy(&four, parts, sizeof four);
#pragma GCC unroll 4
        for (size_t i = 4; i < kLanes; i += 4) {
            F4 other;
            __builtin_memcpy(&other, parts + i, sizeof other);
            four = other > four ? other : four;
        }
        const F4 swapped = __builtin_shufflevector(four, four, 2, 3, 0, 1);
        four = swapped > four ? swapped : four;
        block_max[b] = four[1] > four[0] ? four[1] : four[0];
        fine &= lane_bits(finite);
    }
    return (fine & ((1u << kLanes) - 1)) == (1u << kLanes) - 1;
}

constexpr float kLog2E = 1.44269504f;

// The e^(x - max) of one block, added up; kept at e unless it is null. divided: those of the x
// above `high` also by themselves; returns a bit for each of them.
template <bool divided>
RWKV_INLINE uint64_t exp_block(Sums &sums, Sums &above, const float *x, float max, float high,
                               float *e) {
    uint64_t over = 0;
#pragma GCC unroll 4
    for (size_t i = 0; i < kBlock; i += kAhead * kLanes) {
        F v[kAhead];
        RWKV_EACH v[j] = (load(x + i + j * kLanes) - max) * kLog2E;
        exp2(v);
        RWKV_EACH sums.add(j, v[j]);
        if (e) RWKV_EACH store(e + i + j * kLanes, v[j]);
        if constexpr (divided) {
            RWKV_EACH {
                const Mask m = gt(load(x + i + j * kLanes), splat(high));
                over |= uint64_t{lane_bits(m)} << (i + j * kLanes);
                above.add(j, either(m, v[j], F{}));
            }
        }
    }
    return over;
}

double sum_exp(const Row &row, float max, float *e) {
    float tail[kBlock];
    double sum = 0;
    for (size_t b = 0; b * kBlock < row.n; ++b) {
        float *const kept = e ? e + b * kBlock : nullptr;
        if (row.block_max && row.block_max[b] == -__builtin_inff()) {
            for (size_t i = 0; kept && i < kBlock; i += kLanes) store(kept + i, F{});
            continue;
        }
        Sums sums, none;
        exp_block<false>(sums, none, whole(row.x, row.n, b, tail), max, 0, kept);
        sum += sums.total();
    }
    return sum;
}

// Taylor; ln 2 in two parts, so that m * ln2_hi is exact. Otherwise as exp2 above.
void exp_exactly(double *w, size_t n) {
    constexpr double magic = 6755399441055744.0;
    constexpr double ln2_hi = 0x1.62e42fefa0000p-1, ln2_lo = 0x1.cf79abc9e3b3ap-40;
    for (size_t i = 0; i < n; i += kLanes / 2) {
        D x;
        __builtin_memcpy(&x, w + i, sizeof x);
        const D t = x * 1.4426950408889634 + magic, m = t - magic;
        const D r = (x - m * ln2_hi) - m * ln2_lo;
        D p = r * (1. / 479001600) + 1. / 39916800;
        p = p * r + 1. / 3628800;
        p = p * r + 1. / 362880;
        p = p * r + 1. / 40320;
        p = p * r + 1. / 5040;
        p = p * r + 1. / 720;
        p = p * r + 1. / 120;
        p = p * r + 1. / 24;
        p = p * r + 1. / 6;
        p = p * r + 0.5;
        p = p * r + 1.;
        p = p * r + 1.;
        const W bits_of_e = reinterpret_cast<W>(p) + (reinterpret_cast<W>(t) << 52);
        const D e = x > -708. ? reinterpret_cast<D>(bits_of_e) : D{};
        __builtin_memcpy(w + i, &e, sizeof e);
    }
}

template <bool with_e, bool with_residual, bool cut_survives>
size_t weigh_as(BlockSum *out, const Row &row, float threshold, const Weighing &weighing) {
    float tail[kBlock], residual_tail[kBlock];
    const F cut = splat(weighing.cut);
    size_t active = 0;
    for (size_t b = 0; b * kBlock < row.n; ++b) {
        if (row.block_max[b] < threshold) continue;
        const float *x = whole(row.x, row.n, b, tail);
        const float *residual = nullptr, *e = nullptr;
        if constexpr (with_residual) residual = whole(row.residual, row.n, b, residual_tail);
        if constexpr (with_e) e = row.e + b * kBlock;
        Sums sums;
        Mask near = {};
#pragma GCC unroll 4
        for (size_t i = 0; i < kBlock; i += kAhead * kLanes) {
            F w[kAhead];
            if constexpr (with_e) {
                RWKV_EACH w[j] = load(e + i + j * kLanes);
            } else {
                RWKV_EACH {
                    w[j] = load(x + i + j * kLanes) - weighing.max;
                    if constexpr (with_residual)
                        w[j] += load(residual + i + j * kLanes) - weighing.shift;
                    w[j] *= weighing.log2_power;
                }
                exp2(w);
            }
            RWKV_EACH {
                const F v = load(x + i + j * kLanes);
                sums.add(j, either(cut_survives ? ge(v, cut) : gt(v, cut), w[j], F{}));
                if constexpr (!cut_survives) near |= eq(v, cut);
            }
        }
        out[active++] = {sums.total(), static_cast<uint32_t>(b), lane_bits(near) != 0};
    }
    return active;
}

size_t weigh(BlockSum *out, const Row &row, float threshold, const Weighing &weighing) {
    if (row.e) {
        return (weighing.cut_survives
                    ? weigh_as<true, false, true>
                    : weigh_as<true, false, false>)(out, row, threshold, weighing);
    }
    if (row.residual) return weigh_as<false, true, false>(out, row, threshold, weighing);
    return (weighing.cut_survives ? weigh_as<false, false, true>
                                  : weigh_as<false, false, false>)(out, row, threshold, weighing);
}

float least(const float *x, size_t n) {
    float tail[kBlock];
    F low[kAhead];
    RWKV_EACH low[j] = splat(__builtin_inff());
    for (size_t b = 0; b * kBlock < n; ++b) {
        const float *p = whole(x, n, b, tail);
#pragma GCC unroll 4
        for (size_t i = 0; i < kBlock; i += kAhead * kLanes) {
            RWKV_EACH {
                const F v = load(p + i + j * kLanes);
                low[j] = either(ge(v, splat(-FLT_MAX)) & gt(low[j], v), v, low[j]);
            }
        }
    }
    float lowest = low[0][0];
    RWKV_EACH for (size_t i = 0; i < kLanes; ++i) lowest = low[j][i] < lowest ? low[j][i] : lowest;
    return lowest;
}

void place(int32_t *band, const float *x, size_t n, const Bands &bands) {
    float tail[kBlock];
    const F last = splat(static_cast<float>(bands.n) - 1.f);
    for (size_t b = 0; b * kBlock < n; ++b) {
        const float *p = whole(x, n, b, tail);
#pragma GCC unroll 16
        for (size_t i = 0; i < kBlock; i += kLanes) {
            const F v = load(p + i), y = (bands.high - v) * bands.scale;
            const Mask inside = ge(v, splat(bands.low)) & ge(splat(bands.high), v);
            const F index = either(inside, either(gt(last, y), y, last), last + 1.f);
            const I whole_index = __builtin_convertvector(index, I);
            __builtin_memcpy(band + b * kBlock + i, &whole_index, sizeof whole_index);
        }
    }
}

// Appends the ids of the x of block b that are at least `low` and not among those over the bracket.
RWKV_INLINE size_t list(int32_t *ids, size_t found, const float *x, size_t b, float low,
                        uint64_t over) {
    uint64_t inside = 0;
#pragma GCC unroll 16
    for (size_t at = 0; at < kBlock; at += kLanes)
        inside |= uint64_t{lane_bits(ge(load(x + at), splat(low)))} << at;
    inside &= ~over;
    while (inside) {  // four at once: few blocks hold more, and nobody foresees how many one holds
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; ++j) {
            const auto at = static_cast<size_t>(__builtin_ctzll(inside | uint64_t{1} << 63));
            ids[found] = static_cast<int32_t>(b * kBlock + at);
            found += inside != 0;
            inside &= inside - 1;
        }
    }
    return found;
}

// How many bits are set. For a set without an instruction for it GCC would call its own library.
size_t ones(uint64_t bits) {
#if defined(__POPCNT__) || defined(__aarch64__)
    return static_cast<size_t>(__builtin_popcountll(bits));
#else
    bits -= bits >> 1 & 0x5555555555555555;
    bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333);
    return ((bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f) * 0x0101010101010101 >> 56;
#endif
}

void survey(Survey &out, int32_t *ids, size_t most, const Row &row, float low, float high,
            float max, float *e) {
    float tail[kBlock];
    double sum = 0, weight = 0;
    size_t count = 0, found = 0;
    for (size_t b = 0; b * kBlock < row.n; ++b) {
        const float *p = whole(row.x, row.n, b, tail);
        float *const kept = e + b * kBlock;
        Sums sums, above;
        uint64_t over = 0;
        if (row.block_max[b] > high) {
            over = exp_block<true>(sums, above, p, max, high, kept);
            weight += above.total();
            count += ones(over);
        } else {
            exp_block<false>(sums, above, p, max, high, kept);
        }
        sum += sums.total();
        if (row.block_max[b] >= low && found <= most) found = list(ids, found, p, b, low, over);
    }
    out = {sum, weight, count, found};
}

void survey_counts(Survey &out, int32_t *ids, size_t most, const Row &row, float low, float high) {
    float tail[kBlock];
    size_t count = 0, found = 0;
    for (size_t b = 0; b * kBlock < row.n && found <= most; ++b) {
        if (row.block_max[b] < low) continue;
        const float *p = whole(row.x, row.n, b, tail);
        uint64_t over = 0;
#pragma GCC unroll 16
        for (size_t at = 0; at < kBlock; at += kLanes)
            over |= uint64_t{lane_bits(gt(load(p + at), splat(high)))} << at;
        count += ones(over);
        found = list(ids, found, p, b, low, over);
    }
    out = {0, 0, count, found};
}

#undef RWKV_EACH

constexpr LogitRow kPasses = {maxima, sum_exp, exp_exactly, weigh,
                              least,  place,   survey,      survey_counts};

}  // namespace logits
}  // namespace
