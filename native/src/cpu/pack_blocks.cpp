// See pack_blocks.h.
#include "cpu/pack_blocks.h"

#include "cpu/interleave.h"
#include "cpu/kernels.h"
#include "weights/gguf_blocks.h"
#include "weights/half.h"
#include "weights/quant.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace rwkv::cpu {

namespace {

static_assert(static_cast<int>(DType::i8) == kI8 && static_cast<int>(DType::i4) == kI4);

// Whether the file's own scales serve: blocks of one scale, as many weights as a group, and numbers
// that fit.
bool keeps_scales(const Tensor &tensor, DType stored) {
    return stored == DType::i4 && tensor.dtype == DType::q4_0;
}

// The rows of one panel with inputs outermost, and their scales if they bring some: what
// quant::pack_panel takes.
class Tile {
public:
    Tile(DType stored, int64_t in)
        : stored_(stored),
          length_(in + 16),  // rows a multiple of 4 KiB apart would share a cache set
          lines_(static_cast<size_t>(kPanel * length_)),
          weights_(
              static_cast<size_t>(panels::groups(stored, in) * panels::group(stored) * kPanel)),
          scales_(static_cast<size_t>(panels::groups(stored, in) * kPanel)) {}

    quant::Loss pack(std::byte *to, const Tensor &tensor, int64_t panel) {
        const int64_t in = tensor.shape[1], first = panel * kPanel;
        const int64_t rows = std::min(kPanel, tensor.shape[0] - first);
        const bool own = keeps_scales(tensor, stored_);
        if (rows < kPanel) {
            std::fill(lines_.begin(), lines_.end(), 0.0f);
            std::fill(scales_.begin(), scales_.end(), uint16_t{0});
        }
        for (int64_t o = 0; o < rows; ++o) {
            read_finite(lines_.data() + o * length_, tensor, first + o);
            if (own) read_scales(tensor, first + o, o);
        }
        const float *from = lines_.data();
        for (int64_t k = 0; k < in; ++k)
            for (int64_t o = 0; o < kPanel; ++o)
                weights_[static_cast<size_t>(k * kPanel + o)] = from[o * length_ + k];
        return quant::pack_panel(to, weights_.data(), stored_, in, own ? scales_.data() : nullptr);
    }

private:
    void read_scales(const Tensor &tensor, int64_t row, int64_t o) {
        const std::byte *block = tensor.data + bytes_of(tensor.dtype, row * tensor.stride[0]);
        for (size_t at = static_cast<size_t>(o); at < scales_.size(); at += kPanel) {
            scales_[at] = to_f16(from_f16(scale_of(block)) * tensor.scale);
            block += unit_of(tensor.dtype).bytes;
        }
    }

    DType stored_;
    int64_t length_;
    std::vector<float> lines_, weights_;
    std::vector<uint16_t> scales_;
};

// Whether int4 is too coarse for the tensor, by at most 64 of its panels.
bool harmed_by_int4(const Tensor &tensor, Pool &pool, const std::function<void()> &alive) {
    const int64_t in = tensor.shape[1], panels = (tensor.shape[0] + kPanel - 1) / kPanel;
    const int64_t samples = std::min<int64_t>(panels, 64);
    std::vector<quant::Loss> losses(static_cast<size_t>(samples));
    pool.run(samples, [&](int64_t i, int) {
        alive();
        Tile tile(DType::i4, in);
        std::vector<std::byte> packed(panels::bytes(DType::i4, in));
        losses[static_cast<size_t>(i)] = tile.pack(packed.data(), tensor, panels * i / samples);
    });
    quant::Loss loss;
    for (const quant::Loss &l : losses) loss.error += l.error, loss.norm += l.norm;
    return loss.error > kMostLoss * kMostLoss * loss.norm;
}

}  // namespace

Matrix pack_blocks(const Tensor &tensor, Precision precision, Arena &arena, Pool &pool,
                   const std::function<void()> &alive) {
    const bool spared = precision.stored == DType::i4 && harmed_by_int4(tensor, pool, alive);
    Matrix matrix;
    matrix.out = tensor.shape[0];
    matrix.in = tensor.shape[1];
    matrix.compute = precision.compute;
    matrix.stored = spared ? DType::i8 : precision.stored;
    const int64_t panels = (matrix.out + kPanel - 1) / kPanel;
    const size_t bytes = panels::bytes(matrix.stored, matrix.in);
    matrix.bytes = static_cast<size_t>(panels) * bytes;
    Arena::Piece piece = arena.take(matrix.bytes);
    matrix.data = piece.data;
    matrix.owner = std::move(piece.owner);

    const int64_t tasks = std::min<int64_t>(panels, 8 * pool.threads());
    pool.run(tasks, [&](int64_t task, int) {
        Tile tile(matrix.stored, matrix.in);
        for (int64_t panel = panels * task / tasks; panel < panels * (task + 1) / tasks; ++panel) {
            alive();
            tile.pack(static_cast<std::byte *>(matrix.data) + static_cast<size_t>(panel) * bytes,
                      tensor, panel);
        }
    });
    return matrix;
}

Matrix copy_blocks(const Tensor &rows, Arena &arena, Pool &pool,
                   const std::function<void()> &alive) {
    Matrix matrix;
    matrix.out = rows.shape[0];
    matrix.in = rows.shape[1];
    matrix.stored = rows.dtype;
    const int64_t bytes = bytes_of(rows.dtype, matrix.in);
    matrix.bytes = static_cast<size_t>(matrix.out * bytes);
    Arena::Piece piece = arena.take(matrix.bytes);
    matrix.data = piece.data;
    matrix.owner = std::move(piece.owner);
    const int64_t tasks = std::min<int64_t>(matrix.out, 8 * pool.threads());
    pool.run(tasks, [&](int64_t task, int) {
        for (int64_t row = matrix.out * task / tasks; row < matrix.out * (task + 1) / tasks;
             ++row) {
            alive();
            const std::byte *from = rows.data + bytes_of(rows.dtype, row * rows.stride[0]);
            require_finite(finite_blocks(from, rows.dtype, matrix.in), rows);
            std::memcpy(static_cast<std::byte *>(matrix.data) + row * bytes, from,
                        static_cast<size_t>(bytes));
        }
    });
    return matrix;
}

}  // namespace rwkv::cpu
