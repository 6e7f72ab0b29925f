// The passes over a row of logits: those of every instruction set that this machine has give the
// bits of the plainest one, and these are right. So do whole distributions.
#include "check.h"
#include "cpu/isa.h"
#include "random_logits.h"
#include "sampling/distribution.h"

#include <cfloat>
#include <cstring>

using namespace rwkv;

namespace {

const LogitRow &plain = cpu::usable_kernels().back()->logit_row;

size_t words_of(size_t n) { return (n + LogitRow::block - 1) / LogitRow::block; }
bool allows(const std::vector<uint64_t> &mask, size_t i) { return mask[i / 64] >> i % 64 & 1; }

// Words of all kinds: none, all, single tokens, halves.
std::vector<uint64_t> random_mask(std::mt19937_64 &random, size_t n) {
    std::vector<uint64_t> mask(words_of(n));
    for (uint64_t &word : mask)
        word = std::array<uint64_t, 5>{0, 0, ~uint64_t{0}, uint64_t{1} << random() % 64,
                                       random()}[random() % 5];
    return mask;
}

// One row, what every pass needs to know of it, and a bracket somewhere in it.
struct Case {
    Floats x, residual, block_max;
    float max, low, high;
    size_t blocks;

    explicit Case(std::mt19937_64 &random) {
        const size_t n = std::array<size_t, 8>{1, 7, 63, 64, 65, 128, 1000, 4099}[random() % 8];
        x = random_logits(random, n);
        residual.assign(n, 0);
        for (float &r : residual) r = random() % 4 ? 0 : 1e-8f * static_cast<float>(random() % 9);
        blocks = (n + LogitRow::block - 1) / LogitRow::block;
        block_max.resize(blocks);
        max = *std::max_element(x.begin(), x.end());
        Floats ordered(x);
        std::sort(ordered.begin(), ordered.end());
        low = std::max(ordered[random() % n], -FLT_MAX);
        high = std::max(low, ordered[random() % n]);
    }
    Row row() const { return {.x = x.data(), .n = x.size(), .block_max = block_max.data()}; }
    double weight(size_t i) const {
        return std::exp(static_cast<double>(x[i]) - static_cast<double>(max));
    }
};

void test_maxima(Case &c, const LogitRow &form, std::mt19937_64 &random) {
    CHECK(form.maxima(c.block_max.data(), c.x.data(), c.x.size(), nullptr, nullptr));
    for (size_t b = 0; b < c.blocks; ++b) {
        const auto from = c.x.begin() + static_cast<ptrdiff_t>(b * LogitRow::block);
        const auto left = std::min<ptrdiff_t>(LogitRow::block, c.x.end() - from);
        CHECK(c.block_max[b] == *std::max_element(from, from + left));
    }
    const size_t n = c.x.size();
    const std::vector<uint64_t> mask = random_mask(random, n);
    Floats found(c.blocks), allowed(c.blocks * LogitRow::block, 7.f);
    CHECK(form.maxima(found.data(), c.x.data(), n, mask.data(), allowed.data()));
    for (size_t b = 0; b < c.blocks; ++b) {
        float greatest = -inf;
        for (size_t i = b * 64; i < b * 64 + 64; ++i) {
            const float expected = i < n && allows(mask, i) ? c.x[i] : -inf;
            CHECK(allowed[i] == expected);
            greatest = std::max(greatest, expected);
        }
        CHECK(found[b] == greatest);
    }
    for (const float bad : {inf, std::numeric_limits<float>::quiet_NaN()}) {
        Floats y = c.x;
        const size_t at = random() % n;
        y[at] = bad;
        CHECK(!form.maxima(found.data(), y.data(), n, nullptr, nullptr));
        CHECK(form.maxima(found.data(), y.data(), n, mask.data(), allowed.data()) ==
              !allows(mask, at));
    }
    float least = inf;
    for (const float v : c.x) least = v > -inf ? std::min(least, v) : least;
    CHECK(form.least(c.x.data(), c.x.size()) == least);
}

void test_exponentials(const Case &c, const LogitRow &form, std::mt19937_64 &random) {
    const size_t n = c.x.size();
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += c.weight(i);
    Floats e(c.blocks * LogitRow::block, -1), plain_e(e);
    const double ours = form.sum_exp(c.row(), c.max, e.data());
    CHECK(ours == plain.sum_exp(c.row(), c.max, plain_e.data()));
    CHECK(ours == form.sum_exp(c.row(), c.max, nullptr));
    CHECK_NEAR(ours, sum, 1e-6 * sum);
    CHECK(e == plain_e);
    for (size_t i = 0; i < e.size(); ++i) {
        const double expected = i < n ? c.weight(i) : 0;  // what rounds is the exponent, too
        const double away = std::min(100., -std::log(expected));
        CHECK_NEAR(e[i], expected, (4e-7 + 2e-7 * away) * expected + 2e-38);
    }
    std::vector<double> w(2 * LogitRow::widest), plain_w;
    for (double &v : w) v = -static_cast<double>(random() % 1000000) * (random() % 2 ? 1e-3 : 1e-6);
    const std::vector<double> powers(w);
    plain_w = w;
    form.exp_exactly(w.data(), w.size());
    plain.exp_exactly(plain_w.data(), plain_w.size());
    CHECK(w == plain_w);
    for (size_t i = 0; i < w.size(); ++i) {
        const double expected = powers[i] > -708 ? std::exp(powers[i]) : 0;
        CHECK_NEAR(w[i], expected, 1e-15 * expected);
    }
}

void test_weights(const Case &c, const LogitRow &form) {
    Floats e(c.blocks * LogitRow::block);
    form.sum_exp(c.row(), c.max, e.data());
    std::vector<BlockSum> sums(c.blocks), kept(c.blocks), plain_sums(c.blocks);
    for (const bool with_residual : {false, true}) {
        for (const float power : {1.f, 1.3f}) {
            const Weighing weighing{.cut = c.low,
                                    .max = c.max,
                                    .shift = 0,
                                    .log2_power = power * 1.44269504f,
                                    .cut_survives = !with_residual};
            Row row = c.row();
            row.residual = with_residual ? c.residual.data() : nullptr;
            const size_t n = form.weigh(sums.data(), row, c.low, weighing);
            CHECK(n == plain.weigh(plain_sums.data(), row, c.low, weighing));
            for (size_t i = 0; i < n; ++i) {
                const BlockSum &a = sums[i], &b = plain_sums[i];
                CHECK(a.sum == b.sum && a.index == b.index && a.at_cut == b.at_cut);
                double sum = 0;
                bool at_cut = false;
                const size_t first = a.index * LogitRow::block;
                for (size_t j = first; j < std::min(first + LogitRow::block, c.x.size()); ++j) {
                    const bool lives = with_residual ? c.x[j] > c.low : c.x[j] >= c.low;
                    sum += lives ? std::pow(c.weight(j), static_cast<double>(power)) : 0;
                    at_cut |= with_residual && c.x[j] == c.low;
                }
                CHECK_NEAR(a.sum, sum, 1e-5 * sum + 1e-37);
                CHECK(a.at_cut == at_cut);
            }
            if (power != 1 || with_residual) continue;
            row.e = e.data();  // nothing is computed anew, and nothing differs
            CHECK(n == form.weigh(kept.data(), row, c.low, weighing));
            for (size_t i = 0; i < n; ++i)
                CHECK(kept[i].sum == sums[i].sum && kept[i].index == sums[i].index);
        }
    }
}

void test_bands(const Case &c, const LogitRow &form) {
    const Bands layout{.low = c.low, .high = c.high, .scale = 40, .n = 100};
    std::vector<int32_t> bands(c.blocks * LogitRow::block);
    form.place(bands.data(), c.x.data(), c.x.size(), layout);
    for (size_t i = 0; i < c.x.size(); ++i) {
        const bool inside = c.x[i] >= c.low && c.x[i] <= c.high;
        CHECK(static_cast<size_t>(bands[i]) == (inside ? layout.place(c.x[i]) : layout.n));
    }
}

void test_surveys(const Case &c, const LogitRow &form) {
    const size_t n = c.x.size();
    double above = 0;
    size_t count = 0;
    std::vector<int32_t> inside;
    for (size_t i = 0; i < n; ++i) {
        above += c.x[i] > c.high ? c.weight(i) : 0;
        count += c.x[i] > c.high;
        if (c.x[i] >= c.low && c.x[i] <= c.high) inside.push_back(static_cast<int32_t>(i));
    }
    Floats e(c.blocks * LogitRow::block), kept(e);
    const double sum = form.sum_exp(c.row(), c.max, e.data());
    const auto survey = [&](const LogitRow &by, std::vector<int32_t> &ids, size_t most) {
        Survey out;
        ids.assign(most + LogitRow::block, -1);
        by.survey(out, ids.data(), most, c.row(), c.low, c.high, c.max, kept.data());
        return out;
    };
    std::vector<int32_t> ids;
    const Survey by_plain = survey(plain, ids, n), all = survey(form, ids, n);
    CHECK(all.sum == sum && all.above == by_plain.above && kept == e);
    CHECK_NEAR(all.above, above, 1e-6 * sum);
    CHECK(all.count == count && all.found == inside.size());
    ids.resize(all.found);
    CHECK(ids == inside);

    Survey counted;
    ids.assign(n + LogitRow::block, -1);
    form.survey_counts(counted, ids.data(), n, c.row(), c.low, c.high);
    CHECK(counted.count == count && counted.found == inside.size());
    ids.resize(counted.found);
    CHECK(ids == inside);

    for (const size_t most : {inside.size() / 2, inside.size() - 1}) {
        if (most >= inside.size()) continue;
        const Survey some = survey(form, ids, most);
        CHECK(some.found > most && some.sum == sum && some.above == all.above);
        form.survey_counts(counted, ids.data(), most, c.row(), c.low, c.high);
        CHECK(counted.found > most);
    }
}

// Distributions, with cuts and masks, and what is drawn from them, on every instruction set.
void test_distributions(std::mt19937_64 &random) {
    for (int round = 0; round < 60; ++round) {
        const size_t n = round % 10 ? 5000 : 65536;
        const Floats x = random_logits(random, n);
        std::vector<uint64_t> mask = random_mask(random, n);
        const size_t finite = static_cast<size_t>(std::max_element(x.begin(), x.end()) - x.begin());
        mask[finite / 64] |= uint64_t{1} << finite % 64;
        const Cuts cuts{.temperature = round % 3 ? 1 : 0.7,
                        .top_p = std::array{1., 0.3, 0.95, 0.9999}[random() % 4],
                        .min_p = round % 5 ? 0 : 0.01,
                        .top_k = std::array{0, 40, 3000}[random() % 3]};
        Distribution by_plain(plain);
        by_plain.set(x, {}, {}, round % 2 ? mask.data() : nullptr, cuts);
        std::vector<double> expected(n), p(n);
        by_plain.probabilities(expected);
        for (const cpu::Kernels *kernels : cpu::usable_kernels()) {
            Distribution distribution(kernels->logit_row);
            distribution.set(x, {}, {}, round % 2 ? mask.data() : nullptr, cuts);
            distribution.probabilities(p);
            CHECK(p == expected);
            for (const double u : {0., 0.1, 0.5, 0.77, 0.999999})
                CHECK(distribution.token_at(u) == by_plain.token_at(u));
        }
    }
}

// The instruction set of the kernels is that of the sampler, too: RWKV_CPU_ISA forces both.
void test_choice() {
    const char *isa = nullptr;
    CHECK(rwkv_cpu_isa(&isa) == RWKV_OK);
    CHECK(&chosen_logit_row() == &cpu::chosen_kernels().logit_row);
    size_t named = 0;
    for (const cpu::Kernels *kernels : cpu::usable_kernels()) {
        const bool chosen = &kernels->logit_row == &chosen_logit_row();
        CHECK(chosen == (std::strcmp(kernels->name, isa) == 0));
        named += chosen;
        for (const cpu::Kernels *other : cpu::usable_kernels())  // nobody borrows passes
            CHECK((kernels->logit_row.weigh == other->logit_row.weigh) == (kernels == other));
    }
    CHECK(named == 1);
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_choice();
    std::mt19937_64 random(9);
    for (int round = 0; round < 300; ++round) {
        Case c(random);
        for (const cpu::Kernels *kernels : cpu::usable_kernels()) {
            const LogitRow &form = kernels->logit_row;
            test_maxima(c, form, random);
            test_exponentials(c, form, random);
            test_weights(c, form);
            test_bands(c, form);
            test_surveys(c, form);
        }
    }
    test_distributions(random);
    return report();
}
