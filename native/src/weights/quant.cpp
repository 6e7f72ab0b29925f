// See quant.h. Four outputs go side by side through the loops that take the time, in vectors that
// every machine has; no sum crosses them, so the result is the same for each.
#include "weights/quant.h"

#include "weights/half.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace rwkv::quant {

using panels::group;
using panels::groups;
using panels::kOutputs;
using panels::scale_bytes;

namespace {

// Weights of a group of all outputs, a tile [group][16].
constexpr int64_t tile_of(DType type) { return group(type) * kOutputs; }

using F = float __attribute__((vector_size(16)));
constexpr int64_t kLanes = 4;

F load(const float *p) {
    F v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
void store(float *p, F v) { std::memcpy(p, &v, sizeof v); }
F splat(float x) { return F{x, x, x, x}; }
F clamp(F x, float low, float high) {
#if defined(__SSE2__)  // the conditional is four instructions where this is one
    return _mm_max_ps(_mm_min_ps(x, splat(high)), splat(low));
#else
    x = x < high ? x : splat(high);
    return x > low ? x : splat(low);
#endif
}
// To the nearest integer, ties to even, for |x| < 2^22: adding 1.5 · 2^23 leaves no room for a
// fraction.
F nearest(F x) { return (x + 12582912.0f) - 12582912.0f; }

constexpr float largest_of(DType type) { return type == DType::i8 ? 127 : 7; }
constexpr float least_of(DType type) { return type == DType::i8 ? -127 : -8; }

// The weight of largest magnitude of every output, with its sign.
void extremes(float *extreme, const float *w, DType type) {
    for (int64_t o = 0; o < kOutputs; o += kLanes) {
        F high = {}, low = {};
        for (int64_t k = 0; k < group(type); ++k) {
            const F x = load(w + k * kOutputs + o);
            high = high > x ? high : x;
            low = low < x ? low : x;
        }
        store(extreme + o, -low > high ? low : high);
    }
}

// For int8: max / 127, a step of fp16 more where rounding that down would cut the maximum off.
void scales_i8(uint16_t *scales, const float *w) {
    float extreme[kOutputs];
    extremes(extreme, w, DType::i8);
    for (int64_t o = 0; o < kOutputs; ++o) {
        const float a = std::fabs(extreme[o]);
        scales[o] = to_f16(a / 127);
        if (scales[o] != 0 && scales[o] < 0x7bff && from_f16(scales[o]) * 127.5f < a) ++scales[o];
    }
}

// For int4. The extreme weight is mapped to each of these values in turn (beyond −8 and 7 it is cut
// off, which the others may gain more from than it loses); the q that follow have a best scale of
// their own, d = Σ w q / Σ q², and with it the error Σ w² − d Σ w q. Against a search of 800 scales
// these few leave 0.3 % more error (root mean square) on normal weights, 0.7 % on uniform ones.
constexpr float kTargets[] = {-9.2f, -8.6f, -8.2f, -7.7f, 6.9f, 7.3f, 7.7f, 8.4f};

void scales_i4(uint16_t *scales, const float *w) {
    float extreme[kOutputs], d[kOutputs];
    extremes(extreme, w, DType::i4);
    for (int64_t o = 0; o < kOutputs; o += kLanes) {
        const F x = load(extreme + o);
        // A group of zeros, and what fp16 has no scale for, becomes zero.
        const F reciprocal = 1.0f / (x * x > 0x1p-60f ? x : splat(INFINITY));
        F gain = {}, best = {};
        for (const float target : kTargets) {
            const F inverse = target * reciprocal;
            F wq = {}, qq = {};
            for (int64_t k = 0; k < group(DType::i4); ++k) {
                const F wk = load(w + k * kOutputs + o), q = nearest(clamp(wk * inverse, -8, 7));
                wq += wk * q;
                qq += q * q;
            }
            const F scale = wq / (qq > 0 ? qq : splat(1)), found = scale * wq;
            best = found > gain ? scale : best;
            gain = found > gain ? found : gain;
        }
        store(d + o, best);
    }
    for (int64_t o = 0; o < kOutputs; ++o) scales[o] = to_f16(d[o]);
}

// q of every weight of a tile, as floats.
Loss round_tile(float *q, const float *w, const uint16_t *scales, DType type) {
    float d[kOutputs], inverse[kOutputs];
    for (int64_t o = 0; o < kOutputs; ++o) {
        d[o] = from_f16(scales[o]);
        inverse[o] = d[o] == 0 ? 0 : 1 / d[o];
    }
    const float low = least_of(type), high = largest_of(type);
    F error = {}, norm = {};
    for (int64_t k = 0; k < group(type); ++k)
        for (int64_t o = 0; o < kOutputs; o += kLanes) {
            const F wk = load(w + k * kOutputs + o);
            const F qk = nearest(clamp(wk * load(inverse + o), low, high));
            const F e = wk - load(d + o) * qk;
            error += e * e;
            norm += wk * wk;
            store(q + k * kOutputs + o, qk);
        }
    const auto total = [](F v) { return static_cast<double>(v[0]) + v[1] + v[2] + v[3]; };
    return {total(error), total(norm)};
}

// One group of a panel, from q as floats.
void lay_i8(std::byte *to, const float *q) {
    for (int64_t k = 0; k < group(DType::i8); ++k)
        for (int64_t o = 0; o < kOutputs; ++o)
            to[(k / 4 * kOutputs + o) * 4 + k % 4] =
                static_cast<std::byte>(static_cast<int>(q[k * kOutputs + o]) + 128);
}
void lay_i4(std::byte *to, const float *q) {
    for (int64_t s = 0; s < group(DType::i4) / 8; ++s)
        for (int64_t o = 0; o < kOutputs; ++o)
            for (int64_t j = 0; j < 4; ++j) {
                const int low = static_cast<int>(q[(8 * s + j) * kOutputs + o]) + 8;
                const int high = static_cast<int>(q[(8 * s + 4 + j) * kOutputs + o]) + 8;
                to[(s * kOutputs + o) * 4 + j] = static_cast<std::byte>(low | high << 4);
            }
}

uint16_t scale_at(const std::byte *panel, int64_t group, int64_t o) {
    uint16_t d;
    std::memcpy(&d, panel + (group * kOutputs + o) * 2, 2);
    return d;
}

// q of input k of a group.
int number_at(const std::byte *tile, DType type, int64_t o, int64_t k) {
    if (type == DType::i8) return static_cast<int>(tile[(k / 4 * kOutputs + o) * 4 + k % 4]) - 128;
    const int both = static_cast<int>(tile[(k / 8 * kOutputs + o) * 4 + k % 4]);
    return (k % 8 < 4 ? both & 15 : both >> 4) - 8;
}

const std::byte *group_at(const std::byte *panel, DType type, int64_t in, int64_t g) {
    return panel + scale_bytes(type, in) +
           static_cast<size_t>(g * tile_of(type)) / (type == DType::i8 ? 1 : 2);
}

// Writes w as `type` and returns what is left of it there.
float put(std::byte *to, float w, DType type) {
    if (type == DType::f32) {
        std::memcpy(to, &w, 4);
        return w;
    }
    const uint16_t bits = type == DType::bf16 ? to_bf16(w) : to_f16(w);
    std::memcpy(to, &bits, 2);
    return type == DType::bf16 ? from_bf16(bits) : from_f16(bits);
}

Loss pack_plain(std::byte *panels, const float *weights, DType type, int64_t rows, int64_t in) {
    std::memset(panels, 0,
                static_cast<size_t>((rows + kOutputs - 1) / kOutputs) * panels::bytes(type, in));
    Loss loss;
    for (int64_t o = 0; o < rows; ++o)
        for (int64_t k = 0; k < in; ++k) {
            const float w = weights[o * in + k];
            const int64_t at = bytes_of(type, panels::place(type, in, o, k));
            const double e = static_cast<double>(w) - put(panels + at, w, type);
            loss.error += e * e;
            loss.norm += static_cast<double>(w) * w;
        }
    return loss;
}

}  // namespace

Loss pack_panel(std::byte *panel, const float *weights, DType type, int64_t in,
                const uint16_t *scales) {
    const int64_t G = groups(type, in), tile = tile_of(type);
    Loss loss;
    std::memset(panel, 0, scale_bytes(type, in));
    std::byte *to = panel + scale_bytes(type, in);
    alignas(64) float q[tile_of(DType::i8)];
    for (int64_t g = 0; g < G; ++g, weights += tile) {
        uint16_t d[kOutputs];
        if (scales)
            std::memcpy(d, scales + g * kOutputs, sizeof d);
        else if (type == DType::i8)
            scales_i8(d, weights);
        else
            scales_i4(d, weights);
        const Loss here = round_tile(q, weights, d, type);
        loss.error += here.error, loss.norm += here.norm;
        std::memcpy(panel + g * kOutputs * 2, d, sizeof d);
        if (type == DType::i8)
            lay_i8(to, q), to += tile;
        else
            lay_i4(to, q), to += tile / 2;
    }
    return loss;
}

Loss pack(std::byte *panels, const float *weights, DType type, int64_t rows, int64_t in) {
    if (!is_quantised(type)) return pack_plain(panels, weights, type, rows, in);
    std::vector<float> tile(static_cast<size_t>(groups(type, in) * tile_of(type)));
    Loss loss;
    for (int64_t first = 0; first < rows; first += kOutputs, panels += panels::bytes(type, in)) {
        if (rows - first < kOutputs) std::fill(tile.begin(), tile.end(), 0.0f);
        for (int64_t k = 0; k < in; ++k)
            for (int64_t o = 0; o < kOutputs && first + o < rows; ++o)
                tile[static_cast<size_t>(k * kOutputs + o)] = weights[(first + o) * in + k];
        const Loss here = pack_panel(panels, tile.data(), type, in);
        loss.error += here.error, loss.norm += here.norm;
    }
    return loss;
}

void unpack(float *weights, const std::byte *panel, DType type, int64_t in, int64_t o) {
    for (int64_t k = 0; k < in; ++k) {
        const int64_t g = k / group(type);
        const float d = from_f16(scale_at(panel, g, o));
        weights[k] = d * static_cast<float>(
                             number_at(group_at(panel, type, in, g), type, o, k % group(type)));
    }
}

void quantise_row(int8_t *p, float *s, const float *x, DType type, int64_t in) {
    for (int64_t g = 0; g < groups(type, in); ++g) {
        const int64_t first = g * group(type), n = std::min(group(type), in - first);
        float largest = 0;
        for (int64_t k = 0; k < n; ++k) largest = std::max(largest, std::fabs(x[first + k]));
        const bool nothing = largest < 0x1p-120f;
        const float inverse = nothing ? 0 : 127 / largest;
        s[g] = nothing ? 0 : largest / 127;
        std::fill_n(p + first, group(type), int8_t{0});
        for (int64_t k = 0; k < n; ++k)
            p[first + k] = static_cast<int8_t>(std::nearbyint(x[first + k] * inverse));
    }
}

double product(const std::byte *panel, DType type, int64_t in, int64_t o, const int8_t *p,
               const float *s) {
    double y = 0;
    for (int64_t g = 0; g < groups(type, in); ++g) {
        const std::byte *tile = group_at(panel, type, in, g);
        int32_t sum = 0;
        for (int64_t k = 0; k < group(type); ++k)
            sum += number_at(tile, type, o, k) * p[g * group(type) + k];
        y += static_cast<double>(sum) * from_f16(scale_at(panel, g, o)) * static_cast<double>(s[g]);
    }
    return y;
}

}  // namespace rwkv::quant
