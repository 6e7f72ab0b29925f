// Lays matrices out in the block formats of quant.h. Called by pack.cpp while a model is loaded.
#pragma once

#include "backend.h"
#include "cpu/arena.h"
#include "cpu/pool.h"

#include <functional>

namespace rwkv::cpu {

// stored i8 or i4; `tensor` is [out, in]. int4 that would change the weights by more than kMostLoss of
// their root mean square becomes int8.
constexpr double kMostLoss = 0.13;
Matrix pack_blocks(const Tensor &tensor, Precision precision, Arena &arena, Pool &pool,
                   const std::function<void()> &alive);

}  // namespace rwkv::cpu
