// See pack_blocks.h.
#include "cpu/pack_blocks.h"

#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "quant.h"

#include <algorithm>
#include <vector>

namespace rwkv::cpu {

namespace {

static_assert(static_cast<int>(DType::i8) == kI8 && static_cast<int>(DType::i4) == kI4);
static_assert(quant::kOutputs == kPanel);

// The rows of one panel as floats, and the same with inputs outermost: what quant::pack_panel takes.
class Tile {
public:
    explicit Tile(int64_t in)
        : length_(in + 16),  // rows a multiple of 4 KiB apart would share a cache set
          lines_(static_cast<size_t>(kPanel * length_)),
          weights_(static_cast<size_t>(quant::groups(in) * quant::kGroup * kPanel)) {}

    const float *read(const Tensor &tensor, int64_t panel) {
        const int64_t in = tensor.shape[1];
        const int64_t rows = std::min(kPanel, tensor.shape[0] - panel * kPanel);
        if (rows < kPanel) std::fill(lines_.begin(), lines_.end(), 0.0f);
        for (int64_t o = 0; o < rows; ++o)
            read_finite(lines_.data() + o * length_, tensor, panel * kPanel + o);
        const float *from = lines_.data();
        for (int64_t k = 0; k < in; ++k)
            for (int64_t o = 0; o < kPanel; ++o)
                weights_[static_cast<size_t>(k * kPanel + o)] = from[o * length_ + k];
        return weights_.data();
    }

private:
    int64_t length_;
    std::vector<float> lines_, weights_;
};

// Whether int4 is too coarse for the tensor, by at most 64 of its panels.
bool harmed_by_int4(const Tensor &tensor, Pool &pool) {
    const int64_t in = tensor.shape[1], panels = (tensor.shape[0] + kPanel - 1) / kPanel;
    const int64_t samples = std::min<int64_t>(panels, 64);
    std::vector<quant::Loss> losses(static_cast<size_t>(samples));
    pool.run(samples, [&](int64_t i, int) {
        Tile tile(in);
        std::vector<std::byte> packed(quant::panel_bytes(DType::i4, in));
        losses[static_cast<size_t>(i)] =
            quant::pack_panel(packed.data(), tile.read(tensor, panels * i / samples), DType::i4, in);
    });
    quant::Loss loss;
    for (const quant::Loss &l : losses) loss.error += l.error, loss.norm += l.norm;
    return loss.error > kMostLoss * kMostLoss * loss.norm;
}

}  // namespace

Matrix pack_blocks(const Tensor &tensor, Precision precision, Arena &arena, Pool &pool,
                   const std::function<void()> &alive) {
    const bool spared = precision.stored == DType::i4 && harmed_by_int4(tensor, pool);
    Matrix matrix;
    matrix.out = tensor.shape[0];
    matrix.in = tensor.shape[1];
    matrix.compute = precision.compute;
    matrix.stored = spared ? DType::i8 : precision.stored;
    const int64_t panels = (matrix.out + kPanel - 1) / kPanel;
    const size_t bytes = quant::panel_bytes(matrix.stored, matrix.in);
    matrix.bytes = static_cast<size_t>(panels) * bytes;
    Arena::Piece piece = arena.take(matrix.bytes);
    matrix.data = piece.data;
    matrix.owner = std::move(piece.owner);

    const int64_t tasks = std::min<int64_t>(panels, 8 * pool.threads());
    pool.run(tasks, [&](int64_t task, int) {
        Tile tile(matrix.in);
        for (int64_t panel = panels * task / tasks; panel < panels * (task + 1) / tasks; ++panel) {
            alive();
            quant::pack_panel(static_cast<std::byte *>(matrix.data) + static_cast<size_t>(panel) * bytes,
                              tile.read(tensor, panel), matrix.stored, matrix.in);
        }
    });
    return matrix;
}

}  // namespace rwkv::cpu
