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
// They lie in the panels of panels.h.
//
// A row x that enters a product is quantised as well: per group of the matrix s = max |x| / 127 and
// p = round(x · (127 / max |x|)), each step in fp32 and ties to even (s = p = 0 if all |x| <
// 2^−120, whose reciprocals have no room there), and
//   y = Σ_g fp32(Σ_k q p) · (d s)      in fp32, groups in order, the inner sum exact in int32.
#pragma once

#include "weights/panels.h"
#include "weights/tensor.h"

#include <cstddef>
#include <cstdint>

namespace rwkv::quant {

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
