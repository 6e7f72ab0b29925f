// The strategy string: which layers run on which device and in which types. Parsed when a load
// starts, placed by model.cpp once the number of layers is known.
#pragma once

#include "weights/tensor.h"

#include <cstdint>
#include <string>
#include <vector>

namespace rwkv {

// One stage of the string: "cpu bf16 *10".
struct Stage {
    Precision precision;
    int64_t layers = -1;    // those asked for, -1 for an equal share of what others leave
    bool streamed = false;  // "*N+": N layers stay on the device and all that are left pass through
};

// What a string asks of this build: stages on the CPU, or none for "auto".
struct Strategy {
    std::vector<Stage> stages;

    // The precision of every layer and, as the last element, of the head: layers + 1 elements.
    // "auto" takes the file's type; for one of quantised blocks bf16 with each matrix in its own
    // format. What a file holds in int8 or int4 stays so, whichever of the two a stage names.
    std::vector<Precision> place(int64_t layers, DType file_dtype) const;
};

// "auto" or "", or stages joined by "->", each `DEVICE TYPE[Q] [*N[+]]` with the devices cuda,
// cuda:K, cpu, mps, dml, the types fp32, fp16, bf16 and the quantisations i8, i4, i3. Throws Error:
// RWKV_INVALID for what is no strategy, RWKV_UNSUPPORTED, naming an alternative with the same
// types, for what this build cannot serve.
Strategy parse_strategy(const std::string &text);

// A placement as a string that would lead to it: "cpu fp32", "cpu fp32 *2 -> cpu bf16i4 *11".
std::string strategy_text(const std::vector<Precision> &precisions);

}  // namespace rwkv
