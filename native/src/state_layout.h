// Where the named arrays of one sequence's state lie, and how they are kept. Filled in by the
// architectures; read by model.cpp and, through it, by the API.
#pragma once

#include "weights/tensor.h"

#include <cstdint>
#include <string>
#include <vector>

namespace rwkv {

// Floats of memory that n numbers take: two of fp16 or bf16 share one.
constexpr int64_t floats_for(DType kept, int64_t n) { return kept == DType::f32 ? n : (n + 1) / 2; }
// n numbers from fp32 to how they are kept, to the nearest, and back. Host memory.
void narrow(float *to, const float *from, int64_t n, DType kept);
void widen(float *to, const float *from, int64_t n, DType kept);

// One named array, [L, ...]; `offset` counts floats of memory from the start of the state.
struct StatePart {
    std::string name;
    std::vector<int64_t> shape;
    int64_t offset = 0, count = 0;
    float initial = 0;
    DType kept = DType::f32;  // or f16 or bf16

    int64_t layer_count() const { return count / shape[0]; }
    // Offset of layer i.
    int64_t at(int64_t layer) const { return offset + layer * floats_for(kept, layer_count()); }
};

struct StateLayout {
    DType matrices = DType::f32;  // how the S of versions 5 to 7 are to be kept
    std::vector<StatePart> parts{};
    int64_t size = 0;

    // Appends a part and returns its number.
    size_t add(const std::string &name, std::vector<int64_t> shape, float initial = 0,
               DType kept = DType::f32) {
        int64_t count = 1;
        for (int64_t n : shape) count *= n;
        parts.push_back({name, std::move(shape), size, count, initial, kept});
        size = parts.back().at(parts.back().shape[0]);
        return parts.size() - 1;
    }
};

}  // namespace rwkv
