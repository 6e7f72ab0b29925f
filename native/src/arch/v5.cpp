// RWKV-5. x is the residual row of one token, prev the normalised row of the token before it.
//
//   x = LN0(emb[token])
//   for every layer:                         mix_j(xn) = xn ⊙ m_j + prev ⊙ (1 − m_j)
//     xn = LN1(x)
//     r = Wr·mix_r   k = Wk·mix_k   v = Wv·mix_v   g = SiLU(Wg·mix_g)        5.0: no g
//     y = rᵀ·(U ⊙ (k ⊗ v) + s)       s ← W ⊙ s + k ⊗ v                       s is [key][value]
//     x ← x + Wo·(GroupNorm(y) ⊙ g)
//     x ← x + ChannelMix(x)
//   logits = head·LN_out(x)
//
// W = exp(−exp(time_decay)). U = time_faaaa or, in older files, exp(time_first). Both are one
// number per head in 5.0 and 5.1, and one per key channel in 5.2; here always the latter.
#include "arch/v5.h"

#include "arch/rows.h"
#include "error.h"

#include <algorithm>
#include <cmath>

namespace rwkv::v5 {

namespace {

float decay_of(float time_decay) {
    return static_cast<float>(std::exp(-std::exp(static_cast<double>(time_decay))));
}

float exponential(float x) { return static_cast<float>(std::exp(static_cast<double>(x))); }

// One number per head is repeated over the head's channels.
float *per_channel(WeightReader &reader, const std::string &name, const Dimensions &s,
                   float (*change)(float)) {
    const int64_t count = reader.table().peek(name).count();
    if (count == s.attention) return reader.vector(name, count, change);
    const std::vector<float> heads = reader.table().vector(name, s.heads);
    std::vector<float> values;
    for (float x : heads)
        values.insert(values.end(), static_cast<size_t>(s.head_size), change ? change(x) : x);
    return reader.vector(values);
}

struct Rows {
    float *x, *gate;           // [rows, D]; x is what the next stage gets
    float *r, *k, *v, *g, *y;  // [rows, A]
    float *h;                  // [rows, F]

