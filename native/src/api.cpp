// The C ABI over the C++ engine: argument checks, and the one place where exceptions become codes.
// Nothing is computed here.
#include "backend.h"
#include "engine/engine.h"
#include "error.h"
#include "model/load.h"
#include "model/model.h"
#include "sampling/sampler.h"
#include "text/vocab.h"
#include "weights/change.h"
#include "weights/quant.h"

#include <rwkv.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <vector>

struct rwkv_model {
    std::shared_ptr<rwkv::Model> model;
};

struct rwkv_load {
    std::unique_ptr<rwkv::Load> load;
};

struct rwkv_state {
    std::shared_ptr<rwkv::Model> model;
    rwkv::States memory;  // a pool of one
    rwkv::TextCache cache;
    bool broken = false;  // a step has ended in the middle of it

    const rwkv_state &whole() const {
        if (broken)
            throw rwkv::invalid(
                "a call that failed has left this state half-way; go on from an earlier one");
        return *this;
    }

    // What requests start from: one copy for all that are queued with this state as it is now.
    std::shared_ptr<const std::vector<float>> share() const {
        const std::lock_guard lock(mutex);
        auto values = shared.lock();
        if (!values) {
            auto copy = std::make_shared<std::vector<float>>(model->state_floats());
            model->backend().download(*copy, memory.data);
            shared = values = std::move(copy);
        }
        return values;
    }
    // Before the state changes.
    void unshare() {
        const std::lock_guard lock(mutex);
        shared.reset();
    }

    mutable std::mutex mutex{};
    mutable std::weak_ptr<const std::vector<float>> shared{};
};

struct rwkv_vocab {
    std::shared_ptr<const rwkv::Vocab> vocab;
};

struct rwkv_engine {
    std::shared_ptr<rwkv::Model> model;
    std::unique_ptr<rwkv::Engine> engine;
    std::span<const rwkv::Event> polled{};
    bool owed = false;  // `polled` has not been handed out: there was no memory for `events`
    std::vector<rwkv_event> events{};  // of the last poll
};

