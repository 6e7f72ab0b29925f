// The passes of logit_row.h over vectors of LOGIT_LANES floats. Included once per form, in a
// namespace and under target options of its own: nothing of the standard library is called here,
// because the linker might keep the copy that was compiled for the newer machine.

namespace {

constexpr size_t lanes = LOGIT_LANES, block_size = LogitRow::block;

typedef float F __attribute__((vector_size(4 * LOGIT_LANES)));
typedef int32_t I __attribute__((vector_size(4 * LOGIT_LANES)));
typedef float F4 __attribute__((vector_size(16)));
typedef uint32_t U __attribute__((vector_size(4 * LOGIT_LANES)));
typedef double D __attribute__((vector_size(4 * LOGIT_LANES)));
typedef uint64_t V __attribute__((vector_size(4 * LOGIT_LANES)));

inline F load(const float *p) {
    F v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

inline void store(float *p, F v) { __builtin_memcpy(p, &v, sizeof v); }

inline F splat(float x) { return F{} + x; }

// Comparisons of all lanes. Those of AVX-512 have registers of their own; written as vectors, they
// would be moved there and back.
#if LOGIT_LANES == 16
typedef __mmask16 Mask;
inline Mask gt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline Mask ge(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline Mask eq(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline F either(Mask m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
inline uint32_t bits(Mask m) { return m; }
#else
typedef I Mask;
inline Mask gt(F a, F b) { return a > b; }
inline Mask ge(F a, F b) { return a >= b; }
inline Mask eq(F a, F b) { return a == b; }
inline F either(Mask m, F a, F b) { return m ? a : b; }

// A bit for every lane whose mask is set.
inline uint32_t bits(Mask mask) {
#if LOGIT_LANES == 8
    return static_cast<uint32_t>(__builtin_ia32_movmskps256(__builtin_bit_cast(F, mask)));
#elif defined(__x86_64__)
    return static_cast<uint32_t>(__builtin_ia32_movmskps(__builtin_bit_cast(F, mask)));
#else
    return (mask[0] & 1u) | (mask[1] & 2u) | (mask[2] & 4u) | (mask[3] & 8u);
#endif
}
#endif

// 2^x for x <= 0, relative error 2e-7; 0 below -126. n = round(x), r = x - n in [-1/2, 1/2], a
// polynomial for 2^r (a minimax fit of ours, 2^0 exact), and n added to the exponent. Adding
// magic = 1.5 * 2^23 rounds to an integer and leaves that integer in the low bits.
//
// Step by step for `ahead` vectors at once, because each step waits for the one before.
constexpr size_t ahead = 4;

inline void exp2(F (&x)[ahead]) {
    constexpr float magic = 12582912.f;
    F t[ahead], r[ahead], p[ahead];
#define LOGIT_EACH _Pragma("GCC unroll 4") for (size_t j = 0; j < ahead; ++j)
    LOGIT_EACH t[j] = x[j] + magic;
    LOGIT_EACH r[j] = x[j] - (t[j] - magic);
    LOGIT_EACH p[j] = r[j] * 0.00132647272f + 0.00967151264f;
    LOGIT_EACH p[j] = p[j] * r[j] + 0.0555073374f;
    LOGIT_EACH p[j] = p[j] * r[j] + 0.240222421f;
    LOGIT_EACH p[j] = p[j] * r[j] + 0.693146978f;
    LOGIT_EACH p[j] = p[j] * r[j] + 1.f;
    LOGIT_EACH {
        const U e = __builtin_bit_cast(U, p[j]) + (__builtin_bit_cast(U, t[j]) << 23);
        x[j] = either(gt(x[j], splat(-126.f)), __builtin_bit_cast(F, e), F{});
    }
}

constexpr float log2_e = 1.44269504f;

// Eight sums; value i of a block goes into sum i mod 8.
struct Sums {
#if LOGIT_LANES == 16
    typedef float F8 __attribute__((vector_size(32)));
    F8 s = {};

    // The j-th vector of a block, after the one before it.
    void add(size_t, F e) {
        s += __builtin_shufflevector(e, e, 0, 1, 2, 3, 4, 5, 6, 7);
        s += __builtin_shufflevector(e, e, 8, 9, 10, 11, 12, 13, 14, 15);
    }
#else
    F s[8 / lanes] = {};

    void add(size_t j, F e) { s[j % (8 / lanes)] += e; }
#endif

    // ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7))
    double total() const {
#if LOGIT_LANES == 4
        const F4 a = s[0], b = s[1];
#else
        F4 a, b;
        __builtin_memcpy(&a, &s, sizeof a);
        __builtin_memcpy(&b, reinterpret_cast<const char *>(&s) + sizeof a, sizeof b);
#endif
        const F4 four = a + b;
        const F4 two = four + __builtin_shufflevector(four, four, 1, 1, 3, 3);
        return static_cast<double>(two[0] + two[2]);
    }
};

// The 64 values of a block; a short last one is copied to `tail` and filled up with -infinity.
inline const float *whole(const float *x, size_t n, size_t b, float *tail) {
    const size_t start = b * block_size;
    if (n - start >= block_size) return x + start;
    for (size_t i = 0; i < block_size; ++i)
        tail[i] = start + i < n ? x[start + i] : -__builtin_inff();
    return tail;
}

// The greater of two; b if a is NaN.
#if LOGIT_LANES == 16
inline F greater(F a, F b) { return _mm512_maskz_max_ps(0xffff, a, b); }
#else
inline F greater(F a, F b) { return a > b ? a : b; }
#endif

bool maxima(float *block_max, const float *x, size_t n) {
    float tail[block_size];
    uint32_t fine = ~0u;
    for (size_t b = 0; b * block_size < n; ++b) {
        const float *p = whole(x, n, b, tail);
        F m[2] = {splat(-__builtin_inff()), splat(-__builtin_inff())};
        Mask finite = ge(splat(FLT_MAX), load(p));
#pragma GCC unroll 8
        for (size_t i = 0; i < block_size; i += 2 * lanes) {
            const F v = load(p + i), w = load(p + i + lanes);
            m[0] = greater(v, m[0]);
            m[1] = greater(w, m[1]);
            finite &= ge(splat(FLT_MAX), v) & ge(splat(FLT_MAX), w);
        }
        m[0] = greater(m[1], m[0]);
        float parts[lanes];
        __builtin_memcpy(parts, &m[0], sizeof parts);
        F4 four;
        __builtin_memcpy(&four, parts, sizeof four);
#pragma GCC unroll 4
        for (size_t i = 4; i < lanes; i += 4) {
            F4 other;
            __builtin_memcpy(&other, parts + i, sizeof other);
            four = other > four ? other : four;
        }
        const F4 swapped = __builtin_shufflevector(four, four, 2, 3, 0, 1);
        four = swapped > four ? swapped : four;
        block_max[b] = four[1] > four[0] ? four[1] : four[0];
        fine &= bits(finite);
    }
    return (fine & ((1u << lanes) - 1)) == (1u << lanes) - 1;
}

// The e^(x - max) of one block, added up; kept at e unless it is null. divided: those of the x
// above `high` also by themselves; returns a bit for each of them.
template <bool divided>
inline uint64_t exp_block(Sums &sums, Sums &above, const float *x, float max, float high,
                          float *e) {
    uint64_t over = 0;
#pragma GCC unroll 4
    for (size_t i = 0; i < block_size; i += ahead * lanes) {
        F v[ahead];
        LOGIT_EACH v[j] = (load(x + i + j * lanes) - max) * log2_e;
        exp2(v);
        LOGIT_EACH sums.add(j, v[j]);
        if (e) LOGIT_EACH store(e + i + j * lanes, v[j]);
        if constexpr (divided) {
            LOGIT_EACH {
                const Mask m = gt(load(x + i + j * lanes), splat(high));
                over |= uint64_t{bits(m)} << (i + j * lanes);
                above.add(j, either(m, v[j], F{}));
            }
        }
    }
    return over;
}

double sum_exp(const float *x, size_t n, float max, float *e) {
    float tail[block_size];
    double sum = 0;
    for (size_t b = 0; b * block_size < n; ++b) {
        const float *p = whole(x, n, b, tail);
        Sums sums, none;
        exp_block<false>(sums, none, p, max, 0, e ? e + b * block_size : nullptr);
        sum += sums.total();
    }
    return sum;
}

// Taylor; ln 2 in two parts, so that m * ln2_hi is exact. Otherwise as exp2 above.
void exp_exactly(double *w, size_t n) {
    constexpr double magic = 6755399441055744.0;
    constexpr double ln2_hi = 0x1.62e42fefa0000p-1, ln2_lo = 0x1.cf79abc9e3b3ap-40;
    for (size_t i = 0; i < n; i += lanes / 2) {
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
        const V bits_of_e = __builtin_bit_cast(V, p) + (__builtin_bit_cast(V, t) << 52);
        const D e = x > -708. ? __builtin_bit_cast(D, bits_of_e) : D{};
        __builtin_memcpy(w + i, &e, sizeof e);
    }
}

template <bool with_e, bool with_residual, bool cut_survives>
size_t weigh_as(BlockSum *out, const Row &row, float threshold, const QuickLaw &law) {
    float tail[block_size], residual_tail[block_size];
    const F cut = splat(law.cut);
    size_t active = 0;
    for (size_t b = 0; b * block_size < row.n; ++b) {
        if (row.block_max[b] < threshold) continue;
        const float *x = whole(row.x, row.n, b, tail);
        const float *residual = nullptr, *e = nullptr;
        if constexpr (with_residual) residual = whole(row.residual, row.n, b, residual_tail);
        if constexpr (with_e) e = row.e + b * block_size;
        Sums sums;
        Mask near = {};
#pragma GCC unroll 4
        for (size_t i = 0; i < block_size; i += ahead * lanes) {
            F w[ahead];
            if constexpr (with_e) {
                LOGIT_EACH w[j] = load(e + i + j * lanes);
            } else {
                LOGIT_EACH {
                    w[j] = load(x + i + j * lanes) - law.max;
                    if constexpr (with_residual) w[j] += load(residual + i + j * lanes) - law.shift;
                    w[j] *= law.log2_power;
                }
                exp2(w);
            }
            LOGIT_EACH {
                const F v = load(x + i + j * lanes);
                sums.add(j, either(cut_survives ? ge(v, cut) : gt(v, cut), w[j], F{}));
                if constexpr (!cut_survives) near |= eq(v, cut);
            }
        }
        out[active++] = {sums.total(), static_cast<uint32_t>(b), bits(near) != 0};
    }
    return active;
}

size_t weigh(BlockSum *out, const Row &row, float threshold, const QuickLaw &law) {
    if (row.e) {
        return (law.cut_survives ? weigh_as<true, false, true>
                                 : weigh_as<true, false, false>)(out, row, threshold, law);
    }
    if (row.residual) return weigh_as<false, true, false>(out, row, threshold, law);
    return (law.cut_survives ? weigh_as<false, false, true>
                             : weigh_as<false, false, false>)(out, row, threshold, law);
}

float least(const float *x, size_t n) {
    float tail[block_size];
    F low[ahead];
    LOGIT_EACH low[j] = splat(__builtin_inff());
    for (size_t b = 0; b * block_size < n; ++b) {
        const float *p = whole(x, n, b, tail);
#pragma GCC unroll 4
        for (size_t i = 0; i < block_size; i += ahead * lanes) {
            LOGIT_EACH {
                const F v = load(p + i + j * lanes);
                low[j] = either(ge(v, splat(-FLT_MAX)) & gt(low[j], v), v, low[j]);
            }
        }
    }
    float lowest = low[0][0];
    LOGIT_EACH for (size_t i = 0; i < lanes; ++i) lowest = low[j][i] < lowest ? low[j][i] : lowest;
    return lowest;
}

void place(int32_t *band, const float *x, size_t n, const BandLaw &law) {
    float tail[block_size];
    const F last = splat(static_cast<float>(law.n) - 1.f);
    for (size_t b = 0; b * block_size < n; ++b) {
        const float *p = whole(x, n, b, tail);
#pragma GCC unroll 16
        for (size_t i = 0; i < block_size; i += lanes) {
            const F v = load(p + i), y = (law.high - v) * law.scale;
            const Mask inside = ge(v, splat(law.low)) & ge(splat(law.high), v);
            const F index = either(inside, either(gt(last, y), y, last), last + 1.f);
            const I whole_index = __builtin_convertvector(index, I);
            __builtin_memcpy(band + b * block_size + i, &whole_index, sizeof whole_index);
        }
    }
}

// Appends the ids of the x of block b that are at least `low` and not among those over the bracket.
inline size_t list(int32_t *ids, size_t found, const float *x, size_t b, float low, uint64_t over) {
    uint64_t inside = 0;
#pragma GCC unroll 16
    for (size_t at = 0; at < block_size; at += lanes)
        inside |= uint64_t{bits(ge(load(x + at), splat(low)))} << at;
    inside &= ~over;
    while (inside) {  // four at once: few blocks hold more, and nobody foresees how many one holds
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; ++j) {
            const auto at = static_cast<size_t>(__builtin_ctzll(inside | uint64_t{1} << 63));
            ids[found] = static_cast<int32_t>(b * block_size + at);
            found += inside != 0;
            inside &= inside - 1;
        }
    }
    return found;
}

void survey(Survey &out, int32_t *ids, size_t most, const Row &row, float low, float high,
            float max, float *e) {
    float tail[block_size];
    double sum = 0, weight = 0;
    size_t count = 0, found = 0;
    for (size_t b = 0; b * block_size < row.n; ++b) {
        const float *p = whole(row.x, row.n, b, tail);
        float *const kept = e + b * block_size;
        Sums sums, above;
        uint64_t over = 0;
        if (row.block_max[b] > high) {
            over = exp_block<true>(sums, above, p, max, high, kept);
            weight += above.total();
            count += static_cast<size_t>(__builtin_popcountll(over));
        } else {
            exp_block<false>(sums, above, p, max, high, kept);
        }
        sum += sums.total();
        if (row.block_max[b] >= low && found <= most) found = list(ids, found, p, b, low, over);
    }
    out = {sum, weight, count, found};
}

void survey_counts(Survey &out, int32_t *ids, size_t most, const Row &row, float low, float high) {
    float tail[block_size];
    size_t count = 0, found = 0;
    for (size_t b = 0; b * block_size < row.n && found <= most; ++b) {
        if (row.block_max[b] < low) continue;
        const float *p = whole(row.x, row.n, b, tail);
        uint64_t over = 0;
#pragma GCC unroll 16
        for (size_t at = 0; at < block_size; at += lanes)
            over |= uint64_t{bits(gt(load(p + at), splat(high)))} << at;
        count += static_cast<size_t>(__builtin_popcountll(over));
        found = list(ids, found, p, b, low, over);
    }
    out = {0, 0, count, found};
}

}  // namespace

#undef LOGIT_EACH
