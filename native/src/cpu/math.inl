// Elementary functions over vectors, within 2 units in the last place of fp32 (tests measure it),
// and the activations of products. Included by kernels.inl only.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace {

using rwkv::cpu::Act;
using rwkv::cpu::Type;

// exp(x) = 2^n · exp(x − n·ln 2), |x − n·ln 2| <= ln 2 / 2; the polynomial is the one of Cephes'
// expf.
RWKV_INLINE F exp(F x) {
    x = at_least(at_most(x, splat(89.0f)), splat(-104.0f));
    const F magic = splat(12582912.0f);  // 1.5 · 2^23: the sum's low bits are the nearest integer
    const F shifted = fma(x, splat(1.44269504088896341f), magic);
    const F n = shifted - magic;
    F t = fma(n, splat(-0.693359375f), x);
    t = fma(n, splat(2.12194440e-4f), t);
    F p = splat(1.9875691500e-4f);
    p = fma(p, t, splat(1.3981999507e-3f));
    p = fma(p, t, splat(8.3334519073e-3f));
    p = fma(p, t, splat(4.1665795894e-2f));
    p = fma(p, t, splat(1.6666665459e-1f));
    p = fma(p, t, splat(5.0000001201e-1f));
    p = fma(p, t * t, t) + splat(1.0f);
    // Two factors, because n runs from -150 (subnormal results) to 128 (infinity).
    const I exponent = reinterpret_cast<I>(bits(shifted) - bits(magic));
    const I half = exponent >> 1, rest = exponent - half;
    const F a = reinterpret_cast<F>((half + 127) << 23);
    const F b = reinterpret_cast<F>((rest + 127) << 23);
    return p * a * b;
}

RWKV_INLINE F sigmoid(F x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

RWKV_INLINE F tanh(F x) {
    const F z = x * x;
    F p = splat(-5.70498872745e-3f);
    p = fma(p, z, splat(2.06390887954e-2f));
    p = fma(p, z, splat(-5.37397155531e-2f));
    p = fma(p, z, splat(1.33314422036e-1f));
    p = fma(p, z, splat(-3.33332819422e-1f));
    const F small = fma(p * z, x, x);
    const F a = absolute(x);
    const F large = splat(1.0f) - splat(2.0f) / (exp(at_most(a + a, splat(40.0f))) + splat(1.0f));
    const F signed_large = floats(bits(large) | (bits(x) & 0x80000000u));
    return select(a < splat(0.625f), small, signed_large);
}

// exp(−e^(−1/2) · σ(z)), the decay of version 7, with the constant of the official package.
RWKV_INLINE F decay(F z) { return exp(splat(-0.606531f) * sigmoid(z)); }

RWKV_INLINE F activate(F x, Act act) {
    switch (act) {
    case rwkv::cpu::kTanh: return tanh(x);
    case rwkv::cpu::kSigmoid: return sigmoid(x);
    case rwkv::cpu::kReluSquared: {
        const F positive = at_least(x, F{});
        return positive * positive;
    }
    case rwkv::cpu::kSilu: return x * sigmoid(x);
    default: return x;
    }
}

RWKV_INLINE F round_to(F x, Type compute) {
    if (compute == rwkv::cpu::kBf16) return round_bf16(x);
    if (compute == rwkv::cpu::kF16) return round_f16(x);
    return x;
}

}  // namespace
