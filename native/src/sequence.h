// One request on its way through the engine: prompt, state, sampler, output, status. Owned by the
// engine; planned by the scheduler.
#pragma once

#include "backend.h"
#include "output.h"
#include "sampler.h"

#include <cstdint>
#include <string>
#include <vector>

namespace rwkv {

// What a caller asks for: the C++ form of rwkv_request.
struct Request {
    std::vector<int32_t> prompt;
    SamplingOptions sampling;
    int64_t max_tokens = 0;
    std::vector<std::string> stops;
    std::vector<int32_t> stop_ids, end_ids;
    std::vector<float> state;  // empty: zero
};

enum class Finish { running, stop, length, cancel, error };

struct Sequence {
    Sequence(uint64_t id, Request request);

    uint64_t id;
    Request request;
    Sampler sampler;
    Output output;
    Buffer state;           // taken when the sequence is admitted
    int64_t prefilled = 0;  // prompt tokens that have been through the model
    int64_t completion = 0; // tokens counted as answer
    int64_t drawn = 0;      // tokens drawn, end id included
    int32_t next = -1;      // the last drawn token, the next row
    Finish finish = Finish::running;

    bool decoding() const { return prefilled == static_cast<int64_t>(request.prompt.size()); }
};

}  // namespace rwkv
