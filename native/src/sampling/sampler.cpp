// Owns what changes logits before a draw (bias, penalties, bans), the random numbers and the checks
// of the options. Called by cpu/drawing.cpp for every draw and by api.cpp for the exact
// distribution; what follows the softmax is distribution.cpp.
#include "sampling/sampler.h"

#include "error.h"
#include "sampling/distribution.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <limits>

namespace rwkv {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Memory of one thread, reused by every draw: 0.25 MB for 65536 tokens, with a copy 0.5 MB.
struct Scratch {
    std::vector<float> copy;       // [vocab] of logits that nobody may change
    std::vector<float> residual;   // [vocab] what rounding to float lost of penalties and biases
    std::vector<int32_t> changed;  // ids of changed logits: the others have a residual of 0
    std::vector<float> before;     // what those were
    Distribution distribution;
};

// Made by a thread's first draw, which may find no memory: outside of a function that would end the
// process.
Scratch &scratch() {
    thread_local Scratch of_this_thread;
    return of_this_thread;
}

void check_number(const char *name, double value, double low, double high) {
    if (std::isfinite(value) && value >= low && value <= high) return;
    char text[160];
    if (!std::isfinite(value)) {
        std::snprintf(text, sizeof text, "%s must be a finite number, got %g", name, value);
    } else if (high == DBL_MAX) {
        std::snprintf(text, sizeof text, "%s must be >= %g, got %g", name, low, value);
    } else {
        std::snprintf(text, sizeof text, "%s must be between %g and %g, got %g", name, low, high,
                      value);
    }
    throw invalid(text);
}

void check_id(const char *name, int32_t id, size_t vocab) {
    if (id < 0 || static_cast<size_t>(id) >= vocab) {
        throw invalid(std::string(name) + ": token id " + std::to_string(id) +
                      " is outside the vocabulary of " + std::to_string(vocab));
    }
}

// What rounding lost of a logit. Rounded to nearest it could reach the middle between two floats,
// from where the sum rounds to the other one.
float toward_zero(double lost) {
    const auto nearest = static_cast<float>(lost);
    const bool beyond = std::abs(static_cast<double>(nearest)) > std::abs(lost);
    return std::bit_cast<float>(std::bit_cast<uint32_t>(nearest) - beyond);  // the next one inwards
}

}  // namespace

// A row of logits changed in place, which is as it was once this is gone.
class Sampler::Adjusted {
public:
    explicit Adjusted(std::span<float> row) : s_(scratch()), row_(row) {
        s_.residual.resize(std::max(s_.residual.size(), row.size()));
    }
    Adjusted(const Adjusted &) = delete;
    ~Adjusted() {
        for (size_t n = s_.changed.size(); n > 0; --n) {  // what was changed twice, last
            const auto i = static_cast<size_t>(s_.changed[n - 1]);
            row_[i] = s_.before[n - 1];
            s_.residual[i] = 0;
        }
        s_.changed.clear();
        s_.before.clear();
    }
    void add(int32_t id, double value) {
        const auto i = static_cast<size_t>(id);
        if (i < row_.size() && std::isfinite(row_[i])) {  // +infinity stays, to be found out
            note(id);
            const double sum = static_cast<double>(row_[i]) + static_cast<double>(s_.residual[i]);
            const double z = std::clamp(sum + value, -3e38, 3e38);
            row_[i] = static_cast<float>(z);
            s_.residual[i] = toward_zero(z - static_cast<double>(row_[i]));
        }
    }
    void forbid(int32_t id) {
        if (static_cast<size_t>(id) < row_.size()) {
            note(id);
            row_[static_cast<size_t>(id)] = -infinity;
        }
    }
    const Distribution &distribution(const Cuts &cuts, const uint64_t *mask) {
        s_.distribution.set(row_, std::span(s_.residual).first(row_.size()), s_.changed, mask,
                            cuts);
        return s_.distribution;
    }

private:
    void note(int32_t id) {
        s_.before.push_back(row_[static_cast<size_t>(id)]);
        s_.changed.push_back(id);
    }

    Scratch &s_;
    std::span<float> row_;
};

void check(const SamplingOptions &options, size_t vocab) {
    check_number("temperature", options.temperature, 0, DBL_MAX);
    check_number("top_p", options.top_p, 0, DBL_MAX);
    check_number("min_p", options.min_p, 0, 1);
    check_number("presence_penalty", options.presence_penalty, -DBL_MAX, DBL_MAX);
    check_number("frequency_penalty", options.frequency_penalty, -DBL_MAX, DBL_MAX);
    check_number("penalty_decay", options.penalty_decay, 0, 1);
    const auto most_logprobs = static_cast<double>(std::min<size_t>(20, vocab));
    check_number("logprobs", options.logprobs, -1, most_logprobs);
    for (const auto &[id, value] : options.bias) {
        check_id("logit_bias", id, vocab);
        check_number("logit_bias", static_cast<double>(value), -DBL_MAX, DBL_MAX);
    }
    for (const auto &[id, weight] : options.weights) {
        check_id("count_weights", id, vocab);
        check_number("count_weights", weight, 0, 1e9);  // counts stay finite
    }
    for (const auto &[id, slope] : options.slopes) {
        check_id("bias_slopes", id, vocab);
        check_number("bias_slopes", slope, -DBL_MAX, DBL_MAX);
    }
    for (const int32_t id : options.forbidden) check_id("forbidden", id, vocab);
    if (options.min_tokens < 0) {
        throw invalid("min_tokens is " + std::to_string(options.min_tokens) +
                      ", it must be at least 0");
    }
    for (const int32_t id : options.late) check_id("late", id, vocab);
    for (const int32_t id : options.no_repeat) check_id("no_repeat", id, vocab);
    for (const int32_t id : options.exempt) check_id("exempt", id, vocab);
}

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
double uniform(uint64_t seed, uint64_t step) {
    auto c0 = static_cast<uint32_t>(step), c1 = static_cast<uint32_t>(step >> 32);
    auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    uint32_t c2 = 0, c3 = 0;
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
        c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(b);
        c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(a);
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return static_cast<double>((uint64_t{c1} << 32 | c0) >> 11) * 0x1p-53;
}

