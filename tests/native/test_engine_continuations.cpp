// States handed out, several answers from one prompt, scores and masks, in a storm of requests that
// are cancelled in every phase: each answer is what it is alone. The Python tests
// (test_continuations.py) hold the values against the model; here it is order, memory and threads.
#include "check.h"
#include "engine/engine.h"
#include "error.h"
#include "tiny_model.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <thread>
#include <vector>

namespace {

using rwkv::Engine;
using rwkv::Event;
using rwkv::Finish;
using rwkv::Request;

std::shared_ptr<rwkv::Model> model;
std::shared_ptr<const rwkv::Vocab> vocab;

struct Answer {
    std::vector<int32_t> tokens;
    std::vector<float> logprobs;
    Finish finish = Finish::running;
    std::shared_ptr<rwkv::KeptState> kept;
    int64_t cached = 0;
};

// Collects the events of one engine until the awaited answers have ended.
class Client {
public:
    explicit Client(int32_t max_batch, int64_t cache_bytes = 0)
        : engine(model, vocab,
                 {.max_batch = max_batch, .prefill_chunk = 16, .cache_bytes = cache_bytes}) {}

    Engine engine;
    std::map<uint64_t, Answer> answers;

    const Answer &wait(uint64_t id) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
        while (answers[id].finish == Finish::running) {
            for (const Event &event : engine.poll()) {
                Answer &answer = answers[event.id];
                CHECK(answer.finish == Finish::running);
                answer.tokens.insert(answer.tokens.end(), event.tokens.begin(), event.tokens.end());
                answer.logprobs.insert(answer.logprobs.end(), event.logprobs.begin(),
                                       event.logprobs.end());
                answer.finish = event.finish;
                answer.kept = event.kept;
                answer.cached = event.cached_tokens;
            }
            if (std::chrono::steady_clock::now() > end) {
                CHECK(!"an answer came to its end");
                break;
            }
            std::this_thread::yield();
        }
        return answers[id];
    }
    const Answer &run(const Request &request) { return wait(engine.submit(request)); }
};

Request request_of(int64_t prompt, int64_t max_tokens, uint64_t seed) {
    Random random{seed};
    Request request;
    for (int64_t i = 0; i < prompt; ++i)
        request.prompt.push_back(static_cast<int32_t>(1 + random.below(256)));
    request.max_tokens = max_tokens;
    request.sampling.seed = seed;
    return request;
}

std::vector<float> numbers_of(const rwkv::KeptState &kept) {
    std::vector<float> numbers(model->state_floats());
    model->backend().download(numbers, kept.state.data);
    return numbers;
}

void test_a_state_goes_on() {
    for (const int64_t cache_bytes : {int64_t{0}, int64_t{1} << 20}) {
        Client first(4, cache_bytes), second(1);
        Request request = request_of(40, 9, 1);
        request.keep_state = true;
        const Answer answer = first.run(request);
        CHECK(answer.tokens.size() == 9 && answer.kept && answer.kept->unread.size() == 1);
        if (!answer.kept) return;
        CHECK(answer.kept->unread.front() == answer.tokens.back());
        Request next = request_of(5, 20, 2), whole = next;
        next.prompt.insert(next.prompt.begin(), answer.tokens.back());
        next.state = std::make_shared<const std::vector<float>>(numbers_of(*answer.kept));
        whole.prompt = request.prompt;
        whole.prompt.insert(whole.prompt.end(), answer.tokens.begin(), answer.tokens.end());
        const Request tail = request_of(5, 20, 2);
        whole.prompt.insert(whole.prompt.end(), tail.prompt.begin(), tail.prompt.end());
        CHECK(second.run(next).tokens == second.run(whole).tokens);
        request.keep_state = false;
        CHECK(!first.run(request).kept);
    }
}

// Even ids only, and after the third token none but 8. Several engines may call it at once.
int32_t even(void *calls, uint64_t *bits, const int32_t *tokens, size_t n) {
    ++*static_cast<std::atomic<int64_t> *>(calls);
    for (size_t word = 0; word < (257 + 63) / 64; ++word) bits[word] &= 0x5555555555555555ull;
    if (n > 0 && tokens[n - 1] % 2 != 0) return 1;
    if (n >= 3) std::fill_n(bits, (257 + 63) / 64, uint64_t{0}), bits[0] = 1 << 8;
    return 0;
}

int32_t none(void *, uint64_t *bits, const int32_t *, size_t n) {
    if (n >= 2) std::fill_n(bits, (257 + 63) / 64, uint64_t{0});
    return 0;
}

int32_t failing(void *, uint64_t *, const int32_t *, size_t n) { return n >= 2; }

