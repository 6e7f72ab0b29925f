// Where the weights of a packed matrix lie: the one place that says so, for what packs them, what
// checks files of them and the kernels. Plain C types only: see cpu/kernels.h.
//
// Panels of 16 outputs. A panel holds its inputs in order, 16 outputs each, so that a vector
// register is filled with outputs and every sum runs over the inputs from first to last in one
// accumulator: whatever the blocking over rows, panels or threads, the bits are the same. Plain
// numbers:
//   fp32, fp16   [in][16]
//   bf16         [in / 2][16][2], so that one word widens with one shift and one mask
// int8 and int4 (quant.h), in G groups:
//   scales   [G][16] fp16, then zeros up to a multiple of 64 bytes
//   int8     [G][16][16][4] bytes: q + 128 of input 4 s + j, step s, byte j, so that one dot-product
//            instruction of unsigned by signed bytes takes 16 outputs by 4 inputs
//   int4     [G][4][16][4] bytes: q + 8 of input 8 s + j in the low half, of 8 s + 4 + j in the high half
// `in` is padded to an even number or whole groups, outputs to whole panels, with zeros (d = 0, q =
// 0). The layout is the same for every instruction set, so a file may hold it.
#pragma once

#include "weights/dtype.h"

namespace rwkv::panels {

constexpr int64_t kOutputs = 16;  // of a panel

// Inputs that share a scale in int8 and int4.
constexpr int64_t group(DType type) { return type == DType::i8 ? 64 : 32; }
constexpr int64_t groups(DType type, int64_t in) { return (in + group(type) - 1) / group(type); }
// The scales that open a panel.
constexpr size_t scale_bytes(DType type, int64_t in) {
    return (static_cast<size_t>(groups(type, in)) * kOutputs * 2 + 63) / 64 * 64;
}
// Bytes of a panel, a multiple of 64; type i8, i4, f32, f16 or bf16.
constexpr size_t bytes(DType type, int64_t in) {
    if (!is_quantised(type))
        return static_cast<size_t>((in + 1) / 2 * 2 * kOutputs) * size_of(type);
    const size_t weights = static_cast<size_t>(groups(type, in) * group(type) * kOutputs);
    return scale_bytes(type, in) + (type == DType::i8 ? weights : weights / 2);
}
// Where input k of output o lies in panels of plain numbers, in elements.
constexpr int64_t place(DType type, int64_t in, int64_t o, int64_t k) {
    const int64_t panel = o / kOutputs * kOutputs * ((in + 1) / 2 * 2);
    const int64_t lane = o % kOutputs;
    return panel +
           (type == DType::bf16 ? (k / 2 * kOutputs + lane) * 2 + k % 2 : k * kOutputs + lane);
}

}  // namespace rwkv::panels
