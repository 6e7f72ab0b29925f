// Reads checkpoint tensors as fp32, whatever their type, strides and alignment. Called by
// model.cpp for vectors and by the backends when they pack matrices; never owns the bytes it
// reads.
#include "weights/tensor.h"

#include "weights/gguf_blocks.h"
#include "weights/half.h"
#include "weights/panels.h"

#include <cstring>

namespace rwkv {

namespace {

template <class T>
T peek(const std::byte *data, int64_t index) {
    T value;
    std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return value;
}

// out[i] = data[i * stride], i < n; index counts elements from data.
void read_line(float *out, const std::byte *data, DType dtype, int64_t n, int64_t stride) {
    switch (dtype) {
    case DType::f32:
        if (stride == 1) {
            std::memcpy(out, data, static_cast<size_t>(n) * sizeof(float));
            return;
        }
        for (int64_t i = 0; i < n; ++i) out[i] = peek<float>(data, i * stride);
        return;
    case DType::f16:
        for (int64_t i = 0; i < n; ++i) out[i] = from_f16(peek<uint16_t>(data, i * stride));
        return;
    case DType::bf16:
        for (int64_t i = 0; i < n; ++i) out[i] = from_bf16(peek<uint16_t>(data, i * stride));
        return;
    case DType::f64:
        for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(peek<double>(data, i * stride));
        return;
    default: read_blocks(out, data, dtype, n);
    }
}

void rescale(float *values, int64_t n, float scale) {
    if (scale == 1) return;
    for (int64_t i = 0; i < n; ++i) values[i] *= scale;
}

float *read_dimension(float *out, const Tensor &tensor, size_t dimension, int64_t index) {
    const std::byte *data = tensor.data + bytes_of(tensor.dtype, index);
    if (dimension == tensor.shape.size()) {  // a scalar
        read_line(out, data, tensor.dtype, 1, 1);
        return out + 1;
    }
    const int64_t n = tensor.shape[dimension], stride = tensor.stride[dimension];
    if (dimension + 1 == tensor.shape.size()) {
        read_line(out, data, tensor.dtype, n, stride);
        return out + n;
    }
    for (int64_t i = 0; i < n; ++i)
        out = read_dimension(out, tensor, dimension + 1, index + i * stride);
    return out;
}

}  // namespace

const char *name_of(DType t) {
    switch (t) {
    case DType::f32: return "fp32";
    case DType::f16: return "fp16";
    case DType::bf16: return "bf16";
    case DType::f64: return "fp64";
    case DType::i8: return "int8";
    case DType::i4: return "int4";
    case DType::q4_0: return "Q4_0";
    case DType::q4_1: return "Q4_1";
    case DType::q5_0: return "Q5_0";
    case DType::q5_1: return "Q5_1";
    case DType::q8_0: return "Q8_0";
    case DType::q4_k: return "Q4_K";
    case DType::q5_k: return "Q5_K";
    case DType::q6_k: return "Q6_K";
    }
    return "unknown";
}

void read_floats(float *out, const Tensor &tensor) {
    if (tensor.count() > 0) read_dimension(out, tensor, 0, 0);
    rescale(out, tensor.count(), tensor.scale);
}

void read_row(float *out, const Tensor &tensor, int64_t row) {
    if (tensor.packed) {
        const int64_t in = tensor.shape[1];
        for (int64_t k = 0; k < in; ++k) {
            const int64_t place = panels::place(tensor.dtype, in, row, k);
            read_line(out + k, tensor.data + bytes_of(tensor.dtype, place), tensor.dtype, 1, 1);
        }
        return;
    }
    const std::byte *data = tensor.data + bytes_of(tensor.dtype, row * tensor.stride[0]);
    read_line(out, data, tensor.dtype, tensor.shape[1], tensor.stride[1]);
    rescale(out, tensor.shape[1], tensor.scale);
    if (tensor.changes)
        for (const Change &change : *tensor.changes) change_row(out, row, tensor.shape[1], change);
}

}  // namespace rwkv
