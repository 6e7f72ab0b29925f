// The distribution that a token is drawn from: the softmax of a row of logits, cut by top-p, top-k
// and min-p, raised to a power. Called by sampler.cpp, which has applied bias, penalties and bans;
// never knows a request. One object is reused for many rows: its memory stays (30 KB, 0.5 MB where
// many tokens survive, 2 MB at worst, vocabulary 65536).
#pragma once

#include "sampling/logit_row.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace rwkv {

// What is cut from p = softmax(z), in this order:
//   top_p < 1   drop p below the value at which the descending cumulative sum first reaches top_p
//               (equals of that value stay; top_p = 0 keeps the maximum and its equals)
//   top_k > 0   of these keep the k greatest; of equals the lower ids
//   min_p > 0   drop p < min_p * max p
//   p^(1/T), renormalised; T = 0: the greatest p alone, of equals the lowest id
struct Cuts {
    double temperature = 1, top_p = 1, min_p = 0;
    int32_t top_k = 0;
};

class Distribution {
public:
    explicit Distribution(const LogitRow &passes = chosen_logit_row()) : passes_(passes) {}

    // z = x + residual. residual holds what the rounding of z to float lost; empty: nothing.
    // `changed` names those that may not be 0. The float nearest to z must be x: what survives a
    // cut at some z is looked for among the x. With a mask, a bit for every token, the lowest
    // first, those without one are not there. All must stay alive while the object is asked. Throws
    // Error (RWKV_INTERNAL) if an x that is there is NaN or +infinity, or if none is finite.
    void set(std::span<const float> x, std::span<const float> residual,
             std::span<const int32_t> changed, const uint64_t *mask, const Cuts &cuts);

    // The token at u in [0, 1) of the cumulative distribution in id order.
    int32_t token_at(double u) const;
    void probabilities(std::span<double> out) const;  // [vocab]

private:
    static constexpr size_t block_size = LogitRow::block;

    // Tokens are ordered by z, the greatest first, of equals the lowest id first. Every cut keeps a
    // prefix of this order and so is described by its last token; id INT_MAX keeps all equals.
    struct Cut {
        double z;
        int32_t id;
        bool keeps(double z_, int32_t id_) const { return z_ > z || (z_ == z && id_ <= id); }
    };
    struct Candidate {
        double z, weight;
        int32_t id;
    };
    struct Bracket {
        float low, high;  // low <= x <= high
    };
    struct Limits;

    double z(size_t i) const {
        return static_cast<double>(x_[i]) +
               (residual_.empty() ? 0. : static_cast<double>(residual_[i]));
    }
    void find_maximum(bool masked);
    Cut find_cut(Limits limits);
    Cut find_cut_by_histograms(const Limits &limits);
    std::optional<Bracket> guess_bracket(const Limits &limits);
    Survey take_survey(const Bracket &bracket, const Limits &limits);
    std::optional<Cut> find_cut_inside(const Bracket &bracket, const Survey &survey,
                                       const Limits &limits);
    static Cut select(std::span<Candidate> candidates, double weight, size_t count,
                      const Limits &limits);
    template <class Accept>
    void gather(float threshold, size_t most, Accept accept);
    double weigh_candidates();
    size_t blocks_within(float depth) const;
    float *keep_e();
    void sum_blocks();
    void correct_kept();
    double weigh(double *weights, size_t block) const;

    const LogitRow &passes_;
    std::span<const float> x_, residual_;
    std::span<const int32_t> changed_;
    Row row_{};                     // of x and residual
    std::vector<float> block_max_;  // of x
    std::vector<float> maxima_of_maxima_;
    std::vector<float> allowed_;  // x as the mask leaves it
    float max_x_ = 0;
    double max_ = 0;    // of z
    size_t first_ = 0;  // the lowest id with z = max
    Cut cut_{};
    double power_ = 1;  // 1 / T
    std::vector<BlockSum> active_;
    double total_ = 0;
    std::vector<Candidate> candidates_;
    std::vector<float> e_, corrected_;
    std::vector<double> weights_;
    std::vector<uint16_t> bands_;
    std::vector<float> sample_, sample_e_;
    std::vector<int32_t> ids_;
};

// log p = x - max - log(sum of e^(x - max)) of a token, then of the k most likely ones; of equals
// the lower id comes first.
using LogProbabilities = std::vector<std::pair<int32_t, float>>;
LogProbabilities log_softmax(std::span<const float> x, int32_t token, size_t k,
                             const LogitRow &passes = chosen_logit_row());

}  // namespace rwkv
