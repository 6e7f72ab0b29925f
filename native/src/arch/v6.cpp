// RWKV-6 (x060). x is the residual row of one token, prev the normalised row of the token before
// it.
//
//   x = LN0(emb[token])
//   for every layer:
//     xn = LN1(x)     δ = prev − xn
//     z_j = tanh(w1_j·(xn + δ ⊙ maa_x))     mix_j = xn + δ ⊙ (maa_j + w2_j·z_j)     j in w k v r g
//     r = Wr·mix_r   k = Wk·mix_k   v = Wv·mix_v   g = SiLU(Wg·mix_g)
//     w = exp(−exp(time_decay + dw2·tanh(dw1·mix_w)))
//     y = rᵀ·(U ⊙ (k ⊗ v) + s)       s ← diag(w)·s + k ⊗ v                  s is [key][value]
//     x ← x + Wo·(GroupNorm(y) ⊙ g)
//     x ← x + ChannelMix(x)
//   logits = head·LN_out(x)
//
// The file holds w1 of all five mixes as one [D, 5R] and w2 as [5, R, D].
#include "arch/v6.h"

#include "arch/rows.h"
#include "error.h"

#include <algorithm>

namespace rwkv::v6 {

namespace {

// Columns [first, first + count) of a matrix.
Tensor column_view(const Tensor &t, int64_t first, int64_t count) {
    if (t.packed) throw invalid("the tensor " + t.name + " is packed and should be plain numbers");
    Tensor view = t;
    view.data += bytes_of(t.dtype, first * t.stride[1]);
    view.shape[1] = count;
    return view;
}

// Element i of the first of three dimensions.
Tensor slice_view(const Tensor &t, int64_t i) {
    Tensor view = t;
    view.data += bytes_of(t.dtype, i * t.stride[0]);
    view.shape.erase(view.shape.begin());
    view.stride.erase(view.stride.begin());
    return view;
}

struct Rows {
    float *x, *gate;                 // [rows, D]; x is what the next stage gets
    float *z[mixes], *delta[mixes];  // [rows, R], [rows, D]
    float *zw;                       // [rows, Q]
    float *r, *k, *v, *g, *y;        // [rows, A]
    float *h;                        // [rows, F]

    Rows(const Weights &weights, RowLayout &layout) {
        const Dimensions &s = weights.size;
        x = layout.take(s.width), gate = layout.take(s.width);
        for (int j = 0; j < mixes; ++j) {
            z[j] = layout.take(weights.mix_rank);
            delta[j] = layout.take(s.width);
        }
        zw = layout.take(weights.decay_rank);
        for (float **part : {&r, &k, &v, &g, &y}) *part = layout.take(s.attention);
        h = layout.take(s.ffn);
    }
};

}  // namespace

bool recognise(const TensorTable &table) { return table.has("blocks.0.att.time_maa_x"); }

Weights load(WeightReader &reader, StateLayout &state) {
    TensorTable &table = reader.table();
    for (const char *variant : {"blocks.0.att.time_maa_rkvw_w1", "blocks.0.att.gate_w1"}) {
        if (table.has(variant)) {
            throw unsupported(std::string("this is an experimental form of RWKV-6 (it holds ") +
                              variant + "), of which no model was published");
        }
    }
    Weights w;
    const Tensor &emb = table.peek("emb.weight");
    const Tensor &key = table.peek("blocks.0.att.key.weight");
    const Tensor &ffn_key = table.peek("blocks.0.ffn.key.weight");
    const Tensor &bonus = table.peek("blocks.0.att.time_faaaa");
    if (emb.shape.size() != 2 || key.shape.size() != 2 || ffn_key.shape.size() != 2)
        throw invalid("emb.weight, att.key.weight and ffn.key.weight must be matrices");
    const int64_t L = table.layers(), V = emb.shape[0], D = emb.shape[1];
    const int64_t A = key.shape[0], F = ffn_key.shape[0];
    const int64_t H = bonus.shape.size() == 2 ? bonus.shape[0] : 1;  // a leading 1 has been dropped
    if (bonus.count() != A || A % H != 0) {
        throw invalid("blocks.0.att.time_faaaa has the shape " + shape_text(bonus.shape) + " for " +
                      std::to_string(A) + " channels");
    }
    w.size = Dimensions{L, D, A, H, A / H, F, V}.checked();
    const int64_t R = columns(table, "blocks.0.att.time_maa_w1") / mixes;
    const int64_t Q = columns(table, "blocks.0.att.time_decay_w1");
    if (R < 1) throw invalid("blocks.0.att.time_maa_w1 has fewer than five columns");
    w.mix_rank = R, w.decay_rank = Q;
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
        l.maa_x = reader.vector(name("att.time_maa_x"), D);
        const char *const maa[mixes] = {"att.time_maa_w", "att.time_maa_k", "att.time_maa_v",
                                        "att.time_maa_r", "att.time_maa_g"};
        const Tensor &w1 = table.matrix(name("att.time_maa_w1"), D, mixes * R);
        const Tensor &w2 = table.tensor(name("att.time_maa_w2"), {mixes, R, D});
        for (int j = 0; j < mixes; ++j) {
            l.maa[j] = reader.vector(name(maa[j]), D);
            l.maa_w1[j] = reader.part(column_view(w1, j * R, R), true);
            l.maa_w2[j] = reader.part(slice_view(w2, j), true);
        }
        l.decay = reader.vector(name("att.time_decay"), A);
        l.decay_w1 = reader.factor(name("att.time_decay_w1"), D, Q);
        l.decay_w2 = reader.factor(name("att.time_decay_w2"), Q, A);
        l.bonus = reader.vector(name("att.time_faaaa"), A);
        l.key = reader.matrix(name("att.key.weight"), A, D);
        l.value = reader.matrix(name("att.value.weight"), A, D);
        l.receptance = reader.matrix(name("att.receptance.weight"), A, D);
        l.gate = reader.matrix(name("att.gate.weight"), A, D);
        l.output = reader.matrix(name("att.output.weight"), D, A);
        l.ffn = ChannelMix::load(reader, i, D, F, "ffn.time_maa_", nullptr);
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
        const Shift shift{rows.x, l.ln1, weights.att_x.at(i)};

        Product first[mixes];
        Projection second[mixes];
        for (int j = 0; j < mixes; ++j) {
            first[j] = {&l.maa_w1[j], l.maa_x, rows.z[j], Activation::tanh};
            second[j] = {&l.maa_w2[j], rows.z[j], rows.delta[j]};
        }
        Shift peek = shift;
        peek.keep = true;  // the same shift is taken once more below
        backend.shift_linear(peek, first, batch);
        backend.linear(second, batch);

        const Product products[] = {
            {&l.receptance, l.maa[mix_r], rows.r, Activation::none, rows.delta[mix_r]},
            {&l.key, l.maa[mix_k], rows.k, Activation::none, rows.delta[mix_k]},
            {&l.value, l.maa[mix_v], rows.v, Activation::none, rows.delta[mix_v]},
            {&l.gate, l.maa[mix_g], rows.g, Activation::silu, rows.delta[mix_g]},
            {&l.decay_w1, l.maa[mix_w], rows.zw, Activation::tanh, rows.delta[mix_w]},
        };
        backend.shift_linear(shift, products, batch);

        Wkv6 wkv;
        wkv.heads = s.heads, wkv.head_size = s.head_size;
        wkv.r = rows.r, wkv.k = rows.k, wkv.v = rows.v, wkv.g = rows.g;
        wkv.zw = rows.zw, wkv.w2 = &l.decay_w2;
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

}  // namespace rwkv::v6
