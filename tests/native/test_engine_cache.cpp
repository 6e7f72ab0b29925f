// The engine with kept states: what a follow-up reads, where an answer's state is kept, that
// answers are those of an engine without, under eviction, speculation, cancelling and from several
// threads.
#include "check.h"
#include "engine/engine.h"
#include "error.h"
#include "tiny_model.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace {

using rwkv::Engine;
using rwkv::EngineOptions;
using rwkv::Event;
using rwkv::Finish;
using rwkv::Request;
using Ids = std::vector<int32_t>;

std::shared_ptr<rwkv::Model> model;
std::shared_ptr<const rwkv::Vocab> vocab;

constexpr int64_t plenty = int64_t{64} << 20;

EngineOptions keeping(int64_t bytes, int32_t max_batch = 8, int32_t speculate = 0) {
    EngineOptions options;
    options.max_batch = max_batch;
    options.prefill_chunk = 32;
    options.cache_bytes = bytes;
    options.speculate = speculate;
    return options;
}

// Waits for one request, which is the only one.
Event run(Engine &engine, const Request &request) {
    const uint64_t id = engine.submit(request);
    Event whole;
    while (whole.finish == Finish::running) {
        for (const Event &event : engine.poll())
            if (event.id == id) whole.append(event);
        std::this_thread::yield();
    }
    CHECK(whole.finish != Finish::error);
    return whole;
}

// Prompt tokens that one request makes the engine read.
int64_t reads(Engine &engine, const Request &request) {
    const int64_t before = engine.stats().prompt_tokens;
    const Event event = run(engine, request);
    const int64_t read = engine.stats().prompt_tokens - before;
    CHECK(read + event.cached_tokens == static_cast<int64_t>(request.prompt.size()));
    return read;
}

Ids ids_of(const std::string &text) {
    Ids ids;
    for (const char c : text) ids.push_back(1 + static_cast<unsigned char>(c));
    return ids;
}

Request asking(const std::string &prompt, int64_t max_tokens) {
    Request request;
    request.prompt = ids_of(prompt);
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    return request;
}

// Says these bytes, each of which may occur once, and then 0.
Request saying(const std::string &prompt, const std::string &text, int64_t max_tokens = 100) {
    Request request = asking(prompt, max_tokens);
    request.sampling.presence_penalty = 2000;
    float bias = 4000;
    for (const int32_t id : ids_of(text)) request.sampling.bias.emplace_back(id, bias -= 10);
    request.sampling.bias.emplace_back(0, bias - 10);
    request.end_ids = {0};
    return request;
}

bool near(const Event &a, const Event &b) {
    if (a.tokens != b.tokens || a.text != b.text || a.finish != b.finish) return false;
    for (size_t i = 0; i < a.logprobs.size(); ++i)
        if (std::fabs(a.logprobs[i] - b.logprobs[i]) > 1e-4f) return false;
    return true;
}

const std::string question = "a question that is long enough to be cut into chunks";  // 52 tokens

void test_a_repeated_prompt_is_not_read() {
    Engine engine(model, vocab, keeping(plenty));
    const auto length = static_cast<int64_t>(question.size());
    Request request = asking(question, 20);
    request.sampling.logprobs = 2;
    const Event first = run(engine, request);
    const int64_t steps = engine.stats().steps;
    const Event again = run(engine, request);
    CHECK(first.cached_tokens == 0 && again.cached_tokens == length);
    CHECK(again.tokens == first.tokens && again.text == first.text);
    CHECK(again.logprobs == first.logprobs);  // bit for bit: the logits were kept
    CHECK(engine.stats().steps - steps == 19);
    CHECK(engine.stats().completion_tokens == 40);
    request.max_tokens = 1;  // ends without a step
    CHECK(run(engine, request).tokens == Ids(first.tokens.begin(), first.tokens.begin() + 1));
    CHECK(engine.stats().steps - steps == 19 && engine.stats().completion_tokens == 41);
    // A part of a prompt only counts with logits: here there are none.
    CHECK(reads(engine, asking(question.substr(0, 50), 1)) == 50);
    const auto stats = engine.cache_stats();
    CHECK(stats.hits == 2 && stats.misses == 2 && stats.limit == plenty);
    CHECK(stats.asked_tokens == 3 * length + 50 && stats.cached_tokens == 2 * length);
    CHECK(stats.saved == 3 && stats.entries == 3 && stats.evicted == 0 && stats.bytes > 0);
}

