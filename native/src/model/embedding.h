// From a text's state to the vector by which texts are compared: which layer's memory, and how it
// becomes numbers of length 1. docs/embeddings.md has the measurements behind it. Called by
// engine.cpp; knows neither tokens nor requests.
#pragma once

#include "model/model.h"

#include <cstdint>
#include <vector>

namespace rwkv {

// The layer whose memory is taken, counted from 0: only it and those below it need to run. The
// lower of the middle ones, or the first one if it is to be quick.
int64_t embedding_layer(const Model &model, bool quick);

// m = the memory of that layer: S (versions 5 to 7), every head scaled to length 1, or aa / bb
// (version 4) e_j = Σ over i with h(i) = j of ±m_i, by a fixed hash, or m itself followed by zeros
// where it fits
// returned: e / |e|, [dimensions]. Throws Error if the state is no number or all zero.
std::vector<float> embedding(const Model &model, const float *state, bool quick,
                             int32_t dimensions);

}  // namespace rwkv
