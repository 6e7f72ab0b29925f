// The CPU backend against a double-precision oracle written here, and the promises that its results do
// not depend on batch, neighbours, paths or threads.
#include "backend.h"
#include "check.h"
#include "cpu/isa.h"
#include "half.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

using namespace rwkv;

namespace {

using Doubles = std::vector<double>;
using Floats = std::vector<float>;

struct Random {
    uint64_t s;
    double next() {  // about normal: a sum of four uniforms
        double x = 0;
        for (int i = 0; i < 4; ++i) {
            s = s * 6364136223846793005ull + 1442695040888963407ull;
            x += static_cast<double>(s >> 11) * 0x1p-53 - 0.5;
        }
        return x * 1.7;
    }
    Floats floats(int64_t n, double scale = 1, double mean = 0) {
        Floats out(static_cast<size_t>(n));
        for (float &x : out) x = static_cast<float>(mean + scale * next());
        return out;
    }
};

double rounded(double x, DType t) {
    const float f = static_cast<float>(x);
    return t == DType::bf16 ? from_bf16(to_bf16(f)) : t == DType::f16 ? from_f16(to_f16(f)) : f;
}

// A checkpoint tensor [rows, columns] and its values; unaligned and, if `strided`, stored transposed.
struct Source {
    Tensor tensor;
    std::vector<std::byte> bytes;
    Doubles values;

    Source(Random &random, int64_t rows, int64_t columns, DType dtype, bool strided = false,
           double scale = 1) {
        const size_t size = size_of(dtype);
        bytes.resize(static_cast<size_t>(rows * columns) * size + 1);
        tensor.name = "w";
        tensor.dtype = dtype;
        tensor.data = bytes.data() + 1;
        tensor.shape = {rows, columns};
        tensor.stride = {strided ? 1 : columns, strided ? rows : 1};
        values.resize(static_cast<size_t>(rows * columns));
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) {
                double x = scale * random.next();
                std::byte *at = bytes.data() + 1 +
                                static_cast<size_t>(i * tensor.stride[0] + j * tensor.stride[1]) * size;
                if (dtype == DType::f64) {
                    std::memcpy(at, &x, 8);
                } else if (dtype == DType::f32) {
                    const float f = static_cast<float>(x);
                    x = f;
                    std::memcpy(at, &f, 4);
                } else {
                    x = rounded(x, dtype);
                    const float f = static_cast<float>(x);
                    const uint16_t h = dtype == DType::bf16 ? to_bf16(f) : to_f16(f);
                    std::memcpy(at, &h, 2);
                }
                values[static_cast<size_t>(i * columns + j)] = x;
            }
    }
};

struct Weights {
    Matrix matrix;
    Doubles values;  // [out, in], as products see them
    int64_t out, in;

    Weights(Backend &backend, Random &random, int64_t rows, int64_t columns, DType dtype, DType compute,
            bool transposed = false, bool strided = false) {
        Source source(random, rows, columns, dtype, strided,
                      1 / std::sqrt(static_cast<double>(transposed ? rows : columns)));
        matrix = backend.matrix(source.tensor, compute, transposed);
        out = transposed ? columns : rows;
        in = transposed ? rows : columns;
        values.resize(source.values.size());
        for (int64_t o = 0; o < out; ++o)
            for (int64_t k = 0; k < in; ++k)
                values[static_cast<size_t>(o * in + k)] = rounded(
                    source.values[static_cast<size_t>(transposed ? k * columns + o : o * columns + k)],
                    compute);
    }
    double dot(int64_t o, const double *x) const {
        double sum = 0;
        for (int64_t k = 0; k < in; ++k) sum += values[static_cast<size_t>(o * in + k)] * x[k];
        return sum;
    }
};

Doubles layer_norm(const float *x, const float *weight, const float *bias, int64_t n, double eps) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < n; ++i) mean += x[i];
    mean /= static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
    variance /= static_cast<double>(n);
    Doubles y(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i)
        y[static_cast<size_t>(i)] = (x[i] - mean) / std::sqrt(variance + eps) * weight[i] + bias[i];
    return y;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double activated(double x, Activation act) {
    switch (act) {
    case Activation::tanh: return std::tanh(x);
    case Activation::sigmoid: return sigmoid(x);
    case Activation::relu_squared: return x > 0 ? x * x : 0;
    default: return x;
    }
}

// Inputs that are computed in fp32 may fall on the other side of a rounding boundary than those of the
// oracle; each such input moves the result by half a unit in its last place times a weight.
double tolerance(DType compute) {
    return compute == DType::f32 ? 1e-5 : compute == DType::f16 ? 6e-4 : 5e-3;
}

// Sequences of the given numbers of rows with states of `state_floats`.
struct Sequences {
    std::vector<Span> spans;
    std::vector<int32_t> tokens, logit_rows;
    std::vector<Buffer> states;

