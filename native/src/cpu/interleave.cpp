// See interleave.h. Vectors of 16 bytes, which every machine has: the work is bound by memory.
#include "cpu/interleave.h"

#include "cpu/kernels.h"
#include "error.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace rwkv::cpu {

namespace {

constexpr int kVector = 16;
// What is taken of a row at a time: a line of the cache, so that 16 rows whose distance is a power
// of two, and which share a set of it, are read only once.
constexpr int kLine = 64;
// How far ahead a row is fetched: the machine follows fewer streams than 16 by itself.
constexpr int kAhead = 4 * kLine;

typedef uint32_t Words __attribute__((vector_size(kVector)));
typedef uint16_t Halves __attribute__((vector_size(kVector)));

template <class Vector>
Vector load(const std::byte *from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

Words low(Words a, Words b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
Words high(Words a, Words b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
Halves low(Halves a, Halves b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
Halves high(Halves a, Halves b) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

// Every round interleaves the upper half of the rows with the lower; after log2(N) rounds rows are
// columns.
template <class Vector, int N>
void transpose(Vector (&rows)[N]) {
    for (int round = 1; round < N; round *= 2) {
        Vector next[N];
        for (int i = 0; i < N / 2; ++i) {
            next[2 * i] = low(rows[i], rows[i + N / 2]);
            next[2 * i + 1] = high(rows[i], rows[i + N / 2]);
        }
        for (int i = 0; i < N; ++i) rows[i] = next[i];
    }
}

// Collects whether any element has an exponent of all ones.
template <class Vector, uint32_t mask>
struct Search {
    Vector found{};

    template <class Any>
    void look(Any v) {
        const Vector exponents = reinterpret_cast<Vector>(v) & mask;
        found |= reinterpret_cast<Vector>(exponents == mask);
    }
    bool clean() const {
        uint64_t halves[2];
        std::memcpy(halves, &found, sizeof found);
        return (halves[0] | halves[1]) == 0;
    }
};

using SearchF32 = Search<Words, 0x7f800000>;
using SearchF16 = Search<Halves, 0x7c00>;
using SearchBf16 = Search<Halves, 0x7f80>;

// A line of each row, at `at`, to kLine / sizeof(lane) lines of the panel.
template <class Vector, class Search>
void interleave_line(std::byte *to, const std::byte *const *rows, int64_t at, Search &search) {
    constexpr int N = sizeof(Vector) / sizeof(Vector{}[0]);
    constexpr int lane = kVector / N;
    for (int o = 0; o < kPanel; o += N)
        for (int part = 0; part < kLine; part += kVector) {
            Vector block[N];
            for (int i = 0; i < N; ++i) {
                block[i] = load<Vector>(rows[o + i] + at + part);
                search.look(block[i]);
            }
            transpose(block);
            for (int i = 0; i < N; ++i)
                std::memcpy(to + (part / lane + i) * kPanel * lane + o * lane, &block[i], kVector);
        }
}

// Rows of `bytes` bytes; the panel holds `padded` bytes of each.
template <class Vector, class Search>
bool interleave_rows(std::byte *panel, const std::byte *const *rows, int64_t bytes,
                     int64_t padded) {
    Search search;
    int64_t at = 0;
    for (; at + kLine <= bytes; at += kLine) {
        for (int o = 0; o < kPanel; ++o) __builtin_prefetch(rows[o] + at + kAhead);
        interleave_line<Vector>(panel + at * kPanel, rows, at, search);
    }
    if (at < padded) {
        std::byte rest[kPanel][kLine] = {}, end[kPanel * kLine];
        const std::byte *lines[kPanel];
        for (int o = 0; o < kPanel; ++o) {
            std::memcpy(rest[o], rows[o] + at, static_cast<size_t>(bytes - at));
            lines[o] = rest[o];
        }
        interleave_line<Vector>(end, lines, 0, search);
        std::memcpy(panel + at * kPanel, end, static_cast<size_t>((padded - at) * kPanel));
    }
    return search.clean();
}

template <class Search>
bool finite(const std::byte *data, int64_t bytes) {
    Search search, other;  // two, so that neither waits for itself
    int64_t at = 0;
    for (; at + 2 * kVector <= bytes; at += 2 * kVector) {
        search.look(load<Words>(data + at));
        other.look(load<Words>(data + at + kVector));
    }
    std::byte rest[2 * kVector] = {};
    std::memcpy(rest, data + at, static_cast<size_t>(bytes - at));
    search.look(load<Words>(rest));
    search.look(load<Words>(rest + kVector));
    return search.clean() && other.clean();
}

}  // namespace

bool interleave(std::byte *panel, const std::byte *const *rows, int64_t in, DType stored) {
    const int64_t even = (in + 1) / 2 * 2;
    // Two inputs of bf16 stay side by side: they move as one word.
    if (stored == DType::bf16)
        return interleave_rows<Words, SearchBf16>(panel, rows, in * 2, even * 2);
    if (stored == DType::f16)
        return interleave_rows<Halves, SearchF16>(panel, rows, in * 2, even * 2);
    return interleave_rows<Words, SearchF32>(panel, rows, in * 4, even * 4);
}

bool all_finite(const std::byte *data, int64_t count, DType stored) {
    if (stored == DType::bf16) return finite<SearchBf16>(data, count * 2);
    if (stored == DType::f16) return finite<SearchF16>(data, count * 2);
    return finite<SearchF32>(data, count * 4);
}

void require_finite(bool finite, const Tensor &tensor) {
    if (!finite) throw invalid("the tensor " + tensor.name + " holds a NaN or an infinity");
}

void read_finite(float *out, const Tensor &tensor, int64_t row) {
    const float limit = tensor.dtype == DType::f16 ? 65504.0f : std::numeric_limits<float>::max();
    read_row(out, tensor, row);
    bool finite = true;
    for (int64_t i = 0; i < tensor.shape[1]; ++i) finite &= std::fabs(out[i]) <= limit;
    require_finite(finite, tensor);
}

}  // namespace rwkv::cpu
