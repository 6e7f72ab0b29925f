// The law of sampling against the vectors of the official path, against a plain float64 oracle that
// sorts, and against statistics. RWKV_TEST_TIMES=1 prints how long a draw takes.
#include "check.h"
#include "random_logits.h"
#include "sampling/distribution.h"
#include "sampling/sampler.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <thread>

using namespace rwkv;

namespace {

SamplingOptions law(double temperature, double top_p, int32_t top_k, double min_p = 0) {
    SamplingOptions options;
    options.temperature = temperature;
    options.top_p = top_p;
    options.top_k = top_k;
    options.min_p = min_p;
    return options;
}

std::vector<double> probabilities(const Sampler &sampler, const Floats &logits) {
    std::vector<double> p(logits.size(), -1);
    sampler.probabilities(p, logits);
    return p;
}

std::vector<double> probabilities(const SamplingOptions &options, const Floats &logits) {
    return probabilities(Sampler(options, {}), logits);
}

// ---- sampling-vectors.json, made by the CPU path of the official package.
void test_vectors() {
    struct Case {
        const char *name;
        Floats logits;
        SamplingOptions options;
        std::vector<double> expected;
    };
    const Floats four{1, 2, 3, 4};
    const Case cases[] = {
        {"plain",
         four,
         law(1, 1, 0),
         {0.032058604061603546, 0.08714432269334793, 0.23688280582427979, 0.6439142823219299}},
        {"top_p_0", four, law(1, 0, 0), {0, 0, 0, 1}},
        {"top_p_07", four, law(1, 0.7, 0), {0, 0, 0.26894140243530273, 0.7310585975646973}},
        {"top_k_2", four, law(1, 1, 2), {0, 0, 0.26894140243530273, 0.7310585975646973}},
        {"top_k_ge_vocab",
         four,
         law(1, 1, 4),
         {0.032058604061603546, 0.08714432269334793, 0.23688280582427979, 0.6439142823219299}},
        {"temp_half",
         four,
         law(0.5, 1, 0),
         {0.002144008642062545, 0.015842201188206673, 0.1170588880777359, 0.8649548888206482}},
        {"temp_01",
         four,
         law(0.1, 0.9, 0),
         {0, 2.0610604334336813e-09, 4.539782821666449e-05, 0.9999546408653259}},
        {"both",
         {0, 0.5f, 1, 1.5f, 2, 2.5f},
         law(1.3, 0.8, 3),
         {0, 0, 0, 0.2161155343055725, 0.3174843490123749, 0.466400146484375}},
        {"negative",
         {-5, -4, -30, 0},
         law(1, 0.99, 0),
         {0, 0.01798621192574501, 0, 0.9820137619972229}},
        {"runner-api 11.4", four, law(2, 0.9, 0), {0, 0.186324, 0.307196, 0.506480}},
        {"ties stay", {2, 2, 2, 1}, law(1, 0.3, 0), {1. / 3, 1. / 3, 1. / 3, 0}},
    };
    for (const Case &c : cases) {
        const auto p = probabilities(c.options, c.logits);
        for (size_t i = 0; i < p.size(); ++i) {
            CHECK_NEAR(p[i], c.expected[i], 1e-6);
            CHECK((p[i] == 0) == (c.expected[i] == 0));
        }
        if (failures) std::printf("in case %s\n", c.name);
    }
}

// ---- The oracle: the law word by word, in float64, with a full sort.
struct Oracle {
    std::vector<double> p;
    double margin = 1;  // how near the cumulative sum came to top_p, or p to min_p
};

Oracle oracle(const SamplingOptions &o, const std::vector<double> &z) {
    const size_t n = z.size();
    const double max = *std::max_element(z.begin(), z.end());
    std::vector<double> p(n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += p[i] = std::exp(z[i] - max);
    std::vector<size_t> order(n);
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return z[a] > z[b]; });
    Oracle out{std::vector<double>(n), 1};
    size_t keep = n;
    if (o.temperature == 0) {
        keep = 1;
    } else if (o.top_p < 1) {
        double cumulative = 0;
        for (size_t i = 0; i < n; ++i) {
            cumulative += p[order[i]] / sum;
            out.margin = std::min(out.margin, std::fabs(cumulative - o.top_p));
            if (cumulative >= o.top_p) {
                while (i + 1 < n && z[order[i + 1]] == z[order[i]]) ++i;
                keep = i + 1;
                break;
            }
        }
    }
    if (o.top_k > 0) keep = std::min(keep, static_cast<size_t>(o.top_k));
    double total = 0;
    for (size_t i = 0; i < keep; ++i) {
        const size_t id = order[i];
        if (p[id] < o.min_p) break;
        if (o.min_p > 0) out.margin = std::min(out.margin, std::fabs(p[id] - o.min_p));
        const double y = (z[id] - max) / (o.temperature == 0 ? 1 : o.temperature);
        total += out.p[id] = y == 0 ? 1 : std::exp(y);
    }
    for (double &value : out.p) value /= total;
    return out;
}

