#include "arch/deep_embed.h"

namespace rwkv {

DeepEmbed DeepEmbed::load(WeightReader &reader, int64_t layer, int64_t width, int64_t ffn,
                          int64_t vocab) {
    const auto name = [layer](const char *part) { return block(layer, part); };
    DeepEmbed d{};
    d.s1 = reader.factor(name("ffn.s1"), width, rank);
    d.s2 = reader.factor(name("ffn.s2"), rank, ffn);
    d.s0 = reader.vector(name("ffn.s0"), ffn);
    d.table = reader.lookup(name("ffn.s_emb.weight"), vocab, rank * rank);
    d.table_x = reader.matrix(name("ffn.s_emb_x.weight"), rank * rank, width);
    d.unshifted = reader.vector(std::vector<float>(static_cast<size_t>(width), 0.0f));
    return d;
}

void DeepEmbed::apply(Backend &backend, float *h, const float *x0, const Rows &rows,
                      const Batch &batch) const {
    const Projection from_embedding{&table_x, x0, rows.e};
    backend.linear({&from_embedding, 1}, batch);
    backend.token_product(rows.u, rows.z, table, rows.e, rank, batch);
    const Projection gate{&s2, rows.u, h, Activation::none, s0, h};
    backend.linear({&gate, 1}, batch);
}

}  // namespace rwkv
