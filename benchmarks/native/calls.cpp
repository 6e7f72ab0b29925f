// What the C interface costs when C calls it: the floor under benchmarks/bindings.py, which
// compiles this file against the engine's library and makes the same calls from Python. The model
// is the smallest that version 7 allows, so that the call is timed and not the arithmetic.
//
//   calls REPEATS   ->   {"forward": [us ...], "submit": [us ...], "poll": [us ...]}
#include <rwkv.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void die(const char *what) {
    std::fprintf(stderr, "%s: %s\n", what, rwkv_last_error());
    std::exit(1);
}

void check(int status, const char *what) {
    if (status != RWKV_OK) die(what);
}

// The tensors of a model with one layer, in memory.
class TinyModel {
public:
    static constexpr int64_t width = 64, ffn = 64, vocab = 256, rank = 16;

    TinyModel() {
        const int64_t D = width;
        add("emb.weight", {vocab, D});
        add("head.weight", {vocab, D});
        for (const char *norm : {"blocks.0.ln0", "blocks.0.ln1", "blocks.0.ln2",
                                 "blocks.0.att.ln_x", "ln_out"}) {
            add(std::string(norm) + ".weight", {D});
            add(std::string(norm) + ".bias", {D});
        }
        for (const char *name :
             {"x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "k_k", "k_a"})
            add(std::string("blocks.0.att.") + name, {1, 1, D});
        for (const char *name : {"w", "a", "g"}) {
            add(std::string("blocks.0.att.") + name + "1", {D, rank});
            add(std::string("blocks.0.att.") + name + "2", {rank, D});
        }
        add("blocks.0.att.r_k", {1, D});
        for (const char *name : {"receptance", "key", "value", "output"})
            add(std::string("blocks.0.att.") + name + ".weight", {D, D});
        add("blocks.0.ffn.x_k", {1, 1, D});
        add("blocks.0.ffn.key.weight", {ffn, D});
        add("blocks.0.ffn.value.weight", {D, ffn});
    }

    rwkv_model *load() const {
        rwkv_model_options options = {};
        options.size = sizeof options;
        options.strategy = "cpu fp32";
        options.threads = 1;
        rwkv_load *loading = nullptr;
        check(rwkv_load_start(&loading, tensors_.data(), tensors_.size(), &options), "load");
        rwkv_model *model = nullptr;
        check(rwkv_load_finish(&model, loading), "load");
        return model;
    }

private:
    void add(const std::string &name, std::vector<int64_t> shape) {
        int64_t count = 1;
        for (int64_t n : shape) count *= n;
        names_.push_back(name);
        std::vector<float> values(static_cast<size_t>(count));
        for (float &v : values) {
            seed_ = seed_ * 1664525u + 1013904223u;
            v = static_cast<float>(seed_ >> 8) / static_cast<float>(1 << 24) - 0.5f;
        }
        values_.push_back(std::move(values));
        rwkv_tensor t = {};
        t.name = names_.back().c_str();
        t.data = values_.back().data();
        t.dtype = RWKV_F32;
        t.rank = static_cast<int32_t>(shape.size());
        int64_t stride = 1;
        for (size_t i = shape.size(); i-- > 0;) {
            t.shape[i] = shape[i];
            t.stride[i] = stride;
            stride *= shape[i];
        }
        t.nbytes = static_cast<uint64_t>(count) * sizeof(float);
        tensors_.push_back(t);
    }

    uint32_t seed_ = 1;
    std::deque<std::string> names_;  // a deque: pointers into it stay valid
    std::deque<std::vector<float>> values_;
    std::vector<rwkv_tensor> tensors_;
};

rwkv_vocab *byte_vocab() {
    uint8_t blob[256];
    uint64_t offsets[257];
    for (uint64_t i = 0; i < 256; ++i) {
        blob[i] = static_cast<uint8_t>(i);
        offsets[i] = i;
    }
    offsets[256] = 256;
    rwkv_vocab *vocab = nullptr;
    check(rwkv_vocab_new(&vocab, blob, offsets, 256), "vocab");
    return vocab;
}

template <typename Work>
double microseconds(Work work) {
    const Clock::time_point start = Clock::now();
    work();
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

void print(const char *name, const std::vector<double> &values, const char *end) {
    std::printf("\"%s\": [", name);
    for (size_t i = 0; i < values.size(); ++i) std::printf("%s%.3f", i ? ", " : "", values[i]);
    std::printf("]%s", end);
}

// Waits until nothing runs; returns the number of events that came.
void drain(rwkv_engine *engine, size_t open) {
    while (open > 0) {
        const rwkv_event *events = nullptr;
        size_t n = 0;
        check(rwkv_engine_poll(&events, &n, engine), "poll");
        for (size_t i = 0; i < n; ++i) open -= events[i].finish != RWKV_RUNNING;
        if (n == 0) std::this_thread::yield();
    }
}

}  // namespace

int main(int argc, char **argv) {
    const int repeats = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1000;
    const TinyModel tiny;
    rwkv_model *model = tiny.load();
    rwkv_vocab *vocab = byte_vocab();

    // As Model.forward does it: a copy of the state, the step, and the old state thrown away.
    std::vector<double> forward;
    std::vector<float> logits(TinyModel::vocab);
    rwkv_state *state = nullptr;
    check(rwkv_state_new(&state, model), "state");
    for (int i = 0; i < repeats; ++i) {
        const int32_t token = 1 + i % 255;
        forward.push_back(microseconds([&] {
            rwkv_state *next = nullptr;
            check(rwkv_state_clone(&next, state), "clone");
            check(rwkv_model_forward(logits.data(), model, next, &token, 1, 0), "forward");
            rwkv_state_free(state);
            state = next;
        }));
    }
    rwkv_state_free(state);

    rwkv_engine_options options = {};
    options.size = sizeof options;
    rwkv_engine *engine = nullptr;
    check(rwkv_engine_new(&engine, model, vocab, &options), "engine");
    std::vector<int32_t> prompt(16);
    for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(65 + i);
    rwkv_request request = {};
    rwkv_request_init(&request);
    request.tokens = prompt.data();
    request.n_tokens = prompt.size();
    request.max_tokens = 1;
    std::vector<double> submit, poll;
    for (int i = 0; i < repeats; ++i) {
        uint64_t id = 0;
        submit.push_back(microseconds(
            [&] { check(rwkv_engine_submit(&id, engine, &request), "submit"); }));
        if (i % 16 == 15) drain(engine, 16);
    }
    drain(engine, static_cast<size_t>(repeats % 16));
    for (int i = 0; i < repeats; ++i) {
        const rwkv_event *events = nullptr;
        size_t n = 0;
        poll.push_back(microseconds([&] { check(rwkv_engine_poll(&events, &n, engine), "poll"); }));
    }
    std::printf("{");
    print("forward", forward, ", ");
    print("submit", submit, ", ");
    print("poll", poll, "}\n");
    rwkv_engine_free(engine);
    rwkv_vocab_free(vocab);
    rwkv_model_free(model);
    return 0;
}
