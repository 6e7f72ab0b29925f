// RWKV-5.0, 5.1 and 5.2: their weights and their forward. Called by model.cpp alone.
#pragma once

#include "arch/channel_mix.h"
#include "arch/dimensions.h"
#include "arch/weight_reader.h"
#include "backend.h"
#include "state_layout.h"

#include <vector>

namespace rwkv::v5 {

struct Layer {
    Norm ln1, ln_x;
    float *x_k, *x_v, *x_r, *x_g;                 // [D]; x_g null in 5.0
    float *decay, *bonus;                         // [A]: W and U
    Matrix key, value, receptance, gate, output;  // [A, D], [D, A]; gate empty in 5.0
    ChannelMix ffn;
};

struct Weights {
    Dimensions size;
    const char *version = "5.0";
    StatePart att_x, ffn_x, wkv;
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

}  // namespace rwkv::v5
