// Lays matrices out for the kernels: panels of 16 outputs (kernels.h), converted to the type in
// which they are stored. Called by CpuBackend while a model is loaded.
#pragma once

#include "backend.h"
#include "cpu/arena.h"
#include "cpu/kernels.h"
#include "cpu/pool.h"

#include <functional>

namespace rwkv::cpu {

// Both throw Error with the tensor's name if a weight is a NaN or an infinity. `alive` is called by
// all threads every few microseconds; what it throws ends the packing.
//
// stored f32 keeps 16-bit files as they are (exact in fp32) and narrows f64; bf16 and f16 round to
// that type, f16 saturating; i8 and i4 are the block formats of quant.h. transposed: the tensor is
// [in, out]. A packed tensor of the type that is wanted is used where it lies, unread; plain
// numbers of another are converted.
Matrix pack(const Tensor &weights, Precision precision, bool transposed, Arena &arena, Pool &pool,
            const std::function<void()> &alive);
// Rows for look-up, [rows][columns] without padding, in the file's type (f64 as f32), its blocks
// included; where the tensor's bytes have an owner and lie so already, those.
Matrix pack_table(const Tensor &rows, Arena &arena, Pool &pool, const std::function<void()> &alive);

// What the kernels are given.
Panels panels_of(const Matrix &matrix);

}  // namespace rwkv::cpu
