// From logits to one token id, by the law of the official package (design: bias, penalties, forbidden,
// softmax, top-p, top-k, min-p, temperature as a power, draw). One Sampler per sequence; called by the
// engine after every step, and by api.cpp for the exact distribution. Never knows about text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace rwkv {

struct SamplingOptions {
    double temperature = 1, top_p = 1, min_p = 0;
    int32_t top_k = 0;
    double presence_penalty = 0, frequency_penalty = 0, penalty_decay = 0.996;
    uint64_t seed = 0;
    std::vector<std::pair<int32_t, float>> bias;
    std::vector<int32_t> forbidden, no_repeat, exempt;
    bool global_penalty = false;
    int32_t logprobs = -1;  // -1: none
};

// Throws Error (RWKV_INVALID) naming the field: NaN, negative temperature, ids outside [0, vocab) ...
void check(const SamplingOptions &options, size_t vocab);

struct Drawn {
    int32_t token = 0;
    // Filled if options.logprobs >= 0: the drawn token, then the k most likely, by the log-softmax of
    // the logits as the model gave them.
    std::vector<std::pair<int32_t, float>> logprobs;
};

class Sampler {
public:
    // prompt is only kept if global_penalty wants it.
    Sampler(SamplingOptions options, std::span<const int32_t> prompt);

    // Draws token number step() from logits [vocab] and counts it. May be called on any thread; depends
    // on (options, prompt, logits, tokens drawn so far) alone. Throws Error (RWKV_INTERNAL) if no
    // logit is finite.
    Drawn draw(std::span<const float> logits);
    // The exact distribution that draw() would use now, float64 [vocab].
    void probabilities(std::span<double> out, std::span<const float> logits) const;
    // Counts a token as drawn without drawing (replaying a history).
    void count(int32_t token);
    uint64_t step() const { return step_; }

private:
    struct Candidates;
    SamplingOptions options_;
    std::vector<int32_t> prompt_;
    std::unordered_map<int32_t, double> occurrence_;  // see sampler.cpp for how decay is kept lazily
    double scale_ = 1;
    uint64_t step_ = 0;
    int32_t last_ = -1;
};

}  // namespace rwkv
