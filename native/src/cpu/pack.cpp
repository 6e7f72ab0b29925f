// See pack.h.
#include "cpu/pack.h"

#include "cpu/interleave.h"
#include "cpu/pack_blocks.h"
#include "error.h"
#include "weights/half.h"
#include "weights/quant.h"

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

// What one task needs beside the file: room for the rows of a panel that must be converted first.
struct Lines {
    std::vector<std::byte> bytes;
    std::vector<float> wide;
    size_t length;

    // One cache line more than needed: rows a multiple of 4 KiB apart would share a cache set.
    Lines(int64_t in, DType stored)
        : length((static_cast<size_t>(in) * size_of(stored) + 63) / 64 * 64 + 64) {}
    std::byte *at(int64_t o) {
        bytes.resize(length * kPanel);
        return bytes.data() + static_cast<size_t>(o) * length;
    }
};

// Whether the tensor's rows are in the file what they are to be in memory.
bool stored_as_is(const Tensor &tensor, DType stored) {
    return !tensor.packed && !tensor.changes && tensor.dtype == stored && tensor.scale == 1 &&
           tensor.stride[1] == 1;
}

const std::byte *start_of(const Tensor &tensor, int64_t row) {
    return tensor.data + row * tensor.stride[0] * static_cast<int64_t>(size_of(tensor.dtype));
}

// Row `row` in the stored type; same-type 16-bit words are copied, not converted, and not searched.
void read_words(std::byte *out, std::vector<float> &wide, const Tensor &tensor, int64_t row,
                DType stored) {
    if (stored == DType::f32) return read_finite(reinterpret_cast<float *>(out), tensor, row);
    const int64_t n = tensor.shape[1];
    uint16_t *const words = reinterpret_cast<uint16_t *>(out);
    if (!tensor.packed && !tensor.changes && tensor.dtype == stored && tensor.scale == 1) {
        const std::byte *data = start_of(tensor, row);
        const int64_t step = tensor.stride[1] * 2;
        for (int64_t i = 0; i < n; ++i) std::memcpy(words + i, data + i * step, 2);
        return;
    }
    wide.resize(static_cast<size_t>(n));
    read_finite(wide.data(), tensor, row);
    if (stored == DType::bf16)
        for (int64_t i = 0; i < n; ++i) words[i] = to_bf16(wide[static_cast<size_t>(i)]);
    else
        for (int64_t i = 0; i < n; ++i) words[i] = to_f16(wide[static_cast<size_t>(i)]);
}

void pack_panel(std::byte *packed, const Tensor &tensor, DType stored, int64_t panel,
                Lines &lines) {
    const int64_t out = tensor.shape[0], in = tensor.shape[1];
    const std::byte *rows[kPanel];
    for (int64_t o = 0; o < kPanel; ++o) {
        const int64_t row = panel * kPanel + o;
        if (row < out && stored_as_is(tensor, stored)) {
            rows[o] = start_of(tensor, row);
            continue;
        }
        std::byte *const line = lines.at(o);
        rows[o] = line;
        if (row < out)
            read_words(line, lines.wide, tensor, row, stored);
        else
            std::fill_n(line, static_cast<size_t>(in) * size_of(stored), std::byte{});
    }
    const int64_t bytes = (in + 1) / 2 * 2 * kPanel * static_cast<int64_t>(size_of(stored));
    require_finite(interleave(packed + panel * bytes, rows, in, stored), tensor);
}

void copy_row(std::byte *table, const Tensor &tensor, DType stored, int64_t row, Lines &lines) {
    const int64_t in = tensor.shape[1];
    const size_t bytes = static_cast<size_t>(in) * size_of(stored);
    std::byte *const to = table + static_cast<size_t>(row) * bytes;
    if (stored_as_is(tensor, stored))
        std::memcpy(to, start_of(tensor, row), bytes);
    else
        read_words(to, lines.wide, tensor, row, stored);
    require_finite(all_finite(to, in, stored), tensor);
}

std::byte *allocate(Matrix &matrix, Arena &arena) {
    Arena::Piece piece = arena.take(matrix.bytes);
    matrix.data = piece.data;
    matrix.owner = std::move(piece.owner);
    return static_cast<std::byte *>(piece.data);
}

bool at_line(const std::byte *data) { return reinterpret_cast<uintptr_t>(data) % 64 == 0; }

// What the file holds as the kernels want it. Not searched for NaNs: a file is packed from finite
// numbers, and reading it all would take longer than the rest of the load.
void use_mapped(Matrix &matrix, const Tensor &tensor) {
    matrix.data = const_cast<std::byte *>(tensor.data);
    matrix.owner = std::const_pointer_cast<void>(tensor.owner);
}