SamplingOptions random_options(std::mt19937_64 &random, size_t n) {
    const auto pick = [&](std::initializer_list<double> list) {
        return list.begin()[random() % list.size()];
    };
    SamplingOptions o;
    o.temperature = pick({1, 1, 1, 0.7, 1.5, 0.1, 0, 5, 1e-3});
    o.top_p = pick({1, 1, 0, 0.3, 0.5, 0.9, 0.95, 0.999, 0.999999, 2});
    o.top_k = static_cast<int32_t>(pick({0, 0, 0, 1, 5, 40, 3000, static_cast<double>(n)}));
    o.min_p = pick({0, 0, 0, 0.05, 1, 1e-6});
    o.seed = random();
    return o;
}

void test_oracle() {
    std::mt19937_64 random(1);
    const size_t sizes[] = {1, 2, 3, 5, 63, 64, 65, 257, 2047, 5000, 65536};
    double worst = 0;
    int compared = 0;
    for (int round = 0; round < 600; ++round) {
        const size_t n = sizes[random() % (round % 10 == 0 ? 11 : 10)];
        const Floats x = random_logits(random, n);
        SamplingOptions o = random_options(random, n);
        std::vector<double> z(x.begin(), x.end());
        Sampler sampler(o, {});
        if (round % 2) {  // penalties and bias, some of them on the greatest
            o.frequency_penalty = 0.37;
            o.presence_penalty = 0.1;
            const auto best = static_cast<size_t>(std::max_element(x.begin(), x.end()) - x.begin());
            const size_t other = random() % n;
            o.bias = {{static_cast<int32_t>(other), 1.7f}, {static_cast<int32_t>(best), -0.3f}};
            z[other] += static_cast<double>(1.7f);
            z[best] += static_cast<double>(-0.3f);
            sampler = Sampler(o, {});
            std::map<int32_t, double> occurrence;
            for (int i = 0; i < 30; ++i) {
                const auto token = static_cast<int32_t>(i % 3 ? random() % n : best);
                sampler.count(token);
                for (auto &[id, weight] : occurrence) weight *= o.penalty_decay;
                occurrence[token] += 1;
            }
            for (const auto &[id, weight] : occurrence)
                z[static_cast<size_t>(id)] -= 0.1 + weight * 0.37;
        }
        const Oracle expected = oracle(o, z);
        if (expected.margin < 2e-6) continue;  // float sums may fall on either side
        ++compared;
        const auto p = probabilities(sampler, x);
        double sum = 0;
        for (size_t i = 0; i < n; ++i) {
            sum += p[i];
            worst = std::max(worst, std::fabs(p[i] - expected.p[i]));
            const bool lost = (p[i] > 0) != (expected.p[i] > 1e-30);
            if (!(std::fabs(p[i] - expected.p[i]) < 1e-6) || (lost && expected.p[i] > 1e-30) ||
                (p[i] > 0 && expected.p[i] == 0)) {
                CHECK_NEAR(p[i], expected.p[i], 0);
                std::printf("round %d n %zu T %g top_p %g top_k %d min_p %g\n", round, n,
                            o.temperature, o.top_p, o.top_k, o.min_p);
                break;
            }
        }
        CHECK_NEAR(sum, 1, 1e-9);
        const auto token = static_cast<size_t>(sampler.draw(x).token);
        CHECK(p[token] > 0);
    }
    CHECK(compared > 400);
    std::printf("oracle: %d cases, worst difference %.2g\n", compared, worst);
}

// ---- Penalties: runner-api.md 11.3, and the lazy decay against the plain recurrence.
void test_penalties() {
    SamplingOptions o;
    o.presence_penalty = 0.3;
    o.frequency_penalty = 0.5;
    using Expected = std::map<int32_t, double>;
    const auto run = [](Sampler sampler, std::vector<int32_t> drawn,
                        std::vector<Expected> expected) {
        for (size_t i = 0; i < expected.size(); ++i) {
            if (i > 0) sampler.count(drawn[i - 1]);
            const auto p = probabilities(sampler, Floats(60, 0.f));
            for (int32_t id = 0; id < 60; ++id) {
                const double value = expected[i].count(id) ? expected[i][id] : 0;
                CHECK_NEAR(sampler.penalty(id), value, 1e-12);
                CHECK_NEAR(std::log(p[0] / p[static_cast<size_t>(id)]), value, 1e-12);
            }
        }
    };
    run(Sampler(o, {}), {5, 5, 7, 5},
        {{}, {{5, 0.8}}, {{5, 1.298}}, {{5, 1.294008}, {7, 0.8}}, {{5, 1.790031968}, {7, 0.798}}});
    o.global_penalty = true;
    o.exempt = {50};
    const std::vector<int32_t> prompt{3, 3, 50, 4};
    run(Sampler(o, prompt), {5, 6},
        {{},
         {{3, 1.290031968}, {4, 0.798}, {5, 0.8}},
         {{3, 1.286071840128}, {4, 0.796008}, {5, 0.798}, {6, 0.8}}});

    std::mt19937_64 random(2);
    for (const double decay : {0.996, 1., 0.5, 1e-3, 0., 0.99999}) {
        SamplingOptions options;
        options.penalty_decay = decay;
        options.frequency_penalty = 1;
        Sampler sampler(options, {});
        std::vector<double> plain(50);
        for (int i = 0; i < 20000; ++i) {
            const size_t token = random() % 50;
            sampler.count(static_cast<int32_t>(token));
            for (double &weight : plain) weight *= decay;
            plain[token] += 1;
        }
        for (size_t id = 0; id < 50; ++id) {
            const double penalty = sampler.penalty(static_cast<int32_t>(id));
            CHECK_NEAR(penalty, plain[id], 1e-12 * plain[id] + 1e-300);
        }
    }
}