void test_where_an_answer_is_kept() {
    Engine engine(model, vocab, keeping(plenty));
    int number = 0;
    // Tokens of the answer that a prompt which continues it finds.
    const auto kept = [&](Request request, const std::string &more) {
        const std::string prompt = std::to_string(number++) + question;
        request.prompt = ids_of(prompt);
        const std::string text = run(engine, request).text;
        return run(engine, asking(prompt + text + more, 1)).cached_tokens -
               static_cast<int64_t>(prompt.size());
    };
    CHECK(kept(saying("", "abcd"), "xy") == 4);     // its end token is not part of it
    CHECK(kept(saying("", "abcd", 3), "xy") == 2);  // the last token has not been read
    CHECK(kept(saying("", "abcd", 1), "xy") == 0);
    const auto stopped = [&](const std::string &text, std::vector<std::string> stops,
                             int64_t max_tokens = 100) {
        Request request = saying("", text, max_tokens);
        request.stops = std::move(stops);
        return kept(request, "\t\nxy");
    };
    CHECK(stopped("abcd\tUs", {"\tUs"}) == 4);             // before what was held back
    CHECK(stopped("abcd\te\nUs", {"\tUs", "\nUs"}) == 6);  // the latter of two
    CHECK(stopped("abcd\t", {"\tUs"}) == 5);               // it turned out to be no stop
    CHECK(stopped("abcd\tU", {"\tUs"}, 6) == 5);
    CHECK(stopped("abcd", {"c"}) == 2);  // never held back
    CHECK(stopped("a", {"a"}) == 0);
    CHECK(stopped("ab\n\tcU", {"\n\tcd", "\tcU"}) == 2);  // the hold moved on: shorter, and right
    Request request = saying("", "abcd");
    request.stop_ids = {1 + 'd'};
    CHECK(kept(request, "xy") == 3);
}

void test_a_prompt_is_kept_where_it_is_asked_for() {
    Engine engine(model, vocab, keeping(plenty));
    Request request = asking(question, 1);
    request.save_at = {5, 20, 30, 45};
    CHECK(reads(engine, request) == 52);
    CHECK(engine.cache_stats().entries == 3);  // 5 and 30 are few tokens behind another
    CHECK(reads(engine, asking(question.substr(0, 20) + "?", 1)) == 1);
    CHECK(reads(engine, asking(question.substr(0, 40) + "?", 1)) == 21);
    CHECK(reads(engine, asking(question.substr(0, 47) + "?", 1)) == 3);
    CHECK(reads(engine, asking(question + "?", 1)) == 1);
    for (const std::vector<int64_t> &wrong :
         {std::vector<int64_t>{0}, {-1, 3}, {3, 3}, {4, 3}, {53}}) {
        request.save_at = wrong;
        CHECK_THROWS(engine.submit(request), "save_at must hold ascending numbers");
    }
}

// Where nothing will be kept the prompt is not cut, either.
void test_marks_that_keep_nothing_cost_no_steps() {
    rwkv::EngineOptions options = keeping(plenty);
    options.prefill_chunk = 256;
    Engine engine(model, vocab, options);
    Request request = asking(std::string(512, 'x'), 1);
    for (int64_t at = 4; at < 512; at += 4) request.save_at.push_back(at);
    CHECK(reads(engine, request) == 512);
    CHECK(engine.stats().steps <= 512 / 16);
    CHECK(engine.cache_stats().entries <= 512 / 16);
    CHECK(reads(engine, asking(std::string(100, 'x') + "?", 1)) <= 16 + 4);
}

// The state of an embedding has moved in some layers alone: texts must never go on from it.
void test_embeddings_keep_nothing() {
    Engine engine(model, vocab, keeping(plenty)), plain(model, vocab, keeping(0));
    Request embedding = asking(question, 0);
    embedding.dimensions = 8;
    embedding.save_at = {20, 40};
    CHECK_THROWS(engine.submit(embedding), "save_at");
    embedding.save_at.clear();
    run(engine, embedding);
    CHECK(engine.cache_stats().entries == 0);
    const Request follow_up = asking(question.substr(0, 40) + "?", 8);
    const Event after = run(engine, follow_up);
    CHECK(after.cached_tokens == 0 && near(after, run(plain, follow_up)));
}