    Sequences(Backend &backend, const std::vector<int> &rows, int64_t state_floats) {
        for (const int n : rows) {
            states.push_back(backend.floats(static_cast<size_t>(state_floats)));
            spans.push_back({static_cast<int32_t>(tokens.size()), n, states.back().data});
            tokens.resize(tokens.size() + static_cast<size_t>(n));
        }
    }
    Batch batch() const { return {tokens, spans, logit_rows}; }
    int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
};

Floats copy_of(const float *p, int64_t n) { return Floats(p, p + n); }
bool same_bits(const float *a, const float *b, int64_t n) {
    return std::memcmp(a, b, static_cast<size_t>(n) * sizeof(float)) == 0;
}

struct Types {
    DType stored, compute;
};
const Types kTypes[] = {{DType::f32, DType::f32},  {DType::f16, DType::f32},  {DType::bf16, DType::f32},
                        {DType::f64, DType::f32},  {DType::bf16, DType::bf16}, {DType::f32, DType::bf16},
                        {DType::f16, DType::bf16}, {DType::f16, DType::f16},  {DType::f32, DType::f16},
                        {DType::bf16, DType::f16}};

// ---- numbers

void test_numbers() {
    const cpu::Kernels &kernels = cpu::chosen_kernels();
    const auto value_f16 = [](uint16_t h) {  // the definition
        const int exponent = h >> 10 & 31, mantissa = h & 1023;
        const double sign = h & 0x8000 ? -1 : 1;
        if (exponent == 31) return mantissa ? std::nan("") : sign * HUGE_VAL;
        return sign * (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
    };
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    Floats wide(65536);
    int wrong = 0;
    kernels.widen(wide.data(), all.data(), 65536, cpu::kF16);
    for (size_t i = 0; i < 65536; ++i) {
        const double expected = value_f16(all[i]);
        const float scalar = from_f16(all[i]);
        const bool nan = std::isnan(expected);
        wrong += nan ? !(std::isnan(wide[i]) && std::isnan(scalar))
                     : !(wide[i] == expected && scalar == expected &&
                         std::signbit(wide[i]) == std::signbit(expected) &&
                         to_f16(scalar) == (std::isinf(expected) ? (all[i] & 0x8000) | 0x7bff : all[i]));
    }
    CHECK(wrong == 0);
    kernels.widen(wide.data(), all.data(), 65535, cpu::kBf16);
    for (size_t i = 0; i < 65535; ++i) {
        uint32_t u;
        std::memcpy(&u, &wide[i], 4);
        const bool nan = (all[i] & 0x7fff) > 0x7f80;
        wrong += nan ? !std::isnan(wide[i]) : u != static_cast<uint32_t>(all[i]) << 16;
        wrong += nan ? !std::isnan(from_bf16(to_bf16(wide[i]))) : to_bf16(wide[i]) != all[i];
    }
    CHECK(wrong == 0);

    // Rounding, at and beside every boundary between two neighbours: the middle goes to the even one.
    for (const DType type : {DType::f16, DType::bf16}) {
        Floats in, expected;
        const uint32_t largest = type == DType::f16 ? 0x7bff : 0x7f7f;
        for (uint32_t i = 0; i < largest; ++i) {
            const auto value = [&](uint32_t h) {
                const uint16_t bits = static_cast<uint16_t>(h);
                return type == DType::f16 ? static_cast<float>(value_f16(bits)) : from_bf16(bits);
            };
            const float a = value(i), b = value(i + 1);
            const float middle = static_cast<float>((static_cast<double>(a) + b) / 2);
            const float even = i % 2 == 0 ? a : b;
            for (const float sign : {1.0f, -1.0f}) {
                for (const auto &[x, y] : {std::pair{a, a}, {std::nextafterf(middle, 0), a},
                                           {middle, even}, {std::nextafterf(middle, HUGE_VALF), b}}) {
                    in.push_back(sign * x);
                    expected.push_back(sign * y);
                }
            }
        }
        if (type == DType::f16)
            for (const float x : {65504.0f, 65519.0f, 65520.0f, 1e9f, HUGE_VALF}) {
                in.push_back(x), expected.push_back(65504.0f);
                in.push_back(-x), expected.push_back(-65504.0f);
            }
        Floats out(in.size() + 16);
        kernels.round(out.data(), in.data(), static_cast<int64_t>(in.size()),
                      type == DType::f16 ? cpu::kF16 : cpu::kBf16);
        int vector = 0, scalar = 0;
        for (size_t i = 0; i < in.size(); ++i) {
            vector += !(out[i] == expected[i] && std::signbit(out[i]) == std::signbit(expected[i]));
            scalar += !(static_cast<float>(rounded(in[i], type)) == expected[i]);
        }
        CHECK(vector == 0);
        CHECK(scalar == 0);
        const float nan = std::numeric_limits<float>::quiet_NaN();
        kernels.round(out.data(), &nan, 1, type == DType::f16 ? cpu::kF16 : cpu::kBf16);
        CHECK(std::isnan(out[0]));
        CHECK(out[1] == 0 && out[15] == 0);
    }
}

// Weights of every bit pattern through a product with 1.
void test_all_weights() {
    const auto backend = open_backend("cpu", 2);
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    for (const DType type : {DType::f16, DType::bf16})
        for (const DType compute : {DType::f32, type}) {
            const Tensor tensor{"w", reinterpret_cast<const std::byte *>(all.data()), type, {65536, 1},
                                {1, 1}};
            const Matrix w = backend->matrix(tensor, compute, false);
            CHECK(w.stored == type && w.compute == compute);
            Sequences one(*backend, {1}, 1);
            Floats x(65536, 0.0f);
            const float y = 1;
            backend->linear_add(x.data(), w, &y, one.batch());
            int wrong = 0;
            for (size_t i = 0; i < 65536; ++i) {
                const float expected = type == DType::f16 ? from_f16(all[i]) : from_bf16(all[i]);
                wrong += std::isnan(expected) ? !std::isnan(x[i]) : x[i] != expected;
            }
            CHECK(wrong == 0);
        }
}

void test_functions() {
    const cpu::Kernels &kernels = cpu::chosen_kernels();
    const auto worst = [&](char f, double low, double high, auto exact, double *mean) {
        constexpr int64_t n = 200001;
        Floats x(n), y(n);
        for (int64_t i = 0; i < n; ++i)
            x[static_cast<size_t>(i)] =
                static_cast<float>(low + (high - low) * static_cast<double>(i) / (n - 1));
        kernels.function(y.data(), x.data(), n, f);
        double largest = 0, squares = 0;
        for (size_t i = 0; i < n; ++i) {
            const double want = exact(static_cast<double>(x[i]));
            const double error = std::fabs(y[i] - want) / std::max(std::fabs(want), 1e-37);
            largest = std::max(largest, error);
            squares += error * error;
        }
        if (mean) *mean = std::sqrt(squares / n);
        return largest;
    };
    const auto exp_of = [](double x) { return std::exp(x); };
    const auto tanh_of = [](double x) { return std::tanh(x); };
    const auto decay_of = [](double x) { return std::exp(-0.606531 * sigmoid(x)); };
    CHECK_NEAR(worst('e', -87, 88, exp_of, nullptr), 0, 1.5e-7);
    CHECK_NEAR(worst('s', -80, 80, sigmoid, nullptr), 0, 2.5e-7);
    CHECK_NEAR(worst('t', -12, 12, tanh_of, nullptr), 0, 2.5e-7);
    CHECK_NEAR(worst('t', -1e-3, 1e-3, tanh_of, nullptr), 0, 1.5e-7);
    double mean = 0;
    CHECK_NEAR(worst('w', -20, 20, decay_of, &mean), 0, 1.5e-7);
    CHECK_NEAR(mean, 0, 5e-8);
    const float special[] = {HUGE_VALF, -HUGE_VALF, 0.0f, 1000.0f, -1000.0f, NAN};
    float y[6];
    kernels.function(y, special, 6, 'e');
    CHECK(std::isinf(y[0]) && y[1] == 0 && y[2] == 1 && std::isinf(y[3]) && y[4] == 0 &&
          std::isnan(y[5]));
    kernels.function(y, special, 6, 's');
    CHECK(y[0] == 1 && y[1] == 0 && y[2] == 0.5f && y[3] == 1 && y[4] == 0 && std::isnan(y[5]));
    kernels.function(y, special, 6, 't');
    CHECK(y[0] == 1 && y[1] == -1 && y[2] == 0 && y[3] == 1 && y[4] == -1 && std::isnan(y[5]));
}

// ---- operations against the oracle

void test_linear_add(DType stored, DType compute) {
    const auto backend = open_backend("cpu", 3);
    Random random{1};
    for (const auto &[out, in] : {std::pair<int64_t, int64_t>{1, 1}, {7, 3}, {16, 16}, {48, 33}, {65, 64},
                                  {130, 17}, {200, 300}})
        for (const int rows : {1, 2, 3, 5, 8, 9, 12, 13, 27}) {
            const bool transposed = rows % 2 == 0, strided = rows % 3 == 0;
            const Weights w(*backend, random, transposed ? in : out, transposed ? out : in, stored,
                            compute, transposed, strided);
            const Sequences sequences(*backend, {rows}, 1);
            const Floats y = random.floats(rows * in), before = random.floats(rows * out);
            Floats x = before;
            backend->linear_add(x.data(), w.matrix, y.data(), sequences.batch());
            double worst = 0;
            for (int64_t m = 0; m < rows; ++m) {
                Doubles row(static_cast<size_t>(in));
                for (int64_t k = 0; k < in; ++k)
                    row[static_cast<size_t>(k)] = rounded(y[static_cast<size_t>(m * in + k)], compute);
                for (int64_t o = 0; o < out; ++o) {
                    const size_t at = static_cast<size_t>(m * out + o);
                    worst = std::max(worst, std::fabs(x[at] - (before[at] + w.dot(o, row.data()))));
                }
            }
            CHECK_NEAR(worst, 0, 5e-6);
        }
}

void test_shift_linear(DType stored, DType compute) {
    const auto backend = open_backend("cpu", 2);
    Random random{2};
    for (const int64_t D : {5, 24, 64, 200})
        for (const std::vector<int> &lengths :
             {std::vector<int>{1}, {1, 1, 1}, {4}, {3, 1, 2}, {13}, {1, 9, 1, 20}}) {
            const Weights a(*backend, random, D + 3, D, stored, compute);
            const Weights b(*backend, random, D, 17, stored, compute, true, true);
            const Weights c(*backend, random, 3 * D, D, stored, compute);
            const Floats mu1 = random.floats(D), mu2 = random.floats(D);
            const Floats weight = random.floats(D, 0.3, 1), bias = random.floats(D, 0.3);
            Sequences s(*backend, lengths, 3 + D);
            for (Buffer &state : s.states)
                for (int64_t i = 0; i < D; ++i) state.data[3 + i] = static_cast<float>(random.next());
            std::vector<Doubles> prev;
            for (const Buffer &state : s.states)
                prev.emplace_back(state.data + 3, state.data + 3 + D);
            const int64_t rows = s.rows();
            const Floats x = random.floats(rows * D, 2, 0.7);
            Floats ya(static_cast<size_t>(rows * a.out)), yb(static_cast<size_t>(rows * b.out)),
                yc(static_cast<size_t>(rows * c.out)), yd(static_cast<size_t>(rows * c.out));
            const Product products[] = {{&a.matrix, mu1.data(), ya.data(), Activation::none},
                                        {&c.matrix, mu2.data(), yc.data(), Activation::relu_squared},
                                        {&b.matrix, mu2.data(), yb.data(), Activation::tanh},
                                        {&c.matrix, mu1.data(), yd.data(), Activation::sigmoid}};
            const uint64_t barriers = backend->barriers();
            backend->shift_linear({x.data(), {weight.data(), bias.data()}, 3}, products, s.batch());
            if (rows <= 8) CHECK(backend->barriers() - barriers == 1);

            double worst = 0;
            for (size_t i = 0; i < s.spans.size(); ++i)
                for (int row = s.spans[i].first; row < s.spans[i].first + s.spans[i].rows; ++row) {
                    const Doubles xn =
                        layer_norm(x.data() + row * D, weight.data(), bias.data(), D, 1e-5);
                    for (const Product &p : products) {
                        Doubles mixed(static_cast<size_t>(D));
                        for (size_t k = 0; k < mixed.size(); ++k)
                            mixed[k] = rounded(xn[k] + (prev[i][k] - xn[k]) * p.mu[k], compute);
                        const Weights &w = p.w == &a.matrix ? a : p.w == &b.matrix ? b : c;
                        for (int64_t o = 0; o < w.out; ++o) {
                            const double z = w.dot(o, mixed.data());
                            const double scale = p.act == Activation::relu_squared
                                                     ? 1 + 2 * std::fabs(z) : 1;
                            worst = std::max(worst, std::fabs(p.y[row * w.out + o] -
                                                              activated(z, p.act)) / scale);
                        }
                    }
                    prev[i] = xn;
                }
            CHECK_NEAR(worst, 0, tolerance(compute));
            worst = 0;
            for (size_t i = 0; i < s.spans.size(); ++i) {
                for (int64_t k = 0; k < D; ++k)
                    worst = std::max(worst, std::fabs(s.states[i].data[3 + k] -
                                                      prev[i][static_cast<size_t>(k)]));
                CHECK(s.states[i].data[0] == 0 && s.states[i].data[2] == 0);
            }
            CHECK_NEAR(worst, 0, 4e-6);
        }
}

struct Wkv7Case {
    int64_t H, N, D;
    Weights w2, a2, v2, g2;
    Floats w0, a0, v0, k_k, k_a, r_k, ln_weight, ln_bias;

    Wkv7Case(Backend &backend, Random &random, int64_t heads, int64_t head_size, DType stored,
             DType compute)
        : H(heads), N(head_size), D(H * N), w2(backend, random, 12, D, stored, compute, true),
          a2(backend, random, 7, D, stored, compute, true),
          v2(backend, random, 16, D, stored, compute, true),
          g2(backend, random, 33, D, stored, compute, true), w0(random.floats(D, 2)),
          a0(random.floats(D)), v0(random.floats(D)), k_k(random.floats(D)), k_a(random.floats(D)),
          r_k(random.floats(D)), ln_weight(random.floats(D, 0.3, 1)), ln_bias(random.floats(D, 0.3)) {}
};

void test_wkv7(DType stored, DType compute) {
    const auto backend = open_backend("cpu", 3);
    Random random{3};
    for (const auto &[H, N] : {std::pair<int64_t, int64_t>{2, 8}, {1, 16}, {3, 24}, {2, 64}, {5, 10},
                               {2, 3}, {1, 132}})
        for (const std::vector<int> &lengths :
             {std::vector<int>{1}, {1, 1, 1, 1, 1}, {2, 1, 5}, {37}, {1, 20, 1, 3}})
            for (const bool first_layer : {false, true}) {
                if (first_layer && lengths.size() != 3) continue;
                const Wkv7Case c(*backend, random, H, N, stored, compute);
                const int64_t D = c.D;
                Sequences s(*backend, lengths, 5 + D * N + 1);
                const int64_t rows = s.rows();
                for (Buffer &state : s.states)
                    for (int64_t i = 0; i < D * N; ++i)
                        state.data[5 + i] = static_cast<float>(random.next());
                const Floats r = random.floats(rows * D), k = random.floats(rows * D),
                             v = random.floats(rows * D), zw = random.floats(rows * 12),
                             za = random.floats(rows * 7), zv = random.floats(rows * 16),
                             zg = random.floats(rows * 33);
                Floats v_first = random.floats(rows * D), y(static_cast<size_t>(rows * D));
                const Floats v_first_before = v_first;
                std::vector<Doubles> S;
                for (const Buffer &state : s.states)
                    S.emplace_back(state.data + 5, state.data + 5 + D * N);

                Wkv7 op;
                op.heads = H, op.head_size = N;
                op.r = r.data(), op.k = k.data(), op.v = v.data();
                op.zw = zw.data(), op.za = za.data(), op.zv = zv.data(), op.zg = zg.data();
                op.w2 = &c.w2.matrix, op.a2 = &c.a2.matrix, op.g2 = &c.g2.matrix;
                op.v2 = first_layer ? nullptr : &c.v2.matrix;
                op.w0 = c.w0.data(), op.a0 = c.a0.data(), op.v0 = first_layer ? nullptr : c.v0.data();
                op.k_k = c.k_k.data(), op.k_a = c.k_a.data(), op.r_k = c.r_k.data();
                op.ln_x = {c.ln_weight.data(), c.ln_bias.data()};
                op.v_first = v_first.data(), op.wkv = 5, op.y = y.data();
                const uint64_t barriers = backend->barriers();
                backend->wkv7(op, s.batch());
                CHECK(backend->barriers() - barriers == 1);
                if (first_layer) CHECK(same_bits(v_first.data(), v.data(), rows * D));
                else CHECK(same_bits(v_first.data(), v_first_before.data(), rows * D));

                double worst = 0, worst_state = 0;
                for (size_t q = 0; q < s.spans.size(); ++q) {
                    for (int row = s.spans[q].first; row < s.spans[q].first + s.spans[q].rows; ++row)
                        for (int64_t h = 0; h < H; ++h) {
                            double *M = S[q].data() + h * N * N;
                            const size_t n = static_cast<size_t>(N);
                            Doubles w(n), a(n), g(n), kk(n), kb(n), vv(n);
                            double norm = 0, bonus = 0;
                            for (int64_t i = 0; i < N; ++i) {
                                const int64_t d = h * N + i;
                                const auto low = [&](const Weights &m, const Floats &z) {
                                    Doubles zr(static_cast<size_t>(m.in));
                                    for (int64_t j = 0; j < m.in; ++j)
                                        zr[static_cast<size_t>(j)] =
                                            rounded(z[static_cast<size_t>(row * m.in + j)], compute);
                                    return m.dot(d, zr.data());
                                };
                                const size_t u = static_cast<size_t>(i), du = static_cast<size_t>(d);
                                const size_t at = static_cast<size_t>(row * D + d);
                                w[u] = std::exp(-0.606531 * sigmoid(c.w0[du] + low(c.w2, zw)));
                                a[u] = sigmoid(c.a0[du] + low(c.a2, za));
                                g[u] = low(c.g2, zg);
                                vv[u] = v[at];
                                if (!first_layer)
                                    vv[u] += (v_first_before[at] - v[at]) *
                                             sigmoid(c.v0[du] + low(c.v2, zv));
                                kk[u] = static_cast<double>(k[at]) * c.k_k[du];
                                norm += kk[u] * kk[u];
                                kb[u] = k[at] * (1 + (a[u] - 1) * c.k_a[du]);
                                bonus += r[at] * kb[u] * c.r_k[du];
                            }
                            norm = std::max(std::sqrt(norm), 1e-12);
                            for (double &x : kk) x /= norm;
                            Floats out(n);
                            for (size_t i = 0; i < n; ++i) {
                                double sa = 0, sum = 0;
                                for (size_t j = 0; j < n; ++j) sa -= M[i * n + j] * kk[j];
                                for (size_t j = 0; j < n; ++j) {
                                    double &m = M[i * n + j];
                                    m = m * w[j] + sa * kk[j] * a[j] + vv[i] * kb[j];
                                    sum += m * r[static_cast<size_t>(row * D + h * N) + j];
                                }
                                out[i] = static_cast<float>(sum);
                            }
                            const Doubles normed =
                                layer_norm(out.data(), c.ln_weight.data() + h * N,
                                           c.ln_bias.data() + h * N, N, 64e-5);
                            for (size_t i = 0; i < n; ++i)
                                worst = std::max(
                                    worst,
                                    std::fabs(y[static_cast<size_t>(row * D + h * N) + i] -
                                              (normed[i] + bonus * vv[i]) * g[i]) /
                                        (1 + std::fabs(bonus * vv[i])));
                        }
                    for (int64_t i = 0; i < D * N; ++i)
                        worst_state = std::max(worst_state,
                                               std::fabs(s.states[q].data[5 + i] -
                                                         S[q][static_cast<size_t>(i)]));
                    CHECK(s.states[q].data[4] == 0 && s.states[q].data[5 + D * N] == 0);
                }
                CHECK_NEAR(worst, 0, 2e-5);
                CHECK_NEAR(worst_state, 0, 2e-5);
            }
}

void test_embed_and_head(DType stored, DType compute) {
    const auto backend = open_backend("cpu", 2);
    Random random{4};
    for (const int64_t D : {6, 64, 100})
        for (const int rows : {1, 3, 8, 30}) {
            const int64_t vocab = 71;
            const Source rows_of(random, vocab, D, stored, rows == 3);
            const Matrix table = backend->table(rows_of.tensor);
            CHECK(table.stored == (stored == DType::f64 ? DType::f32 : stored));
            const Floats weight = random.floats(D, 0.3, 1), bias = random.floats(D, 0.3);
            const Norm norm{weight.data(), bias.data()};
            Sequences s(*backend, {rows}, 1);
            for (int i = 0; i < rows; ++i) s.tokens[static_cast<size_t>(i)] = (i * 29 + 70) % 71;
            Floats x(static_cast<size_t>(rows * D));
            backend->embed(x.data(), table, norm, s.batch());
            double worst = 0;
            for (int64_t i = 0; i < rows; ++i) {
                Floats row(static_cast<size_t>(D));
                for (int64_t j = 0; j < D; ++j)
                    row[static_cast<size_t>(j)] = static_cast<float>(
                        rows_of.values[static_cast<size_t>(s.tokens[static_cast<size_t>(i)] * D + j)]);
                const Doubles want = layer_norm(row.data(), weight.data(), bias.data(), D, 1e-5);
                for (int64_t j = 0; j < D; ++j)
                    worst = std::max(worst, std::fabs(x[static_cast<size_t>(i * D + j)] -
                                                      want[static_cast<size_t>(j)]));
            }
            CHECK_NEAR(worst, 0, 4e-6);

            const Weights w(*backend, random, vocab, D, stored, compute);
            for (int i = 0; i < rows; i += rows > 20 ? 2 : 3) s.logit_rows.push_back(i);
            Floats logits(s.logit_rows.size() * static_cast<size_t>(vocab));
            const uint64_t barriers = backend->barriers();
            backend->head(logits.data(), w.matrix, norm, x.data(), s.batch());
            CHECK(backend->barriers() - barriers == (s.logit_rows.size() <= 8 ? 1 : 2));
            worst = 0;
            for (size_t i = 0; i < s.logit_rows.size(); ++i) {
                Doubles xn = layer_norm(x.data() + s.logit_rows[i] * D, weight.data(), bias.data(), D,
                                        1e-5);
                for (double &value : xn) value = rounded(value, compute);
                for (int64_t o = 0; o < vocab; ++o)
                    worst = std::max(worst, std::fabs(logits[i * static_cast<size_t>(vocab) +
                                                             static_cast<size_t>(o)] -
                                                      w.dot(o, xn.data())));
            }
            CHECK_NEAR(worst, 0, tolerance(compute));
        }
}

// ---- independence of batch, path and threads

// A layer of version 7 as arch/v7.cpp calls it.
struct Layer {
    std::shared_ptr<Backend> backend;
    Random random{5};
    int64_t H = 3, N = 24, D = H * N, F = 4 * D;
    Wkv7Case c;
    Weights r, k, v, w1, a1, v1, g1, o, fk, fv, head;
    Floats mu[7], weight, bias;
    int64_t state_floats = 2 * D + D * N;

    Layer(int threads, DType stored, DType compute)
        : backend(open_backend("cpu", threads)), c(*backend, random, H, N, stored, compute),
          r(*backend, random, D, D, stored, compute), k(*backend, random, D, D, stored, compute),
          v(*backend, random, D, D, stored, compute), w1(*backend, random, D, 12, stored, compute, true),
          a1(*backend, random, D, 7, stored, compute, true),
          v1(*backend, random, D, 16, stored, compute, true),
          g1(*backend, random, D, 33, stored, compute, true), o(*backend, random, D, D, stored, compute),
          fk(*backend, random, F, D, stored, compute), fv(*backend, random, D, F, stored, compute),
          head(*backend, random, 90, D, stored, compute), weight(random.floats(D, 0.3, 1)),
          bias(random.floats(D, 0.3)) {
        for (Floats &m : mu) m = random.floats(D, 0.5, 0.5);
    }

    // x [rows, D] in and out; returns the logits of all rows.
    Floats run(float *x, Sequences &s) {
        const int64_t rows = s.rows();
        const auto make = [&](int64_t n) { return Floats(static_cast<size_t>(rows * n)); };
        Floats yr = make(D), yk = make(D), yv = make(D), zw = make(12), za = make(7), zv = make(16),
               zg = make(33), y = make(D), v_first(static_cast<size_t>(rows * D), 0.25f), h = make(F);
        const Product products[] = {{&r.matrix, mu[0].data(), yr.data(), Activation::none},
                                    {&k.matrix, mu[1].data(), yk.data(), Activation::none},
                                    {&v.matrix, mu[2].data(), yv.data(), Activation::none},
                                    {&w1.matrix, mu[3].data(), zw.data(), Activation::tanh},
                                    {&a1.matrix, mu[4].data(), za.data(), Activation::none},
                                    {&v1.matrix, mu[2].data(), zv.data(), Activation::none},
                                    {&g1.matrix, mu[5].data(), zg.data(), Activation::sigmoid}};
        const Batch batch = s.batch();
        const Norm norm{weight.data(), bias.data()};
        const uint64_t barriers = backend->barriers();
        backend->shift_linear({x, norm, 0}, products, batch);
        Wkv7 op;
        op.heads = H, op.head_size = N;
        op.r = yr.data(), op.k = yk.data(), op.v = yv.data();
        op.zw = zw.data(), op.za = za.data(), op.zv = zv.data(), op.zg = zg.data();
        op.w2 = &c.w2.matrix, op.a2 = &c.a2.matrix, op.v2 = &c.v2.matrix, op.g2 = &c.g2.matrix;
        op.w0 = c.w0.data(), op.a0 = c.a0.data(), op.v0 = c.v0.data();
        op.k_k = c.k_k.data(), op.k_a = c.k_a.data(), op.r_k = c.r_k.data();
        op.ln_x = {c.ln_weight.data(), c.ln_bias.data()};
        op.v_first = v_first.data(), op.wkv = 2 * D, op.y = y.data();
        backend->wkv7(op, batch);
        backend->linear_add(x, o.matrix, y.data(), batch);
        const Product ffn[] = {{&fk.matrix, mu[6].data(), h.data(), Activation::relu_squared}};
        backend->shift_linear({x, norm, D}, ffn, batch);
        backend->linear_add(x, fv.matrix, h.data(), batch);
        const uint64_t spent = backend->barriers() - barriers;
        CHECK(rows <= 8 ? spent == 5 : spent <= 9);

        s.logit_rows.resize(static_cast<size_t>(rows));
        for (int32_t i = 0; i < rows; ++i) s.logit_rows[static_cast<size_t>(i)] = i;
        Floats logits(static_cast<size_t>(rows * 90));
        backend->head(logits.data(), head.matrix, norm, x, s.batch());
        return logits;
    }
};

struct Result {
    Floats x, logits, states;
    bool operator==(const Result &other) const {
        return x.size() == other.x.size() && states.size() == other.states.size() &&
               same_bits(x.data(), other.x.data(), static_cast<int64_t>(x.size())) &&
               same_bits(logits.data(), other.logits.data(), static_cast<int64_t>(logits.size())) &&
               same_bits(states.data(), other.states.data(), static_cast<int64_t>(states.size()));
    }
};

// Sequence q starts from a state and inputs of its own, whatever the batch around it.
void start_sequence(Layer &layer, int q, int rows, float *x, float *state) {
    Random random{static_cast<uint64_t>(1000 + q)};
    const Floats s = random.floats(layer.state_floats);
    std::copy(s.begin(), s.end(), state);
    const Floats in = random.floats(rows * layer.D, 2, 0.5);
    std::copy(in.begin(), in.end(), x);
}

Result run_together(Layer &layer, const std::vector<int> &lengths) {
    Sequences s(*layer.backend, lengths, layer.state_floats);
    Result result;
    result.x.resize(static_cast<size_t>(s.rows() * layer.D));
    for (size_t q = 0; q < lengths.size(); ++q)
        start_sequence(layer, static_cast<int>(q), lengths[q], result.x.data() + s.spans[q].first * layer.D,
                       s.states[q].data);
    result.logits = layer.run(result.x.data(), s);
    for (const Buffer &state : s.states)
        result.states.insert(result.states.end(), state.data, state.data + layer.state_floats);
    return result;
}

// Each sequence alone, `chunk` rows at a time.
Result run_apart(Layer &layer, const std::vector<int> &lengths, int chunk) {
    Result result;
    for (size_t q = 0; q < lengths.size(); ++q) {
        Floats x(static_cast<size_t>(lengths[q] * layer.D));
        Floats state(static_cast<size_t>(layer.state_floats));
        start_sequence(layer, static_cast<int>(q), lengths[q], x.data(), state.data());
        for (int row = 0; row < lengths[q]; row += chunk) {
            Sequences s(*layer.backend, {std::min(chunk, lengths[q] - row)}, layer.state_floats);
            std::copy(state.begin(), state.end(), s.states[0].data);
            const Floats logits = layer.run(x.data() + row * layer.D, s);
            result.logits.insert(result.logits.end(), logits.begin(), logits.end());
            state = copy_of(s.states[0].data, layer.state_floats);
        }
        result.x.insert(result.x.end(), x.begin(), x.end());
        result.states.insert(result.states.end(), state.begin(), state.end());
    }
    return result;
}

void test_identity(DType stored, DType compute) {
    Layer layer(2, stored, compute);
    for (int n = 1; n <= 40; ++n) {
        const std::vector<int> decode(static_cast<size_t>(n), 1);
        CHECK(run_together(layer, decode) == run_apart(layer, decode, 1));
        CHECK(run_together(layer, {n}) == run_apart(layer, {n}, 1));
    }
    const std::vector<int> mixed = {1, 17, 1, 1, 8, 30, 2};
    const Result expected = run_apart(layer, mixed, 1);
    CHECK(run_together(layer, mixed) == expected);
    CHECK(run_apart(layer, mixed, 5) == expected);
    CHECK(run_apart(layer, mixed, 16) == expected);
    for (const int threads : {1, 3, 4}) {
        Layer other(threads, stored, compute);
        CHECK(other.backend->threads() == threads);
        CHECK(run_together(other, mixed) == expected);
        CHECK(run_apart(other, mixed, 1) == expected);
    }
}

void test_tensors() {
    Random random{6};
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64})
        for (const bool strided : {false, true}) {
            Source source(random, 5, 7, dtype, strided);
            Floats all(35), row(7);
            read_floats(all.data(), source.tensor);
            read_row(row.data(), source.tensor, 3);
            for (size_t i = 0; i < 35; ++i) CHECK(all[i] == static_cast<float>(source.values[i]));
            for (size_t i = 0; i < 7; ++i) CHECK(row[i] == static_cast<float>(source.values[21 + i]));
            source.tensor.shape = {5, 1, 7};
            source.tensor.stride.insert(source.tensor.stride.begin() + 1, 0);
            Floats again(35);
            read_floats(again.data(), source.tensor);
            CHECK(again == all);
        }
    CHECK(std::string(name_of(DType::bf16)) == "bf16" && std::string(name_of(DType::f64)) == "fp64");
}

void test_refusals() {
    CHECK_THROWS(open_backend("tpu", 1), "\"cpu\"");
    CHECK_THROWS(open_backend("cpu", -1), "threads");
    const auto backend = open_backend("cpu", 0);
    CHECK(backend->name() == "cpu" && backend->threads() >= 1 && backend->isa() == cpu_isa());
    const float one = 1;
    const Tensor vector{"v", reinterpret_cast<const std::byte *>(&one), DType::f32, {1}, {1}};
    CHECK_THROWS(backend->matrix(vector, DType::f32, false), "two dimensions");
    const Buffer zeros = backend->floats(1000);
    CHECK(std::all_of(zeros.data, zeros.data + 1000, [](float x) { return x == 0; }));
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_numbers();
    test_all_weights();
    test_functions();
    test_tensors();
    test_refusals();
    for (const Types &types : kTypes) {
        test_linear_add(types.stored, types.compute);
        test_shift_linear(types.stored, types.compute);
        test_wkv7(types.stored, types.compute);
        test_embed_and_head(types.stored, types.compute);
    }
    test_identity(DType::f32, DType::f32);
    test_identity(DType::bf16, DType::bf16);
    test_identity(DType::f16, DType::f16);
    return report();
}
