// Owns softmax, cuts and draw over a row of logits; called by sampler.cpp. Never sorts the
// vocabulary and never calls libm's exp, whose last bit depends on the machine: the same numbers
// draw the same tokens everywhere.
//
// Everything works on blocks of 64 logits. Their maxima are found first (3 us for 65536); later
// passes only enter blocks that reach what they look for. What has to look at every value is in
// logit_row.inl. Times of whole draws: RWKV_TEST_TIMES=1 test_sampler.
#include "sampling/distribution.h"

#include "error.h"
#include "sampling/logit_row.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <climits>
#include <cmath>
#include <limits>

namespace rwkv {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr double wide_infinity = std::numeric_limits<double>::infinity();

constexpr size_t block_size = LogitRow::block;
constexpr size_t few = 2048, few_blocks = few / 4;  // what is gathered token by token
constexpr size_t most_inside = 8192;                // tokens of a bracket

size_t blocks_of(size_t n) { return (n + block_size - 1) / block_size; }

// A histogram of weights.
struct Histogram {
    static constexpr size_t most = 1024;
    Bands layout;
    std::array<double, most + 1> weights;
    std::array<uint32_t, most + 1> counts;

    explicit Histogram(const Bands &layout_) : layout(layout_) {
        std::fill_n(weights.begin(), layout.n + 1, 0.);
        std::fill_n(counts.begin(), layout.n + 1, 0u);
    }
    void add(size_t band, double weight) {
        weights[band] += weight;
        ++counts[band];
    }
    // e: the weight of each x.
    void fill(const LogitRow &passes, std::span<const float> x, const float *e) {
        int32_t band[block_size];
        for (size_t i = 0; i < x.size(); i += block_size) {
            const size_t n = std::min(block_size, x.size() - i);
            passes.place(band, x.data() + i, n, layout);
            for (size_t j = 0; j < n; ++j)
                add(static_cast<size_t>(band[j]), static_cast<double>(e[i + j]));
        }
    }
};

}  // namespace

// Where the prefix of survivors may end: its last token is the first to reach a limit.
struct Distribution::Limits {
    double share;   // top_p; infinity: off
    double weight;  // share * the sum of all weights
    size_t count;   // top_k; SIZE_MAX: off
    bool reached(double w, size_t n) const { return w >= weight || n >= count; }
    // The first of the bands [0, end) that reaches a limit, or `end`; adds those before it.
    size_t first(const Histogram &bands, size_t end, double &w, size_t &n) const {
        for (size_t b = 0; b < end; ++b) {
            if (reached(w + bands.weights[b], n + bands.counts[b])) return b;
            w += bands.weights[b];
            n += bands.counts[b];
        }
        return end;
    }
};

void Distribution::set(std::span<const float> x, std::span<const float> residual,
                       std::span<const int32_t> changed, const uint64_t *mask, const Cuts &cuts) {
    residual_ = residual;
    changed_ = changed;
    block_max_.resize(blocks_of(x.size()));
    if (mask) allowed_.resize(blocks_of(x.size()) * block_size);
    if (!passes_.maxima(block_max_.data(), x.data(), x.size(), mask, allowed_.data()))
        throw Error(RWKV_INTERNAL, "the model gave a logit that is NaN or infinite");
    x_ = mask ? std::span<const float>(allowed_).first(x.size()) : x;
    row_ = {.x = x_.data(), .n = x_.size(), .block_max = block_max_.data()};
    if (!residual.empty()) row_.residual = residual.data();
    find_maximum(mask);
    if (cuts.temperature == 0) {
        cut_ = {max_, static_cast<int32_t>(first_)};
        power_ = 1;
    } else {
        const bool top_p = cuts.top_p < 1;
        const bool top_k = cuts.top_k > 0 && static_cast<size_t>(cuts.top_k) < x.size();
        cut_ = {-wide_infinity, -1};
        if (top_p || top_k) {
            cut_ = find_cut({.share = top_p ? cuts.top_p : wide_infinity,
                             .weight = wide_infinity,
                             .count = top_k ? static_cast<size_t>(cuts.top_k) : SIZE_MAX});
        }
        const double least = max_ + std::log(cuts.min_p);
        if (least > cut_.z) cut_ = {least, INT_MAX};
        power_ = std::min(1 / cuts.temperature, 1e300);
    }
    sum_blocks();
}

