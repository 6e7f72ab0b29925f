// The engine on a tiny random model: determinism, streams that stay apart, cancel in every phase,
// limits, finish reasons, the ring, errors. Counts are asserted, not times. RWKV_TEST_SCALE
// multiplies the random rounds: slow builds use less, the soak test more.
#include "check.h"
#include "engine/engine.h"
#include "error.h"
#include "tiny_model.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace std::chrono_literals;
using rwkv::Engine;
using rwkv::EngineOptions;
using rwkv::EngineStats;
using rwkv::Event;
using rwkv::Finish;
using rwkv::Request;

int scaled(int count) {
    const char *scale = std::getenv("RWKV_TEST_SCALE");
    return std::max(1, static_cast<int>(count * (scale ? std::atof(scale) : 1.0)));
}

std::shared_ptr<rwkv::Model> model;
std::shared_ptr<const rwkv::Vocab> vocab;

// Everything that one request said.
struct Answer {
    std::string text, message;
    std::vector<int32_t> tokens;
    std::vector<int32_t> logprob_ids;
    std::vector<float> logprobs;
    size_t logprob_width = 0;
    std::vector<float> embedding;
    Finish finish = Finish::running;
    int finals = 0;
    size_t order = 0;  // 1: the first of all requests that said anything
    int64_t prompt_tokens = 0, completion_tokens = 0;
};

// An engine, its bell and one listener that polls when it is rung, as the bindings do.
class Client {
public:
    explicit Client(EngineOptions options = {}) {
        options.ring = &Client::ring;
        options.payload = this;
        engine_ = std::make_unique<Engine>(model, vocab, options);
    }
    ~Client() {
        open();
        engine_.reset();
        CHECK(!double_ring_);
    }

    Engine &engine() { return *engine_; }
    EngineStats stats() { return engine_->stats(); }
    uint64_t submit(const Request &request) { return engine_->submit(request); }
    int64_t rings() const { return rings_; }

    // Waits for a ring, then collects; false if none came for a minute.
    bool listen() {
        {
            std::unique_lock lock(mutex_);
            if (!rang_.wait_for(lock, 60s, [this] { return rings_ > polls_; })) {
                std::printf("no ring within a minute\n");
                return false;
            }
        }
        collect();
        return true;
    }
    void collect() {
        ++polls_;  // before the poll: the next ring may come as soon as it has begun
        const auto events = engine_->poll();
        ++polled_;
        for (const Event &event : events) take(event);
    }
    const Answer &wait(uint64_t id) {
        while (answers[id].finals == 0)
            if (!listen()) {
                CHECK(!"an answer came to its end");
                break;
            }
        return answers[id];
    }
    Answer run(const Request &request) { return wait(submit(request)); }

    // While closed, the next ring holds the engine thread between two steps.
    void close() { closed_ = true; }
    void open() {
        std::lock_guard lock(mutex_);
        closed_ = false;
        opened_.notify_all();
    }
    // Lets a poll fall between a step's events and their ring, if the engine allows it.
    void ring_late() { late_ = true; }
    void wait_until_held() {
        while (!held_) std::this_thread::yield();
    }

    std::map<uint64_t, Answer> answers;

private:
    static void ring(void *payload) {
        Client &self = *static_cast<Client *>(payload);
        if (self.late_) std::this_thread::sleep_for(50us);
        std::unique_lock lock(self.mutex_);
        if (self.rings_++ > 0 && self.polls_ == self.polled_at_ring_) self.double_ring_ = true;
        self.rang_.notify_all();
        self.held_ = self.closed_.load();
        self.opened_.wait(lock, [&self] { return !self.closed_; });
        self.held_ = false;
        self.polled_at_ring_ = self.polled_;  // a later one must have begun before the next ring
    }
    void take(const Event &event) {
        Answer &answer = answers[event.id];
        CHECK(answer.finals == 0);
        if (event.finish != Finish::running) ++answer.finals;
        if (answer.order == 0) answer.order = ++speakers_;
        answer.finish = event.finish;
        (event.finish == Finish::error ? answer.message : answer.text) += event.text;
        const auto add = [](auto &to, const auto &from) {
            to.insert(to.end(), from.begin(), from.end());
        };
        add(answer.tokens, event.tokens);
        add(answer.logprob_ids, event.logprob_ids);
        add(answer.logprobs, event.logprobs);
        add(answer.embedding, event.embedding);
        if (event.logprob_width) answer.logprob_width = event.logprob_width;
        CHECK(event.logprobs.size() == event.logprob_ids.size());
        CHECK(event.logprob_ids.size() == event.tokens.size() * event.logprob_width);
        answer.prompt_tokens = event.prompt_tokens;
        answer.completion_tokens = event.completion_tokens;
        CHECK(event.completion_tokens == static_cast<int64_t>(answer.tokens.size()));
    }

    std::unique_ptr<Engine> engine_;
    size_t speakers_ = 0;
    std::mutex mutex_;
    std::condition_variable rang_, opened_;
    std::atomic<int64_t> rings_{0}, polls_{0}, polled_{0};  // polls begun and ended
    int64_t polled_at_ring_ = 0;
    std::atomic<bool> closed_{false}, held_{false}, late_{false}, double_ring_{false};
};

EngineOptions options_of(int32_t max_batch, int32_t chunk = 16, int32_t max_queue = 1024) {
    EngineOptions options;
    options.max_batch = max_batch;
    options.prefill_chunk = chunk;
    options.max_queue = max_queue;
    return options;
}

// Other threads' progress is waited for, never assumed.
template <class Condition>
void wait_until(const Condition &condition) {
    const auto end = std::chrono::steady_clock::now() + 60s;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) {
            CHECK(!"this comes true within a minute");
            return;
        }
        std::this_thread::yield();
    }
}

Request request_of(int64_t prompt, int64_t max_tokens, uint64_t seed = 1) {
    Random random{seed};
    Request request;
    for (int64_t i = 0; i < prompt; ++i)
        request.prompt.push_back(static_cast<int32_t>(1 + random.below(256)));
    request.max_tokens = max_tokens;
    request.sampling.seed = seed;
    return request;
}

Request embedding_of(int64_t prompt, int32_t dimensions, uint64_t seed = 1) {
    Request request = request_of(prompt, 0, seed);
    request.dimensions = dimensions;
    return request;
}

