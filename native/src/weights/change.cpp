#include "weights/change.h"

#include "error.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace rwkv {

namespace {

// row[c] += Σ_j weights[j] · lines[j · stride + c]. A strip of columns stays in registers over all
// j.
void add_lines(float *row, int64_t columns, const float *weights, const float *lines, int64_t n,
               int64_t stride) {
    constexpr int64_t kStrip = 32;
    int64_t c = 0;
    for (; c + kStrip <= columns; c += kStrip) {
        float sum[kStrip] = {};
        for (int64_t j = 0; j < n; ++j) {
            const float weight = weights[j];
            const float *line = lines + j * stride + c;
            for (int64_t k = 0; k < kStrip; ++k) sum[k] += weight * line[k];
        }
        for (int64_t k = 0; k < kStrip; ++k) row[c + k] += sum[k];
    }
    for (; c < columns; ++c) {
        float sum = 0;
        for (int64_t j = 0; j < n; ++j) sum += weights[j] * lines[j * stride + c];
        row[c] += sum;
    }
}

void add_low_rank(float *row, int64_t o, int64_t in, const Change &change) {
    const int64_t rank = change.rank;
    std::vector<float> weights(change.b.begin() + o * rank, change.b.begin() + (o + 1) * rank);
    for (float &w : weights) w *= change.scale;
    add_lines(row, in, weights.data(), change.a.data(), rank, in);
}

void add_shard(float *row, int64_t o, int64_t in, const Change &change) {
    const int64_t rank = change.rank, m = static_cast<int64_t>(change.a.size()) / rank;
    const float *column = change.a.data() + o % m;
    for (int64_t c = 0; c < in; ++c) row[c] += column[c % rank * m];
}

void add_bat(float *row, int64_t o, int64_t in, const Change &change) {
    const int64_t rank = change.rank;
    std::vector<float> before(static_cast<size_t>(rank));
    for (int64_t c = 0; c < in; c += rank) {
        const int64_t which = change.kind == ChangeKind::bat_columns ? c / rank : o / rank;
        const float *block = change.a.data() + which * rank * rank;
        std::copy_n(row + c, rank, before.begin());
        add_lines(row + c, rank, before.data(), block, rank, rank);
        const float *line = block + o % rank * rank;
        for (int64_t k = 0; k < rank; ++k) row[c + k] += line[k];
    }
}

void set_magnitude(float *row, int64_t o, int64_t in, const Change &change) {
    double squares = 0;
    for (int64_t c = 0; c < in; ++c) squares += static_cast<double>(row[c]) * row[c];
    const double factor = squares > 0 ? change.a[static_cast<size_t>(o)] / std::sqrt(squares) : 0;
    for (int64_t c = 0; c < in; ++c) row[c] = static_cast<float>(row[c] * factor);
}

}  // namespace

void require_change_fits(const Change &change, int64_t out, int64_t in) {
    const auto a = static_cast<int64_t>(change.a.size()), b = static_cast<int64_t>(change.b.size());
    const int64_t rank = change.rank;
    const bool ranked = rank >= 1 && rank <= std::max(a, int64_t{1}) && out >= 1 && in >= 1;
    const bool square = ranked && a / rank / rank * rank * rank == a;
    bool fits = false;
    switch (change.kind) {
    case ChangeKind::low_rank:
        fits = ranked && a % rank == 0 && a / rank == in && b % rank == 0 && b / rank == out;
        break;
    case ChangeKind::shard: fits = ranked && a % rank == 0 && out % (a / rank) == 0; break;
    case ChangeKind::bat_columns:
        fits = square && in % rank == 0 && out % rank == 0 && a / rank / rank == in / rank;
        break;
    case ChangeKind::bat_rows:
        fits = square && in % rank == 0 && out % rank == 0 && a / rank / rank == out / rank;
        break;
    case ChangeKind::magnitude: fits = a == out; break;
    }
    if (!fits)
        throw invalid("the change does not fit a matrix [" + std::to_string(out) + ", " +
                      std::to_string(in) + "]");
}

void change_row(float *row, int64_t o, int64_t in, const Change &change) {
    switch (change.kind) {
    case ChangeKind::low_rank: return add_low_rank(row, o, in, change);
    case ChangeKind::shard: return add_shard(row, o, in, change);
    case ChangeKind::bat_columns:
    case ChangeKind::bat_rows: return add_bat(row, o, in, change);
    case ChangeKind::magnitude: return set_magnitude(row, o, in, change);
    }
}

}  // namespace rwkv
