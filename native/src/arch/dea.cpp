#include "arch/dea.h"

namespace rwkv {

Dea Dea::load(WeightReader &reader, int64_t layer, int64_t width, int64_t vocab) {
    const auto name = [layer](const char *part) { return block(layer, part); };
    Dea d{};
    d.qq = reader.matrix(name("qkv.qq.weight"), keys, width);
    d.k1 = reader.factor(name("qkv.k1"), width, rank);
    d.k2 = reader.factor(name("qkv.k2"), rank, keys);
    d.v1 = reader.factor(name("qkv.v1"), width, rank);
    d.v2 = reader.factor(name("qkv.v2"), rank, width);
    d.k_table = reader.lookup(name("qkv.k_emb.weight"), vocab, keys);
    d.k_table_x = reader.matrix(name("qkv.k_emb_x.weight"), keys, width);
    d.v_table = reader.lookup(name("qkv.v_emb.weight"), vocab, width);
    d.v_table_x = reader.matrix(name("qkv.v_emb_x.weight"), width, width);
    d.x_q = reader.vector(name("qkv.x_q"), keys);
    d.x_k = reader.vector(name("qkv.x_k"), keys);
    d.x_v = reader.vector(name("qkv.x_v"), width);
    d.lnq = reader.norm(name("qkv.lnq"), keys);
    d.lnk = reader.norm(name("qkv.lnk"), keys);
    d.lnv = reader.norm(name("qkv.lnv"), width);
    return d;
}

void Dea::prepare(Backend &backend, const float *x, const float *x0, const Rows &rows, int64_t q_x,
                  int64_t k_x, int64_t v_x, const Batch &batch) const {
    const Projection from_x[] = {{&qq, x, rows.q}, {&k1, x, rows.ck}, {&v1, x, rows.cv}};
    backend.linear(from_x, batch);
    const Projection second[] = {{&k2, rows.ck, rows.k}, {&v2, rows.cv, rows.v, Activation::tanh}};
    backend.linear(second, batch);
    const Projection k_from_embedding{&k_table_x, x0, rows.offset};
    backend.linear({&k_from_embedding, 1}, batch);
    backend.token_gate(rows.k, k_table, rows.offset, batch);
    const Projection v_from_embedding{&v_table_x, x0, rows.offset};
    backend.linear({&v_from_embedding, 1}, batch);
    backend.token_gate(rows.v, v_table, rows.offset, batch);

    backend.shift_norm(rows.q, x_q, lnq, keys, q_x, batch);
    backend.shift_norm(rows.k, x_k, lnk, keys, k_x, batch);
    backend.shift_norm(rows.v, x_v, lnv, qq.in, v_x, batch);
}

void Dea::attend(Backend &backend, float *x, const Rows &rows, int64_t layer, int64_t width,
                 const Batch &batch) const {
    backend.attend(x, rows.q, rows.k, rows.v, keys, width, layer, batch);
}

}  // namespace rwkv
