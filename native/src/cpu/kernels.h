// What one instruction set offers: a table of functions over raw pointers, compiled once per ISA
// from kernels.inl. Filled in by isa_*.cpp, chosen by isa.cpp, called by the operations of
// cpu_backend.cpp. Plain C types only: nothing here may instantiate a template or an inline
// function in those objects, because the linker would be free to keep the AVX copy for everybody.
#pragma once

#include "sampling/logit_row.h"
#include "weights/panels.h"

#include <stddef.h>
#include <stdint.h>

namespace rwkv::cpu {

enum Type : int32_t { kF32 = 0, kF16 = 1, kBf16 = 2, kI8 = 4, kI4 = 5 };  // as DType
enum Act : int32_t {
    kNone = 0,
    kTanh = 1,
    kSigmoid = 2,
    kReluSquared = 3,
    kSilu = 4
};  // as Activation

// Matrices are packed in the panels of weights/panels.h.
constexpr int64_t kPanel = panels::kOutputs;
constexpr int64_t group_of(Type stored) { return panels::group(static_cast<DType>(stored)); }
constexpr int64_t groups_of(Type stored, int64_t in) {
    return panels::groups(static_cast<DType>(stored), in);
}
constexpr int64_t scale_bytes(Type stored, int64_t in) {
    return static_cast<int64_t>(panels::scale_bytes(static_cast<DType>(stored), in));
}
constexpr int64_t panel_bytes(Type stored, int64_t in) {
    return static_cast<int64_t>(panels::bytes(static_cast<DType>(stored), in));
}

// How a row that enters a product is prepared. `Kernels::input` says which form a matrix wants.
//   kFloats   fp32, rounded to the type of the computation
//   kPairs    bf16, for instructions that take two inputs at once
//   kBytes, kHalfBytes    for int8 and int4, per group (quant.h): the int8 values p, their scale in fp32, and
//             −128 Σ p or −8 Σ p in int32, which takes the offset of the stored weights back out
// Each is filled up with zeros to a whole number of pairs, or groups.
enum Input : int32_t { kFloats = 0, kPairs = 1, kBytes = 2, kHalfBytes = 3 };
constexpr bool in_groups(Input form) { return form == kBytes || form == kHalfBytes; }
constexpr Type stored_for(Input form) { return form == kBytes ? kI8 : kI4; }
constexpr int64_t group_bytes(Type stored) { return group_of(stored) + 8; }

// Bytes from one prepared row to the next: never a multiple of 4 KiB for the widths that models
// have (12 rows would then share one set of the first-level cache), and with room for the padding.
constexpr int64_t row_bytes(Input form, int64_t in) {
    const Type stored = stored_for(form);
    const int64_t used = in_groups(form)  ? groups_of(stored, in) * group_bytes(stored)
                         : form == kPairs ? (in + 31) / 32 * 64
                                          : (in + 15) / 16 * 64;
    return (used + 63) / 64 * 64 + 64;
}

// A packed matrix.
struct Panels {
    const char *data;
    int64_t out, in;
    Type stored, compute;
};

// y[row][o] = act(Σ_k W[o][k] x[row][k] (+ bias[o] if given)) (⊙ gate[row][o] if given) (+
// y[row][o] if add) for the outputs o of the panels [panel, panel + panels), o < out.
struct LinearTask {
    Panels w;
    int64_t panel, panels;
    const char *x;  // [rows] every stride_x bytes: prepared in the form that w wants
    int64_t stride_x, rows;
    float *y;  // [rows] every stride_y; y[0] is output 0, whatever `panel` is
    int64_t stride_y;
    Act act;
    bool add;
    const float *bias;   // [out], or null
    const float *gate;   // laid out as y, or null
    const char *next;    // panels that will be wanted after these, or null
    int64_t next_bytes;  // of one of them
};

// The recurrence of version 4 for `rows` rows of `channels` channels; see wkv4.inl. All pointers
// but the states point at the first of the channels.
struct Wkv4Task {
    int64_t channel, channels, width, rows;
    const float *r, *k, *v, *decay, *first;
    float *const *aa, *const *bb, *const *pp;  // [rows]: [A] of the row's sequence
    float *y;
};

// The time mixing of one head of versions 5 and 6 for `rows` rows; see wkv6.inl. Pointers as below.
struct Wkv6Task {
    int64_t head, head_size, width, rows;
    const float *r, *k, *v, *g;  // g may be null
    const float *zw;
    Panels w2;  // w2.data null in version 5
    const float *decay, *bonus, *ln_weight, *ln_bias;
    float *y;
    float *const *state;  // [rows]: s [H][key][value] of the row's sequence, in `kept`
    Type kept;            // kF32, kF16 or kBf16
    float *scratch;       // wkv6_scratch(...) floats
};

// The time mixing of one head of version 7 for `rows` rows; see wkv7.inl. Pointers [rows, D] and
// [D] point at the head's first channel, [rows, rank] at the first row.
struct Wkv7Task {
    int64_t head, head_size, width, rows;
    const float *r, *k, *v;
    const float *zw, *za, *zv, *zg;
    Panels w2, a2, v2, g2;  // v2.data null in layer 0
    const float *w0, *a0, *v0, *k_k, *k_a, *r_k, *ln_weight, *ln_bias;
    float *v_first, *y;
    float *const *state;  // [rows]: S [H][value][key] of the row's sequence, in `kept`
    Type kept;            // as above
    float *scratch;       // wkv7_scratch(...) floats
};

// Rows that Wkv7Task works on at a time, and the floats it needs for that.
constexpr int64_t kWkv7Rows = 24;
// A prepared row of any form in floats: fp32 takes the most room.
constexpr int64_t rounded_floats(int64_t in) { return row_bytes(kFloats, in) / 4; }
constexpr int64_t wkv7_scratch(int64_t head_size, int64_t largest_rank) {
    const int64_t padded = (head_size + 15) / 16 * 16;
    return kWkv7Rows * rounded_floats(largest_rank) + 4 * kWkv7Rows * (padded + 2 * kPanel) +
           7 * kWkv7Rows * padded + padded * padded;
}

constexpr int64_t wkv6_scratch(int64_t head_size, int64_t rank) {
    const int64_t padded = (head_size + 15) / 16 * 16;
    return kWkv7Rows * rounded_floats(rank) + kWkv7Rows * (padded + 2 * kPanel) +
           5 * kWkv7Rows * padded;
}

struct Kernels {
    const char *name;
    int32_t lanes;  // fp32 numbers in a vector

