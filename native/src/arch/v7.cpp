// RWKV-7 (x070). x is the residual row of one token, prev the normalised row of the token before it.
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
// The low-rank pairs lie in the file as [in, rank] and [rank, out]; here both are [out, in] like all
// other matrices.
#include "arch/v7.h"

#include "error.h"

#include <algorithm>
#include <string>

namespace rwkv::v7 {

namespace {

std::string block(int64_t layer, const char *name) {
    return "blocks." + std::to_string(layer) + "." + name;
}

int64_t columns(const TensorTable &table, const std::string &name) {
    const Tensor &t = table.peek(name);
    if (t.shape.empty()) throw invalid("the tensor " + name + " has no dimensions");
    return t.shape.size() == 1 ? 1 : t.shape.back();
}

// Puts vectors one after the other into one buffer of the backend.
class VectorLoader {
public:
    VectorLoader(Backend &backend, TensorTable &table, size_t count)
        : backend_(backend), table_(table), buffer_(backend.floats(count)) {}

    float *take(const std::string &name, int64_t count) {
        const std::vector<float> values = table_.vector(name, count);
        float *to = buffer_.data + used_;
        used_ += values.size();
        backend_.upload(to, values);
        return to;
    }
    Norm norm(const std::string &name, int64_t count) {
        const float *weight = take(name + ".weight", count);
        return {weight, take(name + ".bias", count)};
    }
    Buffer buffer() { return std::move(buffer_); }

private:
    Backend &backend_;
    TensorTable &table_;
    Buffer buffer_;
    size_t used_ = 0;
};

}  // namespace

int64_t Shape::scratch_size(int64_t rows) const {
    return rows * (6 * width + rank_w + rank_a + rank_v + rank_g + ffn);
}

bool recognise(const TensorTable &table) {
    return table.has("blocks.0.att.r_k");
}

Shape measure(const TensorTable &table) {
    Shape s;
    const Tensor &emb = table.peek("emb.weight");
    const Tensor &r_k = table.peek("blocks.0.att.r_k");
    if (emb.shape.size() != 2) {
        throw invalid("emb.weight has the shape " + shape_text(emb.shape) + ", expected [V, D]");
    }
    s.layers = table.layers();
    s.vocab = emb.shape[0];
    s.width = emb.shape[1];
    s.head_size = r_k.shape.empty() ? 0 : r_k.shape.back();  // a leading 1 (one head) has been dropped
    if (s.head_size < 1 || s.head_size > 1024 || s.width < 1 || s.width % s.head_size != 0) {
        throw invalid("blocks.0.att.r_k has the shape " + shape_text(r_k.shape) +
                      ", which does not divide the width " + std::to_string(s.width) + " into heads");
    }
    s.heads = s.width / s.head_size;
    const Tensor &ffn_key = table.peek("blocks.0.ffn.key.weight");
    s.ffn = ffn_key.shape.size() == 2 ? ffn_key.shape[0] : 1;
    for (int64_t i = 0; i < s.layers; ++i) {
        s.rank_w = std::max(s.rank_w, columns(table, block(i, "att.w1")));
        s.rank_a = std::max(s.rank_a, columns(table, block(i, "att.a1")));
        s.rank_g = std::max(s.rank_g, columns(table, block(i, "att.g1")));
        if (i > 0) s.rank_v = std::max(s.rank_v, columns(table, block(i, "att.v1")));
    }
    return s;
}

Weights load(Backend &backend, TensorTable &table, DType compute,
             const std::function<void(const Tensor &)> &done) {
    Weights w;
    w.shape = measure(table);
    const int64_t D = w.shape.width, F = w.shape.ffn, V = w.shape.vocab;

    const auto matrix = [&](const std::string &name, int64_t out, int64_t in) {
        const Tensor &t = table.matrix(name, out, in);
        Matrix packed = backend.matrix(t, compute, false);
        done(t);
        return packed;
    };
    // A low-rank factor, [in, out] in the file.
    const auto factor = [&](const std::string &name, int64_t in, int64_t out) {
        const Tensor &t = table.matrix(name, in, out);
        Matrix packed = backend.matrix(t, compute, true);
        done(t);
        return packed;
    };

    VectorLoader outer(backend, table, static_cast<size_t>(4 * D));
    w.ln0 = outer.norm("blocks.0.ln0", D);
    w.ln_out = outer.norm("ln_out", D);
    w.vectors = outer.buffer();
    const Tensor &emb = table.matrix("emb.weight", V, D);
    w.emb = backend.table(emb);
    done(emb);

    for (int64_t i = 0; i < w.shape.layers; ++i) {
        const auto name = [i](const char *part) { return block(i, part); };
        Layer l{};
        VectorLoader vectors(backend, table, static_cast<size_t>(19 * D));
        l.ln1 = vectors.norm(name("ln1"), D);
        l.ln2 = vectors.norm(name("ln2"), D);
        l.ln_x = vectors.norm(name("att.ln_x"), D);
        l.x_r = vectors.take(name("att.x_r"), D);
        l.x_w = vectors.take(name("att.x_w"), D);
        l.x_k = vectors.take(name("att.x_k"), D);
        l.x_v = vectors.take(name("att.x_v"), D);
        l.x_a = vectors.take(name("att.x_a"), D);
        l.x_g = vectors.take(name("att.x_g"), D);
        l.w0 = vectors.take(name("att.w0"), D);
        l.a0 = vectors.take(name("att.a0"), D);
        l.k_k = vectors.take(name("att.k_k"), D);
        l.k_a = vectors.take(name("att.k_a"), D);
        l.r_k = vectors.take(name("att.r_k"), D);
        l.ffn_x_k = vectors.take(name("ffn.x_k"), D);
        const int64_t rank_w = columns(table, name("att.w1"));
        const int64_t rank_a = columns(table, name("att.a1"));
        const int64_t rank_g = columns(table, name("att.g1"));
        l.w1 = factor(name("att.w1"), D, rank_w);
        l.w2 = factor(name("att.w2"), rank_w, D);
        l.a1 = factor(name("att.a1"), D, rank_a);
        l.a2 = factor(name("att.a2"), rank_a, D);
        l.g1 = factor(name("att.g1"), D, rank_g);
        l.g2 = factor(name("att.g2"), rank_g, D);
        if (i > 0) {
            const int64_t rank_v = columns(table, name("att.v1"));
            l.v0 = vectors.take(name("att.v0"), D);
            l.v1 = factor(name("att.v1"), D, rank_v);
            l.v2 = factor(name("att.v2"), rank_v, D);
        } else {
            // The G series carries these in block 0, unused.
            for (const char *unused : {"att.v0", "att.v1", "att.v2"}) table.ignore(name(unused));
        }
        l.receptance = matrix(name("att.receptance.weight"), D, D);
        l.key = matrix(name("att.key.weight"), D, D);
        l.value = matrix(name("att.value.weight"), D, D);
        l.output = matrix(name("att.output.weight"), D, D);
        l.ffn_key = matrix(name("ffn.key.weight"), F, D);
        l.ffn_value = matrix(name("ffn.value.weight"), D, F);
        l.vectors = vectors.buffer();
        w.layers.push_back(std::move(l));
    }
    w.head = matrix("head.weight", V, D);
    return w;
}

void forward(Backend &backend, const Weights &weights, const Batch &batch, float *scratch,
             float *logits) {
    const Shape &s = weights.shape;
    const int64_t rows = batch.rows();
    const auto carve = [&scratch, rows](int64_t size) {
        float *part = scratch;
        scratch += rows * size;
        return part;
    };
    float *x = carve(s.width);        // [rows, D]
    float *v_first = carve(s.width);  // [rows, D]
    float *r = carve(s.width), *k = carve(s.width), *v = carve(s.width), *y = carve(s.width);
    float *zw = carve(s.rank_w), *za = carve(s.rank_a), *zv = carve(s.rank_v), *zg = carve(s.rank_g);
    float *h = carve(s.ffn);          // [rows, F]

    backend.embed(x, weights.emb, weights.ln0, batch);
    for (int64_t i = 0; i < s.layers; ++i) {
        const Layer &l = weights.layers[static_cast<size_t>(i)];

        Product products[] = {
            {&l.receptance, l.x_r, r, Activation::none},
            {&l.key, l.x_k, k, Activation::none},
            {&l.value, l.x_v, v, Activation::none},
            {&l.w1, l.x_w, zw, Activation::tanh},
            {&l.a1, l.x_a, za, Activation::none},
            {&l.g1, l.x_g, zg, Activation::sigmoid},
            {&l.v1, l.x_v, zv, Activation::none},  // not in layer 0
        };
        const size_t count = std::size(products) - (i == 0 ? 1 : 0);
        backend.shift_linear({x, l.ln1, s.att_x(i)}, {products, count}, batch);

        Wkv7 wkv;
        wkv.heads = s.heads;
        wkv.head_size = s.head_size;
        wkv.r = r, wkv.k = k, wkv.v = v;
        wkv.zw = zw, wkv.za = za, wkv.zg = zg;
        wkv.w2 = &l.w2, wkv.a2 = &l.a2, wkv.g2 = &l.g2;
        if (i > 0) wkv.zv = zv, wkv.v2 = &l.v2;
        wkv.w0 = l.w0, wkv.a0 = l.a0, wkv.v0 = l.v0;
        wkv.k_k = l.k_k, wkv.k_a = l.k_a, wkv.r_k = l.r_k;
        wkv.ln_x = l.ln_x;
        wkv.v_first = v_first;
        wkv.wkv = s.wkv(i);
        wkv.y = y;
        backend.wkv7(wkv, batch);
        backend.linear_add(x, l.output, y, batch);

        const Product ffn{&l.ffn_key, l.ffn_x_k, h, Activation::relu_squared};
        backend.shift_linear({x, l.ln2, s.ffn_x(i)}, {&ffn, 1}, batch);
        backend.linear_add(x, l.ffn_value, h, batch);
    }
    if (!batch.logit_rows.empty()) {
        backend.head(logits, weights.head, weights.ln_out, x, batch);
    }
}

}  // namespace rwkv::v7
