// Where the named arrays of one sequence's state lie. Filled in by the architectures; read by model.cpp
// and, through it, by the API.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rwkv {

// One named array, [L, ...]; `offset` counts floats from the start of the state.
struct StatePart {
    std::string name;
    std::vector<int64_t> shape;
    int64_t offset = 0, count = 0;
    float initial = 0;

    // Offset of layer i.
    int64_t at(int64_t layer) const { return offset + layer * (count / shape[0]); }
};

struct StateLayout {
    std::vector<StatePart> parts;
    int64_t size = 0;

    // Appends a part and returns its number.
    size_t add(const std::string &name, std::vector<int64_t> shape, float initial = 0) {
        int64_t count = 1;
        for (int64_t n : shape) count *= n;
        parts.push_back({name, std::move(shape), size, count, initial});
        size += count;
        return parts.size() - 1;
    }
};

}  // namespace rwkv