namespace {

using rwkv::Error;
using rwkv::invalid;

thread_local std::string last_error;

int fail(rwkv_status status, const char *message) {
    try {
        last_error = message;
    } catch (...) {
        last_error.clear();
    }
    return status;
}

// Runs `body` and turns what it throws into a status.
template <class Body>
int guarded(Body &&body) {
    try {
        last_error.clear();
        body();
        return RWKV_OK;
    } catch (const Error &error) {
        return fail(error.status, error.what());
    } catch (const std::bad_alloc &) {
        return fail(RWKV_NO_MEMORY, "not enough memory");
    } catch (const std::exception &error) {
        return fail(RWKV_INTERNAL, error.what());
    } catch (...) {
        return fail(RWKV_INTERNAL, "an unknown exception");
    }
}

template <class T>
T &required(T *pointer, const char *what) {
    if (!pointer) throw invalid(std::string(what) + " is NULL");
    return *pointer;
}

// The caller's option struct, which may be older (shorter) than ours: missing fields are zero.
template <class T>
T sized(const T *given, const char *what) {
    T copy{};
    if (!given) return copy;
    if (given->size < sizeof(size_t) || given->size > sizeof(T)) {
        throw invalid(std::string(what) + ".size is " + std::to_string(given->size) +
                      ", expected at most " + std::to_string(sizeof(T)));
    }
    std::memcpy(&copy, given, given->size);
    return copy;
}

// Fills the caller's struct as far as it reaches.
template <class T>
void fill(T *out, T value, const char *what) {
    const size_t size = required(out, what).size;
    if (size < sizeof(size_t) || size > sizeof(T))
        throw invalid(std::string(what) + ".size is " + std::to_string(size));
    value.size = size;
    std::memcpy(out, &value, size);
}

template <size_t N>
void put(char (&out)[N], const std::string &text) {
    const size_t n = std::min(N - 1, text.size());
    std::memcpy(out, text.data(), n);
    out[n] = 0;
}

template <class T>
std::vector<T> list(const T *items, size_t n, const char *what) {
    if (n == 0) return {};
    if (!items) throw invalid(std::string(what) + " is NULL");
    return {items, items + n};
}

// Two arrays of the same length as one list.
template <class T>
std::vector<std::pair<int32_t, T>> pairs(const int32_t *ids, const T *values, size_t n,
                                         const char *ids_name, const char *values_name) {
    if (n > 0) {
        required(ids, ids_name);
        required(values, values_name);
    }
    std::vector<std::pair<int32_t, T>> out;
    for (size_t i = 0; i < n; ++i) out.emplace_back(ids[i], values[i]);
    return out;
}

void check_tokens(const int32_t *tokens, size_t n, int64_t vocab) {
    if (n == 0) throw invalid("tokens must hold at least one id");
    required(tokens, "tokens");
    for (size_t i = 0; i < n; ++i) {
        if (tokens[i] < 0 || tokens[i] >= vocab) {
            throw invalid("tokens[" + std::to_string(i) + "] is " + std::to_string(tokens[i]) +
                          ", outside [0, " + std::to_string(vocab) + ")");
        }
    }
}

rwkv::SamplingOptions sampling_options(const rwkv_sampling &s) {
    rwkv::SamplingOptions o;
    o.temperature = s.temperature;
    o.top_p = s.top_p;
    o.min_p = s.min_p;
    o.top_k = s.top_k;
    o.presence_penalty = s.presence_penalty;
    o.frequency_penalty = s.frequency_penalty;
    o.penalty_decay = s.penalty_decay;
    o.seed = s.seed;
    o.bias = pairs(s.bias_ids, s.bias_values, s.n_bias, "bias_ids", "bias_values");
    o.forbidden = list(s.forbidden, s.n_forbidden, "forbidden");
    o.no_repeat = list(s.no_repeat, s.n_no_repeat, "no_repeat");
    o.exempt = list(s.exempt, s.n_exempt, "exempt");
    o.global_penalty = s.global_penalty != 0;
    o.logprobs = s.logprobs;
    o.weights = pairs(s.weight_ids, s.weights, s.n_weights, "weight_ids", "weights");
    o.slopes = pairs(s.slope_ids, s.slopes, s.n_slopes, "slope_ids", "slopes");
    o.min_tokens = s.min_tokens;
    o.late = list(s.late, s.n_late, "late");
    return o;
}

rwkv::Request request_of(const rwkv_request &r, const rwkv::Model *model) {
    rwkv::Request request;
    request.prompt = list(r.tokens, r.n_tokens, "tokens");
    request.sampling = sampling_options(sized(&r.sampling, "sampling"));
    request.max_tokens = r.max_tokens;
    request.stop_ids = list(r.stop_ids, r.n_stop_ids, "stop_ids");
    request.end_ids = list(r.end_ids, r.n_end_ids, "end_ids");
    if (r.n_stops > 0) {
        required(r.stops, "stops");
        required(r.stop_sizes, "stop_sizes");
    }
    for (size_t i = 0; i < r.n_stops; ++i)
        request.stops.emplace_back(&required(r.stops[i], "stops"), r.stop_sizes[i]);
    if (r.state) {
        if (r.state->model.get() != model) throw invalid("the state belongs to another model");
        request.state = r.state->whole().share();
        request.cache = r.state->cache;
    }
    request.speculate = r.speculate;
    request.quiet = r.quiet != 0;
    request.save_at = list(r.save_at, r.n_save_at, "save_at");
    request.dimensions = r.dimensions;
    request.quick = r.quick != 0;
    request.client = r.client;
    request.group = r.group;
    request.n = r.n == 0 ? 1 : r.n;
    request.keep_state = r.keep_state != 0;
    request.score = r.score != 0;
    request.mask = {r.mask, r.mask_payload};
    return request;
}

rwkv::DType state_type(const std::string &name) {
    for (const rwkv::DType type : {rwkv::DType::f32, rwkv::DType::f16, rwkv::DType::bf16})
        if (name == rwkv::name_of(type)) return type;
    throw invalid("state_type is '" + name + "'; use fp32, fp16 or bf16");
}

const rwkv::StatePart &part(const rwkv::Model &model, int32_t i) {
    if (i < 0 || static_cast<size_t>(i) >= model.state_parts().size())
        throw invalid("a state has no part " + std::to_string(i));
    return model.state_parts()[static_cast<size_t>(i)];
}

void check_count(const rwkv::StatePart &p, size_t count) {
    if (count != static_cast<size_t>(p.count)) {
        throw invalid("the state part " + p.name + " has " + std::to_string(p.count) +
                      " elements, not " + std::to_string(count));
    }
}

// Checked; also keeps all sizes far from overflow.
size_t packed_size(int32_t dtype, int64_t rows, int64_t in) {
    const auto type = rwkv::packed_type(dtype);
    if (!type) throw invalid("dtype must be RWKV_I8, RWKV_I4 or RWKV_PACKED_F32, _F16 or _BF16");
    if (rows < 1 || in < 1 || rows > int64_t{1} << 40 || in > int64_t{1} << 20)
        throw invalid("rows and in must be at least 1, and at most 2^40 and 2^20");
    const auto panels =
        static_cast<size_t>((rows + rwkv::panels::kOutputs - 1) / rwkv::panels::kOutputs);
    return panels * rwkv::panels::bytes(*type, in);
}

}  // namespace

