#include "model/model.h"

#include "arch/v4.h"
#include "arch/v5.h"
#include "arch/v6.h"
#include "arch/v7.h"
#include "error.h"
#include "model/strategy.h"
#include "weights/tensor_table.h"

#include <algorithm>
#include <variant>

namespace rwkv {

struct Model::Architecture {
    std::variant<v4::Weights, v5::Weights, v6::Weights, v7::Weights> weights;
};

namespace {

// Forms that would load as something else and give wrong output.
void refuse_lookalikes(const TensorTable &table) {
    const auto has = [&table](const char *name) {
        return table.has(std::string("blocks.0.") + name);
    };
    const char *found = nullptr;
    if (has("qkv.kk.weight"))
        found = "RWKV-8 hybrid (research)";
    else if (has("rosa.x_q") || has("rosa.rosa_qkv.emb"))
        found = "ROSA (research)";
    else if (has("att.time_maa_rkvw_w1") || has("att.gate_w1"))
        found = "RWKV-6 (experimental)";
    else if (has("att.time_mix"))
        found = "RWKV-2";
    if (found) {
        throw unsupported(
            std::string("this is an ") + found +
            " checkpoint; this version runs RWKV 4, 5, 6, 7 (with 7a and 7b) and 8-rc00");
    }
}

std::variant<v4::Weights, v5::Weights, v6::Weights, v7::Weights> load_weights(WeightReader &reader,
                                                                              StateLayout &state) {
    const TensorTable &table = reader.table();
    if (v7::recognise(table)) return v7::load(reader, state);
    if (v6::recognise(table)) return v6::load(reader, state);
    if (v5::recognise(table)) return v5::load(reader, state);
    if (v4::recognise(table)) return v4::load(reader, state);
    throw invalid("these are not the tensors of an RWKV checkpoint: block 0 has none of att.r_k, "
                  "att.time_maa_x, att.time_mix_k");
}

void refuse_untaken(const TensorTable &table, const std::string &version) {
    const std::vector<std::string> names = table.untaken();
    if (names.empty()) return;
    std::string text = "the checkpoint holds tensors that RWKV-" + version + " does not have:";
    for (size_t i = 0; i < names.size() && i < 8; ++i) text += (i ? ", " : " ") + names[i];
    if (names.size() > 8) text += " and " + std::to_string(names.size() - 8) + " more";
    throw invalid(text);
}

// The tuned state of layer i, [H][value][key] in every version, as the version's own state has it.
std::vector<float> tuned_state(TensorTable &table, int64_t layer, const Dimensions &s,
                               bool key_first) {
    const std::string name = block(layer, "att.time_state");
    const int64_t N = s.head_size;
    const std::vector<float> file = table.vector(name, s.heads * N * N);
    if (!key_first) return file;
    std::vector<float> state(file.size());
    for (int64_t h = 0; h < s.heads; ++h) {
        for (int64_t i = 0; i < N; ++i) {
            for (int64_t j = 0; j < N; ++j) {
                state[static_cast<size_t>((h * N + j) * N + i)] =
                    file[static_cast<size_t>((h * N + i) * N + j)];
            }
        }
    }
    return state;
}

// Operations of the recurrence per token, one per addition or multiplication. Version 7: S·κ 2,
// decay 1, two rank-one updates 4, S·r 2 and a sum, per element of the state. Versions 5 and 6: 6.
// Version 4: 20 per channel.
int64_t recurrence_flops(const std::string &version, const Dimensions &s) {
    const int64_t elements = s.layers * s.attention * s.head_size;
    if (version == "4") return 20 * s.layers * s.attention;
    return (version < "7" ? 6 : 10) * elements;
}

// The version's own forward, which the member of that name would hide.
template <class Weights>
void run(Backend &backend, const Weights &weights, const Batch &batch, float *scratch,
         float *logits) {
    forward(backend, weights, {0, weights.size.layers}, batch, scratch, logits);
}

}  // namespace

Model::Model() = default;
Model::~Model() = default;

std::shared_ptr<Model> Model::load(std::vector<Tensor> tensors, const std::string &strategy,
                                   int threads, LoadProgress &progress,
                                   const std::function<void()> &forget, DType state) {
    TensorTable table(std::move(tensors));
    refuse_lookalikes(table);
    const std::vector<Precision> precisions =
        parse_strategy(strategy).place(table.layers(), table.main_dtype());

    uint64_t total = 0;
    int64_t parameters = 0;
    for (const Tensor &t : table.all()) {
        if (is_statement(t.name)) continue;
        if (t.shape.size() >= 2) total += static_cast<uint64_t>(bytes_of(t.dtype, t.count()));
        if (!t.name.ends_with("att.time_state")) parameters += t.count();
    }
    progress.total = total;

    std::shared_ptr<Model> model(new Model);
    model->backend_ = open_backend("cpu", threads);
    Backend &backend = *model->backend_;
    const auto alive = [&progress] {
        if (progress.cancel) throw Error(RWKV_STOPPED, "the load was cancelled");
    };
    backend.while_packing(alive);
    constexpr uint64_t kHeld = uint64_t{64} << 20;
    uint64_t forgotten = 0;
    WeightReader reader(backend, table, precisions, [&](const Tensor &t) {
        alive();
        if (progress.done - forgotten > kHeld) {
            forget();
            forgotten = progress.done;
        }
        progress.done += static_cast<uint64_t>(bytes_of(t.dtype, t.count()));
    });
    model->state_.matrices = state;
    model->architecture_ =
        std::make_unique<Architecture>(Architecture{load_weights(reader, model->state_)});
    const auto &weights = model->architecture_->weights;
    const Dimensions &s =
        std::visit([](const auto &w) -> const Dimensions & { return w.size; }, weights);

    ModelInfo &info = model->info_;
    const char *const versions[] = {"4", "5", "6.0", "7"};
    info.version = versions[weights.index()];
    info.state_type = name_of(DType::f32);
    if (const auto *v5 = std::get_if<v5::Weights>(&weights)) info.version = v5->version;
    if (const auto *v7 = std::get_if<v7::Weights>(&weights)) info.version = v7->version;
    const bool key_first = info.version[0] == '5' || info.version[0] == '6';

    model->initial_.assign(static_cast<size_t>(model->state_.size), 0.0f);
    for (const StatePart &part : model->state_.parts) {
        if (part.initial != 0)
            std::fill_n(model->initial_.begin() + part.offset, part.count, part.initial);
        for (int64_t i = 0; part.name == "wkv" && i < s.layers; ++i) {
            if (!table.has(block(i, "att.time_state"))) continue;
            const std::vector<float> tuned = tuned_state(table, i, s, key_first);
            narrow(model->initial_.data() + part.at(i), tuned.data(), part.layer_count(),
                   part.kept);
        }
        if (part.name == "wkv") info.state_type = name_of(part.kept);
    }
    backend.while_packing([] {});  // `progress` goes with the load
    refuse_untaken(table, info.version);
    progress.done = total;

    info.strategy = strategy_text(precisions);
    info.file_dtype = name_of(table.main_dtype());
    info.isa = backend.isa();
    info.layers = s.layers, info.width = s.width, info.heads = s.heads,
    info.head_size = s.head_size;
    info.ffn = s.ffn, info.vocab = s.vocab;
    info.threads = backend.threads();
    info.parameters = parameters;
    info.token_bytes = reader.bytes();
    const Matrix &emb = std::visit([](const auto &w) -> const Matrix & { return w.emb; }, weights);
    info.weight_bytes = reader.bytes() + static_cast<int64_t>(emb.bytes);
    info.int8_weights = reader.quantised(DType::i8);
    info.int4_weights = reader.quantised(DType::i4);
    info.state_bytes = static_cast<int64_t>(model->initial_.size() * sizeof(float));
    info.token_flops = 2 * reader.elements() + recurrence_flops(info.version, s);
    return model;
}

size_t Model::state_floats() const { return initial_.size(); }

States Model::new_state() const {
    States state = backend_->states(state_floats(), 1);
    backend_->use_slots(state, 1);
    backend_->upload(state.data, initial_);
    return state;
}

void Model::write_layer(float *state, const StatePart &part, int64_t layer,
                        std::span<const float> from) const {
    std::vector<float> kept(static_cast<size_t>(floats_for(part.kept, part.layer_count())));
    narrow(kept.data(), from.data(), part.layer_count(), part.kept);
    backend_->upload(state + part.at(layer), kept);
}

void Model::read_layer(std::span<float> to, const float *state, const StatePart &part,
                       int64_t layer) const {
    std::vector<float> kept(static_cast<size_t>(floats_for(part.kept, part.layer_count())));
    backend_->download(kept, state + part.at(layer));
    widen(to.data(), kept.data(), part.layer_count(), part.kept);
}

// Holds its turn.
void Model::make_scratch(int64_t rows) {
    const int64_t wanted = std::visit(
        [&](const auto &weights) { return scratch_size(weights, rows); }, architecture_->weights);
    if (scratch_.count < static_cast<size_t>(wanted))
        scratch_ = backend_->floats(static_cast<size_t>(wanted));
}

void Model::make_room(int64_t rows) {
    const std::lock_guard turn(turns_);
    make_scratch(rows);
}

void Model::forward(const Batch &batch, float *logits) {
    const std::lock_guard turn(turns_);
    make_scratch(batch.rows());
    std::visit([&](const auto &weights) { run(*backend_, weights, batch, scratch_.data, logits); },
               architecture_->weights);
}

}  // namespace rwkv
