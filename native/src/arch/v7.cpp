// RWKV-7 (x070). x is the residual row of one token, prev the normalised row of the token before
// it.
//
//   x = LN0(emb[token])
//   for every layer:                                  mix_j(xn) = xn + (prev − xn) ⊙ x_j
//     xn = LN1(x)
//     r = Wr·mix_r   k = Wk·mix_k   v = Wv·mix_v
//     w = exp(−e^{−1/2} · σ(w0 + w2·tanh(w1·mix_w)))     a = σ(a0 + a2·a1·mix_a)    g = g2·σ(g1·mix_g)
//     κ = k ⊙ k_k, of length 1 in every head             k ← k ⊙ (1 + (a − 1) ⊙ k_a)
//     layer 0: v_first = v     others: v ← v + (v_first − v) ⊙ σ(v0 + v2·v1·mix_v)
//     S ← S·diag(w) + (S·(−κ)) ⊗ (κ ⊙ a) + v ⊗ k         S is [value][key], one per head
//     y = GroupNorm(S·r) + (Σ r k r_k) v                 per head
//     x ← x + Wo·(y ⊙ g)
//     xn = LN2(x)
//     x ← x + Wv·relu(Wk·mix_k)²
//   logits = head·LN_out(x)
//
// Variants: 7a gates relu(...)² by DeepEmbed (deep_embed.h); 7b does so too and adds DEA (dea.h) to
// the time mixing; 8-rc00 multiplies Wv·relu(...)² by enn[token].
//
// The low-rank pairs lie in the file as [in, rank] and [rank, out]; here both are [out, in] like
// all other matrices.
#include "arch/v7.h"

#include "arch/rows.h"
#include "error.h"

#include <algorithm>

namespace rwkv::v7 {

namespace {

Dimensions measure(const TensorTable &table) {
    const Tensor &emb = table.peek("emb.weight");
    const Tensor &r_k = table.peek("blocks.0.att.r_k");
    const Tensor &ffn_key = table.peek("blocks.0.ffn.key.weight");
    if (emb.shape.size() != 2 || ffn_key.shape.size() != 2)
        throw invalid("emb.weight and ffn.key.weight must be matrices");
    Dimensions s;
    s.layers = table.layers();
    s.vocab = emb.shape[0];
    s.width = s.attention = emb.shape[1];
    s.head_size =
        r_k.shape.empty() ? 0 : r_k.shape.back();  // a leading 1 (one head) has been dropped
    if (s.head_size < 1 || s.width % s.head_size != 0) {
        throw invalid("blocks.0.att.r_k has the shape " + shape_text(r_k.shape) +
                      ", which does not divide the width " + std::to_string(s.width) +
                      " into heads");
    }
    s.heads = s.width / s.head_size;
    s.ffn = ffn_key.shape[0];
    return s.checked();
}

struct Rows {
    float *x, *v_first, *x0 = nullptr;     // [rows, D]; the next stage gets these
    float *r, *k, *v, *y, *enn = nullptr;  // [rows, D]
    float *zw, *za, *zv, *zg;              // [rows, rank]
    float *h;                              // [rows, F]
    DeepEmbed::Rows deep_embed;
    Dea::Rows dea;

