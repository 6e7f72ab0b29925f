// RWKV-7 (x070) and its variants 7a (DeepEmbed), 7b (DeepEmbed and DEA) and 8-rc00: their weights
// and their one forward. Called by model.cpp alone.
#pragma once

#include "arch/dea.h"
#include "arch/deep_embed.h"
#include "arch/dimensions.h"
#include "arch/weight_reader.h"
#include "backend.h"
#include "state_layout.h"

#include <optional>
#include <vector>

namespace rwkv::v7 {

struct Layer {
    Norm ln1, ln2, ln_x;
    float *x_r, *x_w, *x_k, *x_v, *x_a, *x_g;  // [D]
    float *w0, *a0, *v0;                       // [D]; v0 null in layer 0
    float *k_k, *k_a, *r_k;                    // [D]
    float *ffn_x_k;                            // [D]
    Matrix receptance, key, value, output;     // [D, D]
    Matrix w1, a1, v1, g1;                     // [rank, D]; v1 empty in layer 0
    Matrix w2, a2, v2, g2;                     // [D, rank]
    Matrix ffn_key, ffn_value;                 // [F, D], [D, F]
    std::optional<DeepEmbed> deep_embed;       // 7a and 7b
    std::optional<Dea> dea;                    // 7b
    Matrix enn;                                // [V, D], 8-rc00: gates the channel mixing by token
};

struct Weights {
    Dimensions size;
    int64_t rank_w = 0, rank_a = 0, rank_v = 0, rank_g = 0;  // the largest over all layers
    const char *version = "7";
    StatePart att_x, ffn_x, wkv, q_x, k_x, v_x;  // the last three in 7b
    Norm ln0, ln_out;
    Matrix emb, head;  // [V, D]
    std::vector<Layer> layers;
    std::vector<Buffer> vectors;
};

bool recognise(const TensorTable &table);
Weights load(WeightReader &reader, StateLayout &state);
int64_t scratch_size(const Weights &weights, int64_t rows);  // floats
// Of these the first are what a stage hands to the next one.
int64_t carried(const Weights &weights, int64_t rows);
void forward(Backend &backend, const Weights &weights, LayerRange layers, const Batch &batch,
             float *scratch, float *logits);

}  // namespace rwkv::v7
