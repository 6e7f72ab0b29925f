// DEA (version 7b): a small attention over the whole text in every layer, added to x together with
// the time mixing. Its keys and values are kept per token, so this is the one state that grows.
//
//   q = qq·x     K = (k1·x·k2) ⊙ (k_emb[token] + k_emb_x·x0)     V = tanh(v1·x·v2) ⊙ (v_emb[token] + v_emb_x·x0)
//   each of q, K, V: LN(c + (c_prev − c) ⊙ x_c)                  c_prev of the token before, 0 at the start
//   y = Σ softmax(64 tanh(q·K / 1024)) V                          over this token and all before it
#pragma once

#include "arch/rows.h"
#include "arch/weight_reader.h"
#include "backend.h"
#include "state_layout.h"

#include <algorithm>

namespace rwkv {

struct Dea {
    static constexpr int64_t keys = 256, rank = 32;

    struct Rows {
        float *q = nullptr, *k = nullptr, *v = nullptr;  // [rows, 256] twice, [rows, D]
        float *offset = nullptr;                         // [rows, 256] of K, then [rows, D] of V
        float *ck = nullptr, *cv = nullptr;              // [rows, 32]

        Rows() = default;
        Rows(RowLayout &layout, int64_t width)
            : q(layout.take(keys)),
              k(layout.take(keys)),
              v(layout.take(width)),
              offset(layout.take(std::max(keys, width))),
              ck(layout.take(rank)),
              cv(layout.take(rank)) {}
    };

    Matrix qq, k1, k2, v1, v2;  // [256, D], [32, D], [256, 32], [32, D], [D, 32]
    Matrix k_table, k_table_x;  // [V, 256], [256, D]
    Matrix v_table, v_table_x;  // [V, D], [D, D]
    float *x_q, *x_k, *x_v;     // [256], [256], [D]
    Norm lnq, lnk, lnv;

    static Dea load(WeightReader &reader, int64_t layer, int64_t width, int64_t vocab);
    // Fills in q, k and v of every row, from x as it enters the layer. q_x, k_x and v_x are the
    // offsets in the state of this layer's c_prev.
    void prepare(Backend &backend, const float *x, const float *x0, const Rows &rows, int64_t q_x,
                 int64_t k_x, int64_t v_x, const Batch &batch) const;
    // x += y
    void attend(Backend &backend, float *x, const Rows &rows, int64_t layer, int64_t width,
                const Batch &batch) const;
};

}  // namespace rwkv
