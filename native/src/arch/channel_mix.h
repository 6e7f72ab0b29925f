// The channel mixing of versions 4 to 6, which differ only in how they store the mixing weights.
//
//   xn = LN2(x)     r = σ(Wr·mix_r)     x ← x + r ⊙ (Wv·relu(Wk·mix_k)²)
#pragma once

#include "arch/weight_reader.h"
#include "backend.h"

namespace rwkv {

struct ChannelMix {
    Norm ln2;
    float *x_k, *x_r;               // [D]
    Matrix key, value, receptance;  // [F, D], [D, F], [D, D]

    // `mu` is "ffn.time_mix_" (weights of the current token) or "ffn.time_maa_" (of the previous
    // one).
    static ChannelMix load(WeightReader &reader, int64_t layer, int64_t width, int64_t ffn,
                           const char *mu, float (*change)(float));
    // r [rows, D] and h [rows, F] are scratch; shift is the offset of this layer's ffn_x in the
    // state.
    void apply(Backend &backend, float *x, float *r, float *h, int64_t shift,
               const Batch &batch) const;
};

// Versions 4 and 5 store the weight of the current token, the backend takes that of the previous
// one.
inline float previous_token_weight(float current) { return 1.0f - current; }

}  // namespace rwkv
