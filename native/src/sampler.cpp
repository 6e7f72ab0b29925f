// Owns the law of sampling. Called by engine.cpp after every step and by api.cpp for the exact
// distribution; never sorts the vocabulary, and never calls libm's exp, whose last bit depends on the
// machine: the same seed draws the same tokens everywhere.
//
// Cost, vocabulary 65536, one shared core of the baseline instruction set: see tests/native/test_sampler.
#include "sampler.h"

#include "error.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

namespace rwkv {
namespace {

// ---- exp for arguments <= 0. n = round(x / ln 2), r = x - n ln 2 in [-ln2/2, ln2/2], the Taylor series
// of e^r, and n added to the exponent. Adding `magic` = 1.5 * 2^(mantissa bits) rounds to an integer and
// leaves that integer in the low bits. ln 2 is split so that n * ln2_hi is exact.
typedef float F4 __attribute__((vector_size(16)));
typedef int32_t I4 __attribute__((vector_size(16)));
typedef double D2 __attribute__((vector_size(16)));
typedef int64_t L2 __attribute__((vector_size(16)));

// Relative error 2e-7; 0 below -87. Good enough for the sum that top-p is measured against.
inline F4 exp_float(F4 x) {
    constexpr float magic = 12582912.f, ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
    const F4 t = x * 1.44269504f + magic, n = t - magic;
    const F4 r = (x - n * ln2_hi) - n * ln2_lo;
    F4 p = r * (1.f / 720) + 1.f / 120;
    p = p * r + 1.f / 24;
    p = p * r + 1.f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.f;
    p = p * r + 1.f;
    const F4 e = std::bit_cast<F4>(std::bit_cast<I4>(p) + (std::bit_cast<I4>(t) << 23));
    return x > -87.f ? e : F4{};
}

// Relative error 4e-16; 0 below -708. D = double or D2, L = the integers of its size.
template <class D, class L>
inline D exp_double(D x) {
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
    const D e = std::bit_cast<D>(std::bit_cast<L>(p) + (std::bit_cast<L>(t) << 52));
    return x > -708. ? e : D{};
}

// ---- The adjusted logits. Everything works on blocks of 64: their maxima are found first, and later
// passes only enter blocks that can hold what they look for.
constexpr size_t block_size = 64;
constexpr float infinity = std::numeric_limits<float>::infinity();

struct Candidate {
    double z, weight;
    int32_t id;
};

// Memory of one thread, reused by every draw: 1.5 MB for 65536 tokens.
struct Scratch {
    std::vector<float> copy;      // [vocab] adjusted logits, rounded to float
    std::vector<float> residual;  // [vocab] what the rounding lost, so that penalties keep their digits
    std::vector<int32_t> touched; // ids whose residual may not be 0
    std::vector<float> block_max; // [blocks]
    std::vector<Candidate> candidates;
    std::vector<int32_t> ids;     // [survivors] ascending
    std::vector<double> weights;  // [survivors, rounded up to blocks] then 0
    std::vector<double> sums;     // [blocks of survivors]
};
thread_local Scratch scratch;

struct Logits {
    std::span<const float> x;         // [vocab]
    const float *residual;            // [vocab]
    std::span<const float> block_max; // [blocks]
    float max_x;
    double max;                       // of z
    size_t first;                     // the lowest id with z = max

    double z(size_t i) const { return static_cast<double>(x[i]) + residual[i]; }

