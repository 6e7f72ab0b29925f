// The operations that depend on a row's token or on the whole text (versions 7a, 7b, 8-rc00)
// against plain double loops, and step by step against all at once.
#include "oracle.h"

using namespace rwkv;
using namespace oracle;

namespace {

constexpr int64_t kVocab = 23;

struct Table {
    Source source;
    Matrix matrix;

    Table(Backend &backend, Random &random, int64_t columns, DType stored)
        : source(random, kVocab, columns, stored), matrix(backend.table(source.tensor)) {}
    double at(int32_t token, int64_t column) const {
        const double x = source.values[static_cast<size_t>(token * matrix.in + column)];
        return source.tensor.dtype == DType::f64 ? static_cast<float>(x) : x;
    }
};

void draw_tokens(Random &random, Sequences &s) {
    for (int32_t &token : s.tokens)
        token = static_cast<int32_t>(std::fabs(random.next()) * 1e6) % kVocab;
}

void test_tables(DType stored) {
    const auto backend = open_backend("cpu", 2);
    Random random{31};
    for (const int64_t n : {1, 9, 64, 131})
        for (const std::vector<int> &lengths : {std::vector<int>{1}, {3, 1, 9}}) {
            Sequences s(*backend, lengths, 1);
            draw_tokens(random, s);
            const int64_t rows = s.rows();
            const Table table(*backend, random, n, stored);
            Floats y(static_cast<size_t>(rows * n));
            backend->lookup(y.data(), table.matrix, s.batch());
            const Floats before = random.floats(rows * n), offset = random.floats(rows * n);
            Floats gated = before;
            backend->token_gate(gated.data(), table.matrix, offset.data(), s.batch());
            double worst = 0;
            for (int64_t row = 0; row < rows; ++row)
                for (int64_t i = 0; i < n; ++i) {
                    const size_t at = static_cast<size_t>(row * n + i);
                    const double entry = table.at(s.tokens[static_cast<size_t>(row)], i);
                    CHECK(y[at] == static_cast<float>(entry));
                    worst =
                        std::max(worst, std::fabs(gated[at] - before[at] * (entry + offset[at])));
                }
            CHECK_NEAR(worst, 0, 2e-6);
        }
}

void test_token_product(DType stored) {
    const auto backend = open_backend("cpu", 3);
    Random random{32};
    for (const int64_t rank : {1, 5, 32})
        for (const std::vector<int> &lengths : {std::vector<int>{1}, {3, 1, 9}}) {
            Sequences s(*backend, lengths, 1);
            draw_tokens(random, s);
            const int64_t rows = s.rows();
            const Table table(*backend, random, rank * rank, stored);
            const Floats z = random.floats(rows * rank), e = random.floats(rows * rank * rank);
            Floats u(static_cast<size_t>(rows * rank), 7.0f);  // what was there is overwritten
            backend->token_product(u.data(), z.data(), table.matrix, e.data(), rank, s.batch());
            double worst = 0;
            for (int64_t row = 0; row < rows; ++row)
                for (int64_t j = 0; j < rank; ++j) {
                    double sum = 0;
                    for (int64_t i = 0; i < rank; ++i)
                        sum += z[static_cast<size_t>(row * rank + i)] *
                               (table.at(s.tokens[static_cast<size_t>(row)], i * rank + j) +
                                e[static_cast<size_t>((row * rank + i) * rank + j)]);
                    worst =
                        std::max(worst, std::fabs(u[static_cast<size_t>(row * rank + j)] - sum));
                }
            CHECK_NEAR(worst, 0, 1e-5);
        }
}

void test_shift_norm() {
    const auto backend = open_backend("cpu", 2);
    Random random{33};
    for (const int64_t n : {2, 16, 77})
        for (const std::vector<int> &lengths : {std::vector<int>{1}, {1, 1}, {6, 1, 3}}) {
            Sequences s(*backend, lengths, n + 2);
            const int64_t rows = s.rows();
            const Floats mu = random.floats(n), weight = random.floats(n), bias = random.floats(n);
            const Floats before = random.floats(rows * n);
            std::vector<Floats> prev;
            for (Buffer &state : s.states) {
                for (int64_t i = 0; i < n; ++i)
                    state.data[1 + i] = static_cast<float>(random.next());
                prev.push_back(copy_of(state.data + 1, n));
            }
            Floats y = before;
            backend->shift_norm(y.data(), mu.data(), {weight.data(), bias.data()}, n, 1, s.batch());
            double worst = 0;
            for (size_t q = 0; q < s.spans.size(); ++q) {
                for (int row = s.spans[q].first; row < s.spans[q].first + s.spans[q].rows; ++row) {
                    const Floats current = copy_of(before.data() + row * n, n);
                    Floats mixed(current.size());
                    for (size_t i = 0; i < mixed.size(); ++i)
                        mixed[i] = static_cast<float>(
                            current[i] + (static_cast<double>(prev[q][i]) - current[i]) * mu[i]);
                    const Doubles want =
                        layer_norm(mixed.data(), weight.data(), bias.data(), n, 1e-5);
                    for (size_t i = 0; i < mixed.size(); ++i)
                        worst = std::max(worst,
                                         std::fabs(y[static_cast<size_t>(row * n) + i] - want[i]));
                    prev[q] = current;
                }
                CHECK(same_bits(s.states[q].data + 1, prev[q].data(), n));
                CHECK(s.states[q].data[0] == 0 && s.states[q].data[n + 1] == 0);
            }
            CHECK_NEAR(worst, 0,
                       n == 2 ? 2e-3 : 2e-5);  // two values nearly equal: 1 / their distance
        }
}

// Layer 1 of a cache that other steps have begun.
void test_attend() {
    const auto backend = open_backend("cpu", 3);
    Random random{34};
    for (const auto &[keys, values] : {std::pair<int64_t, int64_t>{1, 1}, {20, 12}, {256, 33}})
        for (const std::vector<int> &lengths : {std::vector<int>{1}, {1, 1, 1}, {9}, {4, 1, 6}}) {
            Sequences s(*backend, lengths, 1);
            const int64_t rows = s.rows(), entry = keys + values;
            // Products of a few hundred: 64 tanh(q·k / 1024) is lively.
            const double scale = std::sqrt(300 / std::sqrt(static_cast<double>(keys)));
            std::vector<TextCache> caches(lengths.size());
            for (size_t q = 0; q < caches.size(); ++q) {
                caches[q].layers.resize(2);
                caches[q].layers[1] = random.floats(static_cast<int64_t>(q) * 3 * entry, scale);
                s.spans[q].cache = &caches[q];
            }
            const std::vector<TextCache> before = caches;
            const Floats q_of = random.floats(rows * keys, scale),
                         k = random.floats(rows * keys, scale);
            const Floats v = random.floats(rows * values), start = random.floats(rows * values);
            Floats x = start;
            backend->attend(x.data(), q_of.data(), k.data(), v.data(), keys, values, 1, s.batch());
            double worst = 0;
            for (size_t q = 0; q < caches.size(); ++q) {
                Floats text = before[q].layers[1];
                for (int row = s.spans[q].first; row < s.spans[q].first + s.spans[q].rows; ++row) {
                    text.insert(text.end(), k.begin() + row * keys, k.begin() + (row + 1) * keys);
                    text.insert(text.end(), v.begin() + row * values,
                                v.begin() + (row + 1) * values);
                    const int64_t tokens = static_cast<int64_t>(text.size()) / entry;
                    Doubles p(static_cast<size_t>(tokens));
                    double sum = 0;
                    for (int64_t t = 0; t < tokens; ++t) {
                        double dot = 0;
                        for (int64_t i = 0; i < keys; ++i)
                            dot += static_cast<double>(q_of[static_cast<size_t>(row * keys + i)]) *
                                   text[static_cast<size_t>(t * entry + i)];
                        sum += p[static_cast<size_t>(t)] = std::exp(64 * std::tanh(dot / 1024));
                    }
                    for (int64_t c = 0; c < values; ++c) {
                        const size_t at = static_cast<size_t>(row * values + c);
                        double want = start[at];
                        for (int64_t t = 0; t < tokens; ++t)
                            want += p[static_cast<size_t>(t)] / sum *
                                    text[static_cast<size_t>(t * entry + keys + c)];
                        worst = std::max(worst, std::fabs(x[at] - want));
                    }
                }
                CHECK(caches[q].layers[1] == text && caches[q].layers[0].empty());
            }
            CHECK_NEAR(worst, 0, 3e-5);

            // One row at a time: the same bits.
            std::vector<TextCache> again = before;
            Floats stepped = start;
            for (size_t q = 0; q < again.size(); ++q)
                for (int row = s.spans[q].first; row < s.spans[q].first + s.spans[q].rows; ++row) {
                    Sequences one(*backend, {1}, 1);
                    one.spans[0].cache = &again[q];
                    backend->attend(stepped.data() + row * values, q_of.data() + row * keys,
                                    k.data() + row * keys, v.data() + row * values, keys, values, 1,
                                    one.batch());
                }
            CHECK(same_bits(stepped.data(), x.data(), rows * values));
        }
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    for (const DType stored : {DType::f32, DType::f16, DType::bf16, DType::f64}) {
        test_tables(stored);
        test_token_product(stored);
    }
    test_shift_norm();
    test_attend();
    return report();
}
