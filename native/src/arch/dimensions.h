// The sizes that every version has, and how large they may be.
#pragma once

#include "error.h"

#include <algorithm>
#include <cstdint>
#include <string>

namespace rwkv {

// The layers that one call of a forward runs, [first, last): all of a model, or a stage of it. The
// first stage embeds the tokens, the last one makes logits.
struct LayerRange {
    int64_t first = 0, last = 0;
};

struct Dimensions {
    int64_t layers = 0, width = 0, attention = 0, heads = 0, head_size = 0, ffn = 0, vocab = 0;
    // L D A H N F V; A = H·N (version 4: A, no heads)

    // Itself, or throws Error. A state has A·N numbers a layer, the weights only some A·D: without
    // a bound on N a file of 8 MB would ask for 8 GB of states. Published heads have 64 channels.
    const Dimensions &checked() const {
        const int64_t most = std::min<int64_t>(1024, std::max<int64_t>(64, width));
        if (head_size > most)
            throw invalid("heads of " + std::to_string(head_size) +
                          " channels are larger than the " + std::to_string(most) +
                          " that a width of " + std::to_string(width) + " may have");
        for (const int64_t size : {width, attention, ffn, vocab})
            if (size > INT32_MAX)
                throw invalid("a size of " + std::to_string(size) +
                              " is beyond what a model may have");
        return *this;
    }
};

}  // namespace rwkv