// ---- Tokens that count as other than one, and biases that grow: the numbers of runner-api.md 11.3
// for music, whose waits (ids below 127) count as 0.3 and whose end (0) becomes likelier.
void test_weights_and_slopes() {
    SamplingOptions o;
    o.frequency_penalty = 0.5;
    o.penalty_decay = 0.997;
    o.bias = {{0, -4.f}, {127, -1.f}};
    o.slopes = {{0, 1. / 500}};
    for (int32_t id = 126; id >= 0; --id)  // in any order
        o.weights.emplace_back(id, 0.3);
    check(o, 200);
    const std::vector<int32_t> drawn{130, 20, 130, 127, 126};
    const std::vector<std::map<int32_t, double>> expected{
        {{0, -4}, {127, -1}},
        {{0, -3.998}, {127, -1}, {130, -0.5}},
        {{0, -3.996}, {127, -1}, {130, -0.4985}, {20, -0.15}},
        {{0, -3.994}, {127, -1}, {130, -0.9970045}, {20, -0.14955}},
        {{0, -3.992}, {127, -1.5}, {130, -0.9940134865}, {20, -0.14910135}},
        {{0, -3.99}, {127, -1.4985}, {130, -0.9910314460405}, {20, -0.14865404595}, {126, -0.15}}};
    Sampler sampler(o, {});
    for (size_t i = 0; i < expected.size(); ++i) {
        if (i > 0) sampler.count(drawn[i - 1]);
        const auto p = probabilities(sampler, Floats(200, 0.f));
        for (int32_t id = 0; id < 200; ++id) {
            const auto found = expected[i].find(id);
            const double value = found == expected[i].end() ? 0 : found->second;
            CHECK_NEAR(std::log(p[static_cast<size_t>(id)] / p[199]), value, 1e-12);
        }
    }

    SamplingOptions none;  // a weight of 0 frees a token from the presence penalty, too
    none.presence_penalty = none.frequency_penalty = 1;
    none.weights = {{3, 0.}};
    Sampler free(none, {});
    free.count(3);
    free.count(4);
    CHECK(free.penalty(3) == 0);
    CHECK(free.penalty(4) == 2);

    SamplingOptions steep;  // far beyond what a logit can be: clamped, never NaN
    steep.slopes = {{1, 1.7e308}, {0, -1.7e308}, {50, 1}};
    Sampler extreme(steep, {});
    CHECK_NEAR(probabilities(extreme, Floats{0, 0})[0], 0.5, 1e-12);
    extreme.count(0);
    extreme.count(0);
    CHECK(probabilities(extreme, Floats{0, 0})[1] == 1);
}

// A logit just short of the middle between two floats: what its rounding lost is not exactly a
// float either, and must not carry it to the other side, where the cut would be above all tokens.
void test_near_the_middle() {
    const double odd = 1 + 0x1p-23, even = 1 + 0x1p-22;
    for (const double z : {odd + 0x1p-24 - 0x1p-50, even - 0x1p-24 + 0x1p-50}) {
        for (const double sign : {1., -1.}) {
            SamplingOptions o = law(1, 0.3, 0);
            o.slopes = {{7, sign * z}};
            Sampler sampler(o, {});
            sampler.count(1);
            Floats x(100, static_cast<float>(sign) - 30);
            x[7] = 0;
            CHECK(probabilities(sampler, x)[7] == 1);
            CHECK(sampler.draw(x).token == 7);
        }
    }
}