void test_masks() {
    Client client(4);
    std::atomic<int64_t> calls = 0;
    Request request = request_of(20, 6, 3);
    request.speculate = 8;
    request.mask = {even, &calls};
    const Answer &answer = client.run(request);
    CHECK(calls == 6 && answer.tokens.size() == 6 && answer.finish == Finish::length);
    for (size_t i = 0; i < answer.tokens.size(); ++i)
        CHECK(i < 3 ? answer.tokens[i] % 2 == 0 : answer.tokens[i] == 8);
    for (const auto call : {none, failing}) {
        request.mask = {call, nullptr};
        const Answer &failed = client.run(request);
        CHECK(failed.finish == Finish::error && failed.tokens.size() == 2);
    }
}

void test_storm(uint64_t seed) {
    Random random{seed};
    Client client(static_cast<int32_t>(1 + random.below(5)), random.below(2) ? 1 << 20 : 0),
        alone(1);
    std::atomic<int64_t> calls = 0;
    int64_t expected_forks = 0;
    struct Asked {
        uint64_t id;
        Request request;
        bool cancelled;
    };
    std::vector<Asked> asked;
    for (int i = 0; i < 12; ++i) {
        Request request = request_of(1 + random.below(90), 1 + random.below(12), random.next());
        request.quiet = random.below(3) == 0;
        if (random.below(4) == 0) {
            request.score = true;
        } else {
            request.n = static_cast<int32_t>(1 + random.below(5));
            request.keep_state = random.below(2) == 0;
            if (random.below(3) == 0) request.mask = {even, &calls};
        }
        const uint64_t first = client.engine.submit(request);
        for (int32_t k = 0; k < request.n; ++k) {
            const bool cancelled = random.below(4) == 0;
            if (cancelled && random.below(2) == 0) std::this_thread::yield();
            if (cancelled) client.engine.cancel(first + static_cast<uint64_t>(k));
            asked.push_back({first + static_cast<uint64_t>(k), request, cancelled});
            asked.back().request.sampling.seed += static_cast<uint64_t>(k);
        }
        expected_forks += request.n - 1;
    }
    for (const auto &[id, request, cancelled] : asked) {
        const Answer &answer = client.wait(id);
        if (cancelled && answer.finish == Finish::cancel) continue;
        Request one = request;
        one.n = 1;
        const Answer &expected = alone.run(one);
        CHECK(answer.finish == expected.finish && answer.tokens == expected.tokens);
        CHECK(answer.logprobs.size() == expected.logprobs.size());
        for (size_t i = 0; i < std::min(answer.logprobs.size(), expected.logprobs.size()); ++i)
            CHECK_NEAR(answer.logprobs[i], expected.logprobs[i], 1e-3);
        CHECK(!answer.kept == !request.keep_state);
        if (request.score) CHECK(answer.tokens.size() + 1 == request.prompt.size());
    }
    const auto stats = client.engine.stats();
    CHECK(stats.forked <= expected_forks);
    CHECK(stats.waiting + stats.prefilling + stats.running == 0);
    CHECK(stats.submitted == stats.finished + stats.cancelled);
}

void test_refused() {
    Client client(2);
    const auto refused = [&](auto change, const char *field) {
        Request request = request_of(3, 3, 1);
        change(request);
        CHECK_THROWS(client.engine.submit(request), field);
    };
    refused([](Request &r) { r.n = 0; }, "n is 0");
    refused([](Request &r) { r.n = 1025; }, "n is 1025");
    refused([](Request &r) { r.n = 2, r.score = true; }, "n has no meaning");
    refused([](Request &r) { r.keep_state = true, r.dimensions = 8; }, "keep_state has no meaning");
    refused([](Request &r) { r.mask.call = none, r.score = true; }, "mask has no meaning");
    refused([](Request &r) { r.dimensions = 8, r.score = true; }, "dimensions has no meaning");
    CHECK(client.engine.stats().submitted == 0);
}

// The engine ends while prompts are read for others, and with states that nobody has taken.
void test_destroyed_at_work() {
    for (int i = 0; i < 5; ++i) {
        Client client(3);
        Request request = request_of(400, 1 << 20, 7);
        request.n = 6;
        client.engine.submit(request);
        request = request_of(3, 2, 8);
        request.keep_state = true;
        request.n = 3;
        client.engine.submit(request);
        std::this_thread::sleep_for(std::chrono::milliseconds(3 * i));
    }
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    model = tiny_model();
    vocab = byte_vocab();
    test_a_state_goes_on();
    test_masks();
    test_refused();
    test_destroyed_at_work();
    const char *scale = std::getenv("RWKV_TEST_SCALE");
    const int rounds = std::max(2, static_cast<int>(20 * (scale ? std::atof(scale) : 1.0)));
    for (int round = 0; round < rounds; ++round) test_storm(static_cast<uint64_t>(round));
    return report();
}
