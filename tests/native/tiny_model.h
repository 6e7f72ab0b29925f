// A random model of any version and small shape, made in memory and loaded by Model::load like a
// checkpoint; and the byte vocabulary that goes with it. Deterministic: the shape and the seed say
// everything.
#pragma once

#include "model/model.h"
#include "text/vocab.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

struct TinyShape {
    std::string version = "7";  // or "4", "5.0" ... "6.0", "7a", "7b", "8rc"
    int64_t layers = 2, width = 32, head_size = 16, ffn = 64, vocab = 257, rank = 8;
    uint64_t seed = 1;
};

// splitmix64: the same numbers on every platform.
struct Random {
    uint64_t state;

    uint64_t next() {
        uint64_t z = (state += 0x9e3779b97f4a7c15ull);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }
    double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
    double between(double low, double high) { return low + (high - low) * uniform(); }
    int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
};

// The tensors of a checkpoint and the memory that they lie in.
class TinyTensors {
public:
    explicit TinyTensors(const TinyShape &shape) : random_{shape.seed} {
        const int64_t D = shape.width, V = shape.vocab;
        add("emb.weight", {V, D}, -1, 1);
        norm("blocks.0.ln0", D);
        for (int64_t layer = 0; layer < shape.layers; ++layer) {
            const std::string block = "blocks." + std::to_string(layer) + ".";
            norm(block + "ln1", D);
            norm(block + "ln2", D);
            if (shape.version[0] == '7' || shape.version[0] == '8')
                layer_7(block, shape, layer);
            else
                layer_4_to_6(block, shape);
        }
        norm("ln_out", D);
        matrix("head.weight", V, D, 3);  // logits of standard deviation 3: a lively distribution
    }