// Thousands of survivors in most blocks: the path by a bracket, whose kept weights must learn of
// penalties and of what rounding to float lost (3e-5 of a logit near 1000).
void test_many_survivors() {
    std::mt19937_64 random(8);
    std::normal_distribution<float> normal(1000, 1);
    Floats x(65536);
    for (float &v : x) v = normal(random);
    for (const SamplingOptions &cuts : {law(1, 0.3, 0), law(0.7, 0.3, 0), law(1, 0.6, 3000),
                                        law(1, 1, 3000), law(1, 0.9, 0, 0.05)}) {
        for (const bool penalised : {false, true}) {
            SamplingOptions o = cuts;
            o.presence_penalty = penalised ? 0.1234567 : 0;
            Sampler sampler(o, {});
            std::vector<double> z(x.begin(), x.end());
            for (size_t id = 3; penalised && id < x.size(); id += 97) {
                sampler.count(static_cast<int32_t>(id));
                z[id] -= o.presence_penalty;
            }
            const Oracle expected = oracle(o, z);
            const auto p = probabilities(sampler, x);
            for (size_t i = 0; i < x.size(); ++i)
                CHECK_NEAR(p[i], expected.p[i], 1e-6 * expected.p[i]);
        }
    }
}

// The float sums of many blocks keep what rounding z to float lost, and ties at the cut.
void test_many_blocks() {
    constexpr size_t blocks = 100;
    Floats x(64 * blocks, -20.f);
    SamplingOptions o;
    o.presence_penalty = 0.1234567;
    Sampler sampler(o, {});
    for (size_t b = 0; b < blocks; ++b) {
        x[64 * b + b % 64] = 20;
        if (b % 2) sampler.count(static_cast<int32_t>(64 * b + b % 64));
    }
    const auto p = probabilities(sampler, x);
    CHECK_NEAR(std::log(p[0] / p[65]), 0.1234567, 3e-7);
    CHECK_NEAR(std::log(p[0] / p[128 + 2]), 0, 1e-12);

    for (const double top_p : {0.9, 0.3}) {  // a fifth has z = 4, of the rest every fourth 3
        Floats ties(6400, 0.f);
        double sum = 0;
        for (size_t i = 0; i < ties.size(); ++i) {
            ties[i] = i % 5 == 0 ? 4.f : i % 4 == 0 ? 3.f : 0.f;
            sum += ties[i] == 4 || (ties[i] == 3 && top_p > 0.5) ? std::exp(ties[i]) : 0;
        }
        const auto q = probabilities(law(1, top_p, 0), ties);
        for (size_t i = 0; i < ties.size(); ++i) {
            const bool lives = ties[i] == 4 || (ties[i] == 3 && top_p > 0.5);
            CHECK_NEAR(q[i], lives ? std::exp(ties[i]) / sum : 0, 1e-9);
        }
    }

    Floats level(65536, 1.f);  // more equals than a bracket holds, without a gap
    level[17] = 0;
    const auto q = probabilities(law(1, 0.3, 0), level);
    CHECK(q[17] == 0);
    CHECK_NEAR(q[0], 1. / 65535, 1e-11);
    CHECK_NEAR(q[65535], 1. / 65535, 1e-11);
}

void test_bans() {
    const Floats x{1, 2, 3, 4};
    SamplingOptions o;
    o.forbidden = {3};
    CHECK(probabilities(o, x)[3] == 0);
    CHECK(probabilities(o, x)[2] > 0.6);
    o.bias = {{3, 100.f}};  // a ban is stronger than any bias
    CHECK(probabilities(o, x)[3] == 0);
    o = {};
    o.bias = {{0, 50.f}, {0, 50.f}};
    CHECK(probabilities(o, x)[0] > 0.999999);
    o = {};
    o.no_repeat = {2, 3};
    const std::vector<int32_t> prompt{1, 3};
    Sampler sampler(o, prompt);
    CHECK(probabilities(sampler, x)[3] == 0);
    sampler.count(1);
    CHECK(probabilities(sampler, x)[3] > 0);
    sampler.count(2);
    CHECK(probabilities(sampler, x)[2] == 0);
    CHECK(probabilities(Sampler(o, {}), x)[3] > 0);

    // Late ids come as soon as there are enough tokens, drawn ones and none of the prompt's.
    o = {};
    o.min_tokens = 2;
    o.late = {3, 0};
    Sampler patient(o, prompt);
    for (int drawn = 0; drawn < 4; ++drawn) {
        const auto p = probabilities(patient, x);
        const auto free = probabilities(SamplingOptions{}, x);
        const double rest = drawn < 2 ? free[1] + free[2] : 1;
        for (const size_t i : {0, 1, 2, 3}) {
            const bool held = drawn < 2 && (i == 0 || i == 3);
            CHECK_NEAR(p[i], held ? 0 : free[i] / rest, 1e-15);
        }
        const int32_t token = patient.draw(x).token;
        CHECK(drawn >= 2 || token == 1 || token == 2);
    }

    // The residuals of one sampler must not reach the next one on the same thread.
    o = {};
    o.frequency_penalty = 0.1;
    Sampler penalised(o, {});
    penalised.count(2);
    probabilities(penalised, x);
    o = {};
    o.forbidden = {0};
    const auto p = probabilities(o, x);
    CHECK_NEAR(p[3] / p[2], std::exp(1.), 1e-14);
}

