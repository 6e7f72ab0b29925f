// Products of int8 and int4 weights against the oracle of quant.h: prepared rows, every number of
// rows and odd sizes, what follows a product, and the same bits for every blocking and number of
// threads.
#include "cpu/isa.h"
#include "oracle.h"
#include "weights/quant.h"

using namespace rwkv;
using namespace oracle;

namespace {

// A random matrix in a block format, as CpuBackend would hold it.
struct Blocks {
    Buffer memory;
    Matrix matrix;

    Blocks(Backend &backend, Random &random, int64_t out, int64_t in, DType type) {
        const int64_t panels = (out + 15) / 16;
        const size_t each = panels::bytes(type, in);
        memory = backend.floats(each * static_cast<size_t>(panels) / sizeof(float));
        matrix.out = out, matrix.in = in, matrix.stored = type;
        matrix.data = memory.data;
        const double scale = 1 / std::sqrt(static_cast<double>(in));
        for (int64_t panel = 0; panel < panels; ++panel) {
            Floats weights(
                static_cast<size_t>(panels::groups(type, in) * panels::group(type) * 16));
            for (int64_t k = 0; k < in; ++k)
                for (int64_t o = 0; o < 16 && panel * 16 + o < out; ++o)
                    weights[static_cast<size_t>(k * 16 + o)] =
                        static_cast<float>(scale * random.next());
            quant::pack_panel(panel_at(panel), weights.data(), type, in);
        }
    }
    std::byte *panel_at(int64_t panel) const {
        return static_cast<std::byte *>(matrix.data) +
               static_cast<size_t>(panel) * panels::bytes(matrix.stored, matrix.in);
    }
};

// A row as quant.h quantises it.
struct Quantised {
    std::vector<int8_t> p;
    Floats s;

    Quantised(const float *x, DType type, int64_t in)
        : p(static_cast<size_t>(panels::groups(type, in) * panels::group(type))),
          s(static_cast<size_t>(panels::groups(type, in))) {
        quant::quantise_row(p.data(), s.data(), x, type, in);
    }
    double times(const Blocks &w, int64_t o) const {
        return quant::product(w.panel_at(o / 16), w.matrix.stored, w.matrix.in, o % 16, p.data(),
                              s.data());
    }
};

void test_prepared_rows(DType type) {
    const cpu::Kernels &kernels = cpu::chosen_kernels();
    const cpu::Type stored = type == DType::i8 ? cpu::kI8 : cpu::kI4;
    const cpu::Input form = type == DType::i8 ? cpu::kBytes : cpu::kHalfBytes;
    CHECK(kernels.input(stored, cpu::kF32) == form && kernels.input(stored, cpu::kF16) == form);
    const int64_t size = panels::group(type);
    const int zero = type == DType::i8 ? 128 : 8;
    Random random{1};
    for (const int64_t in : {1, 3, 31, 32, 33, 64, 65, 100, 128, 777}) {
        Floats x = random.floats(in, 3);
        if (in == 128) std::fill_n(x.begin() + 64, 64, 0.0f);
        if (in == 100)
            for (float &v : x) v *= 1e-43f;  // so small that all count as zeros
        if (in == 65)
            for (float &v : x) v *= 1e-36f;  // and hardly large enough
        if (in == 33)
            for (int i = 0; i < 33; ++i)
                x[static_cast<size_t>(i)] = static_cast<float>(i) - 0.5f;  // halves: to even
        if (in == 33) x[5] = 127;
        const Quantised want(x.data(), type, in);
        std::vector<char> row(static_cast<size_t>(cpu::row_bytes(form, in)), 'x');
        kernels.round(row.data(), x.data(), in, cpu::kF32, form);
        int wrong = 0;
        for (int64_t g = 0; g < panels::groups(type, in); ++g) {
            const char *group = row.data() + g * cpu::group_bytes(stored);
            int total = 0;
            for (int64_t k = 0; k < size; ++k) {
                const int p = want.p[static_cast<size_t>(g * size + k)];
                wrong += static_cast<int8_t>(group[k]) != p;
                total += p;
            }
            float s;
            int32_t offset;
            std::memcpy(&s, group + size, 4);
            std::memcpy(&offset, group + size + 4, 4);
            wrong += s != want.s[static_cast<size_t>(g)];
            wrong += offset != -zero * total;
        }
        CHECK(wrong == 0);
    }
}

void test_products(DType type) {
    const auto backend = open_backend("cpu", 3);
    Random random{2};
    for (const auto &[out, in] : {std::pair<int64_t, int64_t>{1, 1},
                                  {16, 32},
                                  {7, 65},
                                  {48, 33},
                                  {130, 200},
                                  {64, 64},
                                  {200, 96}}) {
        const Blocks w(*backend, random, out, in, type);
        for (const int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 27, 64}) {
            const Sequences s(*backend, {rows}, 1);
            const Floats x = random.floats(rows * in), bias = random.floats(out);
            const Floats gate = random.floats(rows * out), before = random.floats(rows * out);
            Floats y(static_cast<size_t>(rows * out)), added = before;
            const Projection projection{&w.matrix,        x.data(),    y.data(),
                                        Activation::tanh, bias.data(), gate.data()};
            backend->linear({&projection, 1}, s.batch());
            backend->linear_add(added.data(), w.matrix, x.data(), s.batch());
            double worst = 0;
            for (int64_t m = 0; m < rows; ++m) {
                const Quantised row(x.data() + m * in, type, in);
                for (int64_t o = 0; o < out; ++o) {
                    const size_t at = static_cast<size_t>(m * out + o);
                    const double z = row.times(w, o);
                    const double want = std::tanh(z + bias[static_cast<size_t>(o)]) * gate[at];
                    worst = std::max(
                        {worst, std::fabs(y[at] - want), std::fabs(added[at] - (before[at] + z))});
                }
            }
            CHECK_NEAR(worst, 0, 3e-6);
        }
    }
}

