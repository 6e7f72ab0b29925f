// The types of numbers in files and in memory. Plain C types only: see cpu/kernels.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

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

}  // namespace rwkv
