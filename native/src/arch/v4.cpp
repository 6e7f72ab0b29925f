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

#include "error.h"

#include <algorithm>
#include <cmath>

namespace rwkv::v4 {

namespace {

float decay_of(float time_decay) {
    return static_cast<float>(-std::exp(static_cast<double>(time_decay)));
}

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
    const Dimensions &s = weights.size;
    return rows * (2 * s.width + 4 * s.attention + s.ffn);
}

void forward(Backend &backend, const Weights &weights, const Batch &batch, float *scratch,
             float *logits) {
    const Dimensions &s = weights.size;
    const int64_t rows = batch.rows();
    const auto carve = [&scratch, rows](int64_t size) {
        float *part = scratch;
        scratch += rows * size;
        return part;
    };
    float *x = carve(s.width), *gate = carve(s.width);  // [rows, D]
    float *r = carve(s.attention), *k = carve(s.attention);
    float *v = carve(s.attention), *y = carve(s.attention);  // [rows, A]
    float *h = carve(s.ffn);                                 // [rows, F]

    backend.embed(x, weights.emb, weights.ln0, batch);
    for (int64_t i = 0; i < std::min(s.layers, batch.depth); ++i) {
        const Layer &l = weights.layers[static_cast<size_t>(i)];
        const Product products[] = {
            {&l.receptance, l.x_r, r, Activation::sigmoid},
            {&l.key, l.x_k, k, Activation::none},
            {&l.value, l.x_v, v, Activation::none},
        };
        backend.shift_linear({x, l.ln1, weights.att_x.at(i)}, products, batch);

        Wkv4 wkv;
        wkv.width = s.attention;
        wkv.r = r, wkv.k = k, wkv.v = v;
        wkv.decay = l.decay, wkv.first = l.first;
        wkv.aa = weights.aa.at(i), wkv.bb = weights.bb.at(i), wkv.pp = weights.pp.at(i);
        wkv.y = y;
        backend.wkv4(wkv, batch);
        backend.linear_add(x, l.output, y, batch);
        l.ffn.apply(backend, x, gate, h, weights.ffn_x.at(i), batch);
    }
    if (!batch.logit_rows.empty()) backend.head(logits, weights.head, weights.ln_out, x, batch);
}

}  // namespace rwkv::v4
