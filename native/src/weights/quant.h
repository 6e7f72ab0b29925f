// Packed matrices: how int8 and int4 weights are rounded, how those and plain numbers are laid out,
// and the scalar oracle of all. Used by cpu/pack_blocks.cpp (which calls it with all threads), by
// what writes and checks packed files, and by tests.
//
// int8 and int4 are symmetric, in groups of inputs of one output that share an fp16 scale d:
//   int8   groups of 64, w = d q, q in [−127, 127]    8.25 bits per weight
//   int4   groups of 32, w = d q, q in [−8, 7]        4.5 bits per weight; d may be negative
// int8 has precision to spare, and half as many scales to apply make its products 1.15 times as
// fast. The last group of an output is filled up with q = 0.
//
// Panels of 16 outputs, as all matrices of the CPU (cpu/kernels.h), G groups:
//   scales   [G][16] fp16, then zeros up to a multiple of 64 bytes
//   int8     [G][16][16][4] bytes: q + 128 of input 4 s + j, step s, byte j, so that one dot-product
//            instruction of unsigned by signed bytes takes 16 outputs by 4 inputs
//   int4     [G][4][16][4] bytes: q + 8 of input 8 s + j in the low half, of 8 s + 4 + j in the high half
// or, of plain numbers,
//   fp32, fp16   [in][16]
//   bf16         [in / 2][16][2]
// with `in` padded to an even number. Outputs are padded to whole panels with zeros (d = 0, q = 0).
// The layout is the same for every instruction set, so a file may hold it.
//
// A row x that enters a product is quantised as well: per group of the matrix s = max |x| / 127 and
// p = round(x · (127 / max |x|)), each step in fp32 and ties to even (s = p = 0 if all |x| <
// 2^−120, whose reciprocals have no room there), and
//   y = Σ_g fp32(Σ_k q p) · (d s)      in fp32, groups in order, the inner sum exact in int32.
#pragma once

#include "weights/tensor.h"

#include <cstddef>
#include <cstdint>

namespace rwkv::quant {

constexpr int64_t kOutputs = 16;  // of a panel

// Inputs that share a scale.
constexpr int64_t group(DType type) { return type == DType::i8 ? 64 : 32; }
constexpr int64_t groups(DType type, int64_t in) { return (in + group(type) - 1) / group(type); }
constexpr size_t scale_bytes(DType type, int64_t in) {
    return (static_cast<size_t>(groups(type, in)) * kOutputs * 2 + 63) / 64 * 64;
}
// Bytes of a panel, a multiple of 64; type i8, i4, f32, f16 or bf16.
constexpr size_t panel_bytes(DType type, int64_t in) {
    if (!is_quantised(type))
        return static_cast<size_t>((in + 1) / 2 * 2 * kOutputs) * size_of(type);
    const auto weights = static_cast<size_t>(groups(type, in) * group(type)) * kOutputs;
    return scale_bytes(type, in) + (type == DType::i8 ? weights : weights / 2);
}

// What rounding changed: Σ (w − d q)² and Σ w².
struct Loss {
    double error = 0, norm = 0;
};

// Rounds a panel's weights [groups · group][16], zeros where there is no input or output, to
// `type`. With scales [groups][16] given, q = round(w / d). Without, int8 takes the least d of fp16
// that reaches the group's largest |w|, int4 the one of those tried, of both signs, that leaves the
// least squared error. Weights beyond 127 · 65504 (8 · 65504) are cut off there.
Loss pack_panel(std::byte *panel, const float *weights, DType type, int64_t in,
                const uint16_t *scales = nullptr);

// The panels, of any of the five types, of `rows` rows [rows][in], the last filled up with zeros.
Loss pack(std::byte *panels, const float *weights, DType type, int64_t rows, int64_t in);

// Output o, 0 to 15, of a panel as `in` floats, exactly.
void unpack(float *weights, const std::byte *panel, DType type, int64_t in, int64_t o);

// A row as the products of a matrix of that type see it: p [groups · group], s [groups].
void quantise_row(int8_t *p, float *s, const float *x, DType type, int64_t in);
// y of output o for such a row, in double but for the integers: what kernels are held against.
double product(const std::byte *panel, DType type, int64_t in, int64_t o, const int8_t *p,
               const float *s);

}  // namespace rwkv::quant