// A mask forbids whatever has no bit, before any cut; with bias, penalties and bans as well.
void test_masks() {
    std::mt19937_64 random(11);
    for (int round = 0; round < 200; ++round) {
        const size_t n =
            std::array<size_t, 5>{1, 63, 65, 3000, 65536}[round % 20 ? random() % 4 : 4];
        const Floats x = random_logits(random, n);
        SamplingOptions o = random_options(random, n);
        if (round % 2) {
            o.bias = {{0, 1.7f}, {static_cast<int32_t>(n / 2), -0.4f}};
            o.presence_penalty = 0.3;
            o.forbidden = {static_cast<int32_t>(random() % n)};
        }
        std::vector<uint64_t> mask((n + 63) / 64);
        for (uint64_t &word : mask)
            word = std::array<uint64_t, 4>{0, ~uint64_t{0}, uint64_t{1} << random() % 64,
                                           random()}[random() % 4];
        const auto allowed = [&](size_t i) { return (mask[i / 64] >> i % 64 & 1) != 0; };
        SamplingOptions banned = o;
        bool any = false;
        for (size_t i = 0; i < n; ++i) {
            if (!allowed(i)) banned.forbidden.push_back(static_cast<int32_t>(i));
            any |= allowed(i) && x[i] > -inf &&
                   std::find(o.forbidden.begin(), o.forbidden.end(), static_cast<int32_t>(i)) ==
                       o.forbidden.end();
        }
        Sampler masked(o, {}), plain(banned, {});
        if (round % 2) masked.count(0), plain.count(0);
        if (!any) {
            Floats y = x;
            CHECK_THROWS(masked.draw(x, mask.data()), "the mask allows none");
            CHECK_THROWS(masked.draw_in_place(y, mask.data()), "the mask allows none");
            CHECK(y == x && masked.step() == plain.step());
            continue;
        }
        std::vector<double> p(n, -1);
        masked.probabilities(p, x, mask.data());
        const auto expected = probabilities(plain, x);
        for (size_t i = 0; i < n; ++i) {
            CHECK(allowed(i) || p[i] == 0);
            CHECK_NEAR(p[i], expected[i], 1e-6);
        }
        Floats y = x;
        for (int i = 0; i < 5; ++i) {
            const int32_t token = masked.draw_in_place(y, mask.data()).token;
            CHECK(allowed(static_cast<size_t>(token)));
            CHECK(token == plain.draw(x).token);
            CHECK(y == x);
        }
    }
    // What is not allowed is not looked at, and the log-probabilities are those of the model.
    const uint64_t mask = 0b0110;
    SamplingOptions o = law(0, 1, 0);
    o.logprobs = 1;
    CHECK(Sampler(o, {}).draw(Floats{9, 1, 2, NAN}, &mask).token == 2);
    CHECK_THROWS(Sampler(o, {}).draw(Floats{9, 1, NAN, 3}, &mask), "NaN");
    const Sampled drawn = Sampler(o, {}).draw(Floats{9, 1, 2, 3}, &mask);
    CHECK(drawn.token == 2 && drawn.logprobs[0].first == 2 && drawn.logprobs[1].first == 0);
    CHECK_NEAR(drawn.logprobs[0].second,
               2 - std::log(std::exp(9) + std::exp(1) + std::exp(2) + std::exp(3)), 1e-5);
    const uint64_t none = 0;
    CHECK_THROWS(Sampler(o, {}).draw(Floats{9, 1}, &none), "the mask allows none");
    const std::vector<uint64_t> all(1024, ~uint64_t{0});
    const Floats wide = random_logits(random, 65536);
    CHECK(Sampler(law(1, 0.9, 0), {}).draw(wide, all.data()).token ==
          Sampler(law(1, 0.9, 0), {}).draw(wide).token);
}

// The same draws without a copy, and a row that nobody can tell was changed, also after a failure.
void test_in_place() {
    std::mt19937_64 random(10);
    for (int round = 0; round < 100; ++round) {
        const Floats x = random_logits(random, 3000);
        SamplingOptions o = random_options(random, 3000);
        o.frequency_penalty = round % 2;
        o.bias = {{7, 1.7f}, {8, 0.3f}, {7, -0.9f}};  // twice, and below with a ban
        o.forbidden = {8, 9};
        o.slopes = {{9, 0.1}, {10, 1}};
        o.no_repeat = {7, 1500};
        const std::vector<int32_t> prompt{7};
        Sampler one(o, prompt), other(o, prompt);
        Floats y = x;
        for (int i = 0; i < 20; ++i) {
            CHECK(one.draw(x).token == other.draw_in_place(y).token);
            CHECK(x == y);
        }
        y[2000] = inf;
        const Floats bad = y;
        CHECK_THROWS(other.draw_in_place(y), "infinite");
        CHECK(y == bad);
    }
}