void test_start_states_stay_apart() {
    Engine engine(model, vocab, keeping(plenty)), plain(model, vocab, keeping(0));
    Random random{5};
    std::array<Request, 3> requests;
    for (size_t i = 0; i < 3; ++i) {
        requests[i] = asking("hi", 12);
        if (i == 0) continue;
        std::vector<float> start(model->state_floats());
        for (float &x : start) x = static_cast<float>(random.between(-1, 1));
        requests[i].state = std::make_shared<const std::vector<float>>(std::move(start));
    }
    std::array<Event, 3> first;
    for (size_t i = 0; i < 3; ++i) {
        first[i] = run(engine, requests[i]);
        CHECK(first[i].cached_tokens == 0);
        CHECK(near(first[i], run(plain, requests[i])));
    }
    CHECK(first[0].tokens != first[1].tokens && first[1].tokens != first[2].tokens);
    for (size_t i = 0; i < 3; ++i) {
        const Event again = run(engine, requests[i]);
        CHECK(again.cached_tokens == 2 && again.tokens == first[i].tokens);
    }
}

void test_control() {
    Engine engine(model, vocab, keeping(0));
    CHECK(reads(engine, asking(question, 2)) == 52);
    CHECK(reads(engine, asking(question, 2)) == 52);
    CHECK(engine.cache_stats().saved == 0 && engine.cache_stats().misses == 0);
    engine.resize_cache(plenty);
    CHECK(reads(engine, asking(question, 2)) == 52);
    CHECK(reads(engine, asking(question, 2)) == 0);
    engine.clear_cache();
    CHECK(reads(engine, asking(question, 2)) == 52);
    CHECK(reads(engine, asking(question, 2)) == 0);
    CHECK(engine.cache_stats().evicted == 0);
    engine.resize_cache(0);
    CHECK(reads(engine, asking(question, 2)) == 52);
    CHECK(engine.cache_stats().bytes == 0 && engine.cache_stats().entries == 0);
    CHECK_THROWS(engine.resize_cache(-1), "cache_bytes is -1");
    CHECK_THROWS(Engine(model, vocab, keeping(-1)), "cache_bytes is -1");

    const auto usual = model;
    model = tiny_model({.version = "7b", .width = 256});
    {
        Engine whole(model, vocab, keeping(plenty));
        CHECK(reads(whole, asking(question, 2)) == 52);
        CHECK(reads(whole, asking(question, 2)) == 52);
        CHECK(whole.cache_stats().limit == 0);
    }
    model = usual;
}

void test_other_tokens_for_the_same_text() {
    std::vector<std::string> tokens(257);
    for (size_t i = 1; i < 257; ++i) tokens[i] = static_cast<char>(i - 1);
    tokens[0] = "ab";
    Engine engine(model, std::make_shared<const rwkv::Vocab>(tokens), keeping(plenty));
    Request request = asking("xa", 1);
    run(engine, request);
    request.prompt = {1 + 'x', 0};  // the text goes on, and its tokens do not
    CHECK(reads(engine, request) == 2);
    CHECK(engine.cache_stats().reworded == 1);
    CHECK(reads(engine, request) == 0);
    CHECK(engine.cache_stats().reworded == 1);
}

// A conversation, turn by turn: each continues what was shown of the answer.
struct Talk {
    Random random;
    Request request{};

    explicit Talk(uint64_t seed) : random{seed} { say(1 + random.below(60)); }

    void say(int64_t n) {
        for (; n > 0; --n)
            request.prompt.push_back(static_cast<int32_t>(1 + 'a' + random.below(8)));
        if (random.below(2))
            request.save_at = {static_cast<int64_t>(
                1 + random.below(static_cast<int64_t>(request.prompt.size())))};
        request.max_tokens = 1 + random.below(30);
        request.stops = {"bcd", "ccb", "e"};
        request.stops.resize(static_cast<size_t>(random.below(4)));
        request.end_ids = Ids(static_cast<size_t>(random.below(2)), 1 + 'g');
        request.sampling.seed = random.next();
        request.sampling.temperature = random.below(2) ? 0 : 0.7;
        request.sampling.logprobs = 1;
        request.sampling.forbidden.clear();
        for (int32_t id = 0; id < 257; ++id)
            if (id < 1 + 'a' || id > 1 + 'h') request.sampling.forbidden.push_back(id);
        request.speculate = static_cast<int32_t>(4 * random.below(2));
    }
    void hear(const Event &answer) {
        const Ids said = ids_of(answer.text);
        request.prompt.insert(request.prompt.end(), said.begin(), said.end());
        request.save_at.clear();
        if (request.prompt.size() > 300) request.prompt.resize(20);
        say(random.below(20));
    }
};

