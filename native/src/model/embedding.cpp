// The equations of embedding.h, in float64 and always in the same order.
#include "model/embedding.h"

#include "backend.h"
#include "error.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>

namespace rwkv {

namespace {

std::vector<double> layer_of(const Model &model, const float *state, std::string_view name,
                             int64_t layer) {
    const auto &parts = model.state_parts();
    const auto part = std::find_if(parts.begin(), parts.end(),
                                   [name](const StatePart &p) { return p.name == name; });
    std::vector<float> values(static_cast<size_t>(part->layer_count()));
    model.read_layer(values, state, *part, layer);
    return {values.begin(), values.end()};
}

void scale_to_1(std::span<double> values) {
    double squares = 0;
    for (double x : values) squares += x * x;
    if (squares == 0) return;
    const double length = std::sqrt(squares);
    for (double &x : values) x /= length;
}

std::vector<double> memory_of(const Model &model, const float *state, int64_t layer) {
    if (model.info().version == "4") {
        std::vector<double> sums = layer_of(model, state, "aa", layer);
        const std::vector<double> weights = layer_of(model, state, "bb", layer);
        for (size_t i = 0; i < sums.size(); ++i) sums[i] /= weights[i];
        return sums;
    }
    std::vector<double> memory = layer_of(model, state, "wkv", layer);
    const size_t head = memory.size() / static_cast<size_t>(model.info().heads);
    for (size_t at = 0; at < memory.size(); at += head)
        scale_to_1(std::span(memory).subspan(at, head));
    return memory;
}

// The finaliser of splitmix64: the same bits on every machine.
uint64_t hash(uint64_t i) {
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

}  // namespace

int64_t embedding_layer(const Model &model, bool quick) {
    return quick ? 0 : (model.info().layers - 1) / 2;
}

std::vector<float> embedding(const Model &model, const float *state, bool quick,
                             int32_t dimensions) {
    const std::vector<double> memory = memory_of(model, state, embedding_layer(model, quick));
    const auto size = static_cast<uint64_t>(dimensions);
    std::vector<double> sums(size);
    for (size_t i = 0; i < memory.size(); ++i) {
        if (memory.size() <= size) {
            sums[i] = memory[i];
            continue;
        }
        const uint64_t bits = hash(i);
        sums[(bits >> 32) * size >> 32] += bits & 1 ? memory[i] : -memory[i];
    }
    scale_to_1(sums);
    const auto usable = [](double x) { return std::isfinite(x); };
    const auto zero = [](double x) { return x == 0; };
    if (!std::all_of(sums.begin(), sums.end(), usable) ||
        std::all_of(sums.begin(), sums.end(), zero))
        throw Error(RWKV_INTERNAL, "the model's memory of the text is empty or not finite");
    return {sums.begin(), sums.end()};
}

}  // namespace rwkv
