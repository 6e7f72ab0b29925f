// The recurrence of version 4. Included by kernels.inl only.
//
//   wkv = (e^(pp−m) aa + e^(u+k−m) v) / (e^(pp−m) bb + e^(u+k−m))     m = max(pp, u + k)     y = r ⊙ wkv
//   aa, bb ← e^(pp+d−m') (aa, bb) + e^(k−m') (v, 1)    pp ← m'        m' = max(pp + d, k)
//
// Channels are independent: the lanes are channels, and the rows run one after the other.
#pragma once

#include "cpu/math.inl"

namespace {

using rwkv::cpu::Wkv4Task;

// e^(a−m) and e^(b−m) by a − b, for m = max(a, b): one of them is 1.
RWKV_INLINE void weights(F difference, F &a, F &b) {
    const F one = splat(1.0f), smaller = exp(-absolute(difference));
    a = select(difference < F{}, smaller, one);
    b = select(difference < F{}, one, smaller);
}

void wkv4(const Wkv4Task *given) {
    const Wkv4Task &t = *given;
    for (int64_t c = 0; c < t.channels; c += V) {
        const int64_t left = t.channels - c, at = t.channel + c;
        const F d = load_upto(t.decay + c, left), u = load_upto(t.first + c, left);
        for (int64_t m = 0; m < t.rows; ++m) {
            const int64_t row = m * t.width + c;
            const F k = load_upto(t.k + row, left), v = load_upto(t.v + row, left);
            const F aa = load_upto(t.aa[m] + at, left), bb = load_upto(t.bb[m] + at, left);
            const F pp = load_upto(t.pp[m] + at, left);

            F e1, e2;
            weights(pp - (u + k), e1, e2);
            const F wkv = fma(e1, aa, e2 * v) / fma(e1, bb, e2);
            store_upto(t.y + row, load_upto(t.r + row, left) * wkv, left);

            const F pd = pp + d;
            weights(pd - k, e1, e2);
            store_upto(t.aa[m] + at, fma(e1, aa, e2 * v), left);
            store_upto(t.bb[m] + at, fma(e1, bb, e2), left);
            store_upto(t.pp[m] + at, at_least(pd, k), left);
        }
    }
}

}  // namespace
