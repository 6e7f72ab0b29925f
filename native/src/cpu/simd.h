// Vectors of fp32 for whichever instruction set the file that includes this is compiled for: 16
// lanes with AVX-512, 8 with AVX2, otherwise 4 (SSE2 on x86-64, NEON on 64-bit ARM, the compiler's
// own on other machines). Included by kernels.inl only. Everything is local to the object: see
// kernels.h.
//
// GCC's vector extensions carry arithmetic, comparisons and selection; intrinsics appear where they
// cannot say it: fused multiply-add, conversion of halves, rounding.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define RWKV_INLINE static inline __attribute__((always_inline))

// 512 bits, unless an object keeps to 256 although its machine has more.
#if defined(__AVX512F__) && !defined(RWKV_256_BITS)
#define RWKV_512_BITS 1
#endif

namespace {

#if defined(RWKV_512_BITS)
constexpr int V = 16;
#elif defined(__AVX2__)
constexpr int V = 8;
#else
constexpr int V = 4;
#endif

typedef float F __attribute__((vector_size(V * 4)));
typedef int32_t I __attribute__((vector_size(V * 4)));
typedef uint32_t U __attribute__((vector_size(V * 4)));
typedef float Fu __attribute__((vector_size(V * 4), aligned(4), may_alias));
typedef uint32_t Uu __attribute__((vector_size(V * 4), aligned(2), may_alias));

typedef int8_t B __attribute__((vector_size(V)));

RWKV_INLINE F load(const float *p) { return *reinterpret_cast<const Fu *>(p); }
RWKV_INLINE void store(float *p, F v) { *reinterpret_cast<Fu *>(p) = v; }
RWKV_INLINE F splat(float x) { return x - F{}; }
// The four bytes at p, whatever they mean, in every lane.
RWKV_INLINE F splat_word(const char *p) {
#if defined(__aarch64__)
    // As a float, so that GCC multiplies by a lane of the loaded register instead of filling all
    // four.
    float word;
    __builtin_memcpy(&word, p, sizeof word);
    return vdupq_n_f32(word);
#else
    return reinterpret_cast<F>(U{} + *reinterpret_cast<const uint32_t *>(p));
#endif
}
RWKV_INLINE U bits(F v) { return reinterpret_cast<U>(v); }
RWKV_INLINE F floats(U v) { return reinterpret_cast<F>(v); }

// The first n < V values, the others 0.
RWKV_INLINE F load_part(const float *p, int64_t n) {
    F v = {};
    __builtin_memcpy(&v, p, static_cast<size_t>(n) * sizeof(float));
    return v;
}
RWKV_INLINE void store_part(float *p, F v, int64_t n) {
    __builtin_memcpy(p, &v, static_cast<size_t>(n) * sizeof(float));
}
RWKV_INLINE F load_upto(const float *p, int64_t n) { return n >= V ? load(p) : load_part(p, n); }
RWKV_INLINE void store_upto(float *p, F v, int64_t n) {
    if (n >= V)
        store(p, v);
    else
        store_part(p, v, n);
}

// a * b + c, in one rounding where the machine has it.
RWKV_INLINE F fma(F a, F b, F c) {
#if defined(RWKV_512_BITS)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}

// sum += a * b where it stands. GCC 12 likes to put the result of an accumulation where b was,
// which costs moves, and spills when all registers hold sums.
RWKV_INLINE void accumulate(F &sum, F a, F b) {
#if defined(__FMA__)
    asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#else
    sum = fma(a, b, sum);
#endif
}

// Whether products take pairs of bf16 as they are stored.
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define RWKV_PAIRS 1
#endif

#if defined(__AVX512BF16__)
// sum += a₀ b₀ + a₁ b₁ for the two bf16 of every lane; subnormal numbers count as 0.
RWKV_INLINE void accumulate_pairs(F &sum, F a, F b) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}
// To the nearest bf16, ties to even, subnormal numbers to 0.
RWKV_INLINE void store_bf16(char *p, F x) {
    const __m256bh h = _mm512_cvtneps_pbh(x);
    __builtin_memcpy(p, &h, sizeof h);
}
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
// As above.
RWKV_INLINE void accumulate_pairs(F &sum, F a, F b) {
    sum = vbfdotq_f32(sum, reinterpret_cast<bfloat16x8_t>(a), reinterpret_cast<bfloat16x8_t>(b));
}
// To the nearest bf16, ties to even.
RWKV_INLINE void store_bf16(char *p, F x) {
    const bfloat16x4_t h = vcvt_bf16_f32(x);
    __builtin_memcpy(p, &h, sizeof h);
}
#endif

// Whether the machine multiplies and adds up four bytes at once.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__aarch64__)
#define RWKV_BYTE_PRODUCTS 1
#endif

#if defined(__AVX512VNNI__)
// sum += Σ a b over the four bytes of every lane, a unsigned, b signed.
RWKV_INLINE void accumulate_bytes(I &sum, U a, U b) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}
#elif defined(__AVXVNNI__)
// As above, in the encoding of AVX.
RWKV_INLINE void accumulate_bytes(I &sum, U a, U b) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
}
#elif defined(RWKV_512_BITS)
RWKV_INLINE __m512i whole(U v) { return reinterpret_cast<__m512i>(v); }
// a₀ b₀ + a₁ b₁ in 16 bits for every pair of bytes, a unsigned, b signed; saturates.
RWKV_INLINE U multiply_bytes(U a, U b) {
    return reinterpret_cast<U>(_mm512_maddubs_epi16(whole(a), whole(b)));
}
// The sums of pairs of 16-bit numbers.
RWKV_INLINE I widen_sum(U a) {
    return reinterpret_cast<I>(_mm512_madd_epi16(whole(a), _mm512_set1_epi16(1)));
}
RWKV_INLINE U add_shorts(U a, U b) {
    return reinterpret_cast<U>(_mm512_add_epi16(whole(a), whole(b)));
}
RWKV_INLINE U absolute_bytes(U a) { return reinterpret_cast<U>(_mm512_abs_epi8(whole(a))); }
// x where q > 0, −x where q < 0, byte by byte; where q is 0 it does not matter.
RWKV_INLINE U with_sign_of(U x, U q) {
    const __mmask64 negative = _mm512_movepi8_mask(whole(q));
    return reinterpret_cast<U>(
        _mm512_mask_sub_epi8(whole(x), negative, _mm512_setzero_si512(), whole(x)));
}
#elif defined(__AVX2__)
// As above.
RWKV_INLINE __m256i whole(U v) { return reinterpret_cast<__m256i>(v); }
RWKV_INLINE U multiply_bytes(U a, U b) {
    return reinterpret_cast<U>(_mm256_maddubs_epi16(whole(a), whole(b)));
}
RWKV_INLINE I widen_sum(U a) {
    return reinterpret_cast<I>(_mm256_madd_epi16(whole(a), _mm256_set1_epi16(1)));
}
RWKV_INLINE U add_shorts(U a, U b) {
    return reinterpret_cast<U>(_mm256_add_epi16(whole(a), whole(b)));
}
RWKV_INLINE U absolute_bytes(U a) { return reinterpret_cast<U>(_mm256_abs_epi8(whole(a))); }
RWKV_INLINE U with_sign_of(U x, U q) {
    return reinterpret_cast<U>(_mm256_sign_epi8(whole(x), whole(q)));
}
#elif defined(__aarch64__)
// sum += Σ a b over the four bytes of every lane, both signed; a₀ b₀ + a₁ b₁ and a₂ b₂ + a₃ b₃ fit
// 16 bits.
RWKV_INLINE void accumulate_bytes(I &sum, U a, U b) {
    const int8x16_t p = reinterpret_cast<int8x16_t>(a), q = reinterpret_cast<int8x16_t>(b);
#if defined(__ARM_FEATURE_DOTPROD)
    sum = vdotq_s32(sum, p, q);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(p), vget_low_s8(q)), high = vmull_high_s8(p, q);
    sum = vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
}
#endif