// The largest integers that a group can come to, in every place.
void test_extremes(DType type) {
    const auto backend = open_backend("cpu", 1);
    Random random{3};
    for (const int sign : {1, -1}) {
        Blocks w(*backend, random, 16, 64, type);
        // q = 127 or 7, and -127 or -8, by the byte
        const std::byte least{type == DType::i8 ? uint8_t{1} : uint8_t{0}}, most{0xff};
        std::byte *quants = w.panel_at(0) + panels::scale_bytes(type, 64);
        std::fill(quants, w.panel_at(1), sign > 0 ? most : least);
        for (const float value : {2.0f, -2.0f}) {
            const Floats x(64, value);
            Floats y(16);
            backend->linear_add(y.data(), w.matrix, x.data(), Sequences(*backend, {1}, 1).batch());
            const Quantised row(x.data(), type, 64);
            for (int64_t o = 0; o < 16; ++o) {
                const double want = row.times(w, o);
                CHECK_NEAR(y[static_cast<size_t>(o)], want, 2e-6 * std::fabs(want));
            }
        }
    }
}

void test_identity(DType type) {
    Random random{4};
    const int64_t out = 150, in = 161, most = 64;
    const Floats x = random.floats(most * in);
    const auto product = [&](int threads, int64_t first, int rows) {
        const auto backend = open_backend("cpu", threads);
        Random same{5};
        const Blocks w(*backend, same, out, in, type);
        Floats y(static_cast<size_t>(rows * out));
        const Sequences s(*backend, {rows}, 1);
        backend->linear_add(y.data(), w.matrix, x.data() + first * in, s.batch());
        return y;
    };
    Floats alone;
    for (int64_t row = 0; row < most; ++row) {
        const Floats y = product(1, row, 1);
        alone.insert(alone.end(), y.begin(), y.end());
    }
    for (int rows = 1; rows <= most; ++rows)
        CHECK(same_bits(product(1 + rows % 3, 0, rows).data(), alone.data(), rows * out));
}

// A row that holds NaN or infinity gives no number, and leaves its neighbours alone.
void test_not_finite(DType type) {
    const auto backend = open_backend("cpu", 2);
    Random random{6};
    const Blocks w(*backend, random, 32, 64, type);
    for (const float bad : {static_cast<float>(NAN), HUGE_VALF, -HUGE_VALF}) {
        Floats x = random.floats(3 * 64), y(3 * 32);
        x[64 + 40] = bad;
        backend->linear_add(y.data(), w.matrix, x.data(), Sequences(*backend, {3}, 1).batch());
        for (size_t i = 0; i < y.size(); ++i) CHECK(std::isfinite(y[i]) == (i / 32 != 1));
    }
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    for (const DType type : {DType::i8, DType::i4}) {
        test_prepared_rows(type);
        test_products(type);
        test_extremes(type);
        test_identity(type);
        test_not_finite(type);
    }
    return report();
}
