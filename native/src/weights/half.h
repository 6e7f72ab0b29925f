// Scalar conversions between fp32 and the two 16-bit types: the oracle of the kernels, and what
// reads checkpoints. Used by tensor.cpp and cpu/; not by the kernels themselves, which must not
// share inline functions with code compiled for another instruction set.
#pragma once

#include <bit>
#include <cstdint>

namespace rwkv {

constexpr float from_bf16(uint16_t h) {
    return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

// To nearest, ties to even; NaN stays NaN.
constexpr uint16_t to_bf16(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    if ((u & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((u >> 16) | 0x40);
    return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

constexpr float from_f16(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
    const uint32_t magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00)  // infinity, NaN: keep the payload
        return std::bit_cast<float>(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude < 0x0400) {  // zero and subnormal: a multiple of 2^-24
        const float f = static_cast<float>(magnitude) * 0x1p-24f;
        return std::bit_cast<float>(std::bit_cast<uint32_t>(f) | sign);
    }
    return std::bit_cast<float>(sign | ((magnitude << 13) + ((127 - 15) << 23)));
}

// To nearest, ties to even, saturating at ±65504; NaN stays NaN.
constexpr uint16_t to_f16(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000);
    const uint32_t magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    const float a = std::bit_cast<float>(magnitude);
    if (a >= 65504.0f) return sign | 0x7bff;
    if (a < 0x1p-14f) {
        // 0.75 lies where one unit in the last place is 2^-24, the spacing of subnormal halves.
        const float rounded = (a + 0.75f) - 0.75f;
        return sign | static_cast<uint16_t>(rounded * 0x1p24f);
    }
    const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return sign | static_cast<uint16_t>((rounded >> 13) - ((127 - 15) << 10));
}

}  // namespace rwkv