// Only small letters, so that stop strings are met and every token is a character.
Request letters_of(int64_t prompt, int64_t max_tokens, uint64_t seed = 1) {
    Request request = request_of(prompt, max_tokens, seed);
    for (int32_t id = 0; id < 257; ++id)
        if (id < 1 + 'a' || id > 1 + 'z') request.sampling.forbidden.push_back(id);
    return request;
}

// Draws `id` in every step.
Request always(int32_t id, int64_t max_tokens) {
    Request request = request_of(5, max_tokens);
    request.sampling.bias.emplace_back(id, 1000.0f);
    return request;
}

Request random_request(Random &random) {
    const int64_t prompt = random.below(4) ? 1 + random.below(20) : 1 + random.below(100);
    const int64_t max_tokens = 1 + random.below(40);
    Request request = random.below(2) ? letters_of(prompt, max_tokens, random.next())
                                      : request_of(prompt, max_tokens, random.next());
    if (random.below(3) == 0) request.stops = {"e", "qu"};
    if (random.below(3) == 0) request.stops.push_back("xyzzy");
    if (random.below(4) == 0) request.stop_ids = {1 + 'k'};
    if (random.below(4) == 0) request.end_ids = {0, 1 + 'z'};
    if (random.below(4) == 0) request.sampling.min_tokens = random.below(max_tokens + 1);
    if (random.below(4) == 0) request.sampling.temperature = random.below(2) ? 0.0 : 0.5;
    if (random.below(4) == 0) request.sampling.top_p = 0.9;
    if (random.below(4) == 0) request.sampling.presence_penalty = 0.4;
    if (random.below(4) == 0) request.sampling.logprobs = static_cast<int32_t>(random.below(4));
    request.quiet = random.below(4) == 0;
    return request;
}