void test_greedy() {
    SamplingOptions o = law(0, 1, 0);
    Floats x(1000, 0.f);
    x[700] = x[300] = 5;
    CHECK(Sampler(o, {}).draw(x).token == 300);
    o.bias = {{700, 1e-9f}};  // less than a float of 5 can tell
    CHECK(Sampler(o, {}).draw(x).token == 700);
    o = law(0, 0.9, 7, 0.2);
    CHECK(probabilities(o, x)[300] == 1);
    CHECK(Sampler(law(1, 1, 1), {}).draw(x).token == 300);
    for (const double temperature : {1e-300, 1e-310, 1e-9}) {
        const auto p = probabilities(law(temperature, 1, 0), Floats{1, 2, 3, 2.9f});
        CHECK(p[2] == 1);
        CHECK(p[3] == 0);
    }
    const auto p = probabilities(law(1e308, 1, 0), Floats{-80, 2, 3, -inf});
    CHECK_NEAR(p[0], 1. / 3, 1e-12);
    CHECK(p[3] == 0);
}

void test_errors() {
    Sampler sampler(law(1, 0.5, 0), {});
    CHECK_THROWS(sampler.draw(Floats{1, NAN, 2}), "NaN");
    CHECK_THROWS(sampler.draw(Floats{1, inf, 2}), "infinite");
    CHECK_THROWS(sampler.draw(Floats{-inf, -inf}), "no logit is finite");
    for (const auto &change : std::vector<void (*)(SamplingOptions &)>{
             [](auto &o) { o.bias = {{1, -5.f}}; }, [](auto &o) { o.bias = {{1, 0.f}, {2, 1.f}}; },
             [](auto &o) { o.presence_penalty = 2, o.global_penalty = true; }}) {
        SamplingOptions changed;
        change(changed);
        Sampler other(changed, std::vector<int32_t>{1});
        other.count(1);
        CHECK_THROWS(other.draw(Floats{1, NAN, 2}), "NaN");
        CHECK_THROWS(other.draw(Floats{1, inf, 2}), "infinite");  // whatever is added to it
    }
    CHECK_THROWS(sampler.draw(Floats{}), "no logit is finite");
    CHECK(sampler.step() == 0);
    SamplingOptions all;
    all.forbidden = {0, 1};
    CHECK_THROWS(Sampler(all, {}).draw(Floats{1, 2}), "no token can be drawn");
    Floats big(200, -3e38f);
    big[150] = 3e38f;
    for (const double top_p : {1., 0.5, 0.})
        CHECK(Sampler(law(1, top_p, 0), {}).draw(big).token == 150);
    SamplingOptions huge;
    huge.frequency_penalty = huge.presence_penalty = 1.7e308;
    Sampler extreme(huge, {});
    extreme.count(1);
    CHECK(probabilities(extreme, Floats{1, 2})[0] == 1);
    huge.frequency_penalty = huge.presence_penalty = -1.7e308;
    extreme = Sampler(huge, {});
    extreme.count(1);
    CHECK(probabilities(extreme, Floats{1, 2})[1] == 1);
    Sampler far(SamplingOptions{}, {});
    far.count(1 << 30);  // a token that the row of logits does not have
    far.count(-1);
    CHECK(far.draw(Floats{1}).token == 0);
}

void test_check() {
    const auto with = [](auto change) {
        SamplingOptions o;
        change(o);
        check(o, 100);
        return 0;
    };
    const double nan = std::numeric_limits<double>::quiet_NaN();
    with([](auto &) {});
    with([](auto &o) { o.top_p = 7, o.top_k = -3, o.temperature = 0, o.logprobs = 20; });
    CHECK_THROWS(with([](auto &o) { o.temperature = -1; }), "temperature must be >= 0, got -1");
    CHECK_THROWS(with([=](auto &o) { o.temperature = nan; }), "temperature must be a finite");
    CHECK_THROWS(with([](auto &o) { o.top_p = -0.1; }), "top_p must be >= 0, got -0.1");
    CHECK_THROWS(with([](auto &o) { o.min_p = 1.5; }), "min_p must be between 0 and 1, got 1.5");
    CHECK_THROWS(with([=](auto &o) { o.presence_penalty = nan; }), "presence_penalty must be");
    CHECK_THROWS(with([](auto &o) { o.frequency_penalty = 1. / 0.; }), "frequency_penalty must be");
    CHECK_THROWS(with([](auto &o) { o.penalty_decay = 1.1; }), "penalty_decay must be between");
    CHECK_THROWS(with([](auto &o) { o.logprobs = 21; }), "logprobs must be between -1 and 20");
    CHECK_THROWS(with([](auto &o) { o.bias = {{100, 1.f}}; }), "logit_bias: token id 100");
    CHECK_THROWS(with([](auto &o) { o.bias = {{1, inf}}; }), "logit_bias must be a finite number");
    CHECK_THROWS(with([](auto &o) { o.forbidden = {-1}; }), "forbidden: token id -1 is outside");
    CHECK_THROWS(with([](auto &o) { o.no_repeat = {100}; }), "no_repeat: token id 100");
    CHECK_THROWS(with([](auto &o) { o.exempt = {100}; }), "exempt: token id 100");
    CHECK_THROWS(with([](auto &o) { o.late = {100}; }), "late: token id 100");
    CHECK_THROWS(with([](auto &o) { o.min_tokens = -1; }), "min_tokens is -1, it must be at least");
    CHECK_THROWS(with([](auto &o) { o.weights = {{100, 1}}; }), "count_weights: token id 100");
    CHECK_THROWS(with([](auto &o) { o.weights = {{1, -1}}; }), "count_weights must be between 0");
    CHECK_THROWS(with([=](auto &o) { o.weights = {{1, nan}}; }), "count_weights must be a finite");
    CHECK_THROWS(with([](auto &o) { o.slopes = {{-1, 1}}; }), "bias_slopes: token id -1");
    CHECK_THROWS(with([=](auto &o) { o.slopes = {{1, nan}}; }), "bias_slopes must be a finite");
}

