// A checked, read-only view of one checkpoint tensor. Made by load.cpp from the index and the
// mapped file; read by the architectures and by Backend::matrix.
#pragma once

#include "weights/change.h"
#include "weights/dtype.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace rwkv {

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
