// RWKV-7 (x070): its weights, and its forward. Called by model.cpp alone.
#pragma once

#include "backend.h"
#include "tensor_table.h"

#include <functional>
#include <vector>

namespace rwkv::v7 {

struct Shape {
    int64_t layers = 0, width = 0, heads = 0, head_size = 0, ffn = 0, vocab = 0;  // L D H N F V
    int64_t rank_w = 0, rank_a = 0, rank_v = 0, rank_g = 0;  // the largest over all layers

    int64_t wkv_size() const { return heads * head_size * head_size; }
    // Offsets in a state: att_x [L, D], ffn_x [L, D], wkv [L, H, N, N].
    int64_t att_x(int64_t layer) const { return layer * width; }
    int64_t ffn_x(int64_t layer) const { return (layers + layer) * width; }
    int64_t wkv(int64_t layer) const { return 2 * layers * width + layer * wkv_size(); }
    int64_t state_size() const { return wkv(layers); }
    // Floats of activations for `rows` rows.
    int64_t scratch_size(int64_t rows) const;
};

struct Layer {
    Buffer vectors;  // owns what the pointers below point to
    Norm ln1, ln2, ln_x;
    float *x_r, *x_w, *x_k, *x_v, *x_a, *x_g;  // [D]
    float *w0, *a0, *v0;                       // [D]; v0 null in layer 0
    float *k_k, *k_a, *r_k;                    // [D]
    float *ffn_x_k;                            // [D]
    Matrix receptance, key, value, output;     // [D, D]
    Matrix w1, a1, v1, g1;                     // [rank, D]; v1 empty in layer 0
    Matrix w2, a2, v2, g2;                     // [D, rank]
    Matrix ffn_key, ffn_value;                 // [F, D], [D, F]
};

struct Weights {
    Shape shape;
    Buffer vectors;
    Norm ln0, ln_out;
    Matrix emb, head;  // [V, D]
    std::vector<Layer> layers;
};

// Whether the names are those of version 7.
bool recognise(const TensorTable &table);
Shape measure(const TensorTable &table);
// Takes its tensors from the table and packs them; `done` is called with every tensor that is through.
Weights load(Backend &backend, TensorTable &table, DType compute,
             const std::function<void(const Tensor &)> &done);
// Moves every span's state on by its rows; logits [batch.logit_rows, V] on the host.
void forward(Backend &backend, const Weights &weights, const Batch &batch, float *scratch,
             float *logits);

}  // namespace rwkv::v7
