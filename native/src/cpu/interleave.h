// Rows of a checkpoint on their way into memory: searched for NaNs and infinities while they lie in
// the cache, and interleaved, 16 of them to a panel of kernels.h. Called by pack.cpp and
// pack_blocks.cpp.
#pragma once

#include "weights/tensor.h"

#include <cstddef>
#include <cstdint>

namespace rwkv::cpu {

// Writes the panel of kPanel rows of `in` elements each; stored is f32, f16 or bf16, and the rows
// may lie anywhere. False if an element is a NaN or an infinity; the panel is then of no use.
bool interleave(std::byte *panel, const std::byte *const *rows, int64_t in, DType stored);

// Whether none of `count` elements of that type is a NaN or an infinity.
bool all_finite(const std::byte *data, int64_t count, DType stored);

// Throws Error with the tensor's name, unless `finite`.
void require_finite(bool finite, const Tensor &tensor);
// Row `row` as floats. Throws so if one of them is no number, or beyond the largest of the file's
// type, where a scale may have taken it.
void read_finite(float *out, const Tensor &tensor, int64_t row);

}  // namespace rwkv::cpu