// The low byte of every lane. GCC 12 would move them one by one.
RWKV_INLINE void store_bytes(char *p, I v) {
#if defined(RWKV_512_BITS)
    const __m128i b = _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(v));
#elif defined(__AVX2__)
    const __m128i low = _mm_set1_epi32(0x0c080400);
    const __m256i w = reinterpret_cast<__m256i>(v);
    const __m128i b = _mm_unpacklo_epi32(_mm_shuffle_epi8(_mm256_castsi256_si128(w), low),
                                         _mm_shuffle_epi8(_mm256_extracti128_si256(w, 1), low));
#elif defined(__aarch64__)
    const int16x4_t h = vmovn_s32(v);
    const int8x8_t b = vmovn_s16(vcombine_s16(h, h));
#else
    const B b = __builtin_convertvector(v, B);
#endif
    __builtin_memcpy(p, &b, V);
}

RWKV_INLINE U larger(U a, U b) { return a > b ? a : b; }
// The float whose bits are the largest of the lanes.
RWKV_INLINE float largest(U v) {
#if defined(RWKV_512_BITS)
    const uint32_t u = _mm512_reduce_max_epu32(reinterpret_cast<__m512i>(v));
#elif defined(__aarch64__)
    const uint32_t u = vmaxvq_u32(v);
#else
    uint32_t u = 0;
    for (int i = 0; i < V; ++i) u = v[i] > u ? v[i] : u;
#endif
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
}