    // The form in which rows enter the products of a matrix.
    Input (*input)(Type stored, Type compute);
    void (*linear)(const LinearTask *task);
    void (*wkv4)(const Wkv4Task *task);
    void (*wkv6)(const Wkv6Task *task);
    void (*wkv7)(const Wkv7Task *task);
    // y = (x − mean) / sqrt(var + eps) ⊙ weight + bias, over n values; y may be x.
    void (*layer_norm)(float *y, const float *x, const float *weight, const float *bias, int64_t n,
                       float eps);
    // y = xn + (prev − xn) ⊙ (mu + delta), prepared for products; delta may be null.
    void (*mix)(char *y, const float *xn, const float *prev, const float *mu, const float *delta,
                int64_t n, Type compute, Input form);
    // y = x, likewise.
    void (*round)(char *y, const float *x, int64_t n, Type compute, Input form);
    // y = x widened from f16 or bf16.
    void (*widen)(float *y, const uint16_t *x, int64_t n, Type stored);
    // y = f(x) for the tests: 'e' exp, 's' sigmoid, 't' tanh, 'w' the decay of version 7.
    void (*function)(float *y, const float *x, int64_t n, char f);
    // What draws do with rows of logits.
    LogitRow logit_row;
};

}  // namespace rwkv::cpu