size_t Distribution::blocks_within(float depth) const {
    const float threshold = max_x_ - depth;
    return static_cast<size_t>(std::count_if(block_max_.begin(), block_max_.end(),
                                             [=](float max) { return max >= threshold; }));
}

// Room for the e^(x - max), which are kept from now on.
float *Distribution::keep_e() {
    e_.resize(block_max_.size() * block_size);
    row_.e = e_.data();
    return e_.data();
}

void Distribution::find_maximum(bool masked) {
    maxima_of_maxima_.resize(blocks_of(block_max_.size()));
    passes_.maxima(maxima_of_maxima_.data(), block_max_.data(), block_max_.size(), nullptr,
                   nullptr);
    max_x_ = -infinity;
    for (const float m : maxima_of_maxima_) max_x_ = std::max(max_x_, m);
    if (max_x_ == -infinity)
        throw Error(RWKV_INTERNAL,
                    masked ? "no token can be drawn: the mask allows none whose logit is finite"
                           : "no token can be drawn: no logit is finite");
    max_ = -wide_infinity;
    for (size_t b = 0; b < block_max_.size(); ++b) {
        if (block_max_[b] < max_x_) continue;
        for (size_t i = b * block_size; i < std::min(x_.size(), (b + 1) * block_size); ++i) {
            if (x_[i] == max_x_ && z(i) > max_) {
                max_ = z(i);
                first_ = i;
            }
        }
        if (residual_.empty()) return;
    }
}

// ---- top-p and top-k.

// Collects the accepted tokens, at most `most`, from blocks that reach the threshold.
template <class Accept>
void Distribution::gather(float threshold, size_t most, Accept accept) {
    candidates_.clear();
    for (size_t b = 0; b < block_max_.size(); ++b) {
        if (block_max_[b] < threshold) continue;
        for (size_t i = b * block_size; i < std::min(x_.size(), (b + 1) * block_size); ++i) {
            if (accept(x_[i])) {
                if (candidates_.size() == most) return;
                candidates_.push_back({z(i), 0, static_cast<int32_t>(i)});
            }
        }
    }
}

// Sets the weights of the candidates, e^(z - max); returns their sum.
double Distribution::weigh_candidates() {
    const size_t n = candidates_.size(), step = LogitRow::widest;
    weights_.resize((n + step - 1) / step * step);
    for (size_t i = 0; i < n; ++i) weights_[i] = candidates_[i].z - max_;
    passes_.exp_exactly(weights_.data(), weights_.size());
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += candidates_[i].weight = weights_[i];
    return sum;
}

// limits.weight is not set yet.
Distribution::Cut Distribution::find_cut(Limits limits) {
    // Where many survive, the row is surveyed while its weights are added up.
    const bool many = blocks_within(8) > few_blocks;
    std::optional<Bracket> bracket = many ? guess_bracket(limits) : std::nullopt;
    Survey survey;
    if (bracket) survey = take_survey(*bracket, limits);
    if (limits.share < 1) {
        const double sum = bracket ? survey.sum : passes_.sum_exp(row_, max_x_, nullptr);
        limits.weight = limits.share * sum;
    }
    // Usually a few tokens near the maximum are enough.
    for (const float depth : {3.f, 8.f}) {
        if (blocks_within(depth) > few_blocks) break;
        const float threshold = max_x_ - depth;
        gather(threshold, few, [=](float x) { return x >= threshold; });
        if (candidates_.size() == few) break;
        if (limits.reached(weigh_candidates(), candidates_.size()))
            return select(candidates_, 0, 0, limits);
    }
    if (!many && (bracket = guess_bracket(limits))) survey = take_survey(*bracket, limits);
    if (bracket) {
        if (std::optional<Cut> cut = find_cut_inside(*bracket, survey, limits)) return *cut;
    }
    return find_cut_by_histograms(limits);
}

