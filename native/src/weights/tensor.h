// A checked, read-only view of one checkpoint tensor. Made by load.cpp from the index and the
// mapped file; read by the architectures and by Backend::matrix.
#pragma once

#include "weights/change.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace rwkv {

// i8 and i4 are the block formats of quant.h: of matrices in memory and in packed files. q4_0 and
// the others are those of GGUF files (gguf_blocks.h): of tensors in a file, and of tables that are
// only looked up.
enum class DType : int32_t {
    f32 = 0,
    f16 = 1,
    bf16 = 2,
    f64 = 3,
    i8 = 4,
    i4 = 5,
    q4_0 = 16,
    q4_1 = 17,
    q5_0 = 18,
    q5_1 = 19,
    q8_0 = 20,
    q4_k = 21,
    q5_k = 22,
    q6_k = 23,
};

constexpr bool in_blocks(DType t) { return t >= DType::q4_0; }
constexpr bool is_quantised(DType t) { return t == DType::i8 || t == DType::i4; }
constexpr size_t size_of(DType t) { return t == DType::f64 ? 8 : t == DType::f32 ? 4 : 2; }

// The least that stands by itself: an element, or a block of neighbours in a row.
struct Unit {
    int64_t elements, bytes;
};
constexpr Unit unit_of(DType t) {
    switch (t) {
    case DType::q4_0: return {32, 18};
    case DType::q4_1: return {32, 20};
    case DType::q5_0: return {32, 22};
    case DType::q5_1: return {32, 24};
    case DType::q8_0: return {32, 34};
    case DType::q4_k: return {256, 144};
    case DType::q5_k: return {256, 176};
    case DType::q6_k: return {256, 210};
    default: return {1, static_cast<int64_t>(size_of(t))};
    }
}
// Of `elements`, a multiple of the unit's; also the place of element number `elements`.
constexpr int64_t bytes_of(DType t, int64_t elements) {
    return elements / unit_of(t).elements * unit_of(t).bytes;
}
const char *name_of(DType t);  // "fp32" ...

// In what a layer computes and how its matrices are kept.
struct Precision {
    DType compute;  // to which the inputs of products are rounded, and of what is not quantised
    DType stored;   // of the large matrices: compute, i8, or i4, where a tensor that it would harm
                    // gets i8
    bool own = false;  // one that the file holds quantised keeps its own format instead

    Precision(DType both = DType::f32) : compute(both), stored(both) {}
    Precision(DType computed, DType kept) : compute(computed), stored(kept) {}
    bool operator==(const Precision &) const = default;
};

// Where input k of output o lies in panels of plain numbers (quant.h), in elements.
constexpr int64_t place_in_panels(DType t, int64_t in, int64_t o, int64_t k) {
    const int64_t panel = o / 16 * 16 * ((in + 1) / 2 * 2);
    return panel + (t == DType::bf16 ? (k / 2 * 16 + o % 16) * 2 + k % 2 : k * 16 + o % 16);
}

struct Tensor {
    std::string name;
    const std::byte *data = nullptr;  // element 0; may be unaligned
    DType dtype = DType::f32;
    std::vector<int64_t> shape;
    std::vector<int64_t> stride;  // in elements; of blocks: the last is 1, the others whole blocks
    float scale = 1;              // a power of two; the readers below multiply by it
    bool packed = false;          // a matrix in the panels of quant.h; i8 and i4 always are
    std::shared_ptr<const void> owner;  // of the bytes, where they may be kept; else null
    // What read_row makes of every row, one after the other; null for nothing. Of plain matrices
    // only.
    std::shared_ptr<const std::vector<Change>> changes;

    int64_t count() const {
        int64_t n = 1;
        for (int64_t s : shape) n *= s;
        return n;
    }
};

// Every element as float, in C order of the shape; out holds count() floats. Exact for 16-bit
// types.
void read_floats(float *out, const Tensor &tensor);
// Row `row` of a two-dimensional tensor, packed or not, but not i8 or i4, with its changes;
// shape[1] floats.
void read_row(float *out, const Tensor &tensor, int64_t row);

}  // namespace rwkv
