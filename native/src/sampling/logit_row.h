// Passes over one row of logits: what has to look at every token of a vocabulary. Each instruction
// set has its own, compiled with its kernels from cpu/logit_row.inl and chosen with them; called by
// distribution.cpp, which knows what they are for. Every form adds in one order and contracts
// nothing, so that all give the same bits. Plain C types only: see cpu/kernels.h.
//
// A row is worked on in blocks of 64 values; `block_max` holds the greatest of each.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace rwkv {

// A row of logits [n] and what has been found out about it. Null: not known, or zeros.
struct Row {
    const float *x;
    size_t n;
    const float *block_max = nullptr;  // [blocks] the greatest x of each
    const float *residual = nullptr;   // [n] what rounding to x lost
    const float *e = nullptr;          // [blocks * 64] e^(x + residual - max)
};

// What survives, in float: e^((x + residual - max - shift) * power) of the x above the cut. A row
// with e has power 1 and shift 0.
struct Weighing {
    float cut, max, shift;
    float log2_power;   // power * log2(e)
    bool cut_survives;  // whether x = cut is counted, too
};

// A block's sum of weights, and whether a value lies exactly at the cut.
struct BlockSum {
    double sum;
    uint32_t index;
    bool at_cut;
};

// Bands of equal width over [low, high], numbered from the top; the last takes what is further down
// than the others reach, and band n what lies outside.
struct Bands {
    float low, high, scale;
    size_t n;
    size_t place(float x) const {  // low <= x <= high
        const float y = (high - x) * scale, last = static_cast<float>(n) - 1.f;
        return static_cast<size_t>(y < last ? y : last);
    }
};

// What a bracket low <= x <= high divides.
struct Survey {
    double sum = 0, above = 0;  // of e^(x - max): of all, of those above the bracket
    size_t count = 0;           // above the bracket
    size_t found = 0;           // inside
};

struct LogitRow {
    static constexpr size_t block = 64;
    static constexpr size_t widest = 16;  // lanes of the widest form

    // Fills block_max; returns whether every value is below +infinity (NaN is not). With a mask, a
    // bit for every token, the lowest first, values without one are not looked at and count as
    // -infinity: `allowed` [blocks * 64] gets the row of which that is true.
    bool (*maxima)(float *block_max, const float *x, size_t n, const uint64_t *mask,
                   float *allowed);
    // Sum of e^(x - max): float within a block (8 additions per lane), double across blocks. Unless
    // it is null, e [blocks * 64] keeps them, zeros behind the last.
    double (*sum_exp)(const Row &row, float max, float *e);
    // w <- e^w for w <= 0, relative error 4e-16; 0 below -708. n is a multiple of widest.
    void (*exp_exactly)(double *w, size_t n);
    // Weighs the blocks that reach the threshold, in order, and returns how many those are; `sums`
    // has room for all.
    size_t (*weigh)(BlockSum *sums, const Row &row, float threshold, const Weighing &weighing);
    // The least above -infinity; +infinity if there is none.
    float (*least)(const float *x, size_t n);
    // The band of each value; `band` has room for whole blocks.
    void (*place)(int32_t *band, const float *x, size_t n, const Bands &bands);
    // Surveys a row and writes the ids inside the bracket in order, low being finite. ids has room
    // for most + block; of more than `most` only some are written. e as in sum_exp, never null.
    void (*survey)(Survey &out, int32_t *ids, size_t most, const Row &row, float low, float high,
                   float max, float *e);
    // The same without weights; does not go on beyond `most`.
    void (*survey_counts)(Survey &out, int32_t *ids, size_t most, const Row &row, float low,
                          float high);
};

// The passes of the instruction set that cpu_isa() names. Defined in cpu/isa.cpp; throws Error as
// that does.
const LogitRow &chosen_logit_row();

}  // namespace rwkv