// Histograms narrow the values down. The first has bands of 1/16; where logits are bunched so
// closely that its band holds many, the next one divides that band.
Distribution::Cut Distribution::find_cut_by_histograms(const Limits &limits) {
    if (!row_.e) passes_.sum_exp(row_, max_x_, keep_e());
    double weight = 0;
    size_t count = 0;
    Bands layout{.low = -FLT_MAX, .high = max_x_, .scale = 16, .n = Histogram::most};
    for (int round = 0;; ++round) {
        Histogram bands(layout);
        bands.fill(passes_, x_, e_.data());
        size_t last = layout.n - 1;
        while (last > 0 && bands.counts[last] == 0) --last;
        const size_t band = limits.first(bands, last, weight, count);
        const auto inside = [&](float x) {
            return x >= layout.low && x <= layout.high && layout.place(x) == band;
        };
        if (bands.counts[band] > few && round < 4) {
            float low = infinity, high = -infinity;
            for (const float x : x_) {
                low = inside(x) ? std::min(low, x) : low;
                high = inside(x) ? std::max(high, x) : high;
            }
            const float scale = (Histogram::most - 1) / (high - low);
            if (scale < FLT_MAX) {
                layout.low = low;
                layout.high = high;
                layout.scale = scale;
                continue;
            }
        }
        gather(layout.low, SIZE_MAX, inside);
        weigh_candidates();
        return select(candidates_, weight, count, limits);
    }
}

// Every 16th logit tells roughly where the cut is. Nothing if there are too few, or all are equal.
std::optional<Distribution::Bracket> Distribution::guess_bracket(const Limits &limits) {
    constexpr size_t stride = 16, least = 4096;
    if (x_.size() < least) return {};
    sample_.resize(x_.size() / stride / 4 * 4);
    for (size_t i = 0; i < sample_.size(); ++i) sample_[i] = x_[i * stride + i % stride];
    const float low = passes_.least(sample_.data(), sample_.size());
    const float scale = (Histogram::most - 1) / (max_x_ - low);
    if (!(scale > 0 && scale < FLT_MAX)) return {};
    Histogram bands({.low = low, .high = max_x_, .scale = scale, .n = Histogram::most});
    sample_e_.resize(blocks_of(sample_.size()) * block_size);
    passes_.sum_exp({.x = sample_.data(), .n = sample_.size()}, max_x_, sample_e_.data());
    bands.fill(passes_, sample_, sample_e_.data());
    double weights = 0, squares = 0, counts = 0;
    for (size_t band = 0; band < Histogram::most; ++band) {
        if (const double n = bands.counts[band]; n > 0) {
            weights += bands.weights[band];
            squares += bands.weights[band] * bands.weights[band] / n;
            counts += n;
        }
    }
    // Each limit as a share of the whole, give or take three standard errors of the sample's share.
    struct Share {
        double from = wide_infinity, to = wide_infinity;
    };
    const auto share_of = [](double p, double size, double all) {
        const double error = 3 * std::sqrt(p * (1 - p) / size) + 2 / size;
        return Share{(p - error) * all, (p + error) * all};
    };
    Share by_weight, by_count;
    if (limits.share < 1) by_weight = share_of(limits.share, weights * weights / squares, weights);
    if (limits.count < SIZE_MAX) {
        const auto n = static_cast<double>(x_.size());
        by_count = share_of(static_cast<double>(limits.count) / n, counts, counts);
    }
    Bracket bracket{.low = -FLT_MAX, .high = max_x_};
    bool entered = false;
    double weight = 0, count = 0;
    for (size_t band = 0; band < Histogram::most; ++band) {
        weight += bands.weights[band];
        count += bands.counts[band];
        if (!entered && (weight >= by_weight.from || count >= by_count.from)) {
            entered = true;
            bracket.high = max_x_ - static_cast<float>(band) / scale;
        }
        if (weight >= by_weight.to || count >= by_count.to) {
            bracket.low = max_x_ - static_cast<float>(band + 1) / scale;
            break;
        }
    }
    return bracket;
}

Survey Distribution::take_survey(const Bracket &bracket, const Limits &limits) {
    Survey survey;
    ids_.resize(most_inside + block_size);
    if (limits.share < 1) {
        passes_.survey(survey, ids_.data(), most_inside, row_, bracket.low, bracket.high, max_x_,
                       keep_e());
    } else {
        passes_.survey_counts(survey, ids_.data(), most_inside, row_, bracket.low, bracket.high);
    }
    return survey;
}