bool contains(const std::vector<int32_t> &ids, int32_t id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// The answer agrees with its own tokens and with what was asked.
void check_consistent(const Request &request, const Answer &answer) {
    CHECK(answer.finals == 1);
    CHECK(answer.completion_tokens <= request.max_tokens);
    CHECK(answer.prompt_tokens == static_cast<int64_t>(request.prompt.size()));
    const size_t width =
        request.sampling.logprobs < 0 ? 0 : static_cast<size_t>(1 + request.sampling.logprobs);
    CHECK(answer.tokens.empty() || answer.logprob_width == width);
    for (size_t i = 0; i < answer.tokens.size() && width > 0; ++i)
        CHECK(answer.logprob_ids[i * width] == answer.tokens[i]);

    rwkv::Output output(request.stops);
    std::string text;
    bool stopped = false;
    for (size_t i = 0; i < answer.tokens.size(); ++i) {
        CHECK(!stopped);
        CHECK(!contains(request.end_ids, answer.tokens[i]));
        if (contains(request.stop_ids, answer.tokens[i])) {
            CHECK(i + 1 == answer.tokens.size());
            CHECK(answer.finish == Finish::stop);
            break;
        }
        const auto least = static_cast<size_t>(request.sampling.min_tokens);
        stopped = output.add(vocab->bytes(answer.tokens[i]), text, i + 1 >= least);
    }
    if (answer.finish == Finish::stop)
        CHECK(answer.completion_tokens >= request.sampling.min_tokens);
    if (stopped) CHECK(answer.finish == Finish::stop);
    if (!stopped && answer.finish != Finish::cancel) output.finish(text);
    CHECK(answer.text == text);
    if (answer.finish == Finish::length) CHECK(answer.completion_tokens == request.max_tokens);
    CHECK(answer.finish != Finish::error);
}

bool same(const Answer &a, const Answer &b) {
    return a.tokens == b.tokens && a.text == b.text && a.finish == b.finish &&
           a.logprob_ids == b.logprob_ids && a.logprobs == b.logprobs;
}

void test_alone_and_in_a_full_batch() {
    Random random{7};
    std::vector<Request> requests;
    for (int i = 0; i < 64; ++i) requests.push_back(random_request(random));
    Client alone(options_of(1)), full(options_of(64));
    full.close();  // so that they really run together: admitted while the engine is held
    const uint64_t first = full.submit(request_of(1, 5));
    full.wait_until_held();
    std::vector<uint64_t> ids;
    for (const Request &request : requests) ids.push_back(full.submit(request));
    CHECK(full.stats().waiting == 64);
    full.open();
    full.wait(first);
    for (size_t i = 0; i < requests.size(); ++i) {
        const Answer together = full.wait(ids[i]);
        check_consistent(requests[i], together);
        CHECK(same(together, alone.run(requests[i])));
    }
    CHECK(full.stats().steps < alone.stats().steps / 6);
    CHECK(full.stats().completion_tokens == alone.stats().completion_tokens + 5);
}

void test_streams_stay_apart() {
    Client client(options_of(64));
    std::vector<uint64_t> ids;
    for (int letter = 'a'; letter <= 'z'; ++letter)
        for (int i = 0; i < 8; ++i) ids.push_back(client.submit(always(1 + letter, 30)));
    for (size_t i = 0; i < ids.size(); ++i) {
        const Answer answer = client.wait(ids[i]);
        CHECK(answer.text == std::string(30, static_cast<char>('a' + i / 8)));
        CHECK(answer.finish == Finish::length);
    }
    CHECK(client.rings() <= client.stats().steps);
    CHECK(client.stats().finished == static_cast<int64_t>(ids.size()));
}

void test_finish_reasons() {
    Client client(options_of(4));
    const int32_t A = 1 + 'A';
    const auto run = [&client](Request request, auto change) {
        change(request);
        return client.run(request);
    };
    Answer a = run(always(A, 9), [&](Request &r) { r.end_ids = {3, A}; });
    CHECK(a.finish == Finish::stop && a.tokens.empty() && a.text.empty());
    CHECK(a.prompt_tokens == 5 && a.completion_tokens == 0);
    a = run(always(A, 9), [&](Request &r) { r.stop_ids = {A, 3}; });
    CHECK(a.finish == Finish::stop && a.tokens == std::vector{A} && a.text.empty());
    CHECK(a.completion_tokens == 1);
    a = run(always(A, 9), [](Request &r) { r.stops = {"AAA"}; });
    CHECK(a.finish == Finish::stop && a.text.empty() && a.completion_tokens == 3);
    a = run(always(A, 3), [](Request &r) { r.stops = {"AAA"}; });
    CHECK(a.finish == Finish::stop && a.text.empty());
    a = run(always(A, 2), [](Request &r) { r.stops = {"AAA"}; });
    CHECK(a.finish == Finish::length && a.text == "AA");
    a = run(always(A, 5), [](Request &r) { r.stops = {"AAB"}; });
    CHECK(a.finish == Finish::length && a.text == "AAAAA");
    a = run(always(A, 1), [&](Request &r) { r.stop_ids = {A}; });
    CHECK(a.finish == Finish::stop && a.completion_tokens == 1);
    a = client.run(always(A, 1));
    CHECK(a.finish == Finish::length && a.text == "A" && a.completion_tokens == 1);
    a = client.run(always(1 + 0xe4, 3));  // the first byte of a character that never ends
    CHECK(a.finish == Finish::length && a.text == "\uFFFD\uFFFD\uFFFD");

    // No sooner than the least length, and then at once.
    a = run(always(A, 9), [&](Request &r) { r.end_ids = {A}, r.sampling.min_tokens = 4; });
    CHECK(a.finish == Finish::stop && a.completion_tokens == 4 && !contains(a.tokens, A));
    a = run(always(A, 9), [&](Request &r) { r.stop_ids = {A}, r.sampling.min_tokens = 4; });
    CHECK(a.finish == Finish::stop && a.completion_tokens == 5 && a.tokens.back() == A);
    a = run(always(A, 9), [](Request &r) { r.stops = {"AAA"}, r.sampling.min_tokens = 5; });
    CHECK(a.finish == Finish::stop && a.completion_tokens == 5 && a.text == "AA");
    a = run(always(A, 9), [](Request &r) { r.stops = {"AAA"}, r.sampling.min_tokens = 9; });
    CHECK(a.finish == Finish::stop && a.completion_tokens == 9 && a.text == "AAAAAA");
    a = run(always(A, 4), [&](Request &r) { r.end_ids = {A}, r.sampling.min_tokens = 4; });
    CHECK(a.finish == Finish::length && a.completion_tokens == 4);
    a = run(always(A, 9), [&](Request &r) { r.end_ids = r.sampling.forbidden = {A}; });
    CHECK(a.finish == Finish::length && a.completion_tokens == 9 && !contains(a.tokens, A));

    // The prompt alone, which is then known.
    EngineOptions keeping = options_of(1);
    keeping.cache_bytes = 1 << 20;
    Client warm(keeping);
    a = warm.run(request_of(40, 0));
    CHECK(a.finish == Finish::length && a.text.empty() && a.tokens.empty());
    CHECK(a.prompt_tokens == 40 && a.completion_tokens == 0);
    CHECK(warm.stats().prompt_tokens == 40 && warm.stats().completion_tokens == 0);
    CHECK(same(warm.run(request_of(40, 0)), a));
    CHECK(same(warm.run(request_of(40, 6)), client.run(request_of(40, 6))));
    CHECK(warm.stats().prompt_tokens == 40);

    // The same places in a lively text.
    const Request plain = letters_of(12, 40, 3);
    const Answer whole = client.run(plain);
    CHECK(whole.finish == Finish::length && whole.text.size() == 40);
    size_t at = 5;
    while (at < 39 && whole.text.find(whole.text[at]) != at) ++at;
    a = run(plain, [&](Request &r) { r.end_ids = {whole.tokens[at]}; });
    CHECK(a.finish == Finish::stop && a.text == whole.text.substr(0, at));
    CHECK(a.completion_tokens == static_cast<int64_t>(at));
    a = run(plain, [&](Request &r) { r.stop_ids = {whole.tokens[at]}; });
    CHECK(a.finish == Finish::stop && a.text == whole.text.substr(0, at));
    CHECK(a.completion_tokens == static_cast<int64_t>(at + 1));
    a = run(plain, [&](Request &r) { r.stops = {"0", whole.text.substr(at, 3)}; });
    CHECK(a.finish == Finish::stop && a.text == whole.text.substr(0, at));
    CHECK(a.completion_tokens == static_cast<int64_t>(at + 3));
}

// Ids without bytes are never drawn, unless they end the answer.
void test_undecodable_ids() {
    const auto full = std::exchange(vocab, byte_vocab(100));  // ids 0 and 101..256 have no bytes
    {
        Client client;
        for (uint64_t seed = 1; seed <= 20; ++seed) {
            Request request = request_of(10, 50, seed);
            for (int32_t id = 90; id < 257; ++id) request.sampling.bias.emplace_back(id, 20.0f);
            const Answer answer = client.run(request);
            CHECK(answer.tokens.size() == 50);
            for (int32_t id : answer.tokens) CHECK(id >= 1 && id <= 100);
        }
        CHECK(client.run(always(0, 10)).completion_tokens == 10);
        Request ends = always(0, 10);
        ends.end_ids = {0};
        CHECK(client.run(ends).completion_tokens == 0);
        Request stops = always(200, 10);
        stops.stop_ids = {200};
        CHECK(client.run(stops).tokens == std::vector{200});
    }
    vocab = full;
}

void test_cancel_while_queued() {
    Client client(options_of(1));
    const uint64_t busy = client.submit(request_of(1, int64_t{1} << 40));
    wait_until([&] { return client.stats().running == 1; });
    const uint64_t queued = client.submit(request_of(1000, 10));
    const uint64_t last = client.submit(request_of(3, 10));
    client.engine().cancel(queued);
    const Answer answer = client.wait(queued);
    CHECK(answer.finish == Finish::cancel && answer.tokens.empty());
    CHECK(answer.prompt_tokens == 1000);
    CHECK(client.stats().waiting == 1 && client.stats().cancelled == 1);
    CHECK(client.stats().prompt_tokens == 1);
    client.engine().cancel(busy);
    CHECK(client.wait(last).finish == Finish::length);  // the slot came free
    CHECK(client.wait(busy).finish == Finish::cancel);
    const EngineStats stats = client.stats();
    CHECK(stats.prompt_tokens == 4 && stats.cancelled == 2 && stats.finished == 1);
}

void test_cancel_while_prefilling() {
    Client client(options_of(1));
    const uint64_t id = client.submit(request_of(1000000, 10));
    wait_until([&] { return client.stats().prompt_tokens >= 64; });
    CHECK(client.stats().prefilling == 1);
    client.engine().cancel(id);
    const int64_t before = client.stats().prompt_tokens;
    const Answer answer = client.wait(id);
    CHECK(answer.finish == Finish::cancel && answer.tokens.empty());
    const EngineStats stats = client.stats();
    CHECK(stats.prompt_tokens - before <= 16);  // at most the step in progress
    CHECK(stats.prefilling == 0 && stats.running == 0 && stats.waiting == 0);
}

void test_cancel_while_decoding() {
    Client client(options_of(8));
    std::vector<uint64_t> ids;
    for (uint64_t i = 0; i < 8; ++i) ids.push_back(client.submit(request_of(3, 1 << 30, i)));
    wait_until([&] { return client.stats().running == 8; });
    for (uint64_t id : ids) client.engine().cancel(id);
    const EngineStats before = client.stats();
    for (uint64_t id : ids) {
        const Answer answer = client.wait(id);
        CHECK(answer.finish == Finish::cancel);
        CHECK(answer.completion_tokens > 0);
    }
    const EngineStats after = client.stats();
    CHECK(after.completion_tokens - before.completion_tokens <= 8);
    CHECK(after.running == 0 && after.cancelled == 8);
    wait_until([&] { return client.stats().running == 0; });
    const int64_t steps = client.stats().steps;
    std::this_thread::sleep_for(20ms);
    CHECK(client.stats().steps == steps);

    // Text that was held back as a possible stop is dropped; further cancels are ignored.
    Request request = always(1 + 'A', 1 << 20);
    request.stops = {std::string(1 << 20, 'A')};
    const uint64_t id = client.submit(request);
    wait_until([&] { return client.stats().completion_tokens > after.completion_tokens + 5; });
    client.engine().cancel(id);
    client.engine().cancel(id);
    client.engine().cancel(12345);
    const Answer answer = client.wait(id);
    CHECK(answer.finish == Finish::cancel && answer.text.empty() && answer.completion_tokens > 5);
    client.engine().cancel(id);
    CHECK(client.run(request_of(3, 3)).finish == Finish::length);
    CHECK(client.stats().cancelled == 9);
}

// A cancel that meets the end of an answer: one last event, whichever it is.
void test_cancel_at_the_end() {
    Client client(options_of(4));
    Random random{5};
    for (int i = 0; i < scaled(300); ++i) {
        const uint64_t id = client.submit(request_of(1, 2, random.next()));
        for (int64_t spin = random.below(2000); spin > 0; --spin) (void)client.engine().stats();
        client.engine().cancel(id);
        const Answer answer = client.wait(id);
        CHECK(answer.finish == Finish::cancel || answer.completion_tokens == 2);
    }
    client.collect();
    const EngineStats stats = client.stats();
    CHECK(stats.finished + stats.cancelled == stats.submitted);
}

void test_queue_limit() {
    Client client(options_of(1, 16, 3));
    client.close();
    const uint64_t busy = client.submit(request_of(1, 1 << 30));
    client.wait_until_held();
    std::vector<uint64_t> ids;
    for (int i = 0; i < 3; ++i) ids.push_back(client.submit(request_of(3, 2)));
    CHECK_THROWS(client.submit(request_of(3, 2)), "the queue is full: 3 requests are waiting");
    try {
        client.submit(request_of(3, 2));
    } catch (const rwkv::Error &error) {
        CHECK(error.status == RWKV_BUSY);
    }
    CHECK(client.stats().waiting == 3 && client.stats().submitted == 4);
    client.engine().cancel(ids[1]);
    client.open();
    CHECK(client.wait(ids[1]).finish == Finish::cancel);
    ids.push_back(client.submit(request_of(3, 2)));  // its place in the queue is free again
    client.engine().cancel(busy);
    for (uint64_t id : {ids[0], ids[2], ids[3]}) CHECK(client.wait(id).finish == Finish::length);
}

// Free slots are not part of the queue, even if the engine comes to fill them only after a step.
void test_queue_limit_beside_free_slots() {
    Client client(options_of(4, 16, 2));
    client.close();
    std::vector<uint64_t> ids{client.submit(request_of(1, 5))};
    client.wait_until_held();
    for (int i = 0; i < 5; ++i) ids.push_back(client.submit(request_of(3, 2)));
    CHECK_THROWS(client.submit(request_of(3, 2)), "the queue is full: 5 requests are waiting");
    client.open();
    for (uint64_t id : ids) CHECK(client.wait(id).finish == Finish::length);
}

// A long prompt does not stop a stream: it has a token in every step.
void test_long_prompt_beside_a_stream() {
    Client client(options_of(4));
    client.close();
    const uint64_t stream = client.submit(request_of(2, 100));
    client.wait_until_held();  // one step done, one token drawn
    const uint64_t prompt = client.submit(request_of(16 * 40, 3));
    const uint64_t brief = client.submit(request_of(4, 3));
    client.open();
    CHECK(client.wait(brief).completion_tokens == 3);
    CHECK(client.wait(prompt).completion_tokens == 3);
    CHECK(client.wait(stream).completion_tokens == 100);
    CHECK(client.answers[brief].order == 2);  // it did not wait for the long one
    CHECK(client.answers[prompt].order == 3);
    CHECK(client.stats().steps == 100);
    CHECK(client.stats().prompt_tokens == 2 + 16 * 40 + 4);
}

void test_events_are_merged_until_polled() {
    Client client(options_of(2));
    Request request = letters_of(4, 50);
    request.sampling.logprobs = 2;
    const uint64_t a = client.submit(request), b = client.submit(request);
    wait_until([&] { return client.stats().finished == 2; });
    CHECK(client.rings() == 1);
    const auto events = client.engine().poll();
    CHECK(events.size() == 2);
    for (const Event &event : events) {
        CHECK(event.id == a || event.id == b);
        CHECK(event.finish == Finish::length && event.tokens.size() == 50);
        CHECK(event.text.size() == 50 && event.completion_tokens == 50);
        CHECK(event.logprob_width == 3 && event.logprobs.size() == 150);
    }
    CHECK(client.engine().poll().empty());
}

// A quiet request rings for its first token and for its end, and says what it would have said.
void test_quiet() {
    Client client(options_of(2)), told(options_of(2));
    Request request = letters_of(4, 50);
    request.stops = {"quite certainly not"};
    request.sampling.logprobs = 1;
    request.speculate = 4;
    const Answer spoken = told.run(request);
    request.quiet = true;
    const Answer answer = client.run(request);
    CHECK(client.rings() <= 2);
    CHECK(answer.text == spoken.text && answer.tokens == spoken.tokens);
    CHECK(answer.logprob_ids == spoken.logprob_ids && answer.logprobs == spoken.logprobs);
    CHECK(answer.completion_tokens == 50 && client.stats().completion_tokens == 50);

    request.max_tokens = 1 << 30;
    const uint64_t endless = client.submit(request);
    wait_until([&] { return client.stats().completion_tokens > 60; });
    client.engine().cancel(endless);
    CHECK(client.wait(endless).finish == Finish::cancel);
    CHECK(client.answers[endless].tokens.size() > 10);  // what it had, the client gets
    CHECK(client.rings() <= 4);
}

// Polls at random moments, too: no event is lost or doubled and no ring is missed.
void test_polls_beside_the_ring() {
    Client client(options_of(8));
    client.ring_late();
    Random random{11};
    const int rounds = scaled(200);
    for (int i = 0; i < rounds; ++i) {
        std::vector<uint64_t> ids;
        for (int k = 0; k < 4; ++k)
            ids.push_back(client.submit(request_of(2, 1 + random.below(6), random.next())));
        while (std::any_of(ids.begin(), ids.end(),
                           [&](uint64_t id) { return client.answers[id].finals == 0; })) {
            for (int64_t spin = random.below(300); spin > 0; --spin) (void)client.engine().stats();
            client.collect();
        }
    }
    CHECK(client.rings() <= client.stats().steps);
    CHECK(client.stats().finished == 4 * rounds);
}

void test_start_states() {
    const Request whole = letters_of(24, 30);
    Client cut_at_16(options_of(1, 16));
    const Answer expected = cut_at_16.run(whole);

    // The state after the first 16 tokens, made by hand in one chunk as the engine would.
    const rwkv::States state = model->new_state();
    const rwkv::Span span{0, 16, 0};
    const std::span<const int32_t> head(whole.prompt.data(), 16);
    model->forward({&state, head, {&span, 1}, {}}, nullptr);
    Request rest = whole;
    rest.prompt.erase(rest.prompt.begin(), rest.prompt.begin() + 16);
    const Request without = rest;
    auto start = std::make_shared<std::vector<float>>(model->state_floats());
    model->backend().download(*start, state.data);
    rest.state = start;
    CHECK(same(cut_at_16.run(rest), expected));
    wait_until([&] { return start.use_count() == 2; });  // `rest` and `start`: it was not copied

    // The slot forgets: the same rest from nothing, before and after.
    const Answer fresh = Client(options_of(1, 16)).run(without);
    CHECK(!same(fresh, expected));
    CHECK(same(cut_at_16.run(without), fresh));

    rest.state = std::make_shared<std::vector<float>>(model->state_floats() - 1);
    CHECK_THROWS(cut_at_16.submit(rest), "the start state has");
}

void test_refused_requests() {
    Client client;
    const auto refused = [&client](auto change, const char *message) {
        Request request = request_of(8, 4);
        change(request);
        CHECK_THROWS(client.submit(request), message);
        try {
            client.submit(request);
        } catch (const rwkv::Error &error) {
            CHECK(error.status == RWKV_INVALID);
        }
    };
    refused([](Request &r) { r.prompt.clear(); }, "the prompt is empty");
    refused([](Request &r) { r.prompt[3] = 70000; }, "prompt token 3 is 70000, outside [0, 257)");
    refused([](Request &r) { r.prompt[0] = -1; }, "prompt token 0 is -1");
    refused([](Request &r) { r.max_tokens = -1; }, "max_tokens is -1");
    refused([](Request &r) { r.sampling.min_tokens = 5; }, "min_tokens is 5, above max_tokens");
    refused([](Request &r) { r.stop_ids = {257}; }, "stop id 0 is 257");
    refused([](Request &r) { r.end_ids = {1, -5}; }, "end id 1 is -5");
    refused([](Request &r) { r.stops = {"a", ""}; }, "stop");
    refused([](Request &r) { r.stops = {"\xff"}; }, "stop");
    refused([](Request &r) { r.sampling.temperature = -1; }, "temperature");
    refused([](Request &r) { r.sampling.forbidden = {257}; }, "forbidden");
    refused([](Request &r) { r.speculate = 65; }, "speculate is 65");
    refused([](Request &r) { r.state = std::make_shared<std::vector<float>>(3); },
            "the start state has 3 numbers");
    CHECK(client.stats().submitted == 0);
    CHECK(client.run(request_of(8, 4)).completion_tokens == 4);
    CHECK_THROWS(Engine(model, vocab, options_of(0)), "max_batch is 0");
    CHECK_THROWS(Engine(model, vocab, options_of(1, -1)), "prefill_chunk is -1");
    EngineOptions slow = options_of(1);
    slow.step_ms = -1;
    CHECK_THROWS(Engine(model, vocab, slow), "step_ms is -1");
    slow.step_ms = 1e300;
    CHECK_THROWS(Engine(model, vocab, slow), "step_ms is 1e+300");
    CHECK_THROWS(Engine(model, vocab, options_of(1, 1, 0)), "max_queue is 0");
}

// A state full of NaN makes logits full of NaN, for its own request only.
void test_not_a_number() {
    Client alone(options_of(1)), client(options_of(4));
    Request bad = request_of(20, 10), good = request_of(20, 10, 2);
    const Answer expected = alone.run(good);
    bad.state = std::make_shared<std::vector<float>>(model->state_floats(),
                                                     std::numeric_limits<float>::quiet_NaN());
    std::vector<uint64_t> bads, goods;
    for (int i = 0; i < 12; ++i) {
        goods.push_back(client.submit(good));
        bads.push_back(client.submit(bad));
    }
    for (uint64_t id : bads) {
        const Answer answer = client.wait(id);
        CHECK(answer.finish == Finish::error && answer.tokens.empty() && answer.text.empty());
        CHECK(answer.message.find("finite") != std::string::npos);
    }
    for (uint64_t id : goods) CHECK(same(client.wait(id), expected));
    CHECK(client.stats().finished == 24);
    CHECK(alone.run(bad).finish == Finish::error);
    CHECK(same(alone.run(good), expected));  // in the slot that the bad one left
}

// An error comes as an event of its own, so that text and message never run into each other.
void test_error_after_text() {
    Client client(options_of(2));
    Request request = letters_of(5, 10);
    request.sampling.forbidden.clear();
    for (int32_t id = 0; id < 257; ++id)
        if (id != 1 + 'A') request.sampling.forbidden.push_back(id);
    request.sampling.no_repeat = {1 + 'A'};  // so nothing is left for the second draw
    const uint64_t id = client.submit(request);
    wait_until([&] { return client.stats().finished == 1; });
    const Answer answer = client.wait(id);
    CHECK(answer.finish == Finish::error && answer.text == "A" && answer.completion_tokens == 1);
    CHECK(!answer.message.empty());
}

// What a quiet request had collected when it failed is said before the error, as of one that is
// streamed.
void test_error_after_quiet_text() {
    const TinyShape shape;
    const TinyTensors tiny(shape);
    std::vector<rwkv::Tensor> tensors = tiny.tensors();
    const auto emb = std::ranges::find(tensors, "emb.weight", &rwkv::Tensor::name);
    std::vector<float> poisoned(static_cast<size_t>(shape.vocab * shape.width));
    std::memcpy(poisoned.data(), emb->data, poisoned.size() * sizeof(float));
    std::fill_n(poisoned.begin() + (1 + 'f') * shape.width, shape.width, 3e38f);
    emb->data = reinterpret_cast<const std::byte *>(poisoned.data());
    rwkv::LoadProgress progress;
    const auto usual =
        std::exchange(model, rwkv::Model::load(std::move(tensors), "cpu fp32", 2, progress));
    Client client(options_of(2));
    Request request = letters_of(5, 100);
    request.sampling.temperature = 0;
    request.sampling.presence_penalty = 2000;
    float bias = 4000;
    for (const char c : {'a', 'b', 'c', 'd', 'e', 'f'})
        request.sampling.bias.emplace_back(1 + c, bias -= 10);
    for (const bool quiet : {false, true}) {
        request.quiet = quiet;
        const Answer answer = client.run(request);
        CHECK(answer.finish == Finish::error && answer.message.find("NaN") != std::string::npos);
        CHECK(answer.text == "abcdef" && answer.tokens.size() == 6 &&
              answer.completion_tokens == 6);
    }
    model = usual;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// So many bytes beyond what is in use, while it lives: of address space (RLIMIT_AS), or of memory
// that may be written to (RLIMIT_DATA).
class MemoryLimit {
public:
    explicit MemoryLimit(rlim_t more, __rlimit_resource what = RLIMIT_AS) : what_(what) {
        getrlimit(what_, &before_);
        long all = 0, data = 0;
        if (std::FILE *file = std::fopen("/proc/self/statm", "r")) {
            if (std::fscanf(file, "%ld %*d %*d %*d %*d %ld", &all, &data) != 2) all = data = 0;
            std::fclose(file);
        }
        const long pages = what_ == RLIMIT_AS ? all : data;
        rlimit tight = before_;
        tight.rlim_cur = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE)) + more;
        setrlimit(what_, &tight);
        rlimit set;
        getrlimit(what_, &set);
        works_ = set.rlim_cur == tight.rlim_cur;
    }
    ~MemoryLimit() { setrlimit(what_, &before_); }
    bool works() const { return works_; }  // qemu-user passes none on

private:
    __rlimit_resource what_;
    rlimit before_;
    bool works_;
};

