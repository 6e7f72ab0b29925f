// Whose turn it is: the queue of waiting sequences, the slots, and the rows of the next step.
// Called by the engine thread alone. Owns neither sequences nor states, runs nothing, and knows no
// model: a slot is a number.
//
// A step holds one row of every decoding sequence and at most `prefill_chunk` prompt rows in all,
// made of whole chunks. So a long prompt holds up the other streams for one chunk at most, and
// where it is cut depends on itself alone.
#pragma once

#include "sequence.h"

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

namespace rwkv {

// One sequence's part of a step.
struct Share {
    Sequence *sequence = nullptr;
    int32_t rows = 0;
};

class Scheduler {
public:
    Scheduler(int32_t max_batch, int32_t prefill_chunk);

    // To the end of the queue.
    void add(Sequence &sequence);
    // First come, first served: gives the next waiting sequence a slot; nullptr if there is none
    // of either. Slots are numbered from 0, and a used one is preferred to a new one.
    Sequence *admit();
    // The shares of the next step; empty if no sequence has a slot. Prefilling sequences take
    // turns: those that got a chunk go to the back, and the one in front always gets its chunk, so
    // that each waits for at most one chunk of every other. Valid until the next call.
    std::span<const Share> plan();
    // Forgets a sequence in whatever phase; its slot is free at once.
    void remove(Sequence &sequence);

    bool idle() const { return waiting_.empty() && active_.empty(); }
    int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
    int64_t prefilling() const;
    int64_t running() const { return static_cast<int64_t>(active_.size()) - prefilling(); }

private:
    int32_t max_batch_, prefill_chunk_;
    std::deque<Sequence *> waiting_;
    std::vector<Sequence *> active_;  // those with a slot; prefilling ones in order of their turns
    std::vector<Sequence *> served_;  // scratch of plan()
    std::vector<int32_t> free_;       // slots that have been used and given back
    int32_t slots_ = 0;               // slots used so far
    std::vector<Share> plan_;
};

}  // namespace rwkv