    Rows(const Weights &weights, RowLayout &layout) {
        const Layer &l = weights.layers.front();
        const int64_t D = weights.size.width;
        x = layout.take(D), v_first = layout.take(D);
        if (l.deep_embed) x0 = layout.take(D);
        for (float **part : {&r, &k, &v, &y}) *part = layout.take(D);
        if (l.enn) enn = layout.take(D);
        zw = layout.take(weights.rank_w), za = layout.take(weights.rank_a);
        zv = layout.take(weights.rank_v), zg = layout.take(weights.rank_g);
        h = layout.take(weights.size.ffn);
        if (l.deep_embed) deep_embed = DeepEmbed::Rows(layout);
        if (l.dea) dea = Dea::Rows(layout, D);
    }
};

}  // namespace

bool recognise(const TensorTable &table) { return table.has("blocks.0.att.r_k"); }

Weights load(WeightReader &reader, StateLayout &state) {
    TensorTable &table = reader.table();
    Weights w;
    w.size = measure(table);
    const int64_t L = w.size.layers, D = w.size.width, F = w.size.ffn, V = w.size.vocab;
    const int64_t H = w.size.heads, N = w.size.head_size;
    w.att_x = state.parts[state.add("att_x", {L, D})];
    w.ffn_x = state.parts[state.add("ffn_x", {L, D})];
    w.wkv = state.parts[state.add("wkv", {L, H, N, N}, 0, state.matrices)];

    const bool deep_embed = table.has("blocks.0.ffn.s_emb.weight");
    const bool dea = table.has("blocks.0.qkv.qq.weight"),
               enn = table.has("blocks.0.ffn.enn.weight");
    // The attention reads what the embedding of layer 0 has left, as the gates do; no other pair
    // was published.
    if (dea && !deep_embed)
        throw invalid("the checkpoint holds blocks.0.qkv.*, the attention of RWKV-7b, without the "
                      "blocks.0.ffn.s* that belong to it");
    if (enn && deep_embed)
        throw invalid(
            "the checkpoint holds both blocks.0.ffn.enn, of RWKV-8, and blocks.0.ffn.s*, of RWKV-7a");
    w.version = dea ? "7b" : deep_embed ? "7a" : enn ? "8rc" : "7";
    if (dea) {
        w.q_x = state.parts[state.add("q_x", {L, Dea::keys})];
        w.k_x = state.parts[state.add("k_x", {L, Dea::keys})];
        w.v_x = state.parts[state.add("v_x", {L, D})];
    }

    w.emb = reader.lookup("emb.weight", V, D);
    w.ln0 = reader.first_norm(D);
    for (int64_t i = 0; i < L; ++i) {
        const auto name = [i](const char *part) { return block(i, part); };
        const auto vector = [&](const char *part) { return reader.vector(name(part), D); };
        // Both factors of a low-rank pair; the rank is read from the first.
        const auto pair = [&](const char *first, const char *second, Matrix &m1, Matrix &m2,
                              int64_t &largest) {
            const int64_t rank = columns(table, name(first));
            largest = std::max(largest, rank);
            m1 = reader.factor(name(first), D, rank);
            m2 = reader.factor(name(second), rank, D);
        };
        Layer l{};
        l.ln1 = reader.norm(name("ln1"), D);
        l.ln2 = reader.norm(name("ln2"), D);
        l.ln_x = reader.norm(name("att.ln_x"), D);
        l.x_r = vector("att.x_r"), l.x_w = vector("att.x_w"), l.x_k = vector("att.x_k");
        l.x_v = vector("att.x_v"), l.x_a = vector("att.x_a"), l.x_g = vector("att.x_g");
        l.w0 = vector("att.w0"), l.a0 = vector("att.a0");
        l.k_k = vector("att.k_k"), l.k_a = vector("att.k_a"), l.r_k = vector("att.r_k");
        l.ffn_x_k = vector("ffn.x_k");
        pair("att.w1", "att.w2", l.w1, l.w2, w.rank_w);
        pair("att.a1", "att.a2", l.a1, l.a2, w.rank_a);
        pair("att.g1", "att.g2", l.g1, l.g2, w.rank_g);
        if (i > 0) {
            l.v0 = vector("att.v0");
            pair("att.v1", "att.v2", l.v1, l.v2, w.rank_v);
        } else {
            // The G series carries these in block 0, unused.
            for (const char *unused : {"att.v0", "att.v1", "att.v2"}) table.ignore(name(unused));
        }
        l.receptance = reader.matrix(name("att.receptance.weight"), D, D);
        l.key = reader.matrix(name("att.key.weight"), D, D);
        l.value = reader.matrix(name("att.value.weight"), D, D);
        l.output = reader.matrix(name("att.output.weight"), D, D);
        l.ffn_key = reader.matrix(name("ffn.key.weight"), F, D);
        l.ffn_value = reader.matrix(name("ffn.value.weight"), D, F);
        if (deep_embed) l.deep_embed = DeepEmbed::load(reader, i, D, F, V);
        if (dea) l.dea = Dea::load(reader, i, D, V);
        if (enn) l.enn = reader.lookup(name("ffn.enn.weight"), V, D);
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

int64_t carried(const Weights &weights, int64_t rows) {
    return rows * weights.size.width * (weights.layers.front().deep_embed ? 3 : 2);
}

void forward(Backend &backend, const Weights &weights, LayerRange layers, const Batch &batch,
             float *scratch, float *logits) {
    const Dimensions &s = weights.size;
    RowLayout layout(scratch, batch.rows());
    const Rows rows(weights, layout);

    if (rows.dea.q)
        for (const Span &span : batch.spans)
            span.cache->make_room(weights.layers.size(),
                                  static_cast<size_t>(span.rows * (Dea::keys + s.width)));
    if (layers.first == 0)
        for (float *to : {rows.x, rows.x0})
            if (to) backend.embed(to, weights.emb, weights.ln0, batch);
    for (int64_t i = layers.first; i < std::min(layers.last, batch.depth); ++i) {
        const Layer &l = weights.layers[static_cast<size_t>(i)];

        Product products[] = {
            {&l.receptance, l.x_r, rows.r, Activation::none},
            {&l.key, l.x_k, rows.k, Activation::none},
            {&l.value, l.x_v, rows.v, Activation::none},
            {&l.w1, l.x_w, rows.zw, Activation::tanh},
            {&l.a1, l.x_a, rows.za, Activation::none},
            {&l.g1, l.x_g, rows.zg, Activation::sigmoid},
            {&l.v1, l.x_v, rows.zv, Activation::none},  // not in layer 0
        };
        const size_t count = std::size(products) - (i == 0 ? 1 : 0);
        if (l.dea) {
            l.dea->prepare(backend, rows.x, rows.x0, rows.dea, weights.q_x.at(i), weights.k_x.at(i),
                           weights.v_x.at(i), batch);
        }
        backend.shift_linear({rows.x, l.ln1, weights.att_x.at(i)}, {products, count}, batch);

        if (l.dea) l.dea->attend(backend, rows.x, rows.dea, i, s.width, batch);

        Wkv7 wkv;
        wkv.heads = s.heads;
        wkv.head_size = s.head_size;
        wkv.r = rows.r, wkv.k = rows.k, wkv.v = rows.v;
        wkv.zw = rows.zw, wkv.za = rows.za, wkv.zg = rows.zg;
        wkv.w2 = &l.w2, wkv.a2 = &l.a2, wkv.g2 = &l.g2;
        if (i > 0) wkv.zv = rows.zv, wkv.v2 = &l.v2;
        wkv.w0 = l.w0, wkv.a0 = l.a0, wkv.v0 = l.v0;
        wkv.k_k = l.k_k, wkv.k_a = l.k_a, wkv.r_k = l.r_k;
        wkv.ln_x = l.ln_x;
        wkv.v_first = rows.v_first;
        wkv.wkv = weights.wkv.at(i), wkv.kept = weights.wkv.kept;
        wkv.y = rows.y;
        backend.wkv7(wkv, batch);
        backend.linear_add(rows.x, l.output, rows.y, batch);

        const Product ffn[] = {{&l.ffn_key, l.ffn_x_k, rows.h, Activation::relu_squared},
                               l.deep_embed ? l.deep_embed->product(rows.deep_embed) : Product{}};
        const size_t ffn_count = l.deep_embed ? 2 : 1;
        backend.shift_linear({rows.x, l.ln2, weights.ffn_x.at(i)}, {ffn, ffn_count}, batch);
        if (l.deep_embed) l.deep_embed->apply(backend, rows.h, rows.x0, rows.deep_embed, batch);
        if (l.enn) backend.lookup(rows.enn, l.enn, batch);
        backend.linear_add(rows.x, l.ffn_value, rows.h, batch, rows.enn);
    }
    if (layers.last == s.layers && !batch.logit_rows.empty())
        backend.head(logits, weights.head, weights.ln_out, rows.x, batch);
}

}  // namespace rwkv::v7