    // f(i) for every i in a block that holds an x >= threshold.
    template <class F>
    void in_blocks_from(float threshold, F f) const {
        for (size_t b = 0; b < block_max.size(); ++b) {
            if (block_max[b] >= threshold) {
                const size_t end = std::min(x.size(), (b + 1) * block_size);
                for (size_t i = b * block_size; i < end; ++i) {
                    f(i);
                }
            }
        }
    }
};

// Block b as 16 vectors; the last one may be short and is filled up with -infinity.
template <class F>
inline void for_vectors(std::span<const float> x, size_t b, F f) {
    const size_t n = std::min(block_size, x.size() - b * block_size);
    const float *p = x.data() + b * block_size;
    std::array<float, block_size> tail;
    if (n < block_size) {
        tail.fill(-infinity);
        std::copy(p, p + n, tail.begin());
        p = tail.data();
    }
    for (size_t i = 0; i < block_size; i += 4) {
        F4 v;
        std::memcpy(&v, p + i, sizeof v);
        f(v, i);
    }
}

// block_max, and whether every value is below +infinity (NaN is not).
bool find_maxima(std::vector<float> &block_max, std::span<const float> x) {
    block_max.resize((x.size() + block_size - 1) / block_size);
    I4 fine = {-1, -1, -1, -1};
    for (size_t b = 0; b < block_max.size(); ++b) {
        F4 m = {-infinity, -infinity, -infinity, -infinity};
        for_vectors(x, b, [&](F4 v, size_t) {
            m = v > m ? v : m;
            fine &= v <= FLT_MAX;
        });
        block_max[b] = std::max(std::max(m[0], m[1]), std::max(m[2], m[3]));
    }
    return fine[0] & fine[1] & fine[2] & fine[3];
}

// sum of e^(x - max): float within a block (8 additions per lane), double across blocks.
double sum_exp(std::span<const float> x, float max) {
    double sum = 0;
    for (size_t b = 0; b * block_size < x.size(); ++b) {
        F4 s[2] = {};
        for_vectors(x, b, [&](F4 v, size_t i) { s[i / 4 % 2] += exp_float(v - max); });
        const F4 t = s[0] + s[1];
        sum += static_cast<double>((t[0] + t[1]) + (t[2] + t[3]));
    }
    return sum;
}

// ---- top-p and top-k. Tokens are ordered by z, the greatest first, equals by id; what survives is a
// prefix of that order and so is described by its last token. `id` INT_MAX keeps all equals.
struct Cut {
    double z = -std::numeric_limits<double>::infinity();
    int32_t id = -1;
};

struct Limits {
    double weight;  // top_p * sum; infinity: off
    size_t count;   // top_k; SIZE_MAX: off
    bool reached(double w, size_t n) const { return w >= weight || n >= count; }
};

// Finds the cut among candidates, of which `weight` and `count` are before the first. A quickselect with
// three parts, each with its sum of weights: linear also when all are equal.
Cut select(std::span<Candidate> c, double weight, size_t count, const Limits &limits) {
    size_t begin = 0, end = c.size();
    while (begin < end) {
        double a = c[begin].z, pivot = c[begin + (end - begin) / 2].z, d = c[end - 1].z;
        pivot = std::max(std::min(a, pivot), std::min(std::max(a, pivot), d));
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
            const auto last = c.begin() + static_cast<ptrdiff_t>(equal + (limits.count - n_above) - 1);
            std::nth_element(c.begin() + static_cast<ptrdiff_t>(equal), last,
                             c.begin() + static_cast<ptrdiff_t>(less),
                             [](const Candidate &l, const Candidate &r) { return l.id < r.id; });
            return {pivot, last->id};
        } else {
            weight = through;
            count = n_through;
            begin = less;
        }
    }
    // Rounding kept the sum from its limit: all that are left survive.
    Cut cut{std::numeric_limits<double>::infinity(), INT_MAX};
    for (const Candidate &candidate : c.first(end)) {
        cut.z = std::min(cut.z, candidate.z);
    }
    return cut;
}

// Replaces `out` by the accepted ones of the blocks that reach the threshold; returns their weight.
template <class Accept>
double gather(std::vector<Candidate> &out, const Logits &logits, float threshold, size_t most,
              Accept accept) {
    out.clear();
    double weight = 0;
    logits.in_blocks_from(threshold, [&](size_t i) {
        if (accept(logits.x[i]) && out.size() < most) {
            const double z = logits.z(i);
            out.push_back({z, exp_double<double, int64_t>(z - logits.max), static_cast<int32_t>(i)});
            weight += out.back().weight;
        }
    });
    return weight;
}

// Bands of 1/16 below the maximum, the last one open: -64 and less.
constexpr size_t bands = 1024;
template <class F>
inline F depth_of(F x, float max) {
    const F y = (max - x) * 16.f;
    return y < bands - 1.f ? y : F{} + (bands - 1.f);
}

Cut find_cut(const Logits &logits, const Limits &limits, std::vector<Candidate> &candidates) {
    // Usually a few tokens near the maximum are enough.
    constexpr size_t few = 2048;
    for (const float depth : {3.f, 8.f}) {
        const float threshold = logits.max_x - depth;
        const double weight = gather(candidates, logits, threshold, few,
                                     [=](float x) { return x >= threshold; });
        if (candidates.size() == few) {
            break;
        }
        if (limits.reached(weight, candidates.size())) {
            return select(candidates, 0, 0, limits);
        }
    }
    // Otherwise a histogram says in which band the cut lies.
    std::array<double, bands> weights{};
    std::array<uint32_t, bands> counts{};
    for (size_t b = 0; b * block_size < logits.x.size(); ++b) {
        std::array<int32_t, block_size> band;
        std::array<float, block_size> e;
        for_vectors(logits.x, b, [&](F4 v, size_t i) {
            const I4 index = __builtin_convertvector(depth_of(v, logits.max_x), I4);
            const F4 weight = exp_float(v - logits.max_x);
            std::memcpy(&band[i], &index, sizeof index);
            std::memcpy(&e[i], &weight, sizeof weight);
        });
        for (size_t i = 0; i < block_size; ++i) {
            weights[static_cast<size_t>(band[i])] += static_cast<double>(e[i]);
            ++counts[static_cast<size_t>(band[i])];
        }
    }
    double weight = 0;
    size_t count = 0, cut_band = 0;
    while (cut_band + 1 < bands && !limits.reached(weight + weights[cut_band], count + counts[cut_band])) {
        weight += weights[cut_band];
        count += counts[cut_band++];
    }
    gather(candidates, logits, -FLT_MAX, SIZE_MAX, [&](float x) {
        return x >= -FLT_MAX && static_cast<size_t>(depth_of(x, logits.max_x)) == cut_band;
    });
    return select(candidates, weight, count, limits);
}

// ---- Checking.

void check_number(const char *name, double value, double low, double high) {
    if (std::isfinite(value) && value >= low && value <= high) {
        return;
    }
    char text[160];
    if (!std::isfinite(value)) {
        std::snprintf(text, sizeof text, "%s must be a finite number, got %g", name, value);
    } else if (high == DBL_MAX) {
        std::snprintf(text, sizeof text, "%s must be >= %g, got %g", name, low, value);
    } else {
        std::snprintf(text, sizeof text, "%s must be between %g and %g, got %g", name, low, high, value);
    }
    throw invalid(text);
}

void check_id(const char *name, int32_t id, size_t vocab) {
    if (id < 0 || static_cast<size_t>(id) >= vocab) {
        throw invalid(std::string(name) + ": token id " + std::to_string(id) +
                      " is outside the vocabulary of " + std::to_string(vocab));
    }
}

}  // namespace

