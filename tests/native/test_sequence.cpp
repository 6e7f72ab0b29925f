// One request without an engine: its counts agree after every draw, whatever is guessed, comes
// true, is held back as a possible stop, or ends it.
#include "check.h"
#include "engine/sequence.h"
#include "tiny_model.h"

#include <algorithm>
#include <vector>

namespace {

using rwkv::Finish;
using rwkv::Request;
using rwkv::Sequence;

constexpr size_t n_vocab = 257;

// Few letters, so that texts repeat themselves, and stops are met and nearly met.
Request request_of(Random &random) {
    Request request;
    for (int64_t n = 1 + random.below(30); n > 0; --n)
        request.prompt.push_back(static_cast<int32_t>(1 + 'a' + random.below(3)));
    request.max_tokens = 1 + random.below(60);
    request.speculate = static_cast<int32_t>(random.below(9));
    if (random.below(2)) request.stops = {"abcab", "cc"};
    if (random.below(3) == 0) request.stop_ids = {1 + 'd'};
    if (random.below(3) == 0) request.end_ids = {1 + 'e'};
    if (random.below(3) == 0) request.sampling.min_tokens = random.below(request.max_tokens + 1);
    request.sampling.seed = random.next();
    rwkv::forbid(request, {});
    return request;
}

// Logits under which what follows a letter is nearly always the same.
void fill(std::vector<float> &logits, std::span<const int32_t> inputs, Random &random) {
    logits.assign(inputs.size() * n_vocab, -1e9f);
    for (size_t i = 0; i < inputs.size(); ++i) {
        float *const row = &logits[i * n_vocab];
        for (int32_t letter = 0; letter < 5; ++letter) row[1 + 'a' + letter] = 0;
        row[1 + 'a' + (inputs[i] + 1) % 3] = random.below(8) ? 12.0f : 0.0f;
    }
}

void test_counts(uint64_t seed, rwkv::Backend &backend, const rwkv::Vocab &vocab, int64_t &undone,
                 int64_t &held) {
    Random random{seed};
    Sequence sequence(request_of(random));
    while (!sequence.decoding()) {
        CHECK(sequence.consistent());
        sequence.prefilled += 1 + random.below(sequence.prompt_left());
    }
    const auto drawing = backend.drawing(1, n_vocab);
    drawing->seat(0, sequence.request.sampling, sequence.request.prompt);
    std::vector<float> logits;
    std::vector<int32_t> inputs{sequence.request.prompt.back()};
    while (sequence.finish == Finish::running) {
        fill(logits, inputs, random);
        const auto guesses = static_cast<int32_t>(inputs.size()) - 1;
        const rwkv::Draw draw{0, logits.data(), sequence.guessed(guesses), nullptr, {}};
        drawing->draw({&draw, 1});
        sequence.settle(drawing->settle().front(), guesses, vocab);
        CHECK(sequence.consistent());
        undone += sequence.undone;
        held += sequence.held_from >= 0;
        const auto rows = sequence.certain + random.below(sequence.guesses() + 1);
        const auto next = sequence.input(static_cast<int32_t>(rows));
        inputs.assign(next.begin() + sequence.certain - 1, next.end());
    }
    CHECK(sequence.finish != Finish::error && sequence.consistent());
    CHECK(sequence.completion == static_cast<int64_t>(sequence.event.tokens.size()));
    ++sequence.completion;
    CHECK(!sequence.consistent());
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    const auto vocab = byte_vocab();
    const auto backend = rwkv::open_backend("cpu", 1);
    int64_t undone = 0, held = 0;
    for (uint64_t seed = 0; seed < 500; ++seed) test_counts(seed, *backend, *vocab, undone, held);
    CHECK(undone > 100 && held > 100);
    return report();
}