// Nothing if the sample has misled or the bracket holds too many.
std::optional<Distribution::Cut> Distribution::find_cut_inside(const Bracket &bracket,
                                                               const Survey &survey,
                                                               const Limits &limits) {
    if (survey.found > most_inside || limits.reached(survey.above, survey.count)) return {};
    const std::span ids = std::span(ids_).first(survey.found);
    constexpr size_t n = 256;
    Histogram bands({bracket.low, bracket.high, (n - 1) / (bracket.high - bracket.low), n});
    weights_.resize((ids.size() + LogitRow::widest - 1) / LogitRow::widest * LogitRow::widest);
    bands_.resize(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
        const auto id = static_cast<size_t>(ids[i]);
        weights_[i] = z(id) - max_;
        bands_[i] = static_cast<uint16_t>(bands.layout.place(x_[id]));
    }
    passes_.exp_exactly(weights_.data(), weights_.size());
    for (size_t i = 0; i < ids.size(); ++i) bands.add(bands_[i], weights_[i]);
    double weight = survey.above;
    size_t count = survey.count;
    const size_t band = limits.first(bands, n, weight, count);
    candidates_.clear();
    for (size_t i = 0; i < ids.size(); ++i)
        if (bands_[i] == band)
            candidates_.push_back({z(static_cast<size_t>(ids[i])), weights_[i], ids[i]});
    if (candidates_.empty()) return {};
    return select(candidates_, weight, count, limits);
}

// Finds the cut among candidates; weight and count belong to the tokens before them. A quickselect
// with three parts, each with its sum of weights: linear also where all are equal.
Distribution::Cut Distribution::select(std::span<Candidate> c, double weight, size_t count,
                                       const Limits &limits) {
    size_t begin = 0, end = c.size();
    while (begin < end) {
        const double p = c[begin].z, q = c[begin + (end - begin) / 2].z, r = c[end - 1].z;
        const double pivot = std::max(std::min(p, q), std::min(std::max(p, q), r));
        size_t equal = begin, i = begin, less = end;
        double above = weight, through = 0;
        while (i < less) {
            if (c[i].z > pivot) {
                above += c[i].weight;
                std::swap(c[equal++], c[i++]);
            } else if (c[i].z == pivot) {
                through += c[i++].weight;
            } else {
                std::swap(c[i], c[--less]);
            }
        }
        through += above;
        const size_t n_above = count + (equal - begin), n_through = count + (less - begin);
        if (equal > begin && limits.reached(above, n_above)) {
            end = equal;
        } else if (limits.reached(through, n_through)) {
            if (n_through <= limits.count) return {pivot, INT_MAX};
            const auto at = [&](size_t n) { return c.begin() + static_cast<ptrdiff_t>(n); };
            const auto last = at(equal + (limits.count - n_above) - 1);
            std::nth_element(at(equal), last, at(less),
                             [](const Candidate &a, const Candidate &b) { return a.id < b.id; });
            return {pivot, last->id};
        } else {
            weight = through;
            count = n_through;
            begin = less;
        }
    }
    // Rounding kept the sum from its limit: all that are left survive.
    double least = wide_infinity;
    for (const Candidate &candidate : c.first(end)) least = std::min(least, candidate.z);
    return {least, INT_MAX};
}

// ---- The draw. p(token) = sum of its block / total * its weight / sum of the weights of its
// block. Within a block weights are float64. Where more than 32 blocks are alive their sums are
// taken in float (error 3e-7 of the sum, 60 us instead of 330 us for all 65536 tokens).

// weight = e^((z - max) / T), 0 if cut; returns the sum.
double Distribution::weigh(double *weights, size_t block) const {
    const size_t start = block * block_size, n = std::min(block_size, x_.size() - start);
    for (size_t i = 0; i < block_size; ++i) {
        const double value = i < n ? z(start + i) : -wide_infinity;
        weights[i] = cut_.keeps(value, static_cast<int32_t>(start + i)) ? (value - max_) * power_
                                                                        : -wide_infinity;
    }
    passes_.exp_exactly(weights, block_size);
    double even = 0, odd = 0;
    for (size_t i = 0; i < block_size; i += 2) {
        even += weights[i];
        odd += weights[i + 1];
    }
    return even + odd;
}

// The kept e^(x - max) become e^(x + residual - max), where max has no residual.
void Distribution::correct_kept() {
    const size_t n = changed_.size();
    corrected_.resize(blocks_of(n) * block_size * 2);
    float *const corrected = corrected_.data() + blocks_of(n) * block_size;
    for (size_t i = 0; i < n; ++i) {
        const auto id = static_cast<size_t>(changed_[i]);
        corrected_[i] = (x_[id] - max_x_) + residual_[id];
    }
    passes_.sum_exp({.x = corrected_.data(), .n = n}, 0, corrected);
    for (size_t i = 0; i < n; ++i) e_[static_cast<size_t>(changed_[i])] = corrected[i];
}

