// A checked, read-only view of one checkpoint tensor. Made by model.cpp from the index and the mapped
// file; read by the architectures and by Backend::matrix. Never owns memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace rwkv {

// i8 and i4 are the block formats of quant.h.
enum class DType : int32_t { f32 = 0, f16 = 1, bf16 = 2, f64 = 3, i8 = 4, i4 = 5 };

constexpr size_t size_of(DType t) { return t == DType::f64 ? 8 : t == DType::f32 ? 4 : 2; }
const char *name_of(DType t);  // "fp32" ...

// In what a layer computes and how its matrices are kept.
struct Precision {
    DType compute;     // to which the inputs of products are rounded, and of what is not quantised
    DType stored;      // of the large matrices: compute, i8, or i4, where a tensor that it would harm gets i8
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
    std::vector<int64_t> stride;  // in elements
    float scale = 1;              // a power of two; the readers below multiply by it

    int64_t count() const {
        int64_t n = 1;
        for (int64_t s : shape) n *= s;
        return n;
    }
};

// Every element as float, in C order of the shape; out holds count() floats. Exact for 16-bit types.
void read_floats(float *out, const Tensor &tensor);
// Row `row` of a two-dimensional tensor, shape[1] floats.
void read_row(float *out, const Tensor &tensor, int64_t row);

}  // namespace rwkv