// The sum of the lanes, which must not overflow on the way.
RWKV_INLINE int32_t sum_words(I v) {
#if defined(RWKV_512_BITS)
    return _mm512_reduce_add_epi32(reinterpret_cast<__m512i>(v));
#elif defined(__aarch64__)
    return vaddvq_s32(v);
#else
    int32_t sum = 0;
    for (int i = 0; i < V; ++i) sum += v[i];
    return sum;
#endif
}

RWKV_INLINE F select(I mask, F yes, F no) { return mask ? yes : no; }
// NaN in x stays NaN.
#if defined(__aarch64__)
RWKV_INLINE F at_most(F x, F limit) { return vminq_f32(x, limit); }
RWKV_INLINE F at_least(F x, F limit) { return vmaxq_f32(x, limit); }
#else
RWKV_INLINE F at_most(F x, F limit) { return x > limit ? limit : x; }
RWKV_INLINE F at_least(F x, F limit) { return x < limit ? limit : x; }
#endif
RWKV_INLINE F absolute(F x) { return floats(bits(x) & 0x7fffffffu); }

RWKV_INLINE F square_root(F x) {
#if defined(RWKV_512_BITS)
    return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(x);
#elif defined(__x86_64__)
    return _mm_sqrt_ps(x);
#elif defined(__aarch64__)
    return vsqrtq_f32(x);
#else
    F y;
    for (int i = 0; i < V; ++i) y[i] = __builtin_sqrtf(x[i]);
    return y;
#endif
}

// The sum of the lanes, by halves: lane i + lane i + V/2 first.
RWKV_INLINE float sum(F v) {
#if defined(__x86_64__)
#if defined(RWKV_512_BITS)
    const __m256 h = _mm512_castps512_ps256(v) + _mm512_extractf32x8_ps(v, 1);
    __m128 q = _mm256_castps256_ps128(h) + _mm256_extractf128_ps(h, 1);
#elif defined(__AVX2__)
    __m128 q = _mm256_castps256_ps128(v) + _mm256_extractf128_ps(v, 1);
#else
    __m128 q = v;
#endif
    q += _mm_movehl_ps(q, q);
    return q[0] + q[1];
#elif defined(__aarch64__)
    return vaddv_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v)));
#else
    float lane[V];
    __builtin_memcpy(lane, &v, sizeof lane);
    for (int half = V / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
    return lane[0];
#endif
}

// V halves, widened. Without F16C: the exponent of a half is moved into place and 2^112 corrects
// its bias, which is exact for subnormals too; infinity and NaN need their exponent filled up.
RWKV_INLINE F widen_f16(const uint16_t *p) {
#if defined(RWKV_512_BITS)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
#elif defined(__aarch64__)
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
    U h;
    for (int i = 0; i < V; ++i) h[i] = p[i];
    const U magnitude = (h & 0x7fffu) << 13;
    F f = floats(magnitude) * splat(0x1p112f);
    const U special = reinterpret_cast<U>(magnitude >= 0x0f800000u);
    return floats(bits(f) | (special & 0x7f800000u) | (h & 0x8000u) << 16);
#endif
}

// To the nearest bf16, ties to even.
RWKV_INLINE F round_bf16(F x) {
    const U u = bits(x);
    const U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u;
    return select(x == x, floats(rounded), floats((u | 0x00400000u) & 0xffff0000u));
}

