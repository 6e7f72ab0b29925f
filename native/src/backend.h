// THE seam: what a machine must offer to run RWKV. The architectures (arch/) call these operations
// in the order of their equations; cpu/ (and later cuda/) implement them. Nothing above this header
// knows what a thread pool or a kernel is; nothing below it knows what a layer or a request is.
//
// Pointers to float are memory of the backend (host memory for the CPU): only backend functions may
// dereference them. All vectors and activations are fp32. A matrix is stored in `stored` (the
// file's own type where that is exact) and the rows that enter it are first rounded to `compute`,
// so that batch size never changes what is computed.
#pragma once

#include "weights/tensor.h"

#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace rwkv {

struct SamplingOptions;

// fp32 memory of a backend, zeroed when made.
struct Buffer {
    float *data = nullptr;
    size_t count = 0;
    std::shared_ptr<void> owner;
};

// Weights [out, in], y = W x, in the backend's own layout.
struct Matrix {
    int64_t out = 0, in = 0;
    DType stored = DType::f32;   // element type in memory
    DType compute = DType::f32;  // type to which inputs are rounded
    void *data = nullptr;
    size_t bytes = 0;
    std::shared_ptr<void> owner;

    explicit operator bool() const { return data != nullptr; }
};

// The keys and values of a sequence's whole text, per layer [tokens][keys + values]. Only the
// attention of version 7b keeps one; every other state has a fixed size.
struct TextCache {
    std::vector<std::vector<float>> layers;

    // Room for `more` numbers in each of n layers, so that a step that has begun adds to all of
    // them.
    void make_room(size_t n, size_t more);
};

// States of sequences: slots of one pool, [slots][stride] floats, of which nothing ever moves, so
// that a step names a state by its number. Backend::use_slots() says how many of them have memory.
struct States {
    float *data = nullptr;
    int64_t stride = 0;
    int32_t slots = 0;
    std::shared_ptr<void> owner;

    float *at(int32_t slot) const { return data + slot * stride; }
};

// A copy of floats of a backend, a state or a row of logits, which somebody may want again: kept
// where the backend has room for it, and shared by all who hold it.
struct Snapshot {
    std::shared_ptr<const void> owner;
    size_t bytes = 0;

    explicit operator bool() const { return owner != nullptr; }
};

// One sequence's share of a step: rows [first, first + rows) of the batch continue the state in
// `slot`.
struct Span {
    int32_t first = 0, rows = 0, slot = 0;
    TextCache *cache = nullptr;
};

// One step: a decoding sequence brings one row, a prefilling one a chunk. Spans are in row order
// and cover all rows; no two share a state.
struct Batch {
    const States *states = nullptr;   // in which the spans have their slots
    std::span<const int32_t> tokens;  // [rows]
    std::span<const Span> spans;
    std::span<const int32_t> logit_rows;  // rows whose logits are wanted, ascending
    // Layers whose states are moved on; fewer than all where nothing above them is wanted.
    int64_t depth = std::numeric_limits<int64_t>::max();

    int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
    float *state(const Span &span) const { return states->at(span.slot); }
};

struct Norm {
    const float *weight = nullptr, *bias = nullptr;  // [D]
};

enum class Activation { none, tanh, sigmoid, relu_squared, silu };

// y = act(W · mix), mix = xn + (prev − xn) ⊙ (mu + delta).
struct Product {
    const Matrix *w = nullptr;
    const float *mu = nullptr;  // [in]
    float *y = nullptr;         // [rows, out]
    Activation act = Activation::none;
    const float *delta = nullptr;  // [rows, in], or null for none (version 6)
};

// y = act(W · x + bias) ⊙ gate. All projections of one call have the same number of inputs.
struct Projection {
    const Matrix *w = nullptr;
    const float *x = nullptr;  // [rows, in]
    float *y = nullptr;        // [rows, out]
    Activation act = Activation::none;
    const float *bias = nullptr;  // [out], added to the product, or null
    const float *gate = nullptr;  // [rows, out], multiplies the sum, or null; may be y
};

// xn = LayerNorm(x), eps 1e-5; prev is xn of the previous row of the same sequence, at the first
// row of a span the D floats at state + shift. Afterwards those floats hold the span's last xn.
struct Shift {
    const float *x = nullptr;  // [rows, D]
    Norm norm;
    int64_t shift = 0;  // offset in the state
    bool keep = false;  // leave the state as it is: another operation takes the same shift
};

