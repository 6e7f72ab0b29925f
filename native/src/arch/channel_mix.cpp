#include "arch/channel_mix.h"

namespace rwkv {

ChannelMix ChannelMix::load(WeightReader &reader, int64_t layer, int64_t width, int64_t ffn,
                            const char *mu, float (*change)(float)) {
    const auto name = [layer](const std::string &part) { return block(layer, part.c_str()); };
    ChannelMix m;
    m.ln2 = reader.norm(name("ln2"), width);
    m.x_k = reader.vector(name(std::string(mu) + "k"), width, change);
    m.x_r = reader.vector(name(std::string(mu) + "r"), width, change);
    m.key = reader.matrix(name("ffn.key.weight"), ffn, width);
    m.value = reader.matrix(name("ffn.value.weight"), width, ffn);
    m.receptance = reader.matrix(name("ffn.receptance.weight"), width, width);
    return m;
}

void ChannelMix::apply(Backend &backend, float *x, float *r, float *h, int64_t shift,
                       const Batch &batch) const {
    const Product products[] = {
        {&key, x_k, h, Activation::relu_squared},
        {&receptance, x_r, r, Activation::sigmoid},
    };
    backend.shift_linear({x, ln2, shift}, products, batch);
    backend.linear_add(x, value, h, batch, r);
}

}  // namespace rwkv