    Rows(const Weights &weights, RowLayout &layout) {
        const Dimensions &s = weights.size;
        x = layout.take(s.width), gate = layout.take(s.width);
        for (float **part : {&r, &k, &v, &g, &y}) *part = layout.take(s.attention);
        h = layout.take(s.ffn);
    }
};

}  // namespace

bool recognise(const TensorTable &table) {
    return table.has("blocks.0.att.ln_x.weight") && table.has("blocks.0.att.time_mix_k");
}

Weights load(WeightReader &reader, StateLayout &state) {
    TensorTable &table = reader.table();
    Weights w;
    const Tensor &emb = table.peek("emb.weight");
    const Tensor &key = table.peek("blocks.0.att.key.weight");
    const Tensor &ffn_key = table.peek("blocks.0.ffn.key.weight");
    const Tensor &decay = table.peek("blocks.0.att.time_decay");
    if (emb.shape.size() != 2 || key.shape.size() != 2 || ffn_key.shape.size() != 2)
        throw invalid("emb.weight, att.key.weight and ffn.key.weight must be matrices");
    const int64_t L = table.layers(), V = emb.shape[0], D = emb.shape[1];
    const int64_t A = key.shape[0], F = ffn_key.shape[0];
    // Per channel, [H, N] (a leading H = 1 has been dropped by the table), or per head, [H].
    const bool channels = decay.count() == A;
    const int64_t H = !channels ? decay.count() : decay.shape.size() == 2 ? decay.shape[0] : 1;
    if (H < 1 || A % H != 0) {
        throw invalid("blocks.0.att.time_decay has the shape " + shape_text(decay.shape) +
                      ", which does not divide " + std::to_string(A) + " channels into heads");
    }
    w.size = Dimensions{L, D, A, H, A / H, F, V}.checked();
    const bool gated = table.has("blocks.0.att.gate.weight");
    w.version = !gated ? "5.0" : channels ? "5.2" : "5.1";
    w.att_x = state.parts[state.add("att_x", {L, D})];
    w.ffn_x = state.parts[state.add("ffn_x", {L, D})];
    w.wkv = state.parts[state.add("wkv", {L, H, A / H, A / H}, 0, state.matrices)];

    w.emb = reader.lookup("emb.weight", V, D);
    w.ln0 = reader.first_norm(D);
    for (int64_t i = 0; i < L; ++i) {
        const auto name = [i](const char *part) { return block(i, part); };
        Layer l{};
        l.ln1 = reader.norm(name("ln1"), D);
        l.ln_x = reader.norm(name("att.ln_x"), A);
        l.x_k = reader.vector(name("att.time_mix_k"), D, previous_token_weight);
        l.x_v = reader.vector(name("att.time_mix_v"), D, previous_token_weight);
        l.x_r = reader.vector(name("att.time_mix_r"), D, previous_token_weight);
        l.decay = per_channel(reader, name("att.time_decay"), w.size, decay_of);
        l.bonus = table.has(name("att.time_faaaa"))
                      ? per_channel(reader, name("att.time_faaaa"), w.size, nullptr)
                      : per_channel(reader, name("att.time_first"), w.size, exponential);
        l.key = reader.matrix(name("att.key.weight"), A, D);
        l.value = reader.matrix(name("att.value.weight"), A, D);
        l.receptance = reader.matrix(name("att.receptance.weight"), A, D);
        if (gated) {
            l.x_g = reader.vector(name("att.time_mix_g"), D, previous_token_weight);
            l.gate = reader.matrix(name("att.gate.weight"), A, D);
        }
        l.output = reader.matrix(name("att.output.weight"), D, A);
        l.ffn = ChannelMix::load(reader, i, D, F, "ffn.time_mix_", previous_token_weight);
        w.layers.push_back(std::move(l));
    }
    w.ln_out = reader.norm("ln_out", D);
    w.head = reader.matrix("head.weight", V, D);
    w.vectors = reader.vectors();
    return w;
}

int64_t scratch_size(const Weights &weights, int64_t rows) {
    return floats_of<Rows>(weights, rows);
}

int64_t carried(const Weights &weights, int64_t rows) { return rows * weights.size.width; }

void forward(Backend &backend, const Weights &weights, LayerRange layers, const Batch &batch,
             float *scratch, float *logits) {
    const Dimensions &s = weights.size;
    RowLayout layout(scratch, batch.rows());
    const Rows rows(weights, layout);

    if (layers.first == 0) backend.embed(rows.x, weights.emb, weights.ln0, batch);
    for (int64_t i = layers.first; i < std::min(layers.last, batch.depth); ++i) {
        const Layer &l = weights.layers[static_cast<size_t>(i)];
        const Product products[] = {
            {&l.receptance, l.x_r, rows.r, Activation::none},
            {&l.key, l.x_k, rows.k, Activation::none},
            {&l.value, l.x_v, rows.v, Activation::none},
            {&l.gate, l.x_g, rows.g, Activation::silu},  // not in 5.0
        };
        const size_t count = std::size(products) - (l.gate ? 0 : 1);
        backend.shift_linear({rows.x, l.ln1, weights.att_x.at(i)}, {products, count}, batch);

        Wkv6 wkv;
        wkv.heads = s.heads, wkv.head_size = s.head_size;
        wkv.r = rows.r, wkv.k = rows.k, wkv.v = rows.v;
        if (l.gate) wkv.g = rows.g;
        wkv.decay = l.decay, wkv.bonus = l.bonus;
        wkv.ln_x = l.ln_x;
        wkv.wkv = weights.wkv.at(i), wkv.kept = weights.wkv.kept;
        wkv.y = rows.y;
        backend.wkv6(wkv, batch);
        backend.linear_add(rows.x, l.output, rows.y, batch);
        l.ffn.apply(backend, rows.x, rows.gate, rows.h, weights.ffn_x.at(i), batch);
    }
    if (layers.last == s.layers && !batch.logit_rows.empty())
        backend.head(logits, weights.head, weights.ln_out, rows.x, batch);
}

}  // namespace rwkv::v5