Sampler::Sampler(SamplingOptions options, std::span<const int32_t> prompt)
    : options_(std::move(options)) {
    std::sort(options_.weights.begin(), options_.weights.end());
    if (options_.global_penalty) {
        std::sort(options_.exempt.begin(), options_.exempt.end());
        for (const int32_t token : prompt)
            if (!std::binary_search(options_.exempt.begin(), options_.exempt.end(), token))
                add_occurrence(token);
    }
    if (!prompt.empty()) last_ = prompt.back();
}

// What drawing a token adds to its occurrences.
double Sampler::weight_of(int32_t token) const {
    const auto place = std::lower_bound(options_.weights.begin(), options_.weights.end(), token,
                                        [](const auto &a, int32_t id) { return a.first < id; });
    return place == options_.weights.end() || place->first != token ? 1 : place->second;
}

// After drawing x:  occ[t] *= decay for all t;  occ[x] += w(x).  With occ[t] = weight[t] * scale
// this is scale *= decay;  weight[x] += w(x) / scale: one token is touched, however many have been
// seen.
void Sampler::add_occurrence(int32_t token) {
    if (options_.presence_penalty == 0 && options_.frequency_penalty == 0) return;
    scale_ *= options_.penalty_decay;
    if (scale_ < 1e-100) {
        for (Occurrence &occurrence : occurrences_) occurrence.weight *= scale_;
        scale_ = 1;
    }
    const double weight = weight_of(token);
    if (weight == 0) return;
    const auto [place, is_new] = index_.try_emplace(token, occurrences_.size());
    if (is_new) occurrences_.push_back({token, 0});
    occurrences_[place->second].weight += weight / scale_;
}

void Sampler::count(int32_t token) {
    add_occurrence(token);
    last_ = token;
    ++step_;
}

// presence + occ[t] * frequency
double Sampler::penalty_of(const Occurrence &occurrence) const {
    return options_.presence_penalty + occurrence.weight * scale_ * options_.frequency_penalty;
}

// At step 0 only the prompt has occurred, and by the law of global_penalty it counts from the
// second draw on.
double Sampler::penalty(int32_t token) const {
    const auto place = index_.find(token);
    return step_ == 0 || place == index_.end() ? 0 : penalty_of(occurrences_[place->second]);
}

Cuts Sampler::cuts() const {
    return {.temperature = options_.temperature,
            .top_p = options_.top_p,
            .min_p = options_.min_p,
            .top_k = options_.top_k};
}

bool Sampler::repeats() const {
    return std::find(options_.no_repeat.begin(), options_.no_repeat.end(), last_) !=
           options_.no_repeat.end();
}

bool Sampler::early() const {
    return !options_.late.empty() && step_ < static_cast<uint64_t>(options_.min_tokens);
}

bool Sampler::adjusts() const {
    return !options_.bias.empty() || !options_.forbidden.empty() || repeats() || early() ||
           (step_ > 0 && !(occurrences_.empty() && options_.slopes.empty()));
}

void Sampler::adjust(Adjusted &row) const {
    for (const auto &[id, value] : options_.bias) row.add(id, static_cast<double>(value));
    if (step_ > 0) {
        for (const auto &[id, slope] : options_.slopes)
            row.add(id, slope * static_cast<double>(step_));
        for (const Occurrence &occurrence : occurrences_)
            row.add(occurrence.token, -penalty_of(occurrence));
    }
    for (const int32_t id : options_.forbidden) row.forbid(id);
    if (early())
        for (const int32_t id : options_.late) row.forbid(id);
    if (repeats()) row.forbid(last_);
}

void Sampler::probabilities(std::span<double> out, std::span<const float> logits,
                            const uint64_t *mask) const {
    if (!adjusts()) {
        scratch().distribution.set(logits, {}, {}, mask, cuts());
        scratch().distribution.probabilities(out);
        return;
    }
    scratch().copy.assign(logits.begin(), logits.end());
    Adjusted row(scratch().copy);
    adjust(row);
    row.distribution(cuts(), mask).probabilities(out);
}

Sampled Sampler::draw(std::span<const float> logits, const uint64_t *mask) {
    if (adjusts()) {
        scratch().copy.assign(logits.begin(), logits.end());
        return draw_in_place(scratch().copy, mask);
    }
    scratch().distribution.set(logits, {}, {}, mask, cuts());
    return taken(scratch().distribution.token_at(uniform(options_.seed, step_)), logits);
}

Sampled Sampler::draw_in_place(std::span<float> logits, const uint64_t *mask) {
    if (!adjusts()) return draw(logits, mask);
    int32_t token;
    {
        Adjusted row(logits);
        adjust(row);
        token = row.distribution(cuts(), mask).token_at(uniform(options_.seed, step_));
    }
    return taken(token, logits);
}

Sampled Sampler::taken(int32_t token, std::span<const float> logits) {
    Sampled drawn{.token = token, .logprobs = {}};
    if (options_.logprobs >= 0)
        drawn.logprobs = log_softmax(logits, token, static_cast<size_t>(options_.logprobs));
    count(token);
    return drawn;
}

}  // namespace rwkv
