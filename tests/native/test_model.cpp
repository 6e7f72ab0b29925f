// Every version through Model::forward: results depend on neither batch, neighbours, chunks,
// threads nor on which logits are wanted, bit by bit; and how many barriers a layer takes.
#include "check.h"
#include "model/model.h"
#include "tiny_model.h"

#include <algorithm>
#include <cstring>
#include <memory>

using namespace rwkv;

namespace {

const char *const kVersions[] = {"4", "5.0", "5.1", "5.2", "6.0", "7", "7a", "7b", "8rc"};

struct Sequence {
    std::vector<int32_t> tokens;
    float *state;
    TextCache cache;
    size_t done = 0;
};

// Sequences with the slots of one pool, in order.
struct Sequences {
    States pool;
    std::vector<Sequence> all;

    Sequence &operator[](size_t q) { return all[q]; }
};

struct Outcome {
    std::vector<std::vector<float>> logits,
        states;  // per sequence: of every token; of the last one
    bool operator==(const Outcome &) const = default;
};

Sequences sequences(Model &model, const std::vector<int> &lengths) {
    std::vector<Sequence> all(lengths.size());
    const States pool =
        model.backend().states(model.state_floats(), static_cast<int32_t>(lengths.size()));
    model.backend().use_slots(pool, pool.slots);
    for (size_t q = 0; q < all.size(); ++q) {
        Random random{100 + q};
        for (int i = 0; i < lengths[q]; ++i)
            all[q].tokens.push_back(static_cast<int32_t>(random.below(model.info().vocab)));
        all[q].state = pool.at(static_cast<int32_t>(q));
        model.backend().upload(all[q].state, model.initial_state());
    }
    return {pool, std::move(all)};
}

// All sequences to their ends: each step takes up to `chunk` tokens of up to `width` sequences.
Outcome run(Model &model, const std::vector<int> &lengths, size_t chunk, size_t width) {
    auto [pool, all] = sequences(model, lengths);
    Outcome outcome;
    outcome.logits.resize(all.size());
    const size_t vocab = static_cast<size_t>(model.info().vocab);
    while (true) {
        std::vector<int32_t> tokens, wanted;
        std::vector<Span> spans;
        std::vector<size_t> owners;
        for (size_t q = 0; q < all.size() && spans.size() < width; ++q) {
            Sequence &s = all[q];
            const size_t n = std::min(chunk, s.tokens.size() - s.done);
            if (n == 0) continue;
            spans.push_back({static_cast<int32_t>(tokens.size()), static_cast<int32_t>(n),
                             static_cast<int32_t>(q), &s.cache});
            for (size_t i = 0; i < n; ++i) {
                wanted.push_back(static_cast<int32_t>(tokens.size()));
                tokens.push_back(s.tokens[s.done++]);
                owners.push_back(q);
            }
        }
        if (spans.empty()) break;
        std::vector<float> logits(wanted.size() * vocab);
        model.forward({&pool, tokens, spans, wanted}, logits.data());
        for (size_t i = 0; i < owners.size(); ++i) {
            const auto row = logits.begin() + static_cast<std::ptrdiff_t>(i * vocab);
            std::vector<float> &to = outcome.logits[owners[i]];
            to.insert(to.end(), row, row + static_cast<std::ptrdiff_t>(vocab));
        }
    }
    for (const Sequence &s : all)
        outcome.states.emplace_back(s.state, s.state + model.state_floats());
    return outcome;
}

TinyShape shape_of(const std::string &version, int64_t layers = 2) {
    TinyShape shape;
    shape.version = version;
    shape.layers = layers, shape.width = 36, shape.head_size = 12;  // no multiple of a vector
    shape.ffn = 50, shape.vocab = 40, shape.rank = 5;
    return shape;
}

void test_identity(const std::string &version, const std::string &strategy,
                   DType state = DType::f32) {
    const std::vector<int> lengths = {9, 1, 20, 3, 1, 1, 7, 1, 1, 1, 12};
    const auto model = tiny_model(shape_of(version), strategy, 2, state);
    CHECK(model->info().version == version);
    const Outcome expected = run(*model, lengths, 1, 1);
    for (const float x : expected.logits[2]) CHECK(std::isfinite(x));
    for (const auto &[chunk, width] :
         {std::pair<size_t, size_t>{1, 11}, {1, 3}, {100, 1}, {4, 1}, {100, 11}, {5, 11}, {16, 4}})
        CHECK(run(*model, lengths, chunk, width) == expected);
    for (const int threads : {1, 3}) {
        const auto other = tiny_model(shape_of(version), strategy, threads, state);
        CHECK(run(*other, lengths, 1, 11) == expected);
        CHECK(run(*other, lengths, 100, 11) == expected);
    }
}

// Logits that nobody wants change nothing, and their rows may be any.
void test_wanted_rows(const std::string &version) {
    const auto model = tiny_model(shape_of(version));
    const Outcome all = run(*model, {6}, 100, 1);
    Sequences one = sequences(*model, {6});
    const Span span{0, 6, 0, &one[0].cache};
    const std::vector<int32_t> wanted = {1, 5};
    std::vector<float> logits(2 * 40);
    model->forward({&one.pool, one[0].tokens, {&span, 1}, wanted}, logits.data());
    CHECK(std::equal(logits.begin(), logits.begin() + 40, all.logits[0].begin() + 40));
    CHECK(std::equal(logits.begin() + 40, logits.end(), all.logits[0].begin() + 5 * 40));
    Sequences silent = sequences(*model, {6});
    const Span quiet{0, 6, 0, &silent[0].cache};
    model->forward({&silent.pool, silent[0].tokens, {&quiet, 1}, {}}, nullptr);
    CHECK(std::equal(all.states[0].begin(), all.states[0].end(), silent[0].state));
}

uint64_t barriers_of_a_token(const std::string &version, int64_t layers) {
    TinyShape shape = shape_of(version, layers);
    shape.width = 128, shape.head_size = 32;  // several tasks in every operation
    const auto model = tiny_model(shape);
    Sequences one = sequences(*model, {1});
    const Span span{0, 1, 0, &one[0].cache};
    const uint64_t before = model->backend().barriers();
    model->forward({&one.pool, one[0].tokens, {&span, 1}, {}}, nullptr);
    return model->backend().barriers() - before;
}

// Input products, recurrence, output matrix, and two for the channel mixing: five. Version 6 needs
// two more for its mixing weights, which depend on the token: into the low rank and out of it.
// DeepEmbed adds three (its offset, the token's matrix, the gate), the table of 8-rc00 one. Those
// of 7b on top of 7a are its attention: two levels of products, two gated tables, three norms and
// the attention itself.
void test_barriers() {
    const std::pair<const char *, uint64_t> wanted[] = {{"4", 5},   {"5.0", 5}, {"5.1", 5},
                                                        {"5.2", 5}, {"6.0", 7}, {"7", 5},
                                                        {"7a", 8},  {"7b", 18}, {"8rc", 6}};
    for (const auto &[version, count] : wanted) {
        const uint64_t layer = barriers_of_a_token(version, 3) - barriers_of_a_token(version, 2);
        if (layer != count)
            std::printf("version %s: %d barriers\n", version, static_cast<int>(layer));
        CHECK(layer == count);
    }
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_barriers();
    for (const char *version : kVersions) {
        test_wanted_rows(version);
        for (const char *strategy : {"cpu fp32", "cpu bf16", "cpu fp32 *1 -> cpu fp16"})
            test_identity(version, strategy);
        test_identity(version, "cpu bf16", DType::f16);
        test_identity(version, "cpu bf16", DType::bf16);
    }
    return report();
}
