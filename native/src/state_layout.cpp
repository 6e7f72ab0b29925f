#include "state_layout.h"

#include "weights/half.h"

#include <algorithm>
#include <cstring>

namespace rwkv {

void narrow(float *to, const float *from, int64_t n, DType kept) {
    if (kept == DType::f32) {
        std::copy_n(from, n, to);
        return;
    }
    auto *bytes = reinterpret_cast<std::byte *>(to);
    for (int64_t i = 0; i < n; ++i) {
        const uint16_t half = kept == DType::f16 ? to_f16(from[i]) : to_bf16(from[i]);
        std::memcpy(bytes + 2 * i, &half, sizeof half);
    }
}

void widen(float *to, const float *from, int64_t n, DType kept) {
    if (kept == DType::f32) {
        std::copy_n(from, n, to);
        return;
    }
    const auto *bytes = reinterpret_cast<const std::byte *>(from);
    for (int64_t i = 0; i < n; ++i) {
        uint16_t half;
        std::memcpy(&half, bytes + 2 * i, sizeof half);
        to[i] = kept == DType::f16 ? from_f16(half) : from_bf16(half);
    }
}

}  // namespace rwkv
