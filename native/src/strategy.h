// The strategy string: which device and which type. Parsed once per load, by model.cpp.
#pragma once

#include "tensor.h"

#include <string>

namespace rwkv {

struct Strategy {
    std::string device;  // "cpu"
    DType compute = DType::f32;

    std::string text() const { return device + " " + name_of(compute); }
};

// "cpu fp32", "cpu fp16", "cpu bf16"; "auto" or "" takes the file's own type on the CPU. Throws Error:
// RWKV_INVALID for what is no strategy, RWKV_UNSUPPORTED, naming an alternative, for what this build
// cannot serve.
Strategy parse_strategy(const std::string &text, DType file_dtype);

}  // namespace rwkv