// A step that fails ends its requests, and the engine goes on. Here memory runs out.
void test_failing_step() {
    const int32_t rows = 1 << 22;
    EngineOptions options = options_of(2, rows);
    options.step_ms = 60'000;  // so that a step may have as many rows as take a minute
    Client client(options);
    const Request small = request_of(3, 3);
    const Answer expected = client.run(small);
    {
        const MemoryLimit limit(rlim_t{1} << 30);
        if (!limit.works()) return;
        const Answer answer = client.run(request_of(rows, 3));  // wants more than 4 GiB
        CHECK(answer.finish == Finish::error && answer.message == "out of memory");
    }
    CHECK(client.stats().running + client.stats().prefilling == 0);
    CHECK(same(client.run(small), expected));
}

// Where there is no memory to go back from a guess, nothing is guessed; neither this stream nor the
// others end.
void test_guesses_without_memory() {
    // Three states of 15.8 MB stay when nobody has them, and no fourth one.
    const auto usual =
        std::exchange(model, tiny_model({.layers = 4, .width = 992, .head_size = 992, .ffn = 32}));
    {
        Client client(options_of(4));
        Request request = letters_of(5, 60);
        request.sampling.forbidden.clear();
        for (int32_t id = 0; id < 257; ++id)
            if (id != 1 + 'a') request.sampling.forbidden.push_back(id);  // every guess comes true
        const auto all = [&](bool guesses) {
            std::vector<uint64_t> ids;
            for (int i = 0; i < 3; ++i) {
                request.speculate = guesses && i == 2 ? 8 : 0;
                ids.push_back(client.submit(request));
            }
            for (const uint64_t id : ids) {
                CHECK(client.wait(id).finish == Finish::length);
                CHECK(client.answers[id].text == std::string(60, 'a'));
            }
        };
        all(false);                                             // makes their states
        const MemoryLimit limit(rlim_t{8} << 20, RLIMIT_DATA);  // less than one state
        all(true);
        CHECK(!limit.works() || client.stats().guessed_tokens == 0);
    }
    model = usual;
}
#endif

