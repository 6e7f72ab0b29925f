// The sizes that every version has.
#pragma once

#include <cstdint>

namespace rwkv {

struct Dimensions {
    int64_t layers = 0, width = 0, attention = 0, heads = 0, head_size = 0, ffn = 0, vocab = 0;
    // L D A H N F V; A = H·N (version 4: A, no heads)
};

}  // namespace rwkv
