#include "model.h"

#include "arch/v7.h"
#include "error.h"
#include "strategy.h"
#include "tensor_table.h"

#include <cstring>

namespace rwkv {

namespace {

// Which generation the names belong to; only version 7 is run by this build.
void refuse_unless_v7(const TensorTable &table) {
    const auto has = [&table](const char *name) { return table.has(std::string("blocks.0.") + name); };
    const char *found = nullptr;
    if (has("qkv.qq.weight") && has("ffn.s_emb.weight")) found = "RWKV-7b (DeepEmbed and DEA)";
    else if (has("ffn.enn.weight") || has("qkv.kk.weight")) found = "RWKV-8 (research)";
    else if (has("ffn.s_emb.weight")) found = "RWKV-7a (DeepEmbed)";
    else if (v7::recognise(table)) return;
    else if (has("att.time_maa_x")) found = "RWKV-6";
    else if (has("att.ln_x.weight")) found = "RWKV-5";
    else if (has("att.time_mix_k")) found = "RWKV-4";
    if (found) {
        throw unsupported(std::string("this is an ") + found +
                          " checkpoint; this version runs RWKV-7 (x070) checkpoints");
    }
    throw invalid("these are not the tensors of an RWKV checkpoint: blocks.0.att.r_k is missing");
}

void refuse_untaken(const TensorTable &table) {
    const std::vector<std::string> names = table.untaken();
    if (names.empty()) return;
    std::string text = "the checkpoint holds tensors that RWKV-7 does not have:";
    for (size_t i = 0; i < names.size() && i < 8; ++i) text += (i ? ", " : " ") + names[i];
    if (names.size() > 8) text += " and " + std::to_string(names.size() - 8) + " more";
    throw invalid(text);
}

// Whether any element has an exponent of all ones: a NaN or an infinity.
template <class Word>
bool any_exponent_full(const std::byte *data, int64_t count, Word mask) {
    bool found = false;
    for (int64_t i = 0; i < count; ++i) {
        Word word;
        std::memcpy(&word, data + static_cast<size_t>(i) * sizeof word, sizeof word);
        found |= (word & mask) == mask;
    }
    return found;
}

void refuse_not_finite(const Tensor &t) {
    int64_t extent = 1;
    for (size_t i = 0; i < t.shape.size(); ++i) extent += (t.shape[i] - 1) * t.stride[i];
    bool found = false;
    if (extent != t.count()) {  // a view with gaps
        std::vector<float> values(static_cast<size_t>(t.count()));
        read_floats(values.data(), t);
        const auto *bytes = reinterpret_cast<const std::byte *>(values.data());
        found = any_exponent_full<uint32_t>(bytes, t.count(), 0x7f800000u);
    } else if (t.dtype == DType::f16) {
        found = any_exponent_full<uint16_t>(t.data, extent, 0x7c00);
    } else if (t.dtype == DType::bf16) {
        found = any_exponent_full<uint16_t>(t.data, extent, 0x7f80);
    } else if (t.dtype == DType::f32) {
        found = any_exponent_full<uint32_t>(t.data, extent, 0x7f800000u);
    } else {
        found = any_exponent_full<uint64_t>(t.data, extent, 0x7ff0000000000000u);
    }
    if (found) throw invalid("the tensor " + t.name + " holds a NaN or an infinity");
}

// Bytes that one decoded token reads, and the elements of all matrices it is multiplied with.
struct Reads {
    int64_t bytes = 0, elements = 0;
};

Reads count_reads(const v7::Weights &w) {
    Reads reads;
    const auto add = [&reads](const Matrix &m) {
        reads.bytes += static_cast<int64_t>(m.bytes);
        reads.elements += m.out * m.in;
    };
    add(w.head);
    size_t vectors = w.vectors.count;
    for (const v7::Layer &l : w.layers) {
        for (const Matrix *m : {&l.receptance, &l.key, &l.value, &l.output, &l.w1, &l.w2, &l.a1, &l.a2,
                                &l.v1, &l.v2, &l.g1, &l.g2, &l.ffn_key, &l.ffn_value}) {
            add(*m);
        }
        vectors += l.vectors.count;
    }
    reads.bytes += static_cast<int64_t>(vectors * sizeof(float));
    return reads;
}

}  // namespace

Model::~Model() = default;

std::shared_ptr<Model> Model::load(std::vector<Tensor> tensors, const std::string &strategy,
                                   int threads, LoadProgress &progress) {
    TensorTable table(std::move(tensors));
    refuse_unless_v7(table);
    const Strategy chosen = parse_strategy(strategy, table.main_dtype());
    const v7::Shape shape = v7::measure(table);

    uint64_t total = 0;
    int64_t parameters = 0;
    for (const Tensor &t : table.all()) {
        if (t.shape.size() >= 2) total += static_cast<uint64_t>(t.count()) * size_of(t.dtype);
        parameters += t.count();
    }
    progress.total = total;

    std::shared_ptr<Model> model(new Model);
    model->backend_ = open_backend(chosen.device, threads);
    Backend &backend = *model->backend_;

    // A tuned state may be merged into the checkpoint: [H][value][key] per layer, as S itself.
    model->initial_.assign(static_cast<size_t>(shape.state_size()), 0.0f);
    for (int64_t i = 0; i < shape.layers; ++i) {
        const std::string name = "blocks." + std::to_string(i) + ".att.time_state";
        if (!table.has(name)) continue;
        const std::vector<float> s = table.vector(name, shape.wkv_size());
        std::copy(s.begin(), s.end(), model->initial_.begin() + shape.wkv(i));
        parameters -= shape.wkv_size();
    }

    model->v7_ = std::make_unique<v7::Weights>(
        v7::load(backend, table, chosen.compute, [&](const Tensor &t) {
            refuse_not_finite(t);
            progress.done += static_cast<uint64_t>(t.count()) * size_of(t.dtype);
            if (progress.cancel) throw Error(RWKV_STOPPED, "the load was cancelled");
        }));
    refuse_untaken(table);
    progress.done = total;

    const int64_t L = shape.layers, D = shape.width, H = shape.heads, N = shape.head_size;
    model->state_parts_ = {{"att_x", {L, D}, shape.att_x(0), L * D},
                           {"ffn_x", {L, D}, shape.ffn_x(0), L * D},
                           {"wkv", {L, H, N, N}, shape.wkv(0), L * shape.wkv_size()}};
    ModelInfo &info = model->info_;
    info.version = "7";
    info.strategy = chosen.text();
    info.file_dtype = name_of(table.main_dtype());
    info.isa = backend.isa();
    info.layers = L, info.width = D, info.heads = H, info.head_size = N;
    info.ffn = shape.ffn, info.vocab = shape.vocab;
    info.threads = backend.threads();
    info.parameters = parameters;
    const Reads reads = count_reads(*model->v7_);
    info.token_bytes = reads.bytes;
    info.weight_bytes = reads.bytes + static_cast<int64_t>(model->v7_->emb.bytes);
    // Recurrence: S·κ 2, decay 1, two rank-one updates 4, S·r 2, and one addition per element of S.
    info.token_flops = 2 * reads.elements + 10 * L * N * D;
    return model;
}

size_t Model::state_floats() const {
    return initial_.size();
}

Buffer Model::new_state() const {
    Buffer state = backend_->floats(state_floats());
    reset_state(state.data);
    return state;
}

void Model::reset_state(float *state) const {
    backend_->upload(state, initial_);
}

void Model::forward(const Batch &batch, float *logits) {
    const std::lock_guard<std::mutex> turn(turn_);
    const size_t wanted = static_cast<size_t>(v7_->shape.scratch_size(batch.rows()));
    if (scratch_.count < wanted) scratch_ = backend_->floats(wanted);
    v7::forward(*backend_, *v7_, batch, scratch_.data, logits);
}

}  // namespace rwkv