// ---- Random numbers: a known answer of Philox, and chi-square tests of draws against
// probabilities().
double chi_square(int &cells, const std::vector<double> &p, const std::vector<int> &counts,
                  int draws) {
    double sum = 0, rest_p = 0, rest = 0;
    cells = 0;
    for (size_t i = 0; i < p.size(); ++i) {
        if (p[i] * draws < 20) {  // small cells are counted as one
            rest_p += p[i];
            rest += counts[i];
            continue;
        }
        const double expected = p[i] * draws;
        sum += (counts[i] - expected) * (counts[i] - expected) / expected;
        ++cells;
    }
    if (rest_p * draws >= 5) {
        sum += (rest - rest_p * draws) * (rest - rest_p * draws) / (rest_p * draws);
        ++cells;
    }
    return sum;
}

void test_random() {
    // philox4x32-10, counter 0, key 0: 6627e8d5 e169c58d (known answers of Random123).
    CHECK(uniform(0, 0) == static_cast<double>(0xe169c58d6627e8d5 >> 11) * 0x1p-53);

    std::mt19937_64 random(3);
    for (const size_t n : {size_t{40}, size_t{5000}}) {  // one block; many blocks
        Floats x(n);
        std::normal_distribution<float> normal(0, 2);
        for (float &v : x) v = normal(random);
        SamplingOptions o = law(0.9, n == 40 ? 0.97 : 1, 0);
        const auto p = probabilities(o, x);
        const int draws = n == 40 ? 100000 : 20000;
        for (const bool over_seeds : {true, false}) {
            std::vector<int> counts(n), pairs(9);
            int before = 0;
            Sampler one(o, {});
            for (int i = 0; i < draws; ++i) {
                int32_t token;
                if (over_seeds) {
                    o.seed = static_cast<uint64_t>(i);
                    token = Sampler(o, {}).draw(x).token;
                } else {
                    token = one.draw(x).token;
                }
                ++counts[static_cast<size_t>(token)];
                // Thirds of u against the third before: neighbours are independent.
                const auto number = static_cast<uint64_t>(i);
                const double u = over_seeds ? uniform(number, 0) : uniform(0, number);
                const int third = static_cast<int>(u * 3);
                ++pairs[static_cast<size_t>(before * 3 + third)];
                before = third;
            }
            int cells = 0;
            const double sum = chi_square(cells, p, counts, draws);
            CHECK(sum < cells + 5 * std::sqrt(2. * cells));
            CHECK(sum > cells - 5 * std::sqrt(2. * cells));
            const double chi = chi_square(cells, std::vector<double>(9, 1. / 9), pairs, draws);
            CHECK(chi < 9 + 5 * std::sqrt(18.));
            for (size_t i = 0; i < n; ++i) CHECK(p[i] > 0 || counts[i] == 0);
        }
    }
    // The ends of the cumulative distribution.
    Distribution distribution;
    const Floats x{-inf, 1, 1, -inf};
    distribution.set(x, {}, {}, nullptr, Cuts{});
    CHECK(distribution.token_at(0) == 1);
    CHECK(distribution.token_at(0.4999) == 1);
    CHECK(distribution.token_at(0.5) == 2);
    CHECK(distribution.token_at(1 - 0x1p-53) == 2);
    const Floats wide(9000, -1.f);
    distribution.set(wide, {}, {}, nullptr, Cuts{});
    CHECK(distribution.token_at(0) == 0);
    CHECK(distribution.token_at(1 - 0x1p-53) == 8999);
}

