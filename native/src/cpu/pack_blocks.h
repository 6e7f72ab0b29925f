// Lays matrices out in the block formats of quant.h, from any type of file. Called by pack.cpp
// while a model is loaded. Both throw Error if a weight is a NaN or an infinity.
#pragma once

#include "backend.h"
#include "cpu/arena.h"
#include "cpu/pool.h"

#include <functional>

namespace rwkv::cpu {

// stored i8 or i4; `tensor` is [out, in]. int4 that would change the weights by more than kMostLoss
// of their root mean square becomes int8. Q4_0 keeps its scales in int4, so that nothing changes.
constexpr double kMostLoss = 0.13;
Matrix pack_blocks(const Tensor &tensor, Precision precision, Arena &arena, Pool &pool,
                   const std::function<void()> &alive);
// Rows for look-up that the file holds in blocks, as they are.
Matrix copy_blocks(const Tensor &rows, Arena &arena, Pool &pool,
                   const std::function<void()> &alive);

}  // namespace rwkv::cpu
