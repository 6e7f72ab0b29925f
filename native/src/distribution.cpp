// Owns softmax, cuts and draw over a row of logits; called by sampler.cpp. Never sorts the
// vocabulary and never calls libm's exp, whose last bit depends on the machine: the same numbers
// draw the same tokens everywhere.
//
// Everything works on blocks of 64 logits. Their maxima are found first (4 us for 65536); later
// passes only enter blocks that reach what they look for. What has to look at every value is in
// logit_row.inl. Times of whole draws: RWKV_TEST_TIMES=1 test_sampler.
#include "distribution.h"

#include "error.h"
#include "logit_row.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstring>
#include <limits>

namespace rwkv {
namespace {

typedef float F4 __attribute__((vector_size(16)));
typedef int32_t I4 __attribute__((vector_size(16)));
typedef double D2 __attribute__((vector_size(16)));
typedef uint32_t U4 __attribute__((vector_size(16)));
typedef uint64_t V2 __attribute__((vector_size(16)));

const LogitRow &passes = *logit_rows().front();
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr double wide_infinity = std::numeric_limits<double>::infinity();
constexpr float log2_e = 1.44269504f;

// ---- 2^x and e^x for x <= 0. n = round(x), r = x - n in [-1/2, 1/2], a polynomial for 2^r, and n
// added to the exponent. Adding `magic` = 1.5 * 2^(mantissa bits) rounds to an integer and leaves
// that integer in the low bits.

// Relative error 2e-7 (the polynomial is a minimax fit of ours, 2^0 exact); 0 below -126.
inline F4 exp2_quickly(F4 x) {
    constexpr float magic = 12582912.f;
    const F4 t = x + magic, r = x - (t - magic);
    F4 p = r * 0.00132647272f + 0.00967151264f;
    p = p * r + 0.0555073374f;
    p = p * r + 0.240222421f;
    p = p * r + 0.693146978f;
    p = p * r + 1.f;
    const F4 e = std::bit_cast<F4>(std::bit_cast<U4>(p) + (std::bit_cast<U4>(t) << 23));
    return x > -126.f ? e : F4{};
}

// Relative error 4e-16 (Taylor; ln 2 in two parts, so that n * ln2_hi is exact); 0 below -708. D is
// double or D2, V the unsigned integers of its size: both give the same bits.
template <class D, class V>
inline D exp_exactly(D x) {
    constexpr double magic = 6755399441055744.0;
    constexpr double ln2_hi = 0x1.62e42fefa0000p-1, ln2_lo = 0x1.cf79abc9e3b3ap-40;
    const D t = x * 1.4426950408889634 + magic, n = t - magic;
    const D r = (x - n * ln2_hi) - n * ln2_lo;
    D p = r * (1. / 479001600) + 1. / 39916800;
    p = p * r + 1. / 3628800;
    p = p * r + 1. / 362880;
    p = p * r + 1. / 40320;
    p = p * r + 1. / 5040;
    p = p * r + 1. / 720;
    p = p * r + 1. / 120;
    p = p * r + 1. / 24;
    p = p * r + 1. / 6;
    p = p * r + 0.5;
    p = p * r + 1.;
    p = p * r + 1.;
    const D e = std::bit_cast<D>(std::bit_cast<V>(p) + (std::bit_cast<V>(t) << 52));
    return x > -708. ? e : D{};
}

// ---- Passes over blocks.
constexpr size_t block_size = 64;

size_t blocks_of(size_t n) { return (n + block_size - 1) / block_size; }

inline F4 load(const float *p) {
    F4 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// The 64 values of a block; a short last one is copied to `tail` and filled up.
inline const float *block_of(std::span<const float> x, size_t block, float *tail, float fill) {
    const size_t n = std::min(block_size, x.size() - block * block_size);
    const float *p = x.data() + block * block_size;
    if (n == block_size) {
        return p;
    }
    std::copy(p, p + n, tail);
    std::fill(tail + n, tail + block_size, fill);
    return tail;
}

// ---- A histogram of the values in [low, high]: band 0 begins at the top. The last band takes what
// is further down than the others reach.
struct Bands {
    static constexpr size_t n = 1024;
    float low, high, scale;
    std::array<double, n + 1> weights{};    // e^(x - max)
    std::array<uint32_t, n + 1> counts{};   // [n]: outside

    template <class F>
    F place(F x) const {
        const F y = (high - x) * scale;
        return y < n - 1.f ? y : F{} + (n - 1.f);
    }
    bool holds(float x, size_t band) const {
        return x >= low && x <= high && static_cast<size_t>(place(x)) == band;
    }
    void fill(std::span<const float> x, std::span<const float> block_max, float max) {
        float tail[block_size], e[block_size];
        int32_t band[block_size];
        for (size_t b = 0; b < block_max.size(); ++b) {
            if (block_max[b] < low) {
                continue;
            }
            const float *p = block_of(x, b, tail, -infinity);
            for (size_t i = 0; i < block_size; i += 4) {
                const F4 v = load(p + i);
                const I4 inside = (v >= low) & (v <= high);
                const F4 y = inside ? place(v) : F4{} + static_cast<float>(n);
                const I4 index = __builtin_convertvector(y, I4);
                const F4 weight = exp2_quickly((v - max) * log2_e);
                std::memcpy(band + i, &index, sizeof index);
                std::memcpy(e + i, &weight, sizeof weight);
            }
            for (size_t i = 0; i < block_size; ++i) {
                weights[static_cast<size_t>(band[i])] += static_cast<double>(e[i]);
                ++counts[static_cast<size_t>(band[i])];
            }
        }
    }
};

}  // namespace

// Where the prefix of survivors may end: its last token is the first to reach a limit.
struct Distribution::Limits {
    double weight;  // top_p * sum; infinity: off
    size_t count;   // top_k; SIZE_MAX: off
    bool reached(double w, size_t n) const { return w >= weight || n >= count; }
};

void Distribution::set(std::span<const float> x, std::span<const float> residual, const Law &law) {
    x_ = x;
    residual_ = residual;
    block_max_.resize(blocks_of(x.size()));
    if (!passes.maxima(block_max_.data(), x.data(), x.size())) {
        throw Error(RWKV_INTERNAL, "the model gave a logit that is NaN or infinite");
    }
    find_maximum();
    if (law.temperature == 0) {
        cut_ = {max_, static_cast<int32_t>(first_)};
        power_ = 1;
    } else {
        cut_ = {-wide_infinity, -1};
        const bool top_p = law.top_p < 1;
        const bool top_k = law.top_k > 0 && static_cast<size_t>(law.top_k) < x.size();
        if (top_p || top_k) {
            const double sum = top_p ? passes.sum_exp(x.data(), x.size(), max_x_) : 0;
            cut_ = find_cut({.weight = top_p ? law.top_p * sum : wide_infinity,
                             .count = top_k ? static_cast<size_t>(law.top_k) : SIZE_MAX},
                            sum);
        }
        const double least = max_ + std::log(law.min_p);
        if (least > cut_.z) {
            cut_ = {least, INT_MAX};
        }
        power_ = std::min(1 / law.temperature, 1e300);
    }
    sum_blocks();
}

void Distribution::find_maximum() {
    max_x_ = -infinity;
    for (const float m : block_max_) {
        max_x_ = std::max(max_x_, m);
    }
    if (max_x_ == -infinity) {
        throw Error(RWKV_INTERNAL, "no token can be drawn: no logit is finite");
    }
    max_ = -wide_infinity;
    for (size_t b = 0; b < block_max_.size(); ++b) {
        if (block_max_[b] < max_x_) {
            continue;
        }
        for (size_t i = b * block_size; i < std::min(x_.size(), (b + 1) * block_size); ++i) {
            if (x_[i] == max_x_ && z(i) > max_) {
                max_ = z(i);
                first_ = i;
            }
        }
        if (residual_.empty()) {
            return;
        }
    }
}

// ---- top-p and top-k.

// Collects the accepted tokens, at most `most`, from blocks that reach the threshold; returns the
// sum of their weights e^(z - max).
template <class Accept>
double Distribution::gather(float threshold, size_t most, Accept accept) {
    candidates_.clear();
    double sum = 0;
    for (size_t b = 0; b < block_max_.size(); ++b) {
        if (block_max_[b] < threshold) {
            continue;
        }
        for (size_t i = b * block_size; i < std::min(x_.size(), (b + 1) * block_size); ++i) {
            if (accept(x_[i])) {
                if (candidates_.size() == most) {
                    return sum;
                }
                const double weight = exp_exactly<double, uint64_t>(z(i) - max_);
                candidates_.push_back({z(i), weight, static_cast<int32_t>(i)});
                sum += weight;
            }
        }
    }
    return sum;
}

// sum: of all weights, where limits.weight is in use.
Distribution::Cut Distribution::find_cut(const Limits &limits, double sum) {
    // Usually a few tokens near the maximum are enough.
    constexpr size_t few = 2048;
    for (const float depth : {3.f, 8.f}) {
        const float threshold = max_x_ - depth;
        const auto reaches = [=](float max) { return max >= threshold; };
        if (std::count_if(block_max_.begin(), block_max_.end(), reaches) > std::ptrdiff_t{few / 4}) {
            break;
        }
        const double near = gather(threshold, few, [=](float x) { return x >= threshold; });
        if (candidates_.size() == few) {
            break;
        }
        if (limits.reached(near, candidates_.size())) {
            return select(candidates_, 0, 0, limits);
        }
    }
    if (std::optional<Cut> cut = find_cut_by_sample(limits, sum)) {
        return *cut;
    }
    // Otherwise histograms narrow the values down. The first has bands of 1/16; where logits are
    // bunched so closely that its band holds many, the next one divides that band.
    double weight = 0;
    size_t count = 0;
    Bands bands{.low = -FLT_MAX, .high = max_x_, .scale = 16};
    for (int round = 0;; ++round) {
        bands.weights.fill(0);
        bands.counts.fill(0);
        bands.fill(x_, block_max_, max_x_);
        size_t band = 0, last = 0;
        for (size_t i = 0; i < Bands::n; ++i) {
            last = bands.counts[i] ? i : last;
        }
        for (; band < last; ++band) {
            const double w = weight + bands.weights[band];
            const size_t n = count + bands.counts[band];
            if (limits.reached(w, n)) {
                break;
            }
            weight = w;
            count = n;
        }
        const auto inside = [&](float x) { return bands.holds(x, band); };
        if (bands.counts[band] > few && round < 4) {
            float low = infinity, high = -infinity;
            for (const float x : x_) {
                low = inside(x) ? std::min(low, x) : low;
                high = inside(x) ? std::max(high, x) : high;
            }
            const float scale = (Bands::n - 1) / (high - low);
            if (scale < FLT_MAX) {
                bands.low = low;
                bands.high = high;
                bands.scale = scale;
                continue;
            }
        }
        gather(bands.low, SIZE_MAX, inside);
        return select(candidates_, weight, count, limits);
    }
}

// Where many survive: every 16th logit tells roughly where the cut is, and one pass adds up what lies
// above that bracket and collects what is inside (110 us instead of 350 us for 65536 logits of
// standard deviation 1). Nothing if the sample has misled or the bracket holds too many.
std::optional<Distribution::Cut> Distribution::find_cut_by_sample(const Limits &limits,
                                                                  double sum) {
    constexpr size_t stride = 16, least = 4096, most = 8192;
    if (x_.size() < least) {
        return {};
    }
    sample_.resize(x_.size() / stride / 4 * 4);
    for (size_t i = 0; i < sample_.size(); ++i) {
        sample_[i] = x_[i * stride + i % stride];
    }
    F4 lows = F4{} + infinity;
    for (size_t i = 0; i + 4 <= sample_.size(); i += 4) {
        const F4 v = load(sample_.data() + i);
        lows = (v > -infinity) & (v < lows) ? v : lows;
    }
    const float low = std::min(std::min(lows[0], lows[1]), std::min(lows[2], lows[3]));
    const float scale = (Bands::n - 1) / (max_x_ - low);
    if (!(scale > 0 && scale < FLT_MAX)) {
        return {};
    }
    Bands bands{.low = low, .high = max_x_, .scale = scale};
    sample_max_.resize(blocks_of(sample_.size()));
    passes.maxima(sample_max_.data(), sample_.data(), sample_.size());
    bands.fill(sample_, sample_max_, max_x_);
    double weights = 0, squares = 0, counts = 0;
    for (size_t band = 0; band < Bands::n; ++band) {
        if (const double n = bands.counts[band]; n > 0) {
            weights += bands.weights[band];
            squares += bands.weights[band] * bands.weights[band] / n;
            counts += n;
        }
    }
    // Each limit as a share of the whole, give or take three standard errors of the sample's share.
    struct Share {
        double from = 2, to = 2;
    };
    const auto share_of = [](double p, double size) {
        const double error = 3 * std::sqrt(p * (1 - p) / size) + 2 / size;
        return Share{p - error, p + error};
    };
    const auto n = static_cast<double>(x_.size());
    Share by_weight, by_count;
    if (limits.weight < wide_infinity) {
        by_weight = share_of(limits.weight / sum, weights * weights / squares);
    }
    if (limits.count < SIZE_MAX) {
        by_count = share_of(static_cast<double>(limits.count) / n, counts);
    }
    float from = max_x_, to = -FLT_MAX;
    bool entered = false;
    double weight = 0, count = 0;
    for (size_t band = 0; band < Bands::n; ++band) {
        weight += bands.weights[band] / weights;
        count += bands.counts[band] / counts;
        if (!entered && (weight >= by_weight.from || count >= by_count.from)) {
            entered = true;
            from = max_x_ - static_cast<float>(band) / scale;
        }
        if (weight >= by_weight.to || count >= by_count.to) {
            to = max_x_ - static_cast<float>(band + 1) / scale;
            break;
        }
    }
    ids_.resize(most + LogitRow::widest);
    LogitRow::Above above;
    const size_t found = passes.bracket(ids_.data(), most, above, x_.data(), x_.size(),
                                        block_max_.data(), to, from, max_x_);
    if (found > most) {
        return {};
    }
    candidates_.resize(found + 1);  // weighed in pairs
    ids_[found] = ids_[0];
    double inside = 0;
    for (size_t i = 0; i < found; i += 2) {
        const int32_t a = ids_[i], b = ids_[i + 1];
        const D2 value = {z(static_cast<size_t>(a)), z(static_cast<size_t>(b))};
        const D2 w = exp_exactly<D2, V2>(value - max_);
        candidates_[i] = {value[0], w[0], a};
        candidates_[i + 1] = {value[1], w[1], b};
        inside += w[0];
        inside += i + 1 < found ? w[1] : 0;
    }
    candidates_.resize(found);
    if (limits.reached(above.weight, above.count) ||
        !limits.reached(above.weight + inside, above.count + found)) {
        return {};
    }
    return select(candidates_, above.weight, above.count, limits);
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
            if (n_through <= limits.count) {
                return {pivot, INT_MAX};
            }
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
    for (const Candidate &candidate : c.first(end)) {
        least = std::min(least, candidate.z);
    }
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
    D2 sum = {};
    for (size_t i = 0; i < block_size; i += 2) {
        D2 v;
        std::memcpy(&v, weights + i, sizeof v);
        v = exp_exactly<D2, V2>(v);
        std::memcpy(weights + i, &v, sizeof v);
        sum += v;
    }
    return sum[0] + sum[1];
}

// The same sum in float. A value at the cut takes a closer look if its residual or its id decides
// whether it survives.
double Distribution::weigh_quickly(size_t block, bool &at_cut) const {
    float tail[block_size], residual_tail[block_size];
    const float *p = block_of(x_, block, tail, -infinity);
    const float *q = residual_.empty() ? nullptr : block_of(residual_, block, residual_tail, 0);
    const auto cut = static_cast<float>(cut_.z);
    const bool simple = !q && cut_.id == INT_MAX && static_cast<double>(cut) == cut_.z;
    const BlockSum block_sum = passes.weigh(
        p, q,
        {.cut = cut, .max = max_x_, .shift = static_cast<float>(max_ - max_x_),
         .log2_power = static_cast<float>(std::min(power_ * 1.4426950408889634, 1e30)),
         .cut_survives = simple});
    at_cut = !simple && cut > -infinity && block_sum.at_cut;
    return block_sum.sum;
}

void Distribution::sum_blocks() {
    active_.clear();
    const float threshold = std::max(static_cast<float>(cut_.z), -FLT_MAX);
    for (size_t b = 0; b < block_max_.size(); ++b) {
        if (block_max_[b] >= threshold) {
            active_.push_back({b, 0});
        }
    }
    total_ = 0;
    double weights[block_size];
    for (ActiveBlock &block : active_) {
        bool exactly = active_.size() <= 32;
        if (!exactly) {
            block.sum = weigh_quickly(block.index, exactly);
        }
        if (exactly) {
            block.sum = weigh(weights, block.index);
        }
        total_ += block.sum;
    }
}

int32_t Distribution::token_at(double u) const {
    const double target = u * total_;
    const ActiveBlock *chosen = nullptr;
    double before = 0, sum = 0;
    for (const ActiveBlock &block : active_) {
        if (block.sum > 0) {
            chosen = &block;  // the last one, should rounding leave the target behind all
            before = sum;
            sum += block.sum;
            if (target < sum) {
                break;
            }
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
            if (inner < sum) {
                break;
            }
        }
    }
    return static_cast<int32_t>(token);
}

void Distribution::probabilities(std::span<double> out) const {
    std::fill(out.begin(), out.end(), 0.);
    double weights[block_size];
    for (const ActiveBlock &block : active_) {
        const double sum = weigh(weights, block.index), share = block.sum / total_;
        const size_t start = block.index * block_size, n = std::min(block_size, x_.size() - start);
        for (size_t i = 0; i < n && sum > 0; ++i) {
            out[start + i] = weights[i] / sum * share;
        }
    }
}

LogProbabilities log_softmax(std::span<const float> x, int32_t token, size_t k) {
    std::vector<float> block_max(blocks_of(x.size()));
    passes.maxima(block_max.data(), x.data(), x.size());
    const float max = *std::max_element(block_max.begin(), block_max.end());
    const double shift = static_cast<double>(max) + std::log(passes.sum_exp(x.data(), x.size(), max));
    std::vector<size_t> best;  // the greatest first
    for (size_t b = 0; k > 0 && b < block_max.size(); ++b) {
        if (best.size() == k && block_max[b] <= x[best.back()]) {
            continue;
        }
        for (size_t i = b * block_size; i < std::min(x.size(), (b + 1) * block_size); ++i) {
            if (best.size() == k) {
                if (x[i] <= x[best.back()]) {
                    continue;
                }
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
