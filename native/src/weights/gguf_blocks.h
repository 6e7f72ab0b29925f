// The block formats of quantised GGUF files, read as fp32: what their bytes mean, nothing about the
// file around them. Used by tensor.cpp, and by what checks or packs such tensors; never writes one.
//
// A block holds 32 or 256 neighbours of a row, with fp16 scales d (and m or dmin, which is added or
// subtracted) for all of them; the K formats have 6- or 8-bit scales for parts of the block below
// those.
#pragma once

#include "weights/tensor.h"

#include <cstddef>
#include <cstdint>

namespace rwkv {

// out[i] for i < n, a multiple of the block's elements, from as many whole blocks.
void read_blocks(float *out, const std::byte *blocks, DType type, int64_t n);
// Whether d and m of all blocks of n elements are finite; then all elements are.
bool finite_blocks(const std::byte *blocks, DType type, int64_t n);

// 32 elements w = d q of one scale.
constexpr bool symmetric(DType t) {
    return t == DType::q4_0 || t == DType::q5_0 || t == DType::q8_0;
}
// The format of quant.h that loses nothing, or least.
constexpr DType kept_as(DType t) { return t == DType::q4_0 ? DType::i4 : DType::i8; }
// The bits of d of a symmetric block.
uint16_t scale_of(const std::byte *block);

}  // namespace rwkv
