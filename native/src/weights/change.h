// What an adapter changes of a matrix [out, in] while it is read, row by row: LoRA, shards, Bat and
// the magnitudes of DoRA. Made by arch/weight_reader.cpp and by api.cpp; applied by tensor.cpp to
// every row that it reads. Knows no names and no files.
#pragma once

#include <cstdint>
#include <vector>

namespace rwkv {

// With w a row, o its number, and w[c:] its columns from c on:
//   low_rank     w += scale · Σ_j b[o, j] · a[j]                a [rank, in], b [out, rank]
//   shard        w[c] += a[c mod rank, o mod m]                 a [rank, m], m a divisor of out
//   bat_columns  w[c:] += w[c:] · a[c / rank] + a[c / rank, o mod rank]    a [in / rank, rank, rank], c whole blocks
//   bat_rows     the same with a[o / rank] for every block      a [out / rank, rank, rank]
//   magnitude    w *= a[o] / ‖w‖                                a [out]
enum class ChangeKind : int32_t {
    low_rank = 0,
    shard = 1,
    bat_columns = 2,
    bat_rows = 3,
    magnitude = 4
};

struct Change {
    ChangeKind kind = ChangeKind::low_rank;
    int64_t rank = 0;
    float scale = 1;
    std::vector<float> a, b;
};

// Throws Error unless a and b have the sizes that a matrix [out, in] asks for.
void require_change_fits(const Change &change, int64_t out, int64_t in);
// Row number `o` of a matrix with `in` columns, which the change must fit.
void change_row(float *row, int64_t o, int64_t in, const Change &change);

}  // namespace rwkv