// The time mixing of version 7 between its input products and its output matrix; head h of H owns
// the channels h·N .. h·N + N − 1. All of it is local to a head. Equations in arch/v7.cpp.
struct Wkv7 {
    int64_t heads = 0, head_size = 0;
    const float *r = nullptr, *k = nullptr, *v = nullptr;                    // [rows, D]
    const float *zw = nullptr, *za = nullptr, *zv = nullptr, *zg = nullptr;  // [rows, rank]
    const Matrix *w2 = nullptr, *a2 = nullptr, *v2 = nullptr,
                 *g2 = nullptr;                                  // [D, rank]; v2 null in layer 0
    const float *w0 = nullptr, *a0 = nullptr, *v0 = nullptr;     // [D]
    const float *k_k = nullptr, *k_a = nullptr, *r_k = nullptr;  // [D]
    Norm ln_x;                                                   // per head, eps 64e-5
    float *v_first = nullptr;  // [rows, D]; written by layer 0, read by the others
    int64_t wkv = 0;           // offset of S [H][value][key] in the state
    DType kept = DType::f32;   // or f16 or bf16: how S lies there
    float *y = nullptr;        // [rows, D]: GroupNorm(S·r) + bonus, times g
};

// The time mixing of versions 5 and 6 between its input products and its output matrix, local to a
// head. Equations in arch/v5.cpp and arch/v6.cpp.
struct Wkv6 {
    int64_t heads = 0, head_size = 0;
    const float *r = nullptr, *k = nullptr, *v = nullptr;  // [rows, A]
    const float *g = nullptr;                              // [rows, A], or null
    const float *zw = nullptr;                             // [rows, rank], version 6
    const Matrix *w2 = nullptr;                            // [A, rank], version 6
    const float *decay = nullptr;  // [A]: time_decay in version 6, W itself in version 5
    const float *bonus = nullptr;  // [A]: U
    Norm ln_x;                     // per head, eps 64e-5
    int64_t wkv = 0;               // offset of s [H][key][value] in the state
    DType kept = DType::f32;       // as in Wkv7
    float *y = nullptr;            // [rows, A]: GroupNorm(y) ⊙ g
};

// The time mixing of version 4, local to a channel. Equations in arch/v4.cpp.
struct Wkv4 {
    int64_t width = 0;                                     // A
    const float *r = nullptr, *k = nullptr, *v = nullptr;  // [rows, A]
    const float *decay = nullptr, *first = nullptr;        // [A]
    int64_t aa = 0, bb = 0, pp = 0;                        // offsets in the state, [A] each
    float *y = nullptr;                                    // [rows, A]: r ⊙ wkv
};

// What a seat draws from: the logits behind the last certain token and, while the tokens drawn are
// those that have been guessed, behind each of these. Or what it scores.
struct Draw {
    int32_t seat = 0;
    float *logits = nullptr;  // [1 + guesses, vocab]; as they were afterwards
    std::span<const int32_t> guesses;
    const uint64_t *mask = nullptr;   // a bit for each id that may be drawn; null: all may be
    std::span<const int32_t> scored;  // instead of a draw: tokens, one for each row of the logits
};

// What has become of one: a token, and one more behind each guess that came true; or all that are
// scored. Where a row cannot be drawn from, nothing follows but the failure.
struct Drawn {
    struct Token {
        int32_t id = 0;
        // By the logits as the model gave them: of the token, then of the most likely ones.
        std::vector<std::pair<int32_t, float>> logprobs;
    };
    std::vector<Token> tokens;
    std::exception_ptr failure;
};

// The draws of one engine. A seat is the place of a sequence: its options, and what has been drawn
// there so far. Called by one thread.
class Drawing {
public:
    virtual ~Drawing() = default;

    // Gives a seat to another sequence. The options have passed check().
    virtual void seat(int32_t seat, const SamplingOptions &options,
                      std::span<const int32_t> prompt) = 0;
    // In the order of the steps; no two of one seat. Spans must stay until they are settled.
    virtual void draw(std::span<const Draw> draws) = 0;
    // Waits for the oldest draws that have not been settled; in their order, valid until the next
    // call of draw().
    virtual std::span<const Drawn> settle() = 0;
};

class Backend {
public:
    virtual ~Backend() = default;

    virtual std::string name() const = 0;  // "cpu"
    virtual std::string isa() const = 0;
    virtual int threads() const = 0;