extern "C" {

const char *rwkv_last_error(void) { return last_error.c_str(); }

const char *rwkv_version(void) { return RWKV_VERSION; }

int rwkv_cpu_isa(const char **name) {
    return guarded([&] {
        thread_local std::string isa;
        isa = rwkv::cpu_isa();
        required(name, "name") = isa.c_str();
    });
}

// ---- model

int rwkv_load_start(rwkv_load **out, const rwkv_tensor *tensors, size_t n_tensors,
                    const rwkv_model_options *options) {
    return guarded([&] {
        required(out, "out") = nullptr;
        const rwkv_model_options o = sized(options, "options");
        if (o.threads < 0 || o.threads > 1024)
            throw invalid("threads is " + std::to_string(o.threads) + ", outside [0, 1024]");
        if (n_tensors > 0) required(tensors, "tensors");
        auto load = std::make_unique<rwkv::Load>(std::span(tensors, n_tensors),
                                                 o.strategy ? o.strategy : "", o.threads,
                                                 state_type(o.state_type ? o.state_type : "fp32"));
        *out = new rwkv_load{std::move(load)};
    });
}

int rwkv_load_progress(uint64_t *done, uint64_t *total, int32_t *finished, rwkv_load *load) {
    return guarded([&] {
        const rwkv::Load &l = *required(load, "load").load;
        if (done) *done = l.progress().done;
        if (total) *total = l.progress().total;
        if (finished) *finished = l.finished() ? 1 : 0;
    });
}

int rwkv_load_finish(rwkv_model **out, rwkv_load *load) {
    return guarded([&] {
        const std::unique_ptr<rwkv_load> owned(&required(load, "load"));
        required(out, "out") = nullptr;
        *out = new rwkv_model{owned->load->take()};
    });
}

void rwkv_load_cancel(rwkv_load *load) { delete load; }

int rwkv_packed_size(size_t *out, int32_t dtype, int64_t rows, int64_t in) {
    return guarded([&] { required(out, "out") = packed_size(dtype, rows, in); });
}

int rwkv_pack(uint8_t *out, double *loss, int32_t dtype, const float *weights, int64_t rows,
              int64_t in) {
    return guarded([&] {
        packed_size(dtype, rows, in);
        required(out, "out");
        required(weights, "weights");
        const rwkv::quant::Loss changed = rwkv::quant::pack(
            reinterpret_cast<std::byte *>(out), weights, *rwkv::packed_type(dtype), rows, in);
        required(loss, "loss");
        loss[0] = changed.error, loss[1] = changed.norm;
    });
}

int rwkv_change_rows(float *rows, int64_t first, int64_t n, int64_t out, int64_t in, int32_t change,
                     int64_t rank, float scale, const float *a, size_t n_a, const float *b,
                     size_t n_b) {
    return guarded([&] {
        if (change < RWKV_LOW_RANK || change > RWKV_MAGNITUDE)
            throw invalid("there is no change " + std::to_string(change));
        if (first < 0 || n < 0 || out < 1 || in < 1 || first > out || n > out - first)
            throw invalid("the rows lie outside of the matrix");
        rwkv::Change made{static_cast<rwkv::ChangeKind>(change), rank, scale, {}, {}};
        made.a.assign(&required(a, "a"), a + n_a);
        if (n_b > 0) made.b.assign(&required(b, "b"), b + n_b);
        rwkv::require_change_fits(made, out, in);
        if (n > 0) required(rows, "rows");
        for (int64_t i = 0; i < n; ++i) rwkv::change_row(rows + i * in, first + i, in, made);
    });
}

int rwkv_model_describe(rwkv_model_info *out, const rwkv_model *model) {
    return guarded([&] {
        const rwkv::ModelInfo &info = required(model, "model").model->info();
        rwkv_model_info o{};
        put(o.version, info.version);
        put(o.strategy, info.strategy);
        put(o.file_dtype, info.file_dtype);
        put(o.isa, info.isa);
        o.layers = static_cast<int32_t>(info.layers);
        o.width = static_cast<int32_t>(info.width);
        o.heads = static_cast<int32_t>(info.heads);
        o.head_size = static_cast<int32_t>(info.head_size);
        o.ffn = static_cast<int32_t>(info.ffn);
        o.vocab = static_cast<int32_t>(info.vocab);
        o.threads = info.threads;
        o.parameters = info.parameters;
        o.weight_bytes = info.weight_bytes;
        o.token_bytes = info.token_bytes;
        o.token_flops = info.token_flops;
        o.int8_weights = info.int8_weights;
        o.int4_weights = info.int4_weights;
        put(o.state_type, info.state_type);
        o.state_bytes = info.state_bytes;
        fill(out, o, "out");
    });
}

void rwkv_model_free(rwkv_model *model) { delete model; }

int rwkv_model_forward(float *logits, rwkv_model *model, rwkv_state *state, const int32_t *tokens,
                       size_t n, int32_t full) {
    return guarded([&] {
        rwkv::Model &m = *required(model, "model").model;
        const int64_t vocab = m.info().vocab;
        required(logits, "logits");
        if (required(state, "state").model.get() != &m)
            throw invalid("the state belongs to another model");
        check_tokens(tokens, n, vocab);
        state->whole();
        state->unshare();
        state->broken = true;
        constexpr size_t chunk = 256;  // bounds the activations, as the engine's default does
        for (size_t at = 0; at < n; at += chunk) {
            const size_t rows = std::min(chunk, n - at);
            const rwkv::Span span{0, static_cast<int32_t>(rows), 0, &state->cache};
            std::vector<int32_t> wanted;
            if (full)
                for (size_t i = 0; i < rows; ++i) wanted.push_back(static_cast<int32_t>(i));
            else if (at + rows == n)
                wanted.push_back(static_cast<int32_t>(rows - 1));
            m.forward({&state->memory, {tokens + at, rows}, {&span, 1}, wanted},
                      full ? logits + at * static_cast<size_t>(vocab) : logits);
        }
        state->broken = false;
    });
}

int rwkv_model_barriers(uint64_t *out, const rwkv_model *model) {
    return guarded(
        [&] { required(out, "out") = required(model, "model").model->backend().barriers(); });
}

// ---- state

int rwkv_state_new(rwkv_state **out, rwkv_model *model) {
    return guarded([&] {
        required(out, "out") = nullptr;
        auto &m = required(model, "model").model;
        *out = new rwkv_state{m, m->new_state(), {}, false};
    });
}

int rwkv_state_clone(rwkv_state **out, const rwkv_state *state) {
    return guarded([&] {
        required(out, "out") = nullptr;
        const rwkv_state &from = required(state, "state");
        auto copy = std::make_unique<rwkv_state>(from.model, from.model->new_state(), from.cache,
                                                 from.broken);
        from.model->backend().copy(copy->memory.data, from.memory.data, from.model->state_floats());
        *out = copy.release();
    });
}

void rwkv_state_free(rwkv_state *state) { delete state; }

int rwkv_state_describe(rwkv_state_part *out, const rwkv_model *model, int32_t i) {
    return guarded([&] {
        const rwkv::StatePart &p = part(*required(model, "model").model, i);
        rwkv_state_part o{};
        put(o.name, p.name);
        o.rank = static_cast<int32_t>(p.shape.size());
        std::copy(p.shape.begin(), p.shape.end(), o.shape);
        o.count = p.count;
        required(out, "out") = o;
    });
}

int rwkv_state_read(float *out, const rwkv_state *state, int32_t i, size_t count) {
    return guarded([&] {
        const rwkv_state &s = required(state, "state");
        const rwkv::StatePart &p = part(*s.model, i);
        check_count(p, count);
        const auto size = static_cast<size_t>(p.layer_count());
        const std::span values(&required(out, "out"), count);
        for (int64_t layer = 0; layer < p.shape[0]; ++layer)
            s.model->read_layer(values.subspan(static_cast<size_t>(layer) * size, size),
                                s.memory.data, p, layer);
    });
}

int rwkv_state_write(rwkv_state *state, int32_t i, const float *values, size_t count) {
    return guarded([&] {
        rwkv_state &s = required(state, "state");
        const rwkv::StatePart &p = part(*s.model, i);
        check_count(p, count);
        required(values, "values");
        s.unshare();
        const auto size = static_cast<size_t>(p.layer_count());
        for (int64_t layer = 0; layer < p.shape[0]; ++layer)
            s.model->write_layer(s.memory.data, p, layer,
                                 {values + static_cast<size_t>(layer) * size, size});
    });
}

// ---- vocabulary

int rwkv_vocab_parse(rwkv_vocab **out, const char *text, size_t n) {
    return guarded([&] {
        required(out, "out") = nullptr;
        required(text, "text");
        *out = new rwkv_vocab{std::make_shared<const rwkv::Vocab>(rwkv::Vocab::parse({text, n}))};
    });
}

int rwkv_vocab_new(rwkv_vocab **out, const uint8_t *blob, const uint64_t *offsets, size_t n) {
    return guarded([&] {
        required(out, "out") = nullptr;
        required(offsets, "offsets");
        std::vector<std::string> tokens;
        tokens.reserve(n);
        for (size_t i = 0; i < n; ++i) {
            if (offsets[i] > offsets[i + 1])
                throw invalid("offsets[" + std::to_string(i + 1) + "] is below its predecessor");
            if (offsets[i + 1] > offsets[i]) required(blob, "blob");
            tokens.emplace_back(reinterpret_cast<const char *>(blob) + offsets[i],
                                offsets[i + 1] - offsets[i]);
        }
        *out = new rwkv_vocab{std::make_shared<const rwkv::Vocab>(std::move(tokens))};
    });
}

void rwkv_vocab_free(rwkv_vocab *vocab) { delete vocab; }

int rwkv_vocab_size(size_t *out, const rwkv_vocab *vocab) {
    return guarded([&] { required(out, "out") = required(vocab, "vocab").vocab->size(); });
}

int rwkv_vocab_encode(int32_t **ids, size_t *n, const rwkv_vocab *vocab, const char *text,
                      size_t n_text) {
    return guarded([&] {
        required(ids, "ids") = nullptr;
        required(n, "n") = 0;
        if (n_text > 0) required(text, "text");
        std::vector<int32_t> found;
        required(vocab, "vocab").vocab->encode(found, {text, n_text});
        auto *copy = static_cast<int32_t *>(
            std::malloc(std::max<size_t>(1, found.size()) * sizeof(int32_t)));
        if (!copy) throw std::bad_alloc();
        std::copy(found.begin(), found.end(), copy);
        *ids = copy;
        *n = found.size();
    });
}

void rwkv_ids_free(int32_t *ids) { std::free(ids); }

int rwkv_vocab_decode(char *out, size_t capacity, size_t *n, const rwkv_vocab *vocab,
                      const int32_t *ids, size_t n_ids) {
    return guarded([&] {
        if (n_ids > 0) required(ids, "ids");
        if (capacity > 0) required(out, "out");
        required(n, "n") = required(vocab, "vocab").vocab->decode({out, capacity}, {ids, n_ids});
    });
}

// ---- sampling

void rwkv_sampling_init(rwkv_sampling *sampling) {
    if (!sampling) return;
    *sampling = {};
    sampling->size = sizeof *sampling;
    sampling->temperature = 1;
    sampling->top_p = 1;
    sampling->penalty_decay = 0.996;
    sampling->logprobs = -1;
}

int rwkv_sampling_probe(double *probabilities, int32_t *token, const rwkv_sampling *sampling,
                        const float *logits, size_t n, const int32_t *drawn, size_t n_drawn,
                        const int32_t *prompt, size_t n_prompt) {
    return guarded([&] {
        rwkv::SamplingOptions options =
            sampling_options(sized(&required(sampling, "sampling"), "sampling"));
        if (n == 0) throw invalid("logits must hold at least one value");
        required(logits, "logits");
        rwkv::check(options, n);
        const auto history = list(drawn, n_drawn, "drawn");
        const auto before = list(prompt, n_prompt, "prompt");
        for (const auto *ids : {&history, &before})
            if (!ids->empty()) check_tokens(ids->data(), ids->size(), static_cast<int64_t>(n));
        rwkv::Sampler sampler(std::move(options), before);
        for (int32_t id : history) sampler.count(id);
        if (probabilities) sampler.probabilities({probabilities, n}, {logits, n});
        if (token) *token = sampler.draw({logits, n}).token;
    });
}

// ---- engine

int rwkv_engine_new(rwkv_engine **out, rwkv_model *model, const rwkv_vocab *vocab,
                    const rwkv_engine_options *options) {
    return guarded([&] {
        required(out, "out") = nullptr;
        const rwkv_engine_options given = sized(options, "options");
        rwkv::EngineOptions o;
        const auto set = [](int32_t &field, int32_t value, int32_t most, const char *name) {
            if (value < 0 || value > most) {
                throw invalid(std::string(name) + " is " + std::to_string(value) +
                              ", outside [1, " + std::to_string(most) + "]");
            }
            if (value > 0) field = value;
        };
        set(o.max_batch, given.max_batch, 4096, "max_batch");
        set(o.prefill_chunk, given.prefill_chunk, 16384, "prefill_chunk");
        set(o.max_queue, given.max_queue, std::numeric_limits<int32_t>::max(), "max_queue");
        if (given.step_ms != 0) o.step_ms = given.step_ms;
        o.speculate = given.speculate;
        o.cache_bytes = given.cache_bytes;
        o.ring = given.ring;
        o.payload = given.payload;
        auto &m = required(model, "model").model;
        auto engine = std::make_unique<rwkv::Engine>(m, required(vocab, "vocab").vocab, o);
        *out = new rwkv_engine{m, std::move(engine)};
    });
}

void rwkv_engine_free(rwkv_engine *engine) { delete engine; }

void rwkv_request_init(rwkv_request *request) {
    if (!request) return;
    *request = {};
    request->size = sizeof *request;
    rwkv_sampling_init(&request->sampling);
    request->speculate = -1;
}

int rwkv_engine_submit(uint64_t *id, rwkv_engine *engine, const rwkv_request *request) {
    return guarded([&] {
        required(id, "id") = 0;
        rwkv_engine &e = required(engine, "engine");
        if (required(request, "request").size != sizeof *request)
            throw invalid("request.size is wrong");
        *id = e.engine->submit(request_of(*request, e.model.get()));
    });
}

int rwkv_engine_cancel(rwkv_engine *engine, uint64_t id) {
    return guarded([&] { required(engine, "engine").engine->cancel(id); });
}

int rwkv_engine_poll(const rwkv_event **events, size_t *n, rwkv_engine *engine) {
    return guarded([&] {
        required(events, "events") = nullptr;
        required(n, "n") = 0;
        rwkv_engine &e = required(engine, "engine");
        if (!e.owed) e.polled = e.engine->poll();
        e.owed = true;
        e.events.clear();
        e.events.reserve(e.polled.size());
        std::vector<std::unique_ptr<rwkv_state>> states;
        states.reserve(e.polled.size());
        for (const rwkv::Event &event : e.polled)
            states.emplace_back(event.kept ? new rwkv_state{e.model, {}, {}, false} : nullptr);
        e.owed = false;
        for (const rwkv::Event &event : e.polled) {
            const bool logprobs = event.logprob_width > 0;
            e.events.push_back({event.id, static_cast<int32_t>(event.finish), event.text.data(),
                                event.text.size(), event.tokens.data(), event.tokens.size(),
                                logprobs ? event.logprob_ids.data() : nullptr,
                                logprobs ? event.logprobs.data() : nullptr, event.logprob_width,
                                event.prompt_tokens, event.completion_tokens, event.cached_tokens,
                                event.embedding.empty() ? nullptr : event.embedding.data(),
                                event.embedding.size(), nullptr, nullptr, 0});
            if (!event.kept) continue;
            rwkv_event &last = e.events.back();
            last.state = states[e.events.size() - 1].release();
            last.state->memory = std::move(event.kept->state);
            last.unread = event.kept->unread.data();
            last.n_unread = event.kept->unread.size();
        }
        *events = e.events.data();
        *n = e.events.size();
    });
}

int rwkv_engine_describe(rwkv_engine_stats *out, rwkv_engine *engine) {
    return guarded([&] {
        const rwkv::EngineStats s = required(engine, "engine").engine->stats();
        fill(out,
             rwkv_engine_stats{0, s.waiting, s.prefilling, s.running, s.submitted, s.finished,
                               s.cancelled, s.steps, s.prompt_tokens, s.completion_tokens,
                               s.guessed_tokens, s.accepted_tokens, s.forked},
             "out");
    });
}

int rwkv_cache_resize(rwkv_engine *engine, int64_t bytes) {
    return guarded([&] { required(engine, "engine").engine->resize_cache(bytes); });
}

int rwkv_cache_clear(rwkv_engine *engine) {
    return guarded([&] { required(engine, "engine").engine->clear_cache(); });
}

int rwkv_cache_describe(rwkv_cache_stats *out, rwkv_engine *engine) {
    return guarded([&] {
        const rwkv::CacheStats s = required(engine, "engine").engine->cache_stats();
        fill(out,
             rwkv_cache_stats{0, s.limit, s.bytes, s.entries, s.hits, s.misses, s.asked_tokens,
                              s.cached_tokens, s.saved, s.evicted, s.reworded},
             "out");
    });
}

}  // extern "C"
