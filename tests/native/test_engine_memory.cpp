// The engine where memory runs out: whoever waits for an answer hears of it, once, and what was
// said before stays said. `operator new` is told from which allocation on to fail, and on whose
// threads.
#include "check.h"
#include "engine/engine.h"
#include "engine/state_trie.h"
#include "sampling/sampler.h"
#include "tiny_model.h"

#include <rwkv.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <map>
#include <new>
#include <string>
#include <thread>
#include <vector>

namespace {

thread_local bool is_main = false;
std::atomic<bool> fails_main{false}, fails_others{false};
std::atomic<int64_t> left{0};  // allocations that still succeed

void *allocate(size_t size) {
    if ((is_main ? fails_main : fails_others) && left.fetch_sub(1) <= 0) throw std::bad_alloc();
    if (void *memory = std::malloc(std::max<size_t>(size, 1))) return memory;
    throw std::bad_alloc();
}

}  // namespace

void *operator new(size_t size) { return allocate(size); }
void *operator new[](size_t size) { return allocate(size); }
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete[](void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, size_t) noexcept { std::free(memory); }
void operator delete[](void *memory, size_t) noexcept { std::free(memory); }

namespace {

using namespace std::chrono_literals;
using rwkv::Engine;
using rwkv::Event;
using rwkv::Finish;
using rwkv::Request;

std::shared_ptr<rwkv::Model> model;
std::shared_ptr<const rwkv::Vocab> vocab;

// Memory runs out for as long as it lives, after so many allocations more.
class Shortage {
public:
    Shortage(std::atomic<bool> &whose, int64_t after) : whose_(whose) {
        left = after;
        whose_ = true;
    }
    ~Shortage() { whose_ = false; }

private:
    std::atomic<bool> &whose_;
};

Request request_of(int64_t prompt, int64_t max_tokens) {
    Random random{3};
    Request request;
    for (int64_t i = 0; i < prompt; ++i)
        request.prompt.push_back(static_cast<int32_t>(1 + random.below(256)));
    request.max_tokens = max_tokens;
    return request;
}

struct Heard {
    size_t tokens = 0;
    int finals = 0;
    int64_t completion = 0;
};

// Until all of them have ended; false after a minute.
bool listen(Engine &engine, std::map<uint64_t, Heard> &heard) {
    const auto end = std::chrono::steady_clock::now() + 60s;
    for (;;) {
        for (const Event &event : engine.poll()) {
            Heard &one = heard[event.id];
            CHECK(one.finals == 0);
            one.finals += event.finish != Finish::running;
            one.tokens += event.tokens.size();
            one.completion = event.completion_tokens;
            CHECK(event.logprobs.size() == event.tokens.size() * event.logprob_width);
        }
        if (std::ranges::all_of(heard, [](const auto &one) { return one.second.finals > 0; }))
            return true;
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::sleep_for(100us);
    }
}

// At whatever allocation it begins. Draws, prompts, guesses, kept states and events all need some.
void test_every_end_is_heard() {
    rwkv::EngineOptions options;
    options.max_batch = 4;
    options.prefill_chunk = 16;
    options.cache_bytes = 1 << 20;
    int cut_short = 0;
    for (int64_t after = 0; after < 60; ++after) {
        Engine engine(model, vocab, options);
        std::map<uint64_t, Heard> heard;
        const auto submit = [&](Request request) {
            request.sampling.logprobs = 2;
            heard[engine.submit(std::move(request))] = {};
        };
        {
            const Shortage shortage(fails_others, after);
            for (int i = 0; i < 3; ++i) {
                submit(request_of(5 + 20 * i, 30));
                Request quiet = request_of(3, 20);
                quiet.quiet = true;
                quiet.speculate = 4;
                submit(quiet);
            }
            engine.cancel(heard.begin()->first);
            CHECK(listen(engine, heard));
        }
        for (const auto &[id, one] : heard) {
            CHECK(one.finals == 1);
            CHECK(static_cast<int64_t>(one.tokens) == one.completion);
            cut_short += one.completion < 20;
        }
        // And it goes on.
        heard.clear();
        submit(request_of(4, 5));
        CHECK(listen(engine, heard));
        CHECK(heard.begin()->second.tokens == 5);
        const auto stats = engine.stats();
        CHECK(stats.waiting + stats.prefilling + stats.running == 0);
        CHECK(stats.finished + stats.cancelled == stats.submitted);
    }
    CHECK(cut_short > 60);
}

// The first draw of a thread makes its memory.
void test_a_first_draw_without_memory() {
    std::vector<float> logits(257, 0.5f);
    int drawn = 0, refused = 0;
    for (int64_t after = 0; after < 12; ++after) {
        rwkv::SamplingOptions options;
        options.bias = {{1, 0.25f}};
        rwkv::Sampler sampler(options, {});
        std::thread([&] {
            const Shortage shortage(fails_others, after);
            try {
                sampler.draw_in_place(logits);
                ++drawn;
            } catch (const std::bad_alloc &) {
                ++refused;
            }
        }).join();
    }
    CHECK(refused > 0 && drawn > 0 && refused + drawn == 12);
}

// Through the C interface: events that could not be handed out are those of the next poll.
void test_poll_loses_nothing() {
    for (int64_t after = 0; after < 4; ++after) {
        rwkv_engine_options options{};
        options.size = sizeof options;
        std::vector<rwkv_tensor> index;
        const TinyTensors tiny{TinyShape{}};
        for (const rwkv::Tensor &tensor : tiny.tensors()) {
            rwkv_tensor row{};
            row.name = tensor.name.c_str();
            row.data = tensor.data;
            row.dtype = RWKV_F32;
            row.rank = static_cast<int32_t>(tensor.shape.size());
            std::ranges::copy(tensor.shape, row.shape);
            std::ranges::copy(tensor.stride, row.stride);
            row.nbytes = static_cast<uint64_t>(tensor.count()) * sizeof(float);
            index.push_back(row);
        }
        rwkv_load *load = nullptr;
        rwkv_model *loaded = nullptr;
        rwkv_vocab *words = nullptr;
        rwkv_engine *engine = nullptr;
        CHECK(rwkv_load_start(&load, index.data(), index.size(), nullptr) == RWKV_OK);
        CHECK(rwkv_load_finish(&loaded, load) == RWKV_OK);
        std::vector<uint64_t> offsets{0, 0};
        std::string bytes;
        for (int b = 0; b < 256; ++b)
            bytes += static_cast<char>(b), offsets.push_back(bytes.size());
        CHECK(rwkv_vocab_new(&words, reinterpret_cast<const uint8_t *>(bytes.data()),
                             offsets.data(), 257) == RWKV_OK);
        CHECK(rwkv_engine_new(&engine, loaded, words, &options) == RWKV_OK);
        rwkv_request request;
        rwkv_request_init(&request);
        const int32_t prompt[] = {66, 67, 68};
        request.tokens = prompt, request.n_tokens = 3, request.max_tokens = 4;
        uint64_t id = 0;
        for (int i = 0; i < 40; ++i) CHECK(rwkv_engine_submit(&id, engine, &request) == RWKV_OK);
        rwkv_engine_stats stats{};
        stats.size = sizeof stats;
        for (int i = 0; i < 60000 && stats.finished < 40; ++i) {
            std::this_thread::sleep_for(1ms);
            rwkv_engine_describe(&stats, engine);
        }
        const rwkv_event *events = nullptr;
        size_t n = 0, ended = 0;
        int status;
        {
            const Shortage shortage(fails_main, after);
            status = rwkv_engine_poll(&events, &n, engine);
        }
        CHECK(status == RWKV_OK || status == RWKV_NO_MEMORY);
        CHECK(after > 0 || status == RWKV_NO_MEMORY);
        if (status != RWKV_OK) {
            CHECK(n == 0 && events == nullptr);
            CHECK(rwkv_engine_poll(&events, &n, engine) == RWKV_OK);
        }
        for (size_t i = 0; i < n; ++i)
            ended += events[i].finish == RWKV_FINISH_LENGTH && events[i].n_tokens == 4;
        CHECK(ended == 40);
        rwkv_engine_free(engine);
        rwkv_vocab_free(words);
        rwkv_model_free(loaded);
    }
}

// What is kept is dropped because memory has run out: that must not need any.
void test_a_cache_is_cleared_without_memory() {
    const auto backend = rwkv::open_backend("cpu", 1);
    const std::vector<float> numbers(4, 1.0f);
    const auto saved = [&] { return backend->save(numbers.data(), numbers.size()); };
    rwkv::StateTrie cache(16, 16);
    cache.set_limit(1 << 20);
    Random random{5};
    for (int i = 0; i < 200; ++i) {
        std::vector<int32_t> tokens;
        for (int64_t n = 1 + random.below(6); n > 0; --n)
            tokens.push_back(static_cast<int32_t>(random.below(3)));
        const auto room = cache.insert(nullptr, tokens, random.below(2));
        if (room.state) *room.state = saved();
        if (room.logits) *room.logits = saved();
    }
    CHECK(cache.entries() > 20);
    bool cleared = true;
    {
        const Shortage shortage(fails_main, 0);
        try {
            cache.clear();
        } catch (const std::bad_alloc &) {
            cleared = false;
        }
    }
    CHECK(cleared);
    CHECK(cache.entries() == 0 && cache.bytes() == 0);
    const std::vector<int32_t> tokens{1, 2};
    CHECK(cache.insert(nullptr, tokens, false).state != nullptr);
}

}  // namespace

int main() {
    is_main = true;
    skip_unless_isa_usable();
    model = tiny_model({.layers = 1, .width = 16, .ffn = 16});
    vocab = byte_vocab();
    test_a_cache_is_cleared_without_memory();
    test_poll_loses_nothing();
    test_every_end_is_heard();
    test_a_first_draw_without_memory();
    return report();
}