// Kept states change when an answer comes and never what it is; also with little room, and guesses.
void test_conversations_of_every_version() {
    const auto usual = model;
    for (const char *version : {"4", "5.0", "5.1", "5.2", "6.0", "7", "7a", "8rc"}) {
        model = tiny_model({.version = version});
        const auto room = static_cast<int64_t>(6 * 4 * model->state_floats());
        Engine plain(model, vocab, keeping(0)), wide(model, vocab, keeping(plenty)),
            narrow(model, vocab, keeping(room, 8, 3));
        for (uint64_t seed = 1; seed <= 2; ++seed) {
            Talk talk(seed);
            for (int turn = 0; turn < 12; ++turn) {
                const Event expected = run(plain, talk.request);
                CHECK(near(run(wide, talk.request), expected));
                Request bold = talk.request;
                bold.speculate = -1;
                CHECK(near(run(narrow, bold), expected));
                CHECK(narrow.cache_stats().bytes <= room);
                talk.hear(expected);
            }
        }
        CHECK(wide.cache_stats().evicted == 0 && narrow.cache_stats().evicted > 0);
        CHECK(wide.cache_stats().hits > 16 && narrow.cache_stats().hits > 5);
        CHECK(2 * wide.stats().prompt_tokens < plain.stats().prompt_tokens);
    }
    model = usual;
}

// Several threads talk and hang up while another one resizes and clears what is kept: once in a
// while as answers end, not as time goes by, so that on a busy machine, too, most turns find what
// the ones before them left.
void test_storm() {
    constexpr int threads = 4, turns = 25;
    Engine engine(model, vocab, keeping(plenty, 8, 4)), plain(model, vocab, keeping(0));
    struct Turn {
        Request request;
        Event answer;
        bool cancelled;
    };
    std::vector<std::vector<Turn>> talks(threads);
    std::mutex mutex;
    std::map<uint64_t, Event> answers;
    std::atomic<int> working{threads};
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t)
        workers.emplace_back([&, t] {
            Talk talk(static_cast<uint64_t>(1 + t / 2));  // two of each: their texts meet
            Random random{static_cast<uint64_t>(50 + t)};
            for (int turn = 0; turn < turns; ++turn) {
                const uint64_t id = engine.submit(talk.request);
                const bool cancels = random.below(4) == 0;
                if (cancels && random.below(2)) std::this_thread::yield();
                if (cancels) engine.cancel(id);
                Event answer;
                while (answer.finish == Finish::running) {
                    std::this_thread::yield();
                    const std::lock_guard lock(mutex);
                    answer = answers[id];
                }
                talks[static_cast<size_t>(t)].push_back({talk.request, answer, cancels});
                talk.hear(answer);
            }
            --working;
        });
    Random random{9};
    int64_t ended = 0, disturbed = 0;
    while (working > 0) {
        int64_t ends = 0;
        {
            const std::lock_guard lock(mutex);
            for (const Event &event : engine.poll()) {
                answers[event.id].append(event);
                ends += event.finish != Finish::running;
            }
        }
        ended += ends;
        for (; ends > 0; --ends) {
            const int64_t choice = random.below(40);
            if (choice == 0) engine.clear_cache();
            if (choice == 1) engine.resize_cache(random.below(2) ? plenty : random.below(200000));
            if (choice == 2) engine.resize_cache(0);
            if (choice == 3) engine.resize_cache(plenty);
            disturbed += choice < 3;
        }
        std::this_thread::yield();
        CHECK(engine.cache_stats().hits >= 0);
    }
    for (std::thread &worker : workers) worker.join();
    CHECK(ended <= threads * turns && disturbed > 0);
    CHECK(engine.cache_stats().hits > 0);
    for (const auto &talk : talks)
        for (const auto &[request, answer, cancelled] : talk) {
            const Event expected = run(plain, request);
            if (cancelled && answer.finish == Finish::cancel)
                CHECK(std::equal(answer.tokens.begin(), answer.tokens.end(),
                                 expected.tokens.begin()));
            else
                CHECK(near(answer, expected));
        }
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    model = tiny_model();
    vocab = byte_vocab();
    test_a_repeated_prompt_is_not_read();
    test_where_an_answer_is_kept();
    test_a_prompt_is_kept_where_it_is_asked_for();
    test_marks_that_keep_nothing_cost_no_steps();
    test_embeddings_keep_nothing();
    test_start_states_stay_apart();
    test_control();
    test_other_tokens_for_the_same_text();
    test_conversations_of_every_version();
    test_storm();
    return report();
}
