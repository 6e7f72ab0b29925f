// A loaded model: weights on a backend, and the one forward that engine and API share. Owns version
// detection, shape checks and conversion. Never knows about requests.
#pragma once

#include "backend.h"
#include "model/turns.h"
#include "state_layout.h"

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace rwkv {

struct ModelInfo {
    std::string version, strategy, file_dtype, isa, state_type;
    int64_t layers = 0, width = 0, heads = 0, head_size = 0, ffn = 0, vocab = 0;
    int threads = 0;
    int64_t parameters = 0, weight_bytes = 0, token_bytes = 0, token_flops = 0;
    int64_t int8_weights = 0, int4_weights = 0;
    int64_t state_bytes = 0;
};

struct LoadProgress {
    std::atomic<uint64_t> done{0}, total{0};
    std::atomic<bool> cancel{false};
};

class Model {
public:
    // Throws Error. `tensors` are checked views; nothing of them is used afterwards but what a
    // packed file holds. forget() is called between tensors whenever some more have been read, so
    // that file and model need not be in memory together. `state` is how the matrices of a state
    // are kept: f32, f16 or bf16.
    static std::shared_ptr<Model> load(
        std::vector<Tensor> tensors, const std::string &strategy, int threads,
        LoadProgress &progress, const std::function<void()> &forget = [] {},
        DType state = DType::f32);
    ~Model();

    const ModelInfo &info() const { return info_; }
    const std::vector<StatePart> &state_parts() const { return state_.parts; }
    size_t state_floats() const;  // floats of memory that one state takes

    // A pool of one state, at its initial values, and these values.
    States new_state() const;
    std::span<const float> initial_state() const { return initial_; }
    // The numbers of one layer of a part, in fp32 however they are kept.
    void write_layer(float *state, const StatePart &part, int64_t layer,
                     std::span<const float> from) const;
    void read_layer(std::span<float> to, const float *state, const StatePart &part,
                    int64_t layer) const;
    Backend &backend() const { return *backend_; }

    // Memory for the activations of a step of so many rows, so that forward() asks for less once
    // states move.
    void make_room(int64_t rows);
    // Moves every span's state on and writes logits [batch.logit_rows, vocab] to host memory. Calls
    // of several threads take turns, first come, first served. Tokens must be in [0, vocab).
    void forward(const Batch &batch, float *logits);

private:
    struct Architecture;  // the weights of one version
    Model();
    void make_scratch(int64_t rows);

    ModelInfo info_;
    StateLayout state_;
    std::shared_ptr<Backend> backend_;
    std::unique_ptr<Architecture> architecture_;
    Turns turns_;
    Buffer scratch_;              // activations of the largest step so far
    std::vector<float> initial_;  // state: its parts' values, or the tuned state of the checkpoint
};

}  // namespace rwkv
