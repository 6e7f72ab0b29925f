// The recurrences of versions 4, 5 and 6 against plain double loops: odd sizes, batches of many
// sequences, and exponents at the ends of what a float holds. And those of 5 to 7 with states that
// are kept in 16 bits.
#include "oracle.h"
#include "state_layout.h"

using namespace rwkv;
using namespace oracle;

namespace {

const std::vector<std::vector<int>> kBatches = {{1},  {1, 1, 1, 1, 1}, {2, 1, 5},
                                                {37}, {1, 20, 1, 3},   std::vector<int>(40, 1)};

void test_wkv4() {
    const auto backend = open_backend("cpu", 3);
    Random random{21};
    for (const int64_t A : {1, 5, 16, 63, 256, 257, 600})
        for (const std::vector<int> &lengths : kBatches)
            for (const double spread : {1.0, 40.0}) {  // e^±100 would overflow without pp
                Sequences s(*backend, lengths, 3 * A + 4);
                const int64_t rows = s.rows();
                // aa, bb and pp with a guard before, between and after them
                const int64_t aa = 1, bb = aa + A + 1, pp = bb + A + 1;
                std::vector<Doubles> states;
                for (size_t q = 0; q < s.states.size(); ++q) {
                    float *state = s.states[q].data;
                    for (int64_t c = 0; c < A; ++c) {
                        const bool fresh = (q + static_cast<size_t>(c)) % 3 == 0;
                        state[aa + c] = fresh ? 0 : static_cast<float>(random.next());
                        state[bb + c] =
                            fresh ? 0 : static_cast<float>(1 + std::fabs(random.next()));
                        state[pp + c] = fresh ? -1e30f : static_cast<float>(spread * random.next());
                    }
                    states.emplace_back(state, state + 3 * A + 4);
                }
                const Floats r = random.floats(rows * A), v = random.floats(rows * A);
                const Floats k = random.floats(rows * A, spread), first = random.floats(A);
                Floats decay = random.floats(A), y(static_cast<size_t>(rows * A));
                for (float &d : decay) d = -std::exp(d);
                Wkv4 op;
                op.width = A;
                op.r = r.data(), op.k = k.data(), op.v = v.data(), op.y = y.data();
                op.decay = decay.data(), op.first = first.data();
                op.aa = aa, op.bb = bb, op.pp = pp;
                const uint64_t barriers = backend->barriers();
                backend->wkv4(op, s.batch());
                CHECK(backend->barriers() - barriers <= 1);

                double worst = 0, worst_state = 0;
                for (size_t q = 0; q < s.spans.size(); ++q) {
                    Doubles &S = states[q];
                    for (int row = s.spans[q].first; row < s.spans[q].first + s.spans[q].rows;
                         ++row)
                        for (int64_t c = 0; c < A; ++c) {
                            double &a = S[static_cast<size_t>(aa + c)],
                                   &b = S[static_cast<size_t>(bb + c)];
                            double &p = S[static_cast<size_t>(pp + c)];
                            const size_t at = static_cast<size_t>(row * A + c),
                                         ch = static_cast<size_t>(c);
                            // The engine adds in fp32; at |k| near 100 that alone moves e^(u+k).
                            const double uk = first[ch] + k[at],
                                         pd = static_cast<float>(p) + decay[ch];
                            double m = std::max(p, uk);
                            double e1 = std::exp(p - m), e2 = std::exp(uk - m);
                            const double want = r[at] * (e1 * a + e2 * v[at]) / (e1 * b + e2);
                            worst =
                                std::max(worst, std::fabs(y[at] - want) / (1 + std::fabs(r[at])));
                            m = std::max(pd, static_cast<double>(k[at]));
                            e1 = std::exp(pd - m), e2 = std::exp(k[at] - m);
                            a = e1 * a + e2 * v[at], b = e1 * b + e2, p = m;
                        }
                    const float *found = s.states[q].data;
                    for (size_t i = 0; i < S.size(); ++i)
                        worst_state = std::max(worst_state,
                                               std::fabs(found[i] - S[i]) / (1 + std::fabs(S[i])));
                    CHECK(found[0] == 0 && found[1 + A] == 0 && found[2 + 2 * A] == 0 &&
                          found[3 + 3 * A] == 0);
                }
                const double bound = spread == 1 ? 1e-5 : 1e-4;
                CHECK_NEAR(worst, 0, bound);
                CHECK_NEAR(worst_state, 0, bound);
            }
}

// Version 5 without low rank, version 6 with it; with and without a gate.
void test_wkv6(DType stored, DType compute, bool low_rank, bool gated) {
    const auto backend = open_backend("cpu", 3);
    Random random{22};
    for (const auto &[H, N] : {std::pair<int64_t, int64_t>{2, 8},
                               {1, 16},
                               {3, 24},
                               {2, 64},
                               {5, 10},
                               {2, 3},
                               {1, 132},
                               {4, 1}})
        for (const std::vector<int> &lengths : kBatches) {
            if (N > 64 && lengths.size() > 5) continue;
            const int64_t A = H * N, rank = 11;
            const Weights w2(*backend, random, rank, A, stored, compute, true);
            Sequences s(*backend, lengths, 3 + A * N + 1);
            const int64_t rows = s.rows();
            std::vector<Doubles> states;
            for (Buffer &state : s.states) {
                for (int64_t i = 0; i < A * N; ++i)
                    state.data[3 + i] = static_cast<float>(random.next());
                states.emplace_back(state.data + 3, state.data + 3 + A * N);
            }
            const Floats r = random.floats(rows * A), k = random.floats(rows * A);
            const Floats v = random.floats(rows * A), g = random.floats(rows * A);
            const Floats zw = random.floats(rows * rank), bonus = random.floats(A);
            const Floats ln_weight = random.floats(A, 0.3, 1), ln_bias = random.floats(A, 0.3);
            Floats decay = random.floats(A, 2), y(static_cast<size_t>(rows * A));
            if (!low_rank)
                for (float &d : decay) d = std::exp(-std::exp(d));  // W itself
            Wkv6 op;
            op.heads = H, op.head_size = N;
            op.r = r.data(), op.k = k.data(), op.v = v.data(), op.g = gated ? g.data() : nullptr;
            if (low_rank) op.zw = zw.data(), op.w2 = &w2.matrix;
            op.decay = decay.data(), op.bonus = bonus.data();
            op.ln_x = {ln_weight.data(), ln_bias.data()};
            op.wkv = 3, op.y = y.data();
            const uint64_t barriers = backend->barriers();
            backend->wkv6(op, s.batch());
            CHECK(backend->barriers() - barriers <= 1);

            double worst = 0, worst_state = 0;
            const size_t n = static_cast<size_t>(N);
            for (size_t q = 0; q < s.spans.size(); ++q) {
                for (int row = s.spans[q].first; row < s.spans[q].first + s.spans[q].rows; ++row)
                    for (int64_t h = 0; h < H; ++h) {
                        double *S = states[q].data() + h * N * N;  // [key][value]
                        const size_t at = static_cast<size_t>(row * A + h * N);
                        const size_t channel = static_cast<size_t>(h * N);
                        Doubles sums(n);
                        for (size_t i = 0; i < n; ++i) {
                            double w = decay[channel + i];
                            if (low_rank) {
                                Doubles z(static_cast<size_t>(rank));
                                for (int64_t j = 0; j < rank; ++j)
                                    z[static_cast<size_t>(j)] =
                                        rounded(zw[static_cast<size_t>(row * rank + j)], compute);
                                const int64_t c = static_cast<int64_t>(channel + i);
                                w = std::exp(-std::exp(w + w2.dot(c, z.data())));
                            }
                            for (size_t j = 0; j < n; ++j) {
                                const double kv = static_cast<double>(k[at + i]) * v[at + j];
                                double &state = S[i * n + j];
                                sums[j] += r[at + i] * (bonus[channel + i] * kv + state);
                                state = w * state + kv;
                            }
                        }
                        Floats out(sums.begin(), sums.end());
                        const Doubles normed = layer_norm(out.data(), ln_weight.data() + channel,
                                                          ln_bias.data() + channel, N, 64e-5);
                        for (size_t j = 0; j < n; ++j) {
                            const double want = normed[j] * (gated ? g[at + j] : 1);
                            worst = std::max(worst,
                                             std::fabs(y[at + j] - want) / (1 + std::fabs(want)));
                        }
                    }
                for (int64_t i = 0; i < A * N; ++i) {
                    const double want = states[q][static_cast<size_t>(i)];
                    worst_state = std::max(worst_state, std::fabs(s.states[q].data[3 + i] - want) /
                                                            (1 + std::fabs(want)));
                }
                CHECK(s.states[q].data[2] == 0 && s.states[q].data[3 + A * N] == 0);
            }
            CHECK_NEAR(worst, 0, 5e-5);
            CHECK_NEAR(worst_state, 0, 2e-5);
        }
}

// Whole batches with states kept in 16 bits, against their rows one at a time on fp32 states that
// scalar code rounds after each: the same bits. op_at(row) is the operation from that row on.
template <class OpAt, class Run>
void test_kept(Backend &backend, Random &random, DType kept, const std::vector<int> &lengths,
               int64_t width, int64_t head_size, double scale, Floats &y, OpAt op_at, Run run) {
    const int64_t size = width * head_size, floats = floats_for(kept, size), before = 3;
    Sequences s(backend, lengths, before + floats + 1);
    Floats wanted_y(y.size());
    std::vector<Floats> states;
    for (Buffer &state : s.states) {
        Floats start = random.floats(size, scale);
        for (float &x : start) x = static_cast<float>(rounded(x, kept));
        narrow(state.data + before, start.data(), size, kept);
        states.push_back(start);
    }
    for (size_t q = 0; q < s.spans.size(); ++q)
        for (int64_t row = s.spans[q].first; row < s.spans[q].first + s.spans[q].rows; ++row) {
            Sequences one(backend, {1}, before + size);
            float *state = one.states[0].data + before;
            std::copy(states[q].begin(), states[q].end(), state);
            auto op = op_at(row);
            op.wkv = before;
            run(op, one.batch());
            for (int64_t i = 0; i < size; ++i)
                states[q][static_cast<size_t>(i)] = static_cast<float>(rounded(state[i], kept));
            std::copy_n(y.begin() + row * width, width, wanted_y.begin() + row * width);
        }
    auto op = op_at(0);
    op.wkv = before, op.kept = kept;
    run(op, s.batch());
    CHECK(same_bits(y.data(), wanted_y.data(), static_cast<int64_t>(y.size())));
    for (size_t q = 0; q < s.states.size(); ++q) {
        const float *state = s.states[q].data;
        Floats found(static_cast<size_t>(size));
        widen(found.data(), state + before, size, kept);
        CHECK(found == states[q]);
        CHECK(state[before - 1] == 0 && state[before + floats] == 0);
    }
}

// `scale` takes fp16 to its subnormal numbers and to where it saturates.
void test_kept_states(DType kept, double scale) {
    const auto backend = open_backend("cpu", 3);
    Random random{23};
    for (const auto &[H, N] : {std::pair<int64_t, int64_t>{2, 64}, {3, 24}, {1, 10}, {1, 3}})
        for (const std::vector<int> &lengths : kBatches) {
            const int64_t A = H * N, rows = Sequences(*backend, lengths, 1).rows();
            const Floats r = random.floats(rows * A), k = random.floats(rows * A);
            const Floats v = random.floats(rows * A, scale), bonus = random.floats(A);
            const Floats ln_weight = random.floats(A, 0.3, 1), ln_bias = random.floats(A, 0.3);
            Floats decay = random.floats(A, 2), y(static_cast<size_t>(rows * A));
            for (float &d : decay) d = std::exp(-std::exp(d));
            const auto wkv6_at = [&](int64_t row) {
                Wkv6 op;
                op.heads = H, op.head_size = N;
                op.r = r.data() + row * A, op.k = k.data() + row * A, op.v = v.data() + row * A;
                op.decay = decay.data(), op.bonus = bonus.data();
                op.ln_x = {ln_weight.data(), ln_bias.data()};
                op.y = y.data() + row * A;
                return op;
            };
            test_kept(*backend, random, kept, lengths, A, N, scale, y, wkv6_at,
                      [&](const Wkv6 &op, const Batch &batch) { backend->wkv6(op, batch); });

            const Wkv7Case c(*backend, random, H, N, DType::f32, DType::f32);
            const Floats zw = random.floats(rows * 12), za = random.floats(rows * 7);
            const Floats zv = random.floats(rows * 16), zg = random.floats(rows * 33);
            Floats v_first = random.floats(rows * A, scale);
            const auto wkv7_at = [&](int64_t row) {
                Wkv7 op = c.op(true);
                op.r = r.data() + row * A, op.k = k.data() + row * A, op.v = v.data() + row * A;
                op.zw = zw.data() + row * 12, op.za = za.data() + row * 7;
                op.zv = zv.data() + row * 16, op.zg = zg.data() + row * 33;
                op.v_first = v_first.data() + row * A, op.y = y.data() + row * A;
                return op;
            };
            test_kept(*backend, random, kept, lengths, A, N, scale, y, wkv7_at,
                      [&](const Wkv7 &op, const Batch &batch) { backend->wkv7(op, batch); });
        }
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_kept_states(DType::f32, 1);
    test_kept_states(DType::bf16, 1);
    for (const double scale : {1.0, 1e-6, 3e4}) test_kept_states(DType::f16, scale);
    test_wkv4();
    test_wkv6(DType::f32, DType::f32, false, false);  // 5.0
    test_wkv6(DType::f32, DType::f32, false, true);   // 5.1, 5.2
    for (const Types &types : kTypes) test_wkv6(types.stored, types.compute, true, true);  // 6.0
    return report();
}