    // -- memory. Thread-safe.
    virtual Buffer floats(size_t count) = 0;
    // A pool of so many states, which takes address space and no memory yet. Throws std::bad_alloc.
    virtual States states(size_t floats, int32_t slots) = 0;
    // From now on the first `slots` of the pool have memory, whatever it holds; what was in the
    // others is lost, and their memory the system's again. Throws std::bad_alloc if it finds none,
    // and then all is as it was. One thread at a time for each pool.
    virtual void use_slots(const States &states, int32_t slots) = 0;
    virtual void upload(float *to, std::span<const float> from) = 0;
    virtual void download(std::span<float> to, const float *from) = 0;
    virtual void copy(float *to, const float *from, size_t count) = 0;
    // Throws std::bad_alloc.
    virtual Snapshot save(const float *from, size_t count) = 0;
    virtual void restore(float *to, const Snapshot &snapshot) = 0;
    // Advice: snapshots of `count` floats will be made, and so many bytes of memory for them should
    // be ready before. 0: none any more.
    virtual void expect_snapshots(size_t count, size_t bytes) = 0;
    // `alive` is called from any thread every few microseconds of packing, and what it throws ends
    // that.
    virtual void while_packing(std::function<void()> alive) = 0;
    // Packs a two-dimensional tensor for products; transposed: the tensor is [in, out]. Uses all
    // threads. Throws Error if a weight is a NaN or an infinity, where it reads them: a packed
    // matrix that fits is used where it lies.
    virtual Matrix matrix(const Tensor &weights, Precision precision, bool transposed) = 0;
    // A table whose rows are only looked up, kept in the file's type; it may be used where it lies,
    // too.
    virtual Matrix table(const Tensor &rows) = 0;

    // -- operations. One caller at a time.
    // x[row] = LayerNorm(table[token of row]), eps 1e-5; without the norm where that has no
    // weights.
    virtual void embed(float *x, const Matrix &table, const Norm &ln0, const Batch &batch) = 0;
    virtual void shift_linear(const Shift &shift, std::span<const Product> products,
                              const Batch &batch) = 0;
    virtual void linear(std::span<const Projection> projections, const Batch &batch) = 0;
    // u[row] = z[row] · E, E = (table[token] + e[row]) seen as [rank][rank]; e is [rows, rank²].
    virtual void token_product(float *u, const float *z, const Matrix &table, const float *e,
                               int64_t rank, const Batch &batch) = 0;
    // y[row] = table[token]
    virtual void lookup(float *y, const Matrix &table, const Batch &batch) = 0;
    // y[row] *= table[token] + offset[row]
    virtual void token_gate(float *y, const Matrix &table, const float *offset,
                            const Batch &batch) = 0;
    // y[row] = LayerNorm(y + (prev − y) ⊙ mu) over n values, eps 1e-5; prev is y of the row before,
    // at the first row of a span the n floats at state + shift, which then get the last row's y.
    virtual void shift_norm(float *y, const float *mu, const Norm &norm, int64_t n, int64_t shift,
                            const Batch &batch) = 0;
    // Appends k and v of every row to its span's cache and adds Σ softmax(64 tanh(q·k / 1024)) v
    // over the row and all before it to x [rows, values]. q and k are [rows, keys].
    virtual void attend(float *x, const float *q, const float *k, const float *v, int64_t keys,
                        int64_t values, int64_t layer, const Batch &batch) = 0;
    virtual void wkv4(const Wkv4 &op, const Batch &batch) = 0;
    virtual void wkv6(const Wkv6 &op, const Batch &batch) = 0;
    virtual void wkv7(const Wkv7 &op, const Batch &batch) = 0;
    // x += gate ⊙ (W · y); gate [rows, out], or null for ones.
    virtual void linear_add(float *x, const Matrix &w, const float *y, const Batch &batch,
                            const float *gate = nullptr) = 0;
    // logits[i] = W · LayerNorm(x[logit_rows[i]]); logits is [logit_rows, vocab].
    virtual void head(float *logits, const Matrix &w, const Norm &ln_out, const float *x,
                      const Batch &batch) = 0;
    // Draws for so many seats, from logits of `vocab` columns. The backend must outlive it.
    virtual std::unique_ptr<Drawing> drawing(int32_t seats, size_t vocab) = 0;
    // Barriers so far: what tests count.
    virtual uint64_t barriers() const = 0;
};

// "cpu" opens in process. threads 0 = the least of physical cores, affinity and cgroup quota.
std::shared_ptr<Backend> open_backend(const std::string &device, int threads);
// The instruction set that "cpu" would use: RWKV_CPU_ISA, or the best of the machine. Throws Error.
std::string cpu_isa();

}  // namespace rwkv