void test_logprobs() {
    std::mt19937_64 random(4);
    for (const size_t n : {size_t{21}, size_t{300}, size_t{65536}}) {
        Floats x(n);
        std::normal_distribution<float> normal(0, 3);
        for (float &v : x) v = std::round(normal(random) * 8) / 8;  // ties
        x[5] = -inf;
        SamplingOptions o = law(1, 0.5, 0);
        o.logprobs = 20;
        o.bias = {{7, 100.f}};  // logprobs are of the model, not of the bias
        const Sampled drawn = Sampler(o, {}).draw(x);
        CHECK(drawn.token == 7);
        CHECK(drawn.logprobs.size() == 21 && drawn.logprobs[0].first == 7);
        std::vector<size_t> order(n);
        std::iota(order.begin(), order.end(), size_t{0});
        const auto greater = [&](size_t a, size_t b) { return x[a] > x[b]; };
        std::stable_sort(order.begin(), order.end(), greater);
        double sum = 0;
        for (const float v : x) sum += std::exp(static_cast<double>(v));
        CHECK_NEAR(drawn.logprobs[0].second, x[7] - std::log(sum), 1e-5);
        for (size_t i = 0; i < 20; ++i) {
            CHECK(drawn.logprobs[i + 1].first == static_cast<int32_t>(order[i]));
            const double expected = static_cast<double>(x[order[i]]) - std::log(sum);
            CHECK_NEAR(drawn.logprobs[i + 1].second, expected, 1e-5);
        }
        o.logprobs = 0;
        CHECK(Sampler(o, {}).draw(x).logprobs.size() == 1);
        o.logprobs = -1;
        CHECK(Sampler(o, {}).draw(x).logprobs.empty());
    }
}

// What is drawn depends neither on the thread nor on what else that thread has sampled.
void test_threads() {
    std::mt19937_64 random(5);
    std::vector<Floats> rows;
    for (int i = 0; i < 8; ++i) rows.push_back(random_logits(random, 3000));
    std::vector<SamplingOptions> options;
    for (int i = 0; i < 8; ++i) {
        options.push_back(random_options(random, 3000));
        options.back().frequency_penalty = i % 2;
    }
    const auto run = [&](size_t k, std::vector<int32_t> &out) {
        Sampler sampler(options[k], {});
        for (size_t i = 0; i < 40; ++i) out.push_back(sampler.draw(rows[(i + k) % 8]).token);
    };
    std::vector<std::vector<int32_t>> alone(8), together(8);
    for (size_t k = 0; k < 8; ++k) std::thread([&] { run(k, alone[k]); }).join();
    std::vector<std::thread> threads;
    for (size_t t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            run(2 * t, together[2 * t]);
            run(2 * t + 1, together[2 * t + 1]);
        });
    }
    for (auto &thread : threads) thread.join();
    CHECK(alone == together);
}

void print_times() {
    std::mt19937_64 random(6);
    std::normal_distribution<float> normal;
    std::map<std::string, Floats> rows;
    const std::map<std::string, float> spreads{
        {"sd 1", 1.f}, {"sd 3", 3.f}, {"model-like", 2.5f}, {"sd 0.001", 0.001f}, {"equal", 0.f}};
    for (const auto &[name, spread] : spreads)
        for (int i = 0; i < 65536; ++i) rows[name].push_back(spread * normal(random));
    for (int i = 0; i < 200; ++i) rows["model-like"][random() % 65536] += 10 + 2 * normal(random);
    SamplingOptions penalised = law(1, 0.3, 0), listed = law(1, 1, 0);
    penalised.frequency_penalty = 1;
    listed.logprobs = 20;
    const std::pair<const char *, SamplingOptions> laws[] = {
        {"plain", law(1, 1, 0)},          {"T 0", law(0, 1, 0)},
        {"top_p .3", law(1, 0.3, 0)},     {"+ 500 penalties", penalised},
        {"top_p .95", law(1, .95, 0)},    {"top_p .9999", law(1, .9999, 0)},
        {"top_k 40", law(1, 1, 40)},      {"top_k 30000", law(0.7, 1, 30000)},
        {"min_p .05", law(1, 1, 0, .05)}, {"logprobs 20", listed}};
    for (const auto &[row, x] : rows) {
        for (const auto &[name, options] : laws) {
            Sampler sampler(options, {});
            for (int i = 0; i < 500; ++i) sampler.count(static_cast<int32_t>(random() % 65536));
            std::vector<double> us;
            for (int i = 0; i < 50; ++i) {
                const auto start = std::chrono::steady_clock::now();
                sampler.draw(x);
                us.push_back(std::chrono::duration<double, std::micro>(
                                 std::chrono::steady_clock::now() - start)
                                 .count());
            }
            std::sort(us.begin(), us.end());
            std::printf("%-10s  %-16s  %7.1f us (median), %7.1f us (least)\n", row.c_str(), name,
                        us[25], us[0]);
        }
    }
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_vectors();
    test_oracle();
    test_penalties();
    test_weights_and_slopes();
    test_near_the_middle();
    test_many_survivors();
    test_many_blocks();
    test_bans();
    test_masks();
    test_in_place();
    test_greedy();
    test_errors();
    test_check();
    test_random();
    test_logprobs();
    test_threads();
    if (std::getenv("RWKV_TEST_TIMES")) print_times();
    return report();
}