void check(const SamplingOptions &options, size_t vocab) {
    check_number("temperature", options.temperature, 0, DBL_MAX);
    check_number("top_p", options.top_p, 0, DBL_MAX);
    check_number("min_p", options.min_p, 0, 1);
    check_number("presence_penalty", options.presence_penalty, -DBL_MAX, DBL_MAX);
    check_number("frequency_penalty", options.frequency_penalty, -DBL_MAX, DBL_MAX);
    check_number("penalty_decay", options.penalty_decay, 0, 1);
    check_number("logprobs", options.logprobs, -1, static_cast<double>(std::min<size_t>(20, vocab)));
    for (const auto &[id, value] : options.bias) {
        check_id("logit_bias", id, vocab);
        check_number("logit_bias", static_cast<double>(value), -DBL_MAX, DBL_MAX);
    }
    for (const int32_t id : options.forbidden) {
        check_id("forbidden", id, vocab);
    }
    for (const int32_t id : options.no_repeat) {
        check_id("no_repeat", id, vocab);
    }
    for (const int32_t id : options.exempt) {
        check_id("exempt", id, vocab);
    }
}

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
double uniform(uint64_t seed, uint64_t step) {
    uint32_t c0 = static_cast<uint32_t>(step), c1 = static_cast<uint32_t>(step >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
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

// The tokens that can be drawn, with weights that are not yet divided by their sum. Points into the
// thread's scratch: valid until the next call.
struct Sampler::Survivors {
    std::span<const int32_t> ids;     // ascending
    std::span<const double> weights;
    std::span<const double> sums;     // of each block of weights
    double total;
};

Sampler::Sampler(SamplingOptions options, std::span<const int32_t> prompt)
    : options_(std::move(options)) {
    if (options_.global_penalty) {
        std::sort(options_.exempt.begin(), options_.exempt.end());
        for (const int32_t token : prompt) {
            if (!std::binary_search(options_.exempt.begin(), options_.exempt.end(), token)) {
                add_occurrence(token);
            }
        }
    }
    if (!prompt.empty()) {
        last_ = prompt.back();
    }
}

// After drawing x:  occ[t] *= decay for all t;  occ[x] += 1.  With occ[t] = weight[t] * scale this is
// scale *= decay;  weight[x] += 1 / scale: one token is touched, however many have been seen.
void Sampler::add_occurrence(int32_t token) {
    if (options_.presence_penalty == 0 && options_.frequency_penalty == 0) {
        return;
    }
    scale_ *= options_.penalty_decay;
    if (scale_ < 1e-100) {
        for (Occurrence &occurrence : occurrences_) {
            occurrence.weight *= scale_;
        }
        scale_ = 1;
    }
    const auto [place, is_new] = index_.try_emplace(token, occurrences_.size());
    if (is_new) {
        occurrences_.push_back({token, 0});
    }
    occurrences_[place->second].weight += 1 / scale_;
}

void Sampler::count(int32_t token) {
    add_occurrence(token);
    last_ = token;
    ++step_;
}

// presence + occ[t] * frequency, for the tokens that occurred. At step 0 only the prompt has, and by the
// law of global_penalty it counts from the second draw on.
double Sampler::penalty(int32_t token) const {
    const auto place = index_.find(token);
    if (step_ == 0 || place == index_.end()) {
        return 0;
    }
    return options_.presence_penalty +
           occurrences_[place->second].weight * scale_ * options_.frequency_penalty;
}

Sampler::Survivors Sampler::survivors(std::span<const float> raw) const {
    Scratch &s = scratch;
    for (const int32_t id : s.touched) {
        s.residual[static_cast<size_t>(id)] = 0;
    }
    s.touched.clear();
    if (s.residual.size() < raw.size()) {
        s.residual.resize(raw.size());
    }

    // Bias, penalties, forbidden.
    const bool repeats = std::find(options_.no_repeat.begin(), options_.no_repeat.end(), last_) !=
                         options_.no_repeat.end();
    const bool penalised = step_ > 0 && !occurrences_.empty();
    Logits logits{.x = raw, .residual = s.residual.data(), .block_max = {}, .max_x = -infinity,
                  .max = -std::numeric_limits<double>::infinity(), .first = 0};
    if (penalised || repeats || !options_.bias.empty() || !options_.forbidden.empty()) {
        s.copy.assign(raw.begin(), raw.end());
        logits.x = s.copy;
        const auto add = [&](int32_t id, double value) {
            const auto i = static_cast<size_t>(id);
            if (i < raw.size() && s.copy[i] != -infinity) {
                s.touched.push_back(id);
                const double z = std::clamp(logits.z(i) + value, -3e38, 3e38);
                s.copy[i] = static_cast<float>(z);
                s.residual[i] = static_cast<float>(z - static_cast<double>(s.copy[i]));
            }
        };
        const auto forbid = [&](int32_t id) {
            if (static_cast<size_t>(id) < raw.size()) {
                s.copy[static_cast<size_t>(id)] = -infinity;
            }
        };
        for (const auto &[id, value] : options_.bias) {
            add(id, static_cast<double>(value));
        }
        if (penalised) {
            const double each = scale_ * options_.frequency_penalty;
            for (const auto &[id, weight] : occurrences_) {
                add(id, -(options_.presence_penalty + weight * each));
            }
        }
        std::for_each(options_.forbidden.begin(), options_.forbidden.end(), forbid);
        if (repeats) {
            forbid(last_);
        }
    }

    // The maximum.
    if (!find_maxima(s.block_max, logits.x)) {
        throw Error(RWKV_INTERNAL, "the model gave a logit that is NaN or infinite");
    }
    logits.block_max = s.block_max;
    for (const float m : s.block_max) {
        logits.max_x = std::max(logits.max_x, m);
    }
    if (logits.max_x == -infinity) {
        throw Error(RWKV_INTERNAL, "no token can be drawn: no logit is finite");
    }
    logits.in_blocks_from(logits.max_x, [&](size_t i) {
        if (logits.x[i] == logits.max_x && logits.z(i) > logits.max) {
            logits.max = logits.z(i);
            logits.first = i;
        }
    });

    // The cuts: top-p and top-k by the original probabilities, then min-p.
    Cut cut;
    const bool greedy = options_.temperature == 0;
    const bool top_p = options_.top_p < 1;
    const bool top_k = options_.top_k > 0 && static_cast<size_t>(options_.top_k) < raw.size();
    if (greedy) {
        cut = {logits.max, static_cast<int32_t>(logits.first)};
    } else {
        if (top_p || top_k) {
            const Limits limits{
                .weight = top_p ? options_.top_p * sum_exp(logits.x, logits.max_x)
                                : std::numeric_limits<double>::infinity(),
                .count = top_k ? static_cast<size_t>(options_.top_k) : SIZE_MAX};
            cut = find_cut(logits, limits, s.candidates);
        }
        const double least = logits.max + std::log(options_.min_p);
        if (least > cut.z) {
            cut = {least, INT_MAX};
        }
    }

    // weight = p^(1/T) / p_max^(1/T) = e^((z - max) / T)
    const double power = greedy ? 1 : std::min(1 / options_.temperature, 1e300);
    s.ids.resize(raw.size() + 1);
    s.weights.resize(raw.size() + block_size);
    size_t n = 0;
    logits.in_blocks_from(std::max(static_cast<float>(cut.z), -FLT_MAX), [&](size_t i) {
        const double z = logits.z(i);
        s.ids[n] = static_cast<int32_t>(i);
        s.weights[n] = (z - logits.max) * power;
        n += (z > cut.z) | ((z == cut.z) & (static_cast<int32_t>(i) <= cut.id));
    });
    const size_t blocks = (n + block_size - 1) / block_size;
    std::fill(s.weights.begin() + static_cast<ptrdiff_t>(n),
              s.weights.begin() + static_cast<ptrdiff_t>(blocks * block_size),
              -std::numeric_limits<double>::infinity());
    s.sums.resize(blocks);
    double total = 0;
    for (size_t b = 0; b < blocks; ++b) {
        double *w = s.weights.data() + b * block_size;
        D2 sum = {};
        for (size_t i = 0; i < block_size; i += 2) {
            D2 v;
            std::memcpy(&v, w + i, sizeof v);
            v = exp_double<D2, L2>(v);
            std::memcpy(w + i, &v, sizeof v);
            sum += v;
        }
        s.sums[b] = sum[0] + sum[1];
        total += s.sums[b];
    }
    return {std::span(s.ids).first(n), std::span(s.weights).first(n), s.sums, total};
}

void Sampler::probabilities(std::span<double> out, std::span<const float> logits) const {
    const Survivors s = survivors(logits);
    std::fill(out.begin(), out.end(), 0.);
    for (size_t i = 0; i < s.ids.size(); ++i) {
        out[static_cast<size_t>(s.ids[i])] = s.weights[i] / s.total;
    }
}

// The inverse of the cumulative distribution, in id order.
static int32_t draw_from(std::span<const int32_t> ids, std::span<const double> weights,
                         std::span<const double> sums, double target) {
    size_t b = 0;
    double sum = 0;
    while (b + 1 < sums.size() && sum + sums[b] <= target) {
        sum += sums[b++];
    }
    size_t chosen = 0;
    const size_t end = std::min(weights.size(), (b + 1) * block_size);
    for (size_t i = b * block_size; i < end; ++i) {
        if (weights[i] > 0) {
            chosen = i;  // the last one with a weight, should rounding leave the target behind all
        }
        sum += weights[i];
        if (target < sum) {
            break;
        }
    }
    return ids[chosen];
}

// log p = x - max - log(sum of e^(x - max)), of the logits as the model gave them.
static std::vector<std::pair<int32_t, float>> log_softmax(std::span<const float> x, int32_t token,
                                                          size_t k) {
    std::vector<float> &block_max = scratch.block_max;
    find_maxima(block_max, x);
    const float max = *std::max_element(block_max.begin(), block_max.end());
    const double shift = static_cast<double>(max) + std::log(sum_exp(x, max));
    const auto entry = [&](size_t i) {
        return std::pair(static_cast<int32_t>(i), static_cast<float>(static_cast<double>(x[i]) - shift));
    };
    std::vector<size_t> best;  // the greatest first
    for (size_t b = 0; k > 0 && b < block_max.size(); ++b) {
        if (best.size() == k && block_max[b] <= x[best.back()]) {
            continue;
        }
        for (size_t i = b * block_size; i < std::min(x.size(), (b + 1) * block_size); ++i) {
            if (best.size() == k && x[i] <= x[best.back()]) {
                continue;
            }
            if (best.size() == k) {
                best.pop_back();
            }
            const auto after = [&](float value, size_t j) { return value > x[j]; };
            best.insert(std::upper_bound(best.begin(), best.end(), x[i], after), i);
        }
    }
    std::vector<std::pair<int32_t, float>> out{entry(static_cast<size_t>(token))};
    for (const size_t i : best) {
        out.push_back(entry(i));
    }
    return out;
}

Drawn Sampler::draw(std::span<const float> logits) {
    const Survivors s = survivors(logits);
    Drawn drawn;
    drawn.token = draw_from(s.ids, s.weights, s.sums, uniform(options_.seed, step_) * s.total);
    if (options_.logprobs >= 0) {
        drawn.logprobs = log_softmax(logits, drawn.token, static_cast<size_t>(options_.logprobs));
    }
    count(drawn.token);
    return drawn;
}

}  // namespace rwkv
