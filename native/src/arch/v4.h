// RWKV-4 (Pile, Raven, Novel, World, music): its weights and its forward. Called by model.cpp
// alone.
#pragma once

#include "arch/channel_mix.h"
#include "arch/dimensions.h"
#include "arch/weight_reader.h"
#include "backend.h"
#include "state_layout.h"

#include <vector>

namespace rwkv::v4 {

struct Layer {
    Norm ln1;
    float *x_k, *x_v, *x_r;                 // [D]
    float *decay, *first;                   // [A]: −exp(time_decay), time_first
    Matrix key, value, receptance, output;  // [A, D], [D, A]
    ChannelMix ffn;
};

struct Weights {
    Dimensions size;
    StatePart att_x, ffn_x, aa, bb, pp;
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

}  // namespace rwkv::v4