void test_destroyed_at_work() {
    Random random{13};
    for (int i = 0; i < scaled(30); ++i) {
        auto engine = std::make_unique<Engine>(model, vocab, options_of(8));
        for (int64_t n = random.below(30); n > 0; --n)
            engine->submit(request_of(1 + random.below(200), 1 << 20, random.next()));
        std::this_thread::sleep_for(std::chrono::microseconds(random.below(3000)));
        if (random.below(2)) engine->poll();
        engine.reset();
    }
    CHECK(model.use_count() == 1);
}

void test_idle_costs_nothing() {
    Client client;
    client.run(request_of(3, 3));
    std::this_thread::sleep_for(50ms);  // workers may spin for a moment after a step
    const auto used = [] {
        rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        const auto micros = [](timeval t) { return int64_t{t.tv_sec} * 1000000 + t.tv_usec; };
        return micros(usage.ru_utime) + micros(usage.ru_stime);
    };
    const int64_t before = used();
    std::this_thread::sleep_for(300ms);
    CHECK(used() - before < 30000);
}

// Guesses change when an answer comes and never what it is: every version, greedy and drawn, with
// penalties, stops, limits and logprobs, alone and together.
void test_speculation() {
    const auto usual = model;
    int64_t guessed = 0, accepted = 0;
    for (const char *version : {"4", "5.0", "5.1", "5.2", "6.0", "7", "7a", "8rc"}) {
        model = tiny_model({.version = version});
        Random random{11};
        std::vector<Request> requests;
        for (int i = 0; i < 24; ++i) {
            Request request = random_request(random);
            request.sampling.temperature = std::array{0.0, 0.1, 0.5, 1.0}[i % 4];
            if (i % 3 == 0) {
                // Few different tokens: guesses come true now and then.
                request = letters_of(1 + random.below(40), 1 + random.below(60), random.next());
                for (int32_t id = 1 + 'd'; id <= 1 + 'z'; ++id)
                    request.sampling.forbidden.push_back(id);
            }
            requests.push_back(std::move(request));
        }
        EngineOptions guessing = options_of(1);
        guessing.speculate = 5;
        Client plain(options_of(8)), together(options_of(8)), alone(guessing);
        std::vector<uint64_t> plain_ids, together_ids;
        for (const Request &request : requests) {
            Request bold = request;
            bold.speculate = static_cast<int32_t>(1 + random.below(12));
            plain_ids.push_back(plain.submit(request));
            together_ids.push_back(together.submit(bold));
        }
        for (size_t i = 0; i < requests.size(); ++i) {
            const Answer expected = plain.wait(plain_ids[i]);
            CHECK(same(together.wait(together_ids[i]), expected));
            CHECK(same(alone.run(requests[i]), expected));
        }
        CHECK(plain.stats().guessed_tokens == 0);
        CHECK(together.stats().completion_tokens == plain.stats().completion_tokens);
        CHECK(alone.stats().steps < alone.stats().completion_tokens);
        guessed += alone.stats().guessed_tokens;
        accepted += alone.stats().accepted_tokens;
    }
    CHECK(accepted > 0 && accepted < guessed);
    model = tiny_model({.version = "7b", .width = 256});
    Request bold = request_of(8, 4);
    bold.speculate = 4;
    CHECK_THROWS(Client().submit(bold), "speculate needs a state that can be put back");
    EngineOptions options = options_of(1);
    options.speculate = 4;
    CHECK_THROWS(Engine(model, vocab, options), "RWKV-7b");
    model = usual;
    options.speculate = 65;
    CHECK_THROWS(Engine(model, vocab, options), "speculate is 65");
}

