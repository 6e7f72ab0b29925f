// RWKV-6 (x060): its weights and its forward. Called by model.cpp alone.
#pragma once

#include "arch/channel_mix.h"
#include "arch/dimensions.h"
#include "arch/weight_reader.h"
#include "backend.h"
#include "state_layout.h"

#include <array>
#include <vector>

namespace rwkv::v6 {

// The five data-dependent mixes, in the order of the file.
enum Mix { mix_w, mix_k, mix_v, mix_r, mix_g, mixes };

struct Layer {
    Norm ln1, ln_x;
    float *maa_x;                                 // [D]
    std::array<float *, mixes> maa;               // [D]
    std::array<Matrix, mixes> maa_w1, maa_w2;     // [R, D], [D, R]
    Matrix decay_w1, decay_w2;                    // [Q, D], [A, Q]
    float *decay, *bonus;                         // [A]: time_decay, time_faaaa
    Matrix key, value, receptance, gate, output;  // [A, D], [D, A]
    ChannelMix ffn;
};

struct Weights {
    Dimensions size;
    int64_t mix_rank = 0, decay_rank = 0;  // R Q
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

}  // namespace rwkv::v6
