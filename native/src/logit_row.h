// Passes over one row of logits, written once and compiled for three widths of vectors. Called by
// distribution.cpp and the tests; knows no law of sampling. Every width adds in one order and
// contracts nothing, so that all give the same bits.
//
// A row is worked on in blocks of 64 values; `block_max` holds the greatest of each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace rwkv {

// A block's sum of weights, and whether a value lies exactly at the cut.
struct BlockSum {
    double sum;
    bool at_cut;
};

// What survives, in float: e^((x + residual - max - shift) * power) of the x above the cut.
struct QuickLaw {
    float cut, max, shift;
    float log2_power;   // power * log2(e)
    bool cut_survives;  // whether x = cut is counted, too
};

struct LogitRow {
    static constexpr size_t block = 64;
    static constexpr size_t widest = 16;  // lanes of the widest form

    // Of the values above a bracket: how many, and the sum of their e^(x - max).
    struct Above {
        double weight = 0;
        size_t count = 0;
    };

    const char *name;
    // Fills block_max; returns whether every value is below +infinity (NaN is not).
    bool (*maxima)(float *block_max, const float *x, size_t n);
    // Sum of e^(x - max): float within a block (8 additions per lane), double across blocks.
    double (*sum_exp)(const float *x, size_t n, float max);
    // x and residual (or null: zeros) point at the 64 values of one block.
    BlockSum (*weigh)(const float *x, const float *residual, const QuickLaw &law);
    // Writes the ids of low <= x <= high in order and returns their number; gives up with a number
    // beyond `most` once there are more than that. ids has room for most + widest; low is finite.
    size_t (*bracket)(int32_t *ids, size_t most, Above &above, const float *x, size_t n,
                      const float *block_max, float low, float high, float max);
};

// Every form that this machine can run, the best one first.
std::span<const LogitRow *const> logit_rows();

}  // namespace rwkv
