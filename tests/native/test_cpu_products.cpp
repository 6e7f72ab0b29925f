// What versions 4 to 6 and the variants of 7 ask of the products: several inputs, biases, gates,
// mixing weights that differ by row, a shift that is taken twice; against the double-precision
// oracle.
#include "oracle.h"

using namespace rwkv;
using namespace oracle;

namespace {

double act_of(double x, Activation act) {
    return act == Activation::silu ? x * sigmoid(x) : activated(x, act);
}

// Row `row` of x, as it enters a product.
Doubles row_of(const Floats &x, int64_t row, int64_t n, DType compute) {
    Doubles out(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i)
        out[static_cast<size_t>(i)] = rounded(x[static_cast<size_t>(row * n + i)], compute);
    return out;
}

const int kRows[] = {1, 3, 8, 9, 25};

void test_linear(DType stored, DType compute) {
    const auto backend = open_backend("cpu", 3);
    Random random{11};
    for (const int64_t in : {1, 7, 32, 65})
        for (const int rows : kRows) {
            const Weights a(*backend, random, 19, in, stored, compute);
            const Weights b(*backend, random, in, 48, stored, compute, true);
            const Sequences s(*backend, {rows}, 1);
            const Floats x1 = random.floats(rows * in), x2 = random.floats(rows * in);
            const Floats bias = random.floats(48), gate = random.floats(rows * 19);
            // The gate may be the output itself.
            Floats own = random.floats(rows * 48);
            const Floats own_before = own;
            Floats ya(static_cast<size_t>(rows * 19)), yb(static_cast<size_t>(rows * 48));
            const Projection projections[] = {
                {&a.matrix, x1.data(), ya.data(), Activation::silu, nullptr, gate.data()},
                {&b.matrix, x2.data(), yb.data(), Activation::tanh, bias.data(), nullptr},
                {&b.matrix, x1.data(), own.data(), Activation::none, bias.data(), own.data()},
            };
            const uint64_t barriers = backend->barriers();
            backend->linear(projections, s.batch());
            CHECK(backend->barriers() - barriers == (rows <= 8 ? 1 : 2));
            double worst = 0;
            for (int64_t m = 0; m < rows; ++m) {
                const Doubles r1 = row_of(x1, m, in, compute), r2 = row_of(x2, m, in, compute);
                const auto judge = [&](const Floats &y, int64_t at, double want) {
                    worst = std::max(worst, std::fabs(y[static_cast<size_t>(at)] - want));
                };
                for (int64_t o = 0; o < 19; ++o)
                    judge(ya, m * 19 + o,
                          act_of(a.dot(o, r1.data()), Activation::silu) *
                              gate[static_cast<size_t>(m * 19 + o)]);
                for (int64_t o = 0; o < 48; ++o) {
                    const double offset = bias[static_cast<size_t>(o)];
                    judge(yb, m * 48 + o, std::tanh(b.dot(o, r2.data()) + offset));
                    judge(own, m * 48 + o,
                          (b.dot(o, r1.data()) + offset) *
                              own_before[static_cast<size_t>(m * 48 + o)]);
                }
            }
            CHECK_NEAR(worst, 0, 1e-5);
        }
    backend->linear({}, Sequences(*backend, {2}, 1).batch());
}

void test_gated_linear_add(DType stored, DType compute) {
    const auto backend = open_backend("cpu", 2);
    Random random{12};
    for (const int rows : kRows) {
        const Weights w(*backend, random, 37, 50, stored, compute);
        const Sequences s(*backend, {rows}, 1);
        const Floats y = random.floats(rows * 50), gate = random.floats(rows * 37);
        const Floats before = random.floats(rows * 37);
        Floats x = before;
        backend->linear_add(x.data(), w.matrix, y.data(), s.batch(), gate.data());
        double worst = 0;
        for (int64_t m = 0; m < rows; ++m) {
            const Doubles row = row_of(y, m, 50, compute);
            for (int64_t o = 0; o < 37; ++o) {
                const size_t at = static_cast<size_t>(m * 37 + o);
                const double want = before[at] + gate[at] * w.dot(o, row.data());
                worst = std::max(worst, std::fabs(x[at] - want));
            }
        }
        CHECK_NEAR(worst, 0, 1e-5);
    }
}

// Rows of which most inputs are zero, up to four at a time, are multiplied without them: the bits
// are those of a batch that is too large for it.
void test_zeros(DType stored, DType compute) {
    const auto backend = open_backend("cpu", 2);
    Random random{14};
    constexpr int all = 13;
    for (const int64_t in : {130, 515}) {
        const Weights w(*backend, random, 150, in, stored, compute);
        for (const double zeros : {0.0, 0.5, 0.9, 0.97, 1.0}) {
            Floats x = random.floats(all * in), y(all * 150);
            uint64_t seed = 1;
            for (float &value : x) {
                seed = seed * 6364136223846793005ull + 1442695040888963407ull;
                if (static_cast<double>(seed >> 11) * 0x1p-53 < zeros) value = 0;
            }
            x[1] = -0.0f;
            backend->linear_add(y.data(), w.matrix, x.data(),
                                Sequences(*backend, {all}, 1).batch());
            for (const int rows : {1, 2, 3, 4})
                for (int row = 0; row + rows <= all; row += 3) {
                    Floats few(static_cast<size_t>(rows * 150));
                    const Sequences s(*backend, {rows}, 1);
                    backend->linear_add(few.data(), w.matrix, x.data() + row * in, s.batch());
                    CHECK(same_bits(few.data(), y.data() + row * 150, rows * 150));
                }
        }
    }
}

// mix = xn + (prev − xn) ⊙ (mu + delta), with a delta of its own for every row; `keep` leaves the
// state.
void test_shift_linear_with_delta(DType stored, DType compute) {
    const auto backend = open_backend("cpu", 3);
    Random random{13};
    for (const int64_t D : {5, 33, 64})
        for (const std::vector<int> &lengths :
             {std::vector<int>{1}, {1, 1, 1}, {4}, {3, 1, 2}, {13}, {1, 9, 1, 20}})
            for (const bool keep : {true, false}) {
                const Weights w(*backend, random, 21, D, stored, compute);
                const Floats mu = random.floats(D), weight = random.floats(D, 0.3, 1);
                const Floats bias = random.floats(D, 0.3);
                Sequences s(*backend, lengths, 2 + D + 1);
                std::vector<Doubles> prev;
                std::vector<Floats> before;
                for (Buffer &state : s.states) {
                    for (int64_t i = 0; i < D; ++i)
                        state.data[2 + i] = static_cast<float>(random.next());
                    prev.emplace_back(state.data + 2, state.data + 2 + D);
                    before.push_back(copy_of(state.data, D + 3));
                }
                const int64_t rows = s.rows();
                const Floats x = random.floats(rows * D, 2, 0.7);
                const Floats delta1 = random.floats(rows * D, 0.5);
                const Floats delta2 = random.floats(rows * D, 0.5);
                Floats plain(static_cast<size_t>(rows * 21)), y1 = plain, y2 = plain;
                const Product products[] = {
                    {&w.matrix, mu.data(), plain.data(), Activation::none, nullptr},
                    {&w.matrix, mu.data(), y1.data(), Activation::silu, delta1.data()},
                    {&w.matrix, mu.data(), y2.data(), Activation::none, delta2.data()}};
                Shift shift{x.data(), {weight.data(), bias.data()}, 2};
                shift.keep = keep;
                backend->shift_linear(shift, products, s.batch());

                double worst = 0;
                for (size_t q = 0; q < s.spans.size(); ++q)
                    for (int row = s.spans[q].first; row < s.spans[q].first + s.spans[q].rows;
                         ++row) {
                        const Doubles xn =
                            layer_norm(x.data() + row * D, weight.data(), bias.data(), D, 1e-5);
                        for (const Product &p : products) {
                            Doubles mixed(static_cast<size_t>(D));
                            for (size_t k = 0; k < mixed.size(); ++k) {
                                const double d =
                                    p.delta ? p.delta[row * D + static_cast<int>(k)] : 0;
                                mixed[k] =
                                    rounded(xn[k] + (prev[q][k] - xn[k]) * (p.mu[k] + d), compute);
                            }
                            for (int64_t o = 0; o < 21; ++o) {
                                const double want = act_of(w.dot(o, mixed.data()), p.act);
                                worst = std::max(worst, std::fabs(p.y[row * 21 + o] - want));
                            }
                        }
                        prev[q] = xn;
                    }
                CHECK_NEAR(worst, 0, 4 * tolerance(compute));  // mixes of up to 10
                for (size_t q = 0; q < s.spans.size(); ++q) {
                    const float *state = s.states[q].data;
                    if (keep) CHECK(same_bits(state, before[q].data(), D + 3));
                    CHECK(state[1] == 0 && state[2 + D] == 0);
                    double off = 0;
                    for (int64_t k = 0; k < D && !keep; ++k)
                        off = std::max(off,
                                       std::fabs(state[2 + k] - prev[q][static_cast<size_t>(k)]));
                    CHECK_NEAR(off, 0, 4e-6);
                }
            }
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    for (const Types &types : kTypes) {
        test_linear(types.stored, types.compute);
        test_gated_linear_add(types.stored, types.compute);
        test_zeros(types.stored, types.compute);
        test_shift_linear_with_delta(types.stored, types.compute);
    }
    return report();
}