// One request of many prompts that never end, or of many texts to embed, fills all slots: what
// others ask beside it is answered, and as if they were alone.
void test_a_crowd_leaves_room() {
    Client alone(options_of(1));
    const Request chat = letters_of(13, 4, 5);
    const Answer expected = alone.run(chat);
    for (const bool texts : {false, true}) {
        Client client(options_of(4));
        std::vector<uint64_t> crowd;
        for (uint64_t i = 0; i < 40; ++i) {
            Request one = texts ? embedding_of(5000, 8, i) : request_of(7, 1 << 30, i);
            one.group = 7;
            one.speculate = texts ? 0 : 3;
            crowd.push_back(client.submit(one));
        }
        wait_until([&] { return texts ? client.stats().steps > 9 : client.stats().running == 4; });
        for (const auto &[group, who] : {std::pair<uint64_t, uint64_t>{0, 0}, {8, 0}, {7, 1}}) {
            Request one = chat;
            one.group = group, one.client = who;
            CHECK(same(client.run(one), expected));
        }
        for (const uint64_t id : crowd) client.engine().cancel(id);
        int64_t ended = 0;
        for (const uint64_t id : crowd) ended += client.wait(id).finish != Finish::cancel;
        CHECK(ended < 20);
        CHECK(client.stats().running + client.stats().prefilling + client.stats().waiting == 0);
    }
}

