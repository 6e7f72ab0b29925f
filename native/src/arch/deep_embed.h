// DeepEmbed (version 7a): a gate on the channel mixing that depends on the current token.
//
//   E = s_emb[token] + s_emb_x·x0, seen as [32][32]      x0 = LN0(emb[token])
//   h ← h ⊙ (((LN2(x)·s1)·E)·s2 + s0)
#pragma once

#include "arch/rows.h"
#include "arch/weight_reader.h"
#include "backend.h"

namespace rwkv {

struct DeepEmbed {
    static constexpr int64_t rank = 32;

    struct Rows {
        float *z = nullptr, *u = nullptr, *e = nullptr;  // [rows, 32] twice, [rows, 1024]

        Rows() = default;
        explicit Rows(RowLayout &layout)
            : z(layout.take(rank)), u(layout.take(rank)), e(layout.take(rank * rank)) {}
    };

    Matrix s1, s2;          // [32, D], [F, 32]
    Matrix table, table_x;  // [V, 1024], [1024, D]
    float *s0, *unshifted;  // [F]; D zeros: the weights of a mix that is LN2(x) itself

    static DeepEmbed load(WeightReader &reader, int64_t layer, int64_t width, int64_t ffn,
                          int64_t vocab);
    // The product that puts LN2(x)·s1 into z, for the shift_linear of the channel mixing.
    Product product(const Rows &rows) const { return {&s1, unshifted, rows.z}; }
    void apply(Backend &backend, float *h, const float *x0, const Rows &rows,
               const Batch &batch) const;
};

}  // namespace rwkv