// To the nearest half, ties to even, saturating.
RWKV_INLINE F round_f16(F x) {
    x = at_least(at_most(x, splat(65504.0f)), splat(-65504.0f));
#if defined(RWKV_512_BITS)
    return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
    return vcvt_f32_f16(vcvt_f16_f32(x));
#else
    const U u = bits(x);
    const F normal = floats((u + 0xfffu + ((u >> 13) & 1u)) & 0xffffe000u);
    // 0.75 lies where one unit in the last place is 2^-24, the spacing of subnormal halves.
    const F a = absolute(x), tiny = (a + splat(0.75f)) - splat(0.75f);
    const F signed_tiny = floats(bits(tiny) | (u & 0x80000000u));
    return select(a < splat(0x1p-14f), signed_tiny, select(x == x, normal, x));
#endif
}

// Elements of a state that is kept in 16 bits, by type, so that what moves a state is written once.
struct Bf16 {
    uint16_t bits;
};
struct Half {
    uint16_t bits;
};
typedef uint16_t H __attribute__((vector_size(V * 2)));
typedef uint16_t Hu __attribute__((vector_size(V * 2), aligned(2), may_alias));

// V elements of a state, widened to fp32.
RWKV_INLINE F load_state(const float *p) { return load(p); }
RWKV_INLINE F load_state(const Half *p) { return widen_f16(&p->bits); }
RWKV_INLINE F load_state(const Bf16 *p) {
#if defined(RWKV_512_BITS)
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    return floats(reinterpret_cast<U>(_mm512_cvtepu16_epi32(h)) << 16);
#elif defined(__AVX2__)
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return floats(reinterpret_cast<U>(_mm256_cvtepu16_epi32(h)) << 16);
#else
    const H h = *reinterpret_cast<const Hu *>(p);
    return floats(__builtin_convertvector(h, U) << 16);
#endif
}

// The other way, to the nearest, ties to even; fp16 saturates, so that no state becomes infinite.
RWKV_INLINE void store_state(float *p, F x) { store(p, x); }
RWKV_INLINE void store_state(Half *p, F x) {
#if defined(RWKV_512_BITS)
    // As integers ∞, with or without its sign, is next to the largest number: half the cost of
    // at_most and at_least before. NaN saturates, too; the logits of its token have told by then.
    __m256i h = _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    h = _mm256_min_epi16(h, _mm256_set1_epi16(0x7bff));
    h = _mm256_min_epu16(h, _mm256_set1_epi16(static_cast<short>(0xfbff)));
#elif defined(__F16C__)
    __m128i h = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
    h = _mm_min_epi16(h, _mm_set1_epi16(0x7bff));
    h = _mm_min_epu16(h, _mm_set1_epi16(static_cast<short>(0xfbff)));
#elif defined(__aarch64__)
    const float16x4_t h = vcvt_f16_f32(at_least(at_most(x, splat(65504.0f)), splat(-65504.0f)));
#else
    // 2^-112 moves the exponent of a half into place; subnormal ones stay exact.
    const F f = round_f16(x);
    const F small = absolute(f) * splat(0x1p-112f);
    const U magnitude = bits(select(f == f, small, splat(0x1.8p-96f))) >> 13;
    const U sign = (bits(f) >> 16) & 0x8000u;
    const H h = __builtin_convertvector(magnitude | sign, H);
#endif
    __builtin_memcpy(p, &h, sizeof h);
}
RWKV_INLINE void store_state(Bf16 *p, F x) {
#if defined(RWKV_PAIRS)
    store_bf16(reinterpret_cast<char *>(p), x);
#else
    const H h = __builtin_convertvector(bits(round_bf16(x)) >> 16, H);
    __builtin_memcpy(p, &h, sizeof h);
#endif
}

// What is read back of x once it has been stored.
template <class T>
RWKV_INLINE F as_kept(F x) {
    T kept[V];
    store_state(kept, x);
    return load_state(kept);
}

// The first n elements, the other lanes 0.
template <class T>
RWKV_INLINE F load_state_upto(const T *p, int64_t n) {
    if (n >= V) return load_state(p);
    T part[V] = {};
    __builtin_memcpy(part, p, static_cast<size_t>(n) * sizeof(T));
    return load_state(part);
}
template <class T>
RWKV_INLINE void store_state_upto(T *p, F x, int64_t n) {
    if (n >= V) {
        store_state(p, x);
        return;
    }
    T part[V];
    store_state(part, x);
    __builtin_memcpy(p, part, static_cast<size_t>(n) * sizeof(T));
}

}  // namespace