// Where more than 32 blocks are alive, in float. A value at the cut takes a closer look if its
// residual or its id decides whether it survives.
void Distribution::sum_blocks() {
    const float threshold = std::max(static_cast<float>(cut_.z), -FLT_MAX);
    const auto reaches = [=](float max) { return max >= threshold; };
    const auto active = std::count_if(block_max_.begin(), block_max_.end(), reaches);
    active_.resize(block_max_.size());
    if (active > 32) {
        const auto cut = static_cast<float>(cut_.z), shift = static_cast<float>(max_ - max_x_);
        const bool simple =
            residual_.empty() && cut_.id == INT_MAX && static_cast<double>(cut) == cut_.z;
        if (power_ != 1 || shift != 0) row_.e = nullptr;
        if (row_.e) correct_kept();
        active_.resize(passes_.weigh(
            active_.data(), row_, threshold,
            {.cut = cut,
             .max = max_x_,
             .shift = shift,
             .log2_power = static_cast<float>(std::min(power_ * 1.4426950408889634, 1e30)),
             .cut_survives = simple}));
        for (BlockSum &block : active_) block.at_cut &= !simple && cut > -infinity;
    } else {
        size_t n = 0;
        for (size_t b = 0; b < block_max_.size(); ++b)
            if (block_max_[b] >= threshold) active_[n++] = {0, static_cast<uint32_t>(b), true};
        active_.resize(n);
    }
    total_ = 0;
    double weights[block_size];
    for (BlockSum &block : active_) {
        if (block.at_cut) block.sum = weigh(weights, block.index);
        total_ += block.sum;
    }
}

int32_t Distribution::token_at(double u) const {
    const double target = u * total_;
    const BlockSum *chosen = nullptr;
    double before = 0, sum = 0;
    for (const BlockSum &block : active_) {
        if (block.sum > 0) {
            chosen = &block;  // the last one, should rounding leave the target behind all
            before = sum;
            sum += block.sum;
            if (target < sum) break;
        }
    }
    double weights[block_size];
    const double inner = (target - before) / chosen->sum * weigh(weights, chosen->index);
    size_t token = 0;
    sum = 0;
    for (size_t i = 0; i < block_size; ++i) {
        if (weights[i] > 0) {
            token = chosen->index * block_size + i;
            sum += weights[i];
            if (inner < sum) break;
        }
    }
    return static_cast<int32_t>(token);
}

void Distribution::probabilities(std::span<double> out) const {
    std::fill(out.begin(), out.end(), 0.);
    double weights[block_size];
    for (const BlockSum &block : active_) {
        const double sum = weigh(weights, block.index), share = block.sum / total_;
        const size_t start = block.index * block_size, n = std::min(block_size, x_.size() - start);
        for (size_t i = 0; i < n && sum > 0; ++i) out[start + i] = weights[i] / sum * share;
    }
}

LogProbabilities log_softmax(std::span<const float> x, int32_t token, size_t k,
                             const LogitRow &passes) {
    std::vector<float> block_max(blocks_of(x.size()));
    passes.maxima(block_max.data(), x.data(), x.size(), nullptr, nullptr);
    const float max = *std::max_element(block_max.begin(), block_max.end());
    const double sum =
        passes.sum_exp({.x = x.data(), .n = x.size(), .block_max = block_max.data()}, max, nullptr);
    const double shift = static_cast<double>(max) + std::log(sum);
    std::vector<size_t> best;  // the greatest first
    for (size_t b = 0; k > 0 && b < block_max.size(); ++b) {
        if (best.size() == k && block_max[b] <= x[best.back()]) continue;
        for (size_t i = b * block_size; i < std::min(x.size(), (b + 1) * block_size); ++i) {
            if (best.size() == k) {
                if (x[i] <= x[best.back()]) continue;
                best.pop_back();
            }
            const auto greater = [&](float value, size_t j) { return value > x[j]; };
            best.insert(std::upper_bound(best.begin(), best.end(), x[i], greater), i);
        }
    }
    LogProbabilities out;
    const auto add = [&](size_t i) {
        const double log_p = static_cast<double>(x[i]) - shift;
        out.emplace_back(static_cast<int32_t>(i), static_cast<float>(log_p));
    };
    add(static_cast<size_t>(token));
    std::for_each(best.begin(), best.end(), add);
    return out;
}

}  // namespace rwkv
