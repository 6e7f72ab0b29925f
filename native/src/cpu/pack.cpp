// See pack.h.
#include "cpu/pack.h"

#include "cpu/pack_blocks.h"
#include "error.h"
#include "half.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace rwkv::cpu {

namespace {

static_assert(static_cast<int>(DType::f32) == kF32 && static_cast<int>(DType::f16) == kF16 &&
              static_cast<int>(DType::bf16) == kBf16);

void require_matrix(const Tensor &tensor) {
    if (tensor.shape.size() != 2 || tensor.shape[0] < 1 || tensor.shape[1] < 1)
        throw invalid(tensor.name + ": a matrix must have two dimensions, both at least 1");
}

// Row `row` as words of the stored type; same-type 16-bit words are copied, not converted.
void read_words(float *out, std::vector<float> &, const Tensor &tensor, int64_t row, DType) {
    read_row(out, tensor, row);
}
void read_words(uint16_t *out, std::vector<float> &wide, const Tensor &tensor, int64_t row,
                DType stored) {
    const int64_t n = tensor.shape[1];
    if (tensor.dtype == stored && tensor.scale == 1) {
        const std::byte *data = tensor.data + row * tensor.stride[0] * 2;
        if (tensor.stride[1] == 1) {
            std::memcpy(out, data, static_cast<size_t>(n) * 2);
        } else {
            const int64_t step = tensor.stride[1] * 2;
            for (int64_t i = 0; i < n; ++i) std::memcpy(out + i, data + i * step, 2);
        }
        return;
    }
    wide.resize(static_cast<size_t>(n));
    read_row(wide.data(), tensor, row);
    if (stored == DType::bf16)
        for (int64_t i = 0; i < n; ++i) out[i] = to_bf16(wide[static_cast<size_t>(i)]);
    else
        for (int64_t i = 0; i < n; ++i) out[i] = to_f16(wide[static_cast<size_t>(i)]);
}

// Panels [first, last) of the packed matrix. Word is float or the bits of a 16-bit type.
template <class Word>
void pack_panels(Word *packed, const Tensor &tensor, DType stored, int64_t first, int64_t last) {
    const int64_t out = tensor.shape[0], in = tensor.shape[1], even = (in + 1) / 2 * 2;
    // One cache line more than needed: rows a multiple of 4 KiB apart would share a cache set.
    const int64_t length = even + 64 / static_cast<int64_t>(sizeof(Word));
    std::vector<Word> lines(static_cast<size_t>(kPanel * length));
    std::vector<float> wide;
    for (int64_t panel = first; panel < last; ++panel) {
        std::fill(lines.begin(), lines.end(), Word{});
        for (int64_t o = 0; o < kPanel && panel * kPanel + o < out; ++o)
            read_words(lines.data() + o * length, wide, tensor, panel * kPanel + o, stored);
        Word *to = packed + panel * kPanel * even;
        const Word *from = lines.data();
        if (stored == DType::bf16) {
            for (int64_t k = 0; k < even; k += 2)
                for (int64_t o = 0; o < kPanel; ++o) {
                    to[k * kPanel + 2 * o] = from[o * length + k];
                    to[k * kPanel + 2 * o + 1] = from[o * length + k + 1];
                }
        } else {
            for (int64_t k = 0; k < even; ++k)
                for (int64_t o = 0; o < kPanel; ++o) to[k * kPanel + o] = from[o * length + k];
        }
    }
}

}  // namespace

Matrix pack(const Tensor &weights, Precision precision, bool transposed, Arena &arena, Pool &pool) {
    require_matrix(weights);
    if (precision.compute == DType::f64)
        throw unsupported(weights.name + ": products are not computed in fp64");
    Tensor tensor = weights;
    if (transposed) {
        std::swap(tensor.shape[0], tensor.shape[1]);
        std::swap(tensor.stride[0], tensor.stride[1]);
    }
    if (precision.stored == DType::i8 || precision.stored == DType::i4)
        return pack_blocks(tensor, precision, arena, pool);
    Matrix matrix;
    matrix.out = tensor.shape[0];
    matrix.in = tensor.shape[1];
    matrix.compute = precision.compute;
    matrix.stored = precision.compute != DType::f32 ? precision.compute
                    : tensor.dtype == DType::f64   ? DType::f32
                                                   : tensor.dtype;
    const int64_t panels = (matrix.out + kPanel - 1) / kPanel;
    const size_t words = static_cast<size_t>(panels * kPanel) *
                         static_cast<size_t>((matrix.in + 1) / 2 * 2);
    matrix.bytes = words * size_of(matrix.stored);
    Arena::Piece piece = arena.take(matrix.bytes);
    matrix.data = piece.data;
    matrix.owner = std::move(piece.owner);

    const int64_t tasks = std::min<int64_t>(panels, 8 * pool.threads());
    pool.run(tasks, [&](int64_t task, int) {
        const int64_t first = panels * task / tasks, last = panels * (task + 1) / tasks;
        if (matrix.stored == DType::f32)
            pack_panels(static_cast<float *>(matrix.data), tensor, matrix.stored, first, last);
        else
            pack_panels(static_cast<uint16_t *>(matrix.data), tensor, matrix.stored, first, last);
    });
    return matrix;
}

Matrix pack_table(const Tensor &rows, Arena &arena, Pool &pool) {
    require_matrix(rows);
    Matrix matrix;
    matrix.out = rows.shape[0];
    matrix.in = rows.shape[1];
    matrix.stored = rows.dtype == DType::f64 ? DType::f32 : rows.dtype;
    matrix.bytes = static_cast<size_t>(matrix.out) * static_cast<size_t>(matrix.in) *
                   size_of(matrix.stored);
    Arena::Piece piece = arena.take(matrix.bytes);
    matrix.data = piece.data;
    matrix.owner = std::move(piece.owner);
    const int64_t tasks = std::min<int64_t>(matrix.out, 8 * pool.threads());
    pool.run(tasks, [&](int64_t task, int) {
        std::vector<float> unused;
        const int64_t first = matrix.out * task / tasks, last = matrix.out * (task + 1) / tasks;
        for (int64_t row = first; row < last; ++row) {
            const int64_t at = row * matrix.in;
            if (matrix.stored == DType::f32)
                read_row(static_cast<float *>(matrix.data) + at, rows, row);
            else
                read_words(static_cast<uint16_t *>(matrix.data) + at, unused, rows, row,
                           matrix.stored);
        }
    });
    return matrix;
}

Panels panels_of(const Matrix &matrix) {
    return {static_cast<const char *>(matrix.data), matrix.out, matrix.in,
            static_cast<Type>(matrix.stored), static_cast<Type>(matrix.compute)};
}

}  // namespace rwkv::cpu