// Several threads submit and cancel at random moments while one listens.
void test_storm() {
    Client client(options_of(16, 16, 100)), alone(options_of(1));
    const int threads = 4, each = scaled(500);
    struct Asked {
        Request request;
        uint64_t id = 0;
        bool cancelled = false;
    };
    std::vector<std::vector<Asked>> asked(threads);
    std::atomic<int> working{threads};
    std::vector<std::thread> submitters;
    for (int t = 0; t < threads; ++t)
        submitters.emplace_back([&, t] {
            Random random{static_cast<uint64_t>(100 + t)};
            std::vector<Asked> &mine = asked[static_cast<size_t>(t)];
            for (int i = 0; i < each; ++i) {
                Asked one{random_request(random)};
                one.request.speculate = static_cast<int32_t>(4 * random.below(3));
                one.request.client = static_cast<uint64_t>(t / 2);
                one.request.group = static_cast<uint64_t>(random.below(3));
                while (one.id == 0) {
                    try {
                        one.id = client.engine().submit(one.request);
                    } catch (const rwkv::Error &error) {
                        if (error.status != RWKV_BUSY) throw;
                        std::this_thread::sleep_for(200us);
                    }
                }
                mine.push_back(std::move(one));
                if (random.below(3) == 0) {
                    Asked &victim = mine[mine.size() - 1 -
                                         static_cast<size_t>(random.below(std::min<int64_t>(
                                             30, static_cast<int64_t>(mine.size()))))];
                    victim.cancelled = true;
                    client.engine().cancel(victim.id);
                }
                (void)client.engine().stats();
            }
            --working;
        });
    const int64_t total = int64_t{threads} * each;
    const auto ended = [&] {
        return std::count_if(client.answers.begin(), client.answers.end(),
                             [](const auto &answer) { return answer.second.finals > 0; });
    };
    while (working > 0 || ended() < total)
        if (!client.listen()) break;
    for (std::thread &thread : submitters) thread.join();

    CHECK(ended() == total);
    CHECK(static_cast<int64_t>(client.answers.size()) == total);
    int64_t cancelled = 0, completion = 0, compared = 0;
    for (const auto &mine : asked)
        for (const Asked &one : mine) {
            const Answer &answer = client.answers[one.id];
            check_consistent(one.request, answer);
            CHECK(one.cancelled || answer.finish != Finish::cancel);
            cancelled += answer.finish == Finish::cancel;
            completion += answer.completion_tokens;
            if (++compared % 10) continue;
            Request plain = one.request;
            plain.speculate = 0;
            const Answer whole = alone.run(plain);
            if (answer.finish == Finish::cancel)
                CHECK(std::equal(answer.tokens.begin(), answer.tokens.end(), whole.tokens.begin()));
            else
                CHECK(same(answer, whole));
        }
    const EngineStats stats = client.stats();
    CHECK(stats.waiting == 0 && stats.prefilling == 0 && stats.running == 0);
    CHECK(stats.submitted == total && stats.cancelled == cancelled);
    CHECK(stats.finished + stats.cancelled == total);
    CHECK(stats.completion_tokens == completion);
    std::printf("storm: %lld requests, %lld cancelled, %lld steps, %lld rings, %lld tokens\n",
                static_cast<long long>(total), static_cast<long long>(cancelled),
                static_cast<long long>(stats.steps), static_cast<long long>(client.rings()),
                static_cast<long long>(completion));
}

}  // namespace

