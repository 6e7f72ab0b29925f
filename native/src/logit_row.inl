// The passes of logit_row.h over vectors of LOGIT_LANES floats. Included once per form, in a
// namespace and under target options of its own: nothing of the standard library is called here,
// because the linker might keep the copy that was compiled for the newer machine.

namespace {

constexpr size_t lanes = LOGIT_LANES, block_size = LogitRow::block;

typedef float F __attribute__((vector_size(4 * LOGIT_LANES)));
typedef int32_t I __attribute__((vector_size(4 * LOGIT_LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LOGIT_LANES)));

inline F load(const float *p) {
    F v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

inline F splat(float x) { return F{} + x; }

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
        x[j] = x[j] > -126.f ? __builtin_bit_cast(F, e) : F{};
    }
}

constexpr float log2_e = 1.44269504f;

// A bit for every lane whose mask is set.
inline uint32_t bits(I mask) {
#if LOGIT_LANES == 16
    return __builtin_ia32_cvtd2mask512(mask);
#elif LOGIT_LANES == 8
    return static_cast<uint32_t>(__builtin_ia32_movmskps256(__builtin_bit_cast(F, mask)));
#elif defined(__x86_64__)
    return static_cast<uint32_t>(__builtin_ia32_movmskps(__builtin_bit_cast(F, mask)));
#else
    return (mask[0] & 1u) | (mask[1] & 2u) | (mask[2] & 4u) | (mask[3] & 8u);
#endif
}

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

    double total() const {
        float a[8];
        __builtin_memcpy(a, &s, sizeof a);
        return static_cast<double>(((a[0] + a[4]) + (a[1] + a[5])) +
                                   ((a[2] + a[6]) + (a[3] + a[7])));
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

#if LOGIT_LANES != 16  // comparing into masks and back takes twice as long there
bool maxima(float *block_max, const float *x, size_t n) {
    float tail[block_size];
    I fine = ~I{};
    for (size_t b = 0; b * block_size < n; ++b) {
        const float *p = whole(x, n, b, tail);
        F m[2] = {splat(-__builtin_inff()), splat(-__builtin_inff())};
#pragma GCC unroll 8
        for (size_t i = 0; i < block_size; i += 2 * lanes) {
            const F v = load(p + i), w = load(p + i + lanes);
            m[0] = v > m[0] ? v : m[0];
            m[1] = w > m[1] ? w : m[1];
            fine &= (v <= FLT_MAX) & (w <= FLT_MAX);
        }
        m[0] = m[1] > m[0] ? m[1] : m[0];
        float most = m[0][0];
#pragma GCC unroll 8
        for (size_t i = 1; i < lanes; ++i) most = m[0][i] > most ? m[0][i] : most;
        block_max[b] = most;
    }
    return bits(fine) == (1u << lanes) - 1;
}
#endif

double sum_exp(const float *x, size_t n, float max) {
    float tail[block_size];
    double sum = 0;
    for (size_t b = 0; b * block_size < n; ++b) {
        const float *p = whole(x, n, b, tail);
        Sums sums;
#pragma GCC unroll 4
        for (size_t i = 0; i < block_size; i += ahead * lanes) {
            F e[ahead];
            LOGIT_EACH e[j] = (load(p + i + j * lanes) - max) * log2_e;
            exp2(e);
            LOGIT_EACH sums.add(j, e[j]);
        }
        sum += sums.total();
    }
    return sum;
}

template <bool with_residual, bool cut_survives>
BlockSum weigh_as(const float *x, const float *residual, const QuickLaw &law) {
    Sums sums;
    I near = {};
#pragma GCC unroll 4
    for (size_t i = 0; i < block_size; i += ahead * lanes) {
        F e[ahead];
        LOGIT_EACH {
            e[j] = load(x + i + j * lanes) - law.max;
            if constexpr (with_residual) e[j] += load(residual + i + j * lanes) - law.shift;
            e[j] *= law.log2_power;
        }
        exp2(e);
        LOGIT_EACH {
            const F v = load(x + i + j * lanes);
            sums.add(j, (cut_survives ? v >= law.cut : v > law.cut) ? e[j] : F{});
            if constexpr (!cut_survives) near |= v == law.cut;
        }
    }
    return {sums.total(), bits(near) != 0};
}

BlockSum weigh(const float *x, const float *residual, const QuickLaw &law) {
    if (residual) return weigh_as<true, false>(x, residual, law);
    return (law.cut_survives ? weigh_as<false, true> : weigh_as<false, false>)(x, residual, law);
}

size_t bracket(int32_t *ids, size_t most, LogitRow::Above &above, const float *x, size_t n,
               const float *block_max, float low, float high, float max) {
    float tail[block_size];
    size_t found = 0;
    for (size_t b = 0; b * block_size < n; ++b) {
        if (block_max[b] < low) continue;
        const float *p = whole(x, n, b, tail);
#pragma GCC unroll 8
        for (size_t at = 0; at < block_size; at += lanes) {
            const F v = load(p + at);
            for (uint32_t in = bits((v >= low) & (v <= high)); in; in &= in - 1)
                ids[found++] = static_cast<int32_t>(b * block_size + at +
                                                    static_cast<size_t>(__builtin_ctz(in)));
            if (found > most) return found;
        }
        if (block_max[b] <= high) continue;
        Sums sums;
        I count = {};
#pragma GCC unroll 4
        for (size_t i = 0; i < block_size; i += ahead * lanes) {
            F e[ahead];
            LOGIT_EACH e[j] = (load(p + i + j * lanes) - max) * log2_e;
            exp2(e);
            LOGIT_EACH {
                const I over = load(p + i + j * lanes) > high;
                count -= over;
                sums.add(j, over ? e[j] : F{});
            }
        }
        above.weight += sums.total();
#pragma GCC unroll 8
        for (size_t i = 0; i < lanes; ++i) above.count += static_cast<size_t>(count[i]);
    }
    return found;
}

}  // namespace

#undef LOGIT_EACH