    const std::vector<rwkv::Tensor> &tensors() const { return tensors_; }

private:
    void layer_7(const std::string &block, const TinyShape &shape, int64_t layer) {
        const int64_t D = shape.width, V = shape.vocab, F = shape.ffn, R = shape.rank;
        const int64_t N = shape.head_size, H = D / N;
        const std::string att = block + "att.", ffn = block + "ffn.", qkv = block + "qkv.";
        for (const char *mix : {"x_r", "x_w", "x_k", "x_v", "x_a", "x_g"})
            add(att + mix, {1, 1, D}, 0, 1);
        add(att + "w0", {1, 1, D}, -3, 1);
        add(att + "a0", {1, 1, D}, -1, 1);
        factors(att + "w", D, R, D);
        factors(att + "a", D, R, D);
        factors(att + "g", D, R, D);
        if (layer > 0) {  // official files lack them in block 0
            add(att + "v0", {1, 1, D}, -1, 1);
            factors(att + "v", D, R, D);
        }
        add(att + "k_k", {1, 1, D}, 0.5, 1);
        add(att + "k_a", {1, 1, D}, 0.5, 1.5);
        add(att + "r_k", {H, N}, -0.5, 0.5);
        for (const char *name : {"receptance", "key", "value", "output"})
            matrix(att + name + ".weight", D, D, 1);
        norm(att + "ln_x", D);
        add(ffn + "x_k", {1, 1, D}, 0, 1);
        matrix(ffn + "key.weight", F, D, 1);
        matrix(ffn + "value.weight", D, F, 1);
        if (shape.version == "8rc") add(ffn + "enn.weight", {V, D}, 0.5, 1.5);
        if (shape.version == "7a" || shape.version == "7b") {
            factors(ffn + "s", D, 32, F);
            add(ffn + "s0", {1, 1, F}, 0.5, 1.5);
            add(ffn + "s_emb.weight", {V, 1024}, -0.05, 0.05);
            matrix(ffn + "s_emb_x.weight", 1024, D, 0.03);
        }
        if (shape.version == "7b") {
            const int64_t K = 256;
            matrix(qkv + "qq.weight", K, D, 1);
            factors(qkv + "k", D, 32, K);
            factors(qkv + "v", D, 32, D);
            add(qkv + "k_emb.weight", {V, K}, -1, 1);
            matrix(qkv + "k_emb_x.weight", K, D, 1);
            add(qkv + "v_emb.weight", {V, D}, -1, 1);
            matrix(qkv + "v_emb_x.weight", D, D, 1);
            for (const auto &[letter, n] :
                 {std::pair<const char *, int64_t>{"q", K}, {"k", K}, {"v", D}}) {
                add(qkv + "x_" + letter, {1, 1, n}, 0, 1);
                norm(qkv + "ln" + letter, n);
            }
        }
    }
    void layer_4_to_6(const std::string &block, const TinyShape &shape) {
        const int64_t D = shape.width, F = shape.ffn, R = shape.rank;
        const int64_t N = shape.head_size, H = D / N;
        const std::string &version = shape.version;
        const std::string att = block + "att.", ffn = block + "ffn.";
        const bool six = version == "6.0";
        const std::string mix = six ? "time_maa_" : "time_mix_";
        for (const char *letter : {"x", "w", "k", "v", "r", "g"}) {
            const bool gate = *letter == 'g';
            if (!six && (*letter == 'x' || *letter == 'w')) continue;
            if (gate && (version == "4" || version == "5.0")) continue;
            add(att + mix + letter, {1, 1, D}, 0, 1);
        }
        for (const char *name : {"receptance", "key", "value", "output"})
            matrix(att + name + ".weight", D, D, 1);
        if (version == "4") {
            add(att + "time_decay", {D}, -4, 1);
            add(att + "time_first", {D}, -1, 1);
        } else {
            norm(att + "ln_x", D);
            if (version != "5.0") matrix(att + "gate.weight", D, D, 1);
            const bool channels = six || version == "5.2";
            const std::vector<int64_t> heads = {H}, both = {H, N};
            add(att + "time_decay",
                six        ? std::vector<int64_t>{1, 1, D}
                : channels ? both
                           : heads,
                -4, 1);
            add(att + "time_faaaa", channels ? both : heads, -1, 1);
        }
        if (six) {
            matrix(att + "time_maa_w1", D, 5 * R, 1);
            add(att + "time_maa_w2", {5, R, D}, -0.2, 0.2);
            factors(att + "time_decay_w", D, R, D);
        }
        add(ffn + mix + "k", {1, 1, D}, 0, 1);
        add(ffn + mix + "r", {1, 1, D}, 0, 1);
        matrix(ffn + "key.weight", F, D, 1);
        matrix(ffn + "value.weight", D, F, 1);
        matrix(ffn + "receptance.weight", D, D, 1);
    }
    void add(const std::string &name, std::vector<int64_t> shape, double low, double high) {
        rwkv::Tensor tensor;
        tensor.name = name;
        tensor.shape = std::move(shape);
        tensor.stride.assign(tensor.shape.size(), 1);
        for (size_t i = tensor.shape.size(); i-- > 1;)
            tensor.stride[i - 1] = tensor.stride[i] * tensor.shape[i];
        std::vector<float> values(static_cast<size_t>(tensor.count()));
        for (float &value : values) value = static_cast<float>(random_.between(low, high));
        tensor.data = reinterpret_cast<const std::byte *>(values.data());
        storage_.push_back(std::move(values));  // moving keeps the elements where they are
        tensors_.push_back(std::move(tensor));
    }
    // Rows of length `in` whose products with unit-variance vectors have standard deviation `gain`.
    void matrix(const std::string &name, int64_t out, int64_t in, double gain) {
        const double bound = gain * std::sqrt(3.0 / static_cast<double>(in));
        add(name, {out, in}, -bound, bound);
    }
    void norm(const std::string &name, int64_t D) {
        add(name + ".weight", {D}, 0.75, 1.25);
        add(name + ".bias", {D}, -0.1, 0.1);
    }
    void factors(const std::string &name, int64_t D, int64_t R, int64_t out) {
        matrix(name + "1", D, R, 1);
        matrix(name + "2", R, out, 1);
    }

    Random random_;
    std::vector<std::vector<float>> storage_;
    std::vector<rwkv::Tensor> tensors_;
};

inline std::shared_ptr<rwkv::Model> tiny_model(const TinyShape &shape = {},
                                               const std::string &strategy = "cpu fp32",
                                               int threads = 2,
                                               rwkv::DType state = rwkv::DType::f32) {
    const TinyTensors tiny(shape);
    rwkv::LoadProgress progress;
    return rwkv::Model::load(tiny.tensors(), strategy, threads, progress, [] {}, state);
}

// Id 0 has no bytes, id 1 + b is the byte b: the first 257 ids of the World vocabulary.
inline std::shared_ptr<const rwkv::Vocab> byte_vocab(int bytes = 256) {
    std::vector<std::string> tokens(1);
    for (int b = 0; b < bytes; ++b) tokens.emplace_back(1, static_cast<char>(b));
    return std::make_shared<const rwkv::Vocab>(std::move(tokens));
}
