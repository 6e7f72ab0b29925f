// Every operation of the CPU backend against the double-precision oracle: odd sizes, mixed spans,
// all stored and compute types, and the barriers each one takes.
#include "oracle.h"

using namespace rwkv;
using namespace oracle;

namespace {

void test_linear_add(DType stored, DType compute) {
    const auto backend = open_backend("cpu", 3);
    Random random{1};
    for (const auto &[out, in] : {std::pair<int64_t, int64_t>{1, 1},
                                  {7, 3},
                                  {16, 16},
                                  {48, 33},
                                  {65, 64},
                                  {130, 17},
                                  {200, 300}})
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
                    row[static_cast<size_t>(k)] =
                        rounded(y[static_cast<size_t>(m * in + k)], compute);
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
                for (int64_t i = 0; i < D; ++i)
                    state.data[3 + i] = static_cast<float>(random.next());
            std::vector<Doubles> prev;
            for (const Buffer &state : s.states)
                prev.emplace_back(state.data + 3, state.data + 3 + D);
            const int64_t rows = s.rows();
            const Floats x = random.floats(rows * D, 2, 0.7);
            Floats ya(static_cast<size_t>(rows * a.out)), yb(static_cast<size_t>(rows * b.out)),
                yc(static_cast<size_t>(rows * c.out)), yd(static_cast<size_t>(rows * c.out));
            const Product products[] = {
                {&a.matrix, mu1.data(), ya.data(), Activation::none},
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
                            const double scale =
                                p.act == Activation::relu_squared ? 1 + 2 * std::fabs(z) : 1;
                            worst = std::max(
                                worst,
                                std::fabs(p.y[row * w.out + o] - activated(z, p.act)) / scale);
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

void test_wkv7(DType stored, DType compute) {
    const auto backend = open_backend("cpu", 3);
    Random random{3};
    for (const auto &[H, N] :
         {std::pair<int64_t, int64_t>{2, 8}, {1, 16}, {3, 24}, {2, 64}, {5, 10}, {2, 3}, {1, 132}})
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

                Wkv7 op = c.op(!first_layer);
                op.r = r.data(), op.k = k.data(), op.v = v.data();
                op.zw = zw.data(), op.za = za.data(), op.zv = zv.data(), op.zg = zg.data();
                op.v_first = v_first.data(), op.wkv = 5, op.y = y.data();
                const uint64_t barriers = backend->barriers();
                backend->wkv7(op, s.batch());
                CHECK(backend->barriers() - barriers == 1);
                const Floats &kept = first_layer ? v : v_first_before;
                CHECK(same_bits(v_first.data(), kept.data(), rows * D));

                double worst = 0, worst_state = 0;
                for (size_t q = 0; q < s.spans.size(); ++q) {
                    const int64_t first = s.spans[q].first;
                    for (int64_t row = first; row < first + s.spans[q].rows; ++row)
                        for (int64_t h = 0; h < H; ++h) {
                            const auto [want, scale] = c.step(op, S[q].data() + h * N * N, row, h,
                                                              v_first_before.data(), compute);
                            for (size_t i = 0; i < want.size(); ++i) {
                                const size_t at = static_cast<size_t>(row * D + h * N) + i;
                                worst = std::max(worst, std::fabs(y[at] - want[i]) / scale);
                            }
                        }
                    const float *state = s.states[q].data;
                    for (size_t i = 0; i < S[q].size(); ++i)
                        worst_state = std::max(worst_state, std::fabs(state[5 + i] - S[q][i]));
                    CHECK(state[4] == 0 && state[5 + D * N] == 0);
                }
                CHECK_NEAR(worst, 0, 4e-5);
                CHECK_NEAR(worst_state, 0, 4e-5);
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
                        rows_of
                            .values[static_cast<size_t>(s.tokens[static_cast<size_t>(i)] * D + j)]);
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
                Doubles xn =
                    layer_norm(x.data() + s.logit_rows[i] * D, weight.data(), bias.data(), D, 1e-5);
                for (double &value : xn) value = rounded(value, compute);
                for (int64_t o = 0; o < vocab; ++o)
                    worst = std::max(
                        worst,
                        std::fabs(logits[i * static_cast<size_t>(vocab) + static_cast<size_t>(o)] -
                                  w.dot(o, xn.data())));
            }
            CHECK_NEAR(worst, 0, tolerance(compute));
        }
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    for (const Types &types : kTypes) {
        test_linear_add(types.stored, types.compute);
        test_shift_linear(types.stored, types.compute);
        test_wkv7(types.stored, types.compute);
        test_embed_and_head(types.stored, types.compute);
    }
    return report();
}