void test_embeddings() {
    Client alone(options_of(1)), full(options_of(64)), small(options_of(8, 5));
    full.close();  // admitted together, beside streams
    const uint64_t first = full.submit(request_of(1, 5));
    full.wait_until_held();
    std::vector<Request> requests;
    std::vector<uint64_t> ids, streams;
    for (int i = 0; i < 24; ++i) {
        requests.push_back(embedding_of(1 + 9 * i, i % 2 ? 32 : 3000, static_cast<uint64_t>(i)));
        requests.back().quick = i % 3 == 0;
        ids.push_back(full.submit(requests.back()));
        streams.push_back(full.submit(request_of(7, 30, static_cast<uint64_t>(i))));
    }
    full.open();
    full.wait(first);
    for (size_t i = 0; i < requests.size(); ++i) {
        const Answer beside = full.wait(ids[i]), by_itself = alone.run(requests[i]);
        CHECK(beside.finish == Finish::stop && beside.finals == 1);
        CHECK(beside.tokens.empty() && beside.text.empty() && beside.completion_tokens == 0);
        CHECK(beside.prompt_tokens == static_cast<int64_t>(requests[i].prompt.size()));
        CHECK(beside.embedding.size() == static_cast<size_t>(requests[i].dimensions));
        double squares = 0, product = 0;
        const Answer in_small_chunks = small.run(requests[i]);
        for (size_t j = 0; j < beside.embedding.size(); ++j) {
            squares += beside.embedding[j] * beside.embedding[j];
            product += beside.embedding[j] * in_small_chunks.embedding[j];
            CHECK(std::abs(beside.embedding[j] - by_itself.embedding[j]) < 1e-5);
        }
        CHECK(std::abs(squares - 1) < 1e-5 && std::abs(product - 1) < 1e-5);
        CHECK(full.wait(streams[i]).completion_tokens == 30);
    }
    int64_t tokens = 0;
    for (const Request &request : requests) tokens += static_cast<int64_t>(request.prompt.size());
    CHECK(alone.stats().prompt_tokens == tokens && alone.stats().completion_tokens == 0);

    // The layers above the one that is asked for are left out.
    const auto usual = std::exchange(model, tiny_model({.layers = 4}));
    Client deep(options_of(1));
    const auto barriers_of = [&deep](bool quick) {
        Request request = embedding_of(16, 8);
        request.quick = quick;
        const uint64_t before = model->backend().barriers();
        deep.run(request);
        return model->backend().barriers() - before;
    };
    CHECK(barriers_of(true) < barriers_of(false));
    model = usual;
}

void test_embeddings_in_every_phase() {
    Client client(options_of(1, 16));
    client.close();
    const uint64_t first = client.submit(request_of(1, 2));
    client.wait_until_held();
    const uint64_t prefilling = client.submit(embedding_of(100'000, 8));
    const uint64_t waiting = client.submit(embedding_of(10, 8));
    client.open();
    client.wait(first);
    wait_until([&] { return client.stats().prompt_tokens > 100; });
    client.engine().cancel(waiting);
    client.engine().cancel(prefilling);
    for (const uint64_t id : {prefilling, waiting}) {
        const Answer answer = client.wait(id);
        CHECK(answer.finish == Finish::cancel && answer.embedding.empty());
    }
    CHECK(client.stats().prompt_tokens < 100'000);
    CHECK(client.run(embedding_of(10, 8)).embedding.size() == 8);
    for (const int32_t wrong : {-1, 4097}) {
        bool refused = false;
        try {
            client.submit(embedding_of(3, wrong));
        } catch (const rwkv::Error &error) {
            refused =
                error.status == RWKV_INVALID && std::string(error.what()).starts_with("dimensions");
        }
        CHECK(refused);
    }
}

// States so large that they are made, and room for kept ones written to, while nobody asks:
// whenever the first requests come, their answers are those of a model whose states are made when
// they are wanted.
void test_large_states() {
    const auto usual = std::exchange(model, tiny_model({.width = 512, .head_size = 64}));
    CHECK(model->state_floats() * sizeof(float) >= size_t{256} << 10);
    EngineOptions options = options_of(8);
    std::vector<Answer> expected;
    for (int i = 0; i < 12; ++i) {
        Client client(options_of(1));
        expected.push_back(client.run(request_of(3 + i, 4, static_cast<uint64_t>(i))));
    }
    options.cache_bytes = 64 << 20;
    for (const auto rest : {0ms, 1ms, 30ms}) {
        Client client(options);
        std::this_thread::sleep_for(rest);
        std::vector<uint64_t> ids;
        for (int i = 0; i < 12; ++i)
            ids.push_back(client.submit(request_of(3 + i, 4, static_cast<uint64_t>(i))));
        for (size_t i = 0; i < ids.size(); ++i) CHECK(same(client.wait(ids[i]), expected[i]));
        client.engine().clear_cache();
        CHECK(same(client.run(request_of(3, 4, 0)), expected[0]));
    }
    model = usual;
}

int main() {
    skip_unless_isa_usable();
    model = tiny_model();
    vocab = byte_vocab();
    test_alone_and_in_a_full_batch();
    test_streams_stay_apart();
    test_finish_reasons();
    test_undecodable_ids();
    test_cancel_while_queued();
    test_cancel_while_prefilling();
    test_cancel_while_decoding();
    test_cancel_at_the_end();
    test_queue_limit();
    test_queue_limit_beside_free_slots();
    test_long_prompt_beside_a_stream();
    test_events_are_merged_until_polled();
    test_quiet();
    test_polls_beside_the_ring();
    test_start_states();
    test_refused_requests();
    test_not_a_number();
    test_error_after_text();
    test_error_after_quiet_text();
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    test_failing_step();
    test_guesses_without_memory();
#endif
    test_destroyed_at_work();
    test_idle_costs_nothing();
    test_speculation();
    test_embeddings_in_every_phase();
    test_embeddings();
    test_large_states();
    test_a_crowd_leaves_room();
    test_storm();
    return report();
}
