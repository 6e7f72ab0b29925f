// Operations that depend on the row's token or on the whole text: what versions 7a, 7b and 8-rc00
// add. Part of CpuBackend. None is worth a kernel per instruction set: they are small next to the
// products, and no large model uses them.
#include "cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>

namespace rwkv::cpu {

namespace {

float dot(const float *a, const float *b, int64_t n) {
    float lanes[16] = {};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; ++j) lanes[j] += a[i + j] * b[i + j];
    for (; i < n; ++i) lanes[0] += a[i] * b[i];
    float sum = 0;
    for (float lane : lanes) sum += lane;
    return sum;
}

}  // namespace

void CpuBackend::lookup(float *y, const Matrix &table, const Batch &batch) {
    pool_.run(batch.rows(), [&](int64_t row, int) {
        table_row(y + row * table.in, table, batch.tokens[static_cast<size_t>(row)]);
    });
}

void CpuBackend::token_gate(float *y, const Matrix &table, const float *offset,
                            const Batch &batch) {
    const int64_t n = table.in;
    for (Worker &worker : workers_) worker.scratch.reserve(n);
    pool_.run(batch.rows(), [&](int64_t row, int thread) {
        float *entry = workers_[static_cast<size_t>(thread)].scratch.data();
        table_row(entry, table, batch.tokens[static_cast<size_t>(row)]);
        for (int64_t i = 0; i < n; ++i) y[row * n + i] *= entry[i] + offset[row * n + i];
    });
}

void CpuBackend::token_product(float *u, const float *z, const Matrix &table, const float *e,
                               int64_t rank, const Batch &batch) {
    for (Worker &worker : workers_) worker.scratch.reserve(table.in);
    pool_.run(batch.rows(), [&](int64_t row, int thread) {
        float *entry = workers_[static_cast<size_t>(thread)].scratch.data();
        table_row(entry, table, batch.tokens[static_cast<size_t>(row)]);
        float *to = u + row * rank;
        std::fill_n(to, rank, 0.0f);
        for (int64_t i = 0; i < rank; ++i) {
            const float zi = z[row * rank + i];
            for (int64_t j = 0; j < rank; ++j)
                to[j] += zi * (entry[i * rank + j] + e[row * rank * rank + i * rank + j]);
        }
    });
}

void CpuBackend::shift_norm(float *y, const float *mu, const Norm &norm, int64_t n, int64_t shift,
                            const Batch &batch) {
    for (Worker &worker : workers_) worker.scratch.reserve(2 * n);
    pool_.run(static_cast<int64_t>(batch.spans.size()), [&](int64_t i, int thread) {
        const Span &span = batch.spans[static_cast<size_t>(i)];
        float *prev = batch.state(span) + shift;
        float *current = workers_[static_cast<size_t>(thread)].scratch.data(), *mixed = current + n;
        for (int64_t row = span.first; row < span.first + span.rows; ++row) {
            std::copy_n(y + row * n, n, current);
            for (int64_t c = 0; c < n; ++c) mixed[c] = current[c] + (prev[c] - current[c]) * mu[c];
            kernels_.layer_norm(y + row * n, mixed, norm.weight, norm.bias, n, 1e-5f);
            std::copy_n(current, n, prev);
        }
    });
}

void CpuBackend::attend(float *x, const float *q, const float *k, const float *v, int64_t keys,
                        int64_t values, int64_t layer, const Batch &batch) {
    const int64_t entry = keys + values;
    pool_.run(static_cast<int64_t>(batch.spans.size()), [&](int64_t i, int) {
        const Span &span = batch.spans[static_cast<size_t>(i)];
        auto &layers = span.cache->layers;
        if (static_cast<int64_t>(layers.size()) <= layer)
            layers.resize(static_cast<size_t>(layer) + 1);
        std::vector<float> &cache = layers[static_cast<size_t>(layer)];
        std::vector<float> weights;
        weights.reserve(cache.size() / static_cast<size_t>(entry) + static_cast<size_t>(span.rows));
        for (int64_t row = span.first; row < span.first + span.rows; ++row) {
            cache.insert(cache.end(), k + row * keys, k + (row + 1) * keys);
            cache.insert(cache.end(), v + row * values, v + (row + 1) * values);
            const int64_t tokens = static_cast<int64_t>(cache.size()) / entry;
            weights.resize(static_cast<size_t>(tokens));
            float top = -64.0f;
            for (int64_t t = 0; t < tokens; ++t) {
                const float score =
                    64.0f *
                    std::tanh(dot(q + row * keys, &cache[static_cast<size_t>(t * entry)], keys) /
                              1024.0f);
                weights[static_cast<size_t>(t)] = score;
                top = std::max(top, score);
            }
            float sum = 0;
            for (float &w : weights) sum += w = std::exp(w - top);
            for (int64_t t = 0; t < tokens; ++t) {
                const float w = weights[static_cast<size_t>(t)] / sum;
                const float *value = &cache[static_cast<size_t>(t * entry + keys)];
                for (int64_t c = 0; c < values; ++c) x[row * values + c] += w * value[c];
            }
        }
    });
}

}  // namespace rwkv::cpu
