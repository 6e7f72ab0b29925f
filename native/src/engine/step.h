// One step of the engine: whose rows it feeds to the model, and what is done with the result. Laid
// out from what the scheduler has planned, then passed from function to function.
#pragma once

#include "backend.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "model/model.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rwkv {

struct Step {
    // A sequence that draws.
    struct Draw {
        Sequence *sequence;
        size_t row;    // its first of the logits
        int32_t rows;  // and how many it has: one, and one for each guess
        bool first;    // its prompt ends in this step
    };
    // A part of a prompt that is scored.
    struct Score {
        Sequence *sequence;
        size_t row;  // its first of the logits
        int32_t rows;
        int64_t token;  // of its prompt: what the first row predicts
    };

    std::vector<Scheduled> scheduled;
    // The batch.
    std::vector<int32_t> tokens, logit_rows;
    std::vector<Span> spans;
    int64_t depth = 0;  // layers that it needs
    // What becomes of it.
    std::vector<Draw> draws;
    std::vector<rwkv::Draw> asked;  // of the backend: those of them that draw a token, then scores
    std::vector<Score> scores;
    std::vector<Sequence *> embedded;  // those whose text ends with this step
    std::vector<Draw> prompts_read;    // those whose prompt ends with it, and that go on

    std::chrono::steady_clock::time_point began;

    // Rows of logits, and rows of the batch, that what is scheduled needs.
    int64_t logits() const;
    int64_t rows() const;
    // Takes back all guesses. False: there were none.
    bool drop_guesses() noexcept;
    // Everything else from what is scheduled.
    void lay_out(const Model &model);
    // Nothing is done with the result.
    void discard() noexcept;
    void clear() noexcept;
};

}  // namespace rwkv