void require_panels(const Tensor &matrix, Precision precision) {
    const std::string what = "the tensor " + matrix.name + " is packed as " + name_of(matrix.dtype);
    if (matrix.stride[1] != 1 || matrix.stride[0] != matrix.shape[1])
        throw invalid(what + ", and not with its outputs side by side");
    if (!at_line(matrix.data)) throw invalid(what + " and starts at no multiple of 64");
    if (matrix.scale != 1) throw invalid(what + " and has a scale");
    if (is_quantised(matrix.dtype) && !is_quantised(precision.stored))
        throw unsupported(what + "; use 'auto', 'cpu " + name_of(precision.compute) +
                          "i8' or the file that it was made of");
}

// The type in which a matrix of plain numbers is kept; fp32 holds what 16 bits hold, but these not
// what a change has made of them.
DType plain_type(const Tensor &tensor, DType compute) {
    if (compute != DType::f32 || tensor.changes) return compute;
    return tensor.dtype == DType::f16 || tensor.dtype == DType::bf16 ? tensor.dtype : DType::f32;
}

// Whether a packed tensor is what the strategy would make of it; any block format serves for
// another.
bool packed_so(const Tensor &tensor, Precision precision) {
    if (!tensor.packed) return false;
    if (is_quantised(precision.stored) || is_quantised(tensor.dtype))
        return is_quantised(precision.stored) && is_quantised(tensor.dtype);
    return tensor.dtype == plain_type(tensor, precision.compute);
}

}  // namespace

Matrix pack(const Tensor &weights, Precision precision, bool transposed, Arena &arena, Pool &pool,
            const std::function<void()> &alive) {
    require_matrix(weights);
    if (precision.compute == DType::f64)
        throw unsupported(weights.name + ": products are not computed in fp64");
    Tensor tensor = weights;
    if (transposed) {
        std::swap(tensor.shape[0], tensor.shape[1]);
        std::swap(tensor.stride[0], tensor.stride[1]);
    }
    if (in_blocks(tensor.dtype) && tensor.stride[1] != 1)
        throw unsupported("the tensor " + tensor.name + " is quantised (" + name_of(tensor.dtype) +
                          "), which is read for the large matrices only; keep it in F16 or F32");
    if (tensor.packed) require_panels(tensor, precision);
    const bool mapped = packed_so(tensor, precision);
    if (is_quantised(precision.stored) && !mapped)
        return pack_blocks(tensor, precision, arena, pool, alive);
    Matrix matrix;
    matrix.out = tensor.shape[0];
    matrix.in = tensor.shape[1];
    matrix.compute = precision.compute;
    matrix.stored = mapped ? tensor.dtype : plain_type(tensor, precision.compute);
    const int64_t panels = (matrix.out + kPanel - 1) / kPanel;
    matrix.bytes = static_cast<size_t>(panels) * panels::bytes(matrix.stored, matrix.in);
    if (mapped) {
        use_mapped(matrix, tensor);
        return matrix;
    }
    std::byte *const data = allocate(matrix, arena);
    const int64_t tasks = std::min<int64_t>(panels, 8 * pool.threads());
    pool.run(tasks, [&](int64_t task, int) {
        Lines lines(matrix.in, matrix.stored);
        const int64_t first = panels * task / tasks, last = panels * (task + 1) / tasks;
        for (int64_t panel = first; panel < last; ++panel) {
            alive();
            pack_panel(data, tensor, matrix.stored, panel, lines);
        }
    });
    return matrix;
}

Matrix pack_table(const Tensor &rows, Arena &arena, Pool &pool,
                  const std::function<void()> &alive) {
    require_matrix(rows);
    if (rows.packed)
        throw invalid("the tensor " + rows.name + " is packed as " + name_of(rows.dtype) +
                      " and should be a plain table");
    if (in_blocks(rows.dtype)) return copy_blocks(rows, arena, pool, alive);
    Matrix matrix;
    matrix.out = rows.shape[0];
    matrix.in = rows.shape[1];
    matrix.stored = rows.dtype == DType::f64 || rows.changes ? DType::f32 : rows.dtype;
    matrix.bytes =
        static_cast<size_t>(matrix.out) * static_cast<size_t>(matrix.in) * size_of(matrix.stored);
    const bool whole = stored_as_is(rows, matrix.stored) && rows.stride[0] == matrix.in;
    if (rows.owner && whole && at_line(rows.data)) {
        use_mapped(matrix, rows);
        return matrix;
    }
    std::byte *const data = allocate(matrix, arena);
    const int64_t tasks = std::min<int64_t>(matrix.out, 8 * pool.threads());
    pool.run(tasks, [&](int64_t task, int) {
        Lines lines(matrix.in, matrix.stored);
        const int64_t first = matrix.out * task / tasks, last = matrix.out * (task + 1) / tasks;
        for (int64_t row = first; row < last; ++row) {
            alive();
            copy_row(data, rows, matrix.stored, row, lines);
        }
    });
    return matrix;
}

Panels panels_of(const Matrix &matrix) {
    return {static_cast<const char *>(matrix.data), matrix.out, matrix.in,
            static_cast<Type>(matrix.stored), static_cast<Type>(matrix.compute)};
}

}  // namespace rwkv::cpu
