// The CPU as a Backend: splits every operation of backend.h into tasks for the thread pool, at
// most one run (barrier) per operation while a step has few rows. Opened by backend.cpp. The
// arithmetic is in the kernels; this class decides who computes what, and owns the scratch memory
// for it.
#pragma once

#include "backend.h"
#include "cpu/arena.h"
#include "cpu/kernels.h"
#include "cpu/pool.h"
#include "cpu/snapshots.h"

#include <functional>
#include <memory>
#include <vector>

namespace rwkv::cpu {

// Uninitialised floats that only ever grow, 64-byte aligned.
class Scratch {
public:
    float *reserve(int64_t count);
    float *data() const { return data_.get(); }

private:
    struct Free {
        void operator()(float *p) const;
    };
    std::unique_ptr<float, Free> data_;
    int64_t count_ = 0;
};

class CpuBackend final : public Backend {
public:
    CpuBackend(const Kernels &kernels, int threads);

    std::string name() const override { return "cpu"; }
    std::string isa() const override { return kernels_.name; }
    int threads() const override { return pool_.threads(); }

    Buffer floats(size_t count) override;
    States states(size_t floats, int32_t slots) override;
    void use_slots(const States &states, int32_t slots) override;
    void upload(float *to, std::span<const float> from) override;
    void download(std::span<float> to, const float *from) override;
    void copy(float *to, const float *from, size_t count) override;
    Snapshot save(const float *from, size_t count) override;
    void restore(float *to, const Snapshot &snapshot) override;
    void expect_snapshots(size_t count, size_t bytes) override;
    void while_packing(std::function<void()> alive) override;
    Matrix matrix(const Tensor &weights, Precision precision, bool transposed) override;
    Matrix table(const Tensor &rows) override;

    void embed(float *x, const Matrix &table, const Norm &ln0, const Batch &batch) override;
    void shift_linear(const Shift &shift, std::span<const Product> products,
                      const Batch &batch) override;
    void linear(std::span<const Projection> projections, const Batch &batch) override;
    void token_product(float *u, const float *z, const Matrix &table, const float *e, int64_t rank,
                       const Batch &batch) override;
    void lookup(float *y, const Matrix &table, const Batch &batch) override;
    void token_gate(float *y, const Matrix &table, const float *offset,
                    const Batch &batch) override;
    void shift_norm(float *y, const float *mu, const Norm &norm, int64_t n, int64_t shift,
                    const Batch &batch) override;
    void attend(float *x, const float *q, const float *k, const float *v, int64_t keys,
                int64_t values, int64_t layer, const Batch &batch) override;
    void wkv4(const Wkv4 &op, const Batch &batch) override;
    void wkv6(const Wkv6 &op, const Batch &batch) override;
    void wkv7(const Wkv7 &op, const Batch &batch) override;
    void linear_add(float *x, const Matrix &w, const float *y, const Batch &batch,
                    const float *gate) override;
    void head(float *logits, const Matrix &w, const Norm &ln_out, const float *x,
              const Batch &batch) override;
    std::unique_ptr<Drawing> drawing(int32_t seats, size_t vocab) override;
    uint64_t barriers() const override { return pool_.barriers(); }

private:
    // Rows prepared for products: bytes from the start of the scratch memory.
    struct PreparedInput {
        int64_t offset, stride, end;
    };
    // A product over prepared rows: `input` says which of inputs_ enters it.
    struct Work {
        Panels w;
        int input;
        float *y;
        int64_t stride_y;
        Act act;
        bool add;
        const float *gate = nullptr, *bias = nullptr;
    };
    // One task: some panels of one product for some of the rows.
    struct Piece {
        const Work *work;
        int64_t panel, panels, row, rows;
    };
    // What a thread keeps during a run. `serial` says for which run `ready` (a bit per input)
    // holds.
    struct alignas(64) Worker {
        Scratch scratch;
        uint64_t serial = 0, ready = 0;
    };

    Input form_of(const Panels &w) const;
    Input form_of(const Matrix &w) const;
    bool same_input(const Matrix &a, const Matrix &b) const;
    void add_input(Input form, int64_t in, int64_t rows);
    template <class Fill, class Store>
    void multiply(int64_t rows, Fill fill, Store store);
    void plan(int64_t rows);
    void run_piece(const Piece &piece, const Piece *next, const PreparedInput &input,
                   const char *x);
    void table_row(float *to, const Matrix &table, int32_t token);
    void group_spans(const Batch &batch, int64_t tasks);

    const Kernels &kernels_;
    Pool pool_;
    Arena arena_;
    Snapshots snapshots_;
    std::function<void()> alive_ = [] {};
    std::vector<Worker> workers_;
    uint64_t serial_ = 0;
    // Of the operation in progress.
    std::vector<Work> work_;
    std::vector<Piece> pieces_;
    std::vector<PreparedInput> inputs_;
    std::vector<const Product *> mixes_;           // [inputs]: a product that wants this input
    std::vector<const Projection *> projections_;  // [inputs]: the same for projections
    std::vector<const float *> prev_;              // [rows]: state of a span's first row, else null
    std::vector<float *> row_states_;              // [rows]
    std::vector<int64_t> groups_;  // row at which each group of spans starts, and the end
    Scratch shared_;
};

}  // namespace rwkv::cpu
