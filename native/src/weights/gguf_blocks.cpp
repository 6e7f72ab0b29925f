// See gguf_blocks.h. q are the integers of a block, written from its bytes into an array first, so
// that what the bytes say and what the numbers mean stay apart.
#include "weights/gguf_blocks.h"

#include "weights/half.h"

#include <cstring>

namespace rwkv {

namespace {

using Bytes = const std::byte *;

uint32_t byte_at(Bytes p, int64_t i) { return static_cast<uint32_t>(p[i]); }

uint16_t word_at(Bytes p) {
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    return bits;
}

float half_at(Bytes p) { return from_f16(word_at(p)); }

// 32 numbers of 4 bits: the low halves of 16 bytes, then the high ones.
void nibbles(int *q, Bytes p) {
    for (int j = 0; j < 16; ++j) {
        q[j] = static_cast<int>(byte_at(p, j) & 15);
        q[j + 16] = static_cast<int>(byte_at(p, j) >> 4);
    }
}

// Adds bit i of a 32-bit word to number i, as its fifth bit.
void fifth_bits(int *q, Bytes p) {
    uint32_t bits;
    std::memcpy(&bits, p, 4);
    for (int j = 0; j < 32; ++j) q[j] |= static_cast<int>(bits >> j & 1) << 4;
}

// w = d (q − zero) + m
void scaled(float *out, const int *q, int n, float d, int zero, float m) {
    for (int j = 0; j < n; ++j) out[j] = d * static_cast<float>(q[j] - zero) + m;
}

void read_32(float *out, Bytes p, DType type) {
    int q[32];
    const float d = half_at(p);
    switch (type) {
    case DType::q4_0:  // d, 16 bytes of q
        nibbles(q, p + 2);
        return scaled(out, q, 32, d, 8, 0);
    case DType::q4_1:  // d, m, 16 bytes
        nibbles(q, p + 4);
        return scaled(out, q, 32, d, 0, half_at(p + 2));
    case DType::q5_0:  // d, 4 bytes of fifth bits, 16 bytes
        nibbles(q, p + 6);
        fifth_bits(q, p + 2);
        return scaled(out, q, 32, d, 16, 0);
    case DType::q5_1:  // d, m, 4 bytes of fifth bits, 16 bytes
        nibbles(q, p + 8);
        fifth_bits(q, p + 4);
        return scaled(out, q, 32, d, 0, half_at(p + 2));
    default:  // q8_0: d, 32 signed bytes
        for (int j = 0; j < 32; ++j) q[j] = static_cast<int8_t>(byte_at(p, 2 + j));
        return scaled(out, q, 32, d, 0, 0);
    }
}

// The scale and the minimum, 6 bits each, of part j of 8: 12 bytes hold the low bits of parts 0 to
// 3, then of parts 4 to 7, whose high bits fill up the bytes of the first.
void scale_and_minimum(int &scale, int &minimum, Bytes p, int j) {
    const auto at = [p](int i) { return static_cast<int>(byte_at(p, i)); };
    if (j < 4) {
        scale = at(j) & 63;
        minimum = at(j + 4) & 63;
    } else {
        scale = (at(j + 4) & 15) | at(j - 4) >> 6 << 4;
        minimum = at(j + 4) >> 4 | at(j) >> 6 << 4;
    }
}

// d, dmin, 12 bytes of scales and minima; Q5_K: 32 bytes of fifth bits; 128 bytes of 4 bits. The
// bytes 32 i to 32 i + 31 hold parts 2 i and 2 i + 1 of 32 elements.
void read_k45(float *out, Bytes p, bool five) {
    const float d = half_at(p), least = half_at(p + 2);
    const Bytes low = p + (five ? 48 : 16);
    for (int part = 0; part < 8; ++part) {
        int scale, minimum;
        scale_and_minimum(scale, minimum, p + 4, part);
        const float step = d * static_cast<float>(scale), m = least * static_cast<float>(minimum);
        for (int l = 0; l < 32; ++l) {
            const uint32_t both = byte_at(low, part / 2 * 32 + l);
            uint32_t q = part % 2 ? both >> 4 : both & 15;
            if (five) q |= (byte_at(p + 16, l) >> part & 1) << 4;
            out[part * 32 + l] = step * static_cast<float>(q) - m;
        }
    }
}

// 128 bytes of 4 bits, 64 of 2 more, 16 signed scales of 16 elements each, d; halves of 128
// elements.
void read_k6(float *out, Bytes p) {
    const float d = half_at(p + 208);
    for (int half = 0; half < 2; ++half) {
        const Bytes low = p + 64 * half, high = p + 128 + 32 * half, scales = p + 192 + 8 * half;
        for (int i = 0; i < 128; ++i) {
            const int part = i / 32, l = i % 32;
            const uint32_t both = byte_at(low, l + 32 * (part % 2));
            const uint32_t q =
                (part < 2 ? both & 15 : both >> 4) | (byte_at(high, l) >> (2 * part) & 3) << 4;
            const float scale =
                d * static_cast<float>(static_cast<int8_t>(byte_at(scales, i / 16)));
            out[128 * half + i] = scale * static_cast<float>(static_cast<int>(q) - 32);
        }
    }
}

}  // namespace

void read_blocks(float *out, Bytes blocks, DType type, int64_t n) {
    const Unit unit = unit_of(type);
    for (int64_t i = 0; i < n; i += unit.elements, blocks += unit.bytes, out += unit.elements)
        if (type == DType::q4_k || type == DType::q5_k)
            read_k45(out, blocks, type == DType::q5_k);
        else if (type == DType::q6_k)
            read_k6(out, blocks);
        else
            read_32(out, blocks, type);
}

bool finite_blocks(Bytes blocks, DType type, int64_t n) {
    const Unit unit = unit_of(type);
    const auto finite = [](Bytes p) { return (word_at(p) & 0x7c00) != 0x7c00; };
    const int64_t d = type == DType::q6_k ? 208 : 0;
    const bool two = !symmetric(type) && type != DType::q6_k;
    bool all = true;
    for (int64_t i = 0; i < n; i += unit.elements, blocks += unit.bytes)
        all &= finite(blocks + d) && (!two || finite(blocks + 2));
    return all;
}

uint16_t scale_of(Bytes block) { return word_at(block); }

}  // namespace rwkv
