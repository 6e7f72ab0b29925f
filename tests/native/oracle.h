// What the tests of the CPU backend share: random tensors of every type with their values in
// double, the operations of backend.h in plain double loops, batches of sequences. Knows no
// kernels.
#pragma once

#include "backend.h"
#include "check.h"
#include "weights/half.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace oracle {

using namespace rwkv;

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

inline double rounded(double x, DType t) {
    const float f = static_cast<float>(x);
    return t == DType::bf16 ? from_bf16(to_bf16(f)) : t == DType::f16 ? from_f16(to_f16(f)) : f;
}

// A checkpoint tensor [rows, columns] and its values; unaligned and, if `strided`, stored
// transposed.
struct Source {
    Tensor tensor;
    std::vector<std::byte> bytes;
    Doubles values;

    Source(Random &random, int64_t rows, int64_t columns, DType dtype, bool strided = false,
           double scale = 1) {
        const size_t size = size_of(dtype);
        bytes.resize(static_cast<size_t>(rows * columns) * size + 1);
        tensor.name.push_back('w');
        tensor.dtype = dtype;
        tensor.data = bytes.data() + 1;
        tensor.shape = {rows, columns};
        tensor.stride = {strided ? 1 : columns, strided ? rows : 1};
        values.resize(static_cast<size_t>(rows * columns));
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) {
                double x = scale * random.next();
                std::byte *at =
                    bytes.data() + 1 +
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

    Weights(Backend &backend, Random &random, int64_t rows, int64_t columns, DType dtype,
            DType compute, bool transposed = false, bool strided = false) {
        Source source(random, rows, columns, dtype, strided,
                      1 / std::sqrt(static_cast<double>(transposed ? rows : columns)));
        matrix = backend.matrix(source.tensor, compute, transposed);
        out = transposed ? columns : rows;
        in = transposed ? rows : columns;
        values.resize(source.values.size());
        for (int64_t o = 0; o < out; ++o)
            for (int64_t k = 0; k < in; ++k)
                values[static_cast<size_t>(o * in + k)] =
                    rounded(source.values[static_cast<size_t>(transposed ? k * columns + o
                                                                         : o * columns + k)],
                            compute);
    }
    double dot(int64_t o, const double *x) const {
        double sum = 0;
        for (int64_t k = 0; k < in; ++k) sum += values[static_cast<size_t>(o * in + k)] * x[k];
        return sum;
    }
};

inline Doubles layer_norm(const float *x, const float *weight, const float *bias, int64_t n,
                          double eps) {
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

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double activated(double x, Activation act) {
    switch (act) {
    case Activation::tanh: return std::tanh(x);
    case Activation::sigmoid: return sigmoid(x);
    case Activation::relu_squared: return x > 0 ? x * x : 0;
    default: return x;
    }
}

// Inputs that are computed in fp32 may fall on the other side of a rounding boundary than those of
// the oracle; each such input moves the result by half a unit in its last place times a weight.
inline double tolerance(DType compute) {
    return compute == DType::f32 ? 1e-5 : compute == DType::f16 ? 6e-4 : 5e-3;
}

// Sequences of the given numbers of rows with states of `state_floats`.
struct Sequences {
    std::vector<Span> spans;
    std::vector<int32_t> tokens, logit_rows;
    States pool;
    std::vector<Buffer> states;  // the slots of the pool, zero

    Sequences(Backend &backend, const std::vector<int> &rows, int64_t state_floats)
        : pool(backend.states(static_cast<size_t>(state_floats),
                              static_cast<int32_t>(rows.size()))) {
        backend.use_slots(pool, pool.slots);
        for (const int n : rows) {
            const auto slot = static_cast<int32_t>(states.size());
            states.push_back({pool.at(slot), static_cast<size_t>(state_floats), pool.owner});
            std::fill_n(states.back().data, state_floats, 0.0f);
            spans.push_back({static_cast<int32_t>(tokens.size()), n, slot});
            tokens.resize(tokens.size() + static_cast<size_t>(n));
        }
    }
    Batch batch() const { return {&pool, tokens, spans, logit_rows}; }
    int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
};

inline Floats copy_of(const float *p, int64_t n) { return Floats(p, p + n); }
inline bool same_bits(const float *a, const float *b, int64_t n) {
    return std::memcmp(a, b, static_cast<size_t>(n) * sizeof(float)) == 0;
}

struct Types {
    DType stored, compute;
};
inline const Types kTypes[] = {{DType::f32, DType::f32},   {DType::f16, DType::f32},
                               {DType::bf16, DType::f32},  {DType::f64, DType::f32},
                               {DType::bf16, DType::bf16}, {DType::f32, DType::bf16},
                               {DType::f16, DType::bf16},  {DType::f16, DType::f16},
                               {DType::f32, DType::f16},   {DType::bf16, DType::f16}};

// The weights of the time mixing of version 7, low ranks 12, 7, 16, 33, and one step of it.
struct Wkv7Case {
    int64_t H, N, D;
    Weights w2, a2, v2, g2;
    Floats w0, a0, v0, k_k, k_a, r_k, ln_weight, ln_bias;

    Wkv7Case(Backend &backend, Random &random, int64_t heads, int64_t head_size, DType stored,
             DType compute)
        : H(heads),
          N(head_size),
          D(H * N),
          w2(backend, random, 12, D, stored, compute, true),
          a2(backend, random, 7, D, stored, compute, true),
          v2(backend, random, 16, D, stored, compute, true),
          g2(backend, random, 33, D, stored, compute, true),
          w0(random.floats(D, 2)),
          a0(random.floats(D)),
          v0(random.floats(D)),
          k_k(random.floats(D)),
          k_a(random.floats(D)),
          r_k(random.floats(D)),
          ln_weight(random.floats(D, 0.3, 1)),
          ln_bias(random.floats(D, 0.3)) {}

    // The weights filled in; with_v2: not the first layer.
    Wkv7 op(bool with_v2) const {
        Wkv7 op;
        op.heads = H, op.head_size = N;
        op.w2 = &w2.matrix, op.a2 = &a2.matrix, op.g2 = &g2.matrix;
        op.v2 = with_v2 ? &v2.matrix : nullptr;
        op.w0 = w0.data(), op.a0 = a0.data(), op.v0 = with_v2 ? v0.data() : nullptr;
        op.k_k = k_k.data(), op.k_a = k_a.data(), op.r_k = r_k.data();
        op.ln_x = {ln_weight.data(), ln_bias.data()};
        return op;
    }

    // Row `row` of head h: moves S [N][N] on and returns y with the scale that its error is judged
    // by.
    std::pair<Doubles, double> step(const Wkv7 &op, double *S, int64_t row, int64_t h,
                                    const float *v_first, DType compute) const {
        const size_t n = static_cast<size_t>(N);
        Doubles w(n), a(n), g(n), kappa(n), k(n), v(n), y(n);
        const auto low = [&](const Weights &m, const float *z, int64_t channel) {
            Doubles rounded_z(static_cast<size_t>(m.in));
            for (int64_t j = 0; j < m.in; ++j)
                rounded_z[static_cast<size_t>(j)] = rounded(z[row * m.in + j], compute);
            return m.dot(channel, rounded_z.data());
        };
        double norm = 0, bonus = 0;
        for (size_t i = 0; i < n; ++i) {
            const int64_t channel = h * N + static_cast<int64_t>(i), at = row * D + channel;
            const size_t c = static_cast<size_t>(channel);
            w[i] = std::exp(-0.606531 * sigmoid(w0[c] + low(w2, op.zw, channel)));
            a[i] = sigmoid(a0[c] + low(a2, op.za, channel));
            g[i] = low(g2, op.zg, channel);
            v[i] = op.v[at];
            if (op.v2) v[i] += (v_first[at] - v[i]) * sigmoid(v0[c] + low(v2, op.zv, channel));
            kappa[i] = static_cast<double>(op.k[at]) * k_k[c];
            norm += kappa[i] * kappa[i];
            k[i] = op.k[at] * (1 + (a[i] - 1) * k_a[c]);
            bonus += op.r[at] * k[i] * r_k[c];
        }
        norm = std::max(std::sqrt(norm), 1e-12);
        for (double &x : kappa) x /= norm;
        Floats out(n);
        for (size_t i = 0; i < n; ++i) {
            double sa = 0, sum = 0;
            for (size_t j = 0; j < n; ++j) sa -= S[i * n + j] * kappa[j];
            for (size_t j = 0; j < n; ++j) {
                double &s = S[i * n + j];
                s = s * w[j] + sa * kappa[j] * a[j] + v[i] * k[j];
                sum += s * op.r[row * D + h * N + static_cast<int64_t>(j)];
            }
            out[i] = static_cast<float>(sum);
        }
        const Doubles normed =
            layer_norm(out.data(), ln_weight.data() + h * N, ln_bias.data() + h * N, N, 64e-5);
        double scale = 1;
        for (size_t i = 0; i < n; ++i) {
            y[i] = (normed[i] + bonus * v[i]) * g[i];
            scale = std::max(scale, std::fabs(bonus * v[i]));
        }
        return {y, scale};
    }
};

}  // namespace oracle
