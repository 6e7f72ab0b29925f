// RWKV-4. x is the residual row of one token, prev the normalised row of the token before it.
//
//   x = LN0(emb[token])
//   for every layer:                         mix_j(xn) = xn ⊙ m_j + prev ⊙ (1 − m_j)
//     xn = LN1(x)
//     k = Wk·mix_k   v = Wv·mix_v   r = σ(Wr·mix_r)
//     wkv = (e^{pp−m} aa + e^{u+k−m} v) / (e^{pp−m} bb + e^{u+k−m})        m = max(pp, u + k)
//     aa, bb ← e^{pp+d−m'} (aa, bb) + e^{k−m'} (v, 1)    pp ← m'          m' = max(pp + d, k)
//     x ← x + Wo·(r ⊙ wkv)
//     x ← x + ChannelMix(x)
//   logits = head·LN_out(x)
//
// with d = −exp(time_decay) and u = time_first, per channel. aa and bb carry the factor e^{pp}.
#include "arch/v4.h"

#include "arch/rows.h"
#include "error.h"

#include <algorithm>
#include <cmath>

namespace rwkv::v4 {

namespace {

float decay_of(float time_decay) {
    return static_cast<float>(-std::exp(static_cast<double>(time_decay)));
}

struct Rows {
    float *x, *gate;       // [rows, D]; x is what the next stage gets
    float *r, *k, *v, *y;  // [rows, A]
    float *h;              // [rows, F]

    Rows(const Weights &weights, RowLayout &layout) {
        const Dimensions &s = weights.size;
        x = layout.take(s.width), gate = layout.take(s.width);
        r = layout.take(s.attention), k = layout.take(s.attention);
        v = layout.take(s.attention), y = layout.take(s.attention);
        h = layout.take(s.ffn);
    }
};

}  // namespace

bool recognise(const TensorTable &table) {
    return table.has("blocks.0.att.time_mix_k") && !table.has("blocks.0.att.ln_x.weight");
}

Weights load(WeightReader &reader, StateLayout &state) {
    TensorTable &table = reader.table();
    Weights w;
    const Tensor &emb = table.peek("emb.weight");
    const Tensor &key = table.peek("blocks.0.att.key.weight");
    const Tensor &ffn_key = table.peek("blocks.0.ffn.key.weight");
    if (emb.shape.size() != 2 || key.shape.size() != 2 || ffn_key.shape.size() != 2)
        throw invalid("emb.weight, att.key.weight and ffn.key.weight must be matrices");
    const int64_t L = table.layers(), V = emb.shape[0], D = emb.shape[1];
    const int64_t A = key.shape[0], F = ffn_key.shape[0];
    w.size = Dimensions{L, D, A, 0, 0, F, V}.checked();
    w.att_x = state.parts[state.add("att_x", {L, D})];
    w.ffn_x = state.parts[state.add("ffn_x", {L, D})];
    w.aa = state.parts[state.add("aa", {L, A})];
    w.bb = state.parts[state.add("bb", {L, A})];
    w.pp = state.parts[state.add("pp", {L, A}, -1e30f)];

    w.emb = reader.lookup("emb.weight", V, D);
    w.ln0 = reader.first_norm(D);
    for (int64_t i = 0; i < L; ++i) {
        const auto name = [i](const char *part) { return block(i, part); };
        Layer l{};
        l.ln1 = reader.norm(name("ln1"), D);
        l.x_k = reader.vector(name("att.time_mix_k"), D, previous_token_weight);
        l.x_v = reader.vector(name("att.time_mix_v"), D, previous_token_weight);
        l.x_r = reader.vector(name("att.time_mix_r"), D, previous_token_weight);
        l.decay = reader.vector(name("att.time_decay"), A, decay_of);
        l.first = reader.vector(name("att.time_first"), A);
        l.key = reader.matrix(name("att.key.weight"), A, D);
        l.value = reader.matrix(name("att.value.weight"), A, D);
        l.receptance = reader.matrix(name("att.receptance.weight"), A, D);
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
            {&l.receptance, l.x_r, rows.r, Activation::sigmoid},
            {&l.key, l.x_k, rows.k, Activation::none},
            {&l.value, l.x_v, rows.v, Activation::none},
        };
        backend.shift_linear({rows.x, l.ln1, weights.att_x.at(i)}, products, batch);

        Wkv4 wkv;
        wkv.width = s.attention;
        wkv.r = rows.r, wkv.k = rows.k, wkv.v = rows.v;
        wkv.decay = l.decay, wkv.first = l.first;
        wkv.aa = weights.aa.at(i), wkv.bb = weights.bb.at(i), wkv.pp = weights.pp.at(i);
        wkv.y = rows.y;
        backend.wkv4(wkv, batch);
        backend.linear_add(rows.x, l.output, rows.y, batch);
        l.ffn.apply(backend, rows.x, rows.gate, rows.h, weights.ffn_x.at(i), batch);
    }
    if (layers.last == s.layers && !batch.logit_rows.empty())
        backend.head(logits, weights.head, weights.ln_out, rows.x, batch);
}

}  // namespace rwkv::v4
