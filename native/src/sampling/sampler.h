// From logits to one token id, by the law of the official package (design: bias, penalties,
// forbidden, softmax, top-p, top-k, min-p, temperature as a power, draw). One Sampler per sequence;
// called by cpu/drawing.cpp for every draw, and by api.cpp for the exact distribution. Never knows
// about text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace rwkv {

struct Cuts;

struct SamplingOptions {
    double temperature = 1, top_p = 1, min_p = 0;
    int32_t top_k = 0;
    double presence_penalty = 0, frequency_penalty = 0, penalty_decay = 0.996;
    uint64_t seed = 0;
    std::vector<std::pair<int32_t, float>> bias;
    std::vector<int32_t> forbidden, no_repeat, exempt;
    bool global_penalty = false;
    int32_t logprobs = -1;  // -1: none
    // What a token counts as each time it is drawn, instead of 1; 0: it never counts.
    std::vector<std::pair<int32_t, double>> weights;
    // slope * step() is added to the logit: what should grow likelier as an answer grows.
    std::vector<std::pair<int32_t, double>> slopes;
    int64_t min_tokens = 0;
    std::vector<int32_t> late;  // not drawn before so many tokens have been
};

// Throws Error (RWKV_INVALID) naming the field: NaN, negative temperature, ids outside [0, vocab)
// ...
void check(const SamplingOptions &options, size_t vocab);

// The random number in [0, 1) of one step: 53 bits of Philox4x32-10 with the seed as key and the
// step as counter, so that no two steps or seeds share anything.
double uniform(uint64_t seed, uint64_t step);

struct Sampled {
    int32_t token = 0;
    // Filled if options.logprobs >= 0: the drawn token, then the k most likely, by the log-softmax
    // of the logits as the model gave them. Of equals the lower id comes first.
    std::vector<std::pair<int32_t, float>> logprobs;
};

class Sampler {
public:
    // The options must have passed check(). Of the prompt, global_penalty takes the counts and
    // no_repeat the last token; it is not kept.
    Sampler(SamplingOptions options, std::span<const int32_t> prompt);

    // Draws token number step() from logits [vocab] and counts it. May be called on any thread;
    // depends on (options, prompt, logits, mask, tokens drawn so far) alone. Of a mask, a bit for
    // every token (bit t mod 64 of word t / 64), only tokens that have theirs can be drawn, as if
    // all others were forbidden; null: no mask. Throws Error (RWKV_INTERNAL) if a logit that the
    // mask allows is NaN or +infinity, or if none of them is finite; -infinity is a probability of
    // zero.
    Sampled draw(std::span<const float> logits, const uint64_t *mask = nullptr);
    // The same without a copy: bias, penalties and bans change the row, which is as it was again
    // when this returns or throws.
    Sampled draw_in_place(std::span<float> logits, const uint64_t *mask = nullptr);
    // The exact distribution that draw() would use now, float64 [vocab].
    void probabilities(std::span<double> out, std::span<const float> logits,
                       const uint64_t *mask = nullptr) const;
    // Counts a token as drawn without drawing (replaying a history).
    void count(int32_t token);
    // What is subtracted from the logit of a token in the next draw.
    double penalty(int32_t token) const;
    uint64_t step() const { return step_; }

private:
    struct Occurrence {
        int32_t token;
        double weight;  // times scale_
    };
    class Adjusted;
    Cuts cuts() const;
    bool repeats() const;  // whether the last token must not come again at once
    bool early() const;    // whether the late ones cannot come yet
    bool adjusts() const;  // whether the next draw changes any logit
    void adjust(Adjusted &row) const;
    Sampled taken(int32_t token, std::span<const float> logits);
    void add_occurrence(int32_t token);
    double weight_of(int32_t token) const;
    double penalty_of(const Occurrence &occurrence) const;

    SamplingOptions options_;
    std::vector<Occurrence> occurrences_;
    std::unordered_map<int32_t, size_t> index_;  // token -> place in occurrences_
    double scale_ = 1;  // decay^(tokens counted), pulled back before it underflows
    uint64_t step_ = 0;
    int32_t last_ = -1;  // the last token fed to the model
};

}  // namespace rwkv
