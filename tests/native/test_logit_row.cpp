// The passes over a row of logits: every form that this machine has gives the bits of the
// narrowest, and those are right.
#include "check.h"
#include "random_logits.h"
#include "sampling/logit_row.h"

#include <cfloat>

using namespace rwkv;

namespace {

const LogitRow &narrow = *logit_rows().back();

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
    CHECK(form.maxima(c.block_max.data(), c.x.data(), c.x.size()));
    for (size_t b = 0; b < c.blocks; ++b) {
        const auto from = c.x.begin() + static_cast<ptrdiff_t>(b * LogitRow::block);
        const auto left = std::min<ptrdiff_t>(LogitRow::block, c.x.end() - from);
        CHECK(c.block_max[b] == *std::max_element(from, from + left));
    }
    Floats unused(c.blocks);
    for (const float bad : {inf, std::numeric_limits<float>::quiet_NaN()}) {
        Floats y = c.x;
        y[random() % y.size()] = bad;
        CHECK(!form.maxima(unused.data(), y.data(), y.size()));
    }
    float least = inf;
    for (const float v : c.x) least = v > -inf ? std::min(least, v) : least;
    CHECK(form.least(c.x.data(), c.x.size()) == least);
}

void test_exponentials(const Case &c, const LogitRow &form, std::mt19937_64 &random) {
    const size_t n = c.x.size();
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += c.weight(i);
    Floats e(c.blocks * LogitRow::block, -1), narrow_e(e);
    const double ours = form.sum_exp(c.x.data(), n, c.max, e.data());
    CHECK(ours == narrow.sum_exp(c.x.data(), n, c.max, narrow_e.data()));
    CHECK(ours == form.sum_exp(c.x.data(), n, c.max, nullptr));
    CHECK_NEAR(ours, sum, 1e-6 * sum);
    CHECK(e == narrow_e);
    for (size_t i = 0; i < e.size(); ++i) {
        const double expected = i < n ? c.weight(i) : 0;  // what rounds is the exponent, too
        const double away = std::min(100., -std::log(expected));
        CHECK_NEAR(e[i], expected, (4e-7 + 2e-7 * away) * expected + 2e-38);
    }
    std::vector<double> w(2 * LogitRow::widest), narrow_w;
    for (double &v : w) v = -static_cast<double>(random() % 1000000) * (random() % 2 ? 1e-3 : 1e-6);
    const std::vector<double> powers(w);
    narrow_w = w;
    form.exp_exactly(w.data(), w.size());
    narrow.exp_exactly(narrow_w.data(), narrow_w.size());
    CHECK(w == narrow_w);
    for (size_t i = 0; i < w.size(); ++i) {
        const double expected = powers[i] > -708 ? std::exp(powers[i]) : 0;
        CHECK_NEAR(w[i], expected, 1e-15 * expected);
    }
}

void test_weights(const Case &c, const LogitRow &form) {
    Floats e(c.blocks * LogitRow::block);
    form.sum_exp(c.x.data(), c.x.size(), c.max, e.data());
    std::vector<BlockSum> sums(c.blocks), kept(c.blocks), narrow_sums(c.blocks);
    for (const bool with_residual : {false, true}) {
        for (const float power : {1.f, 1.3f}) {
            const QuickLaw law{.cut = c.low,
                               .max = c.max,
                               .shift = 0,
                               .log2_power = power * 1.44269504f,
                               .cut_survives = !with_residual};
            Row row = c.row();
            row.residual = with_residual ? c.residual.data() : nullptr;
            const size_t n = form.weigh(sums.data(), row, c.low, law);
            CHECK(n == narrow.weigh(narrow_sums.data(), row, c.low, law));
            for (size_t i = 0; i < n; ++i) {
                const BlockSum &a = sums[i], &b = narrow_sums[i];
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
            CHECK(n == form.weigh(kept.data(), row, c.low, law));
            for (size_t i = 0; i < n; ++i)
                CHECK(kept[i].sum == sums[i].sum && kept[i].index == sums[i].index);
        }
    }
}

void test_bands(const Case &c, const LogitRow &form) {
    const BandLaw law{.low = c.low, .high = c.high, .scale = 40, .n = 100};
    std::vector<int32_t> bands(c.blocks * LogitRow::block);
    form.place(bands.data(), c.x.data(), c.x.size(), law);
    for (size_t i = 0; i < c.x.size(); ++i) {
        const bool inside = c.x[i] >= c.low && c.x[i] <= c.high;
        CHECK(static_cast<size_t>(bands[i]) == (inside ? law.place(c.x[i]) : law.n));
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
    const double sum = form.sum_exp(c.x.data(), n, c.max, e.data());
    const auto survey = [&](const LogitRow &by, std::vector<int32_t> &ids, size_t most) {
        Survey out;
        ids.assign(most + LogitRow::block, -1);
        by.survey(out, ids.data(), most, c.row(), c.low, c.high, c.max, kept.data());
        return out;
    };
    std::vector<int32_t> ids;
    const Survey by_narrow = survey(narrow, ids, n), all = survey(form, ids, n);
    CHECK(all.sum == sum && all.above == by_narrow.above && kept == e);
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

// The instruction set of the kernels is that of the sampler, too: RWKV_CPU_ISA forces both.
void test_choice() {
    const char *isa = nullptr;
    CHECK(rwkv_cpu_isa(&isa) == RWKV_OK);
    const std::string name = isa;
    const std::string wanted = name.starts_with("avx512") ? "avx512"
                               : name.starts_with("avx2") ? "avx2"
                                                          : "narrow";
    CHECK(chosen_logit_row().name == wanted);
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_choice();
    std::mt19937_64 random(9);
    for (int round = 0; round < 300; ++round) {
        Case c(random);
        for (const LogitRow *form : logit_rows()) {
            test_maxima(c, *form, random);
            test_exponentials(c, *form, random);
            test_weights(c, *form);
            test_bands(c, *form);
            test_surveys(c, *form);
        }
    }
    return report();
}
