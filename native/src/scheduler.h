// Whose turn it is: the queue of waiting sequences, the slots, and the rows of the next step.
// Called by the engine thread alone. Owns neither sequences nor states, runs nothing, and knows no
// model: a slot is a number.
//
// A step holds the known rows of every decoding sequence (one, unless the last step was undone), some
// rows that they have guessed, and a bounded number of prompt rows in all. A prompt
// is cut at multiples of `grain` rows, counted from its own start: how many grains go together is a
// matter of time and neighbours, what a row is cut from is not.
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
    // What one step beside running streams takes at least of a prompt.
    static constexpr int32_t largest_grain = 16;
    // Guessed rows are carried while a step has fewer rows than this: so few cost hardly more than one,
    // because all of them read the weights once.
    static constexpr int64_t guessing_rows = 16;

    Scheduler(int32_t max_batch, int32_t prefill_chunk);

    // To the end of the queue.
    void add(Sequence &sequence);
    // First come, first served: gives the next waiting sequence a slot; nullptr if there is none
    // of either. Slots are numbered from 0, and a used one is preferred to a new one.
    Sequence *admit();
    // The shares of the next step, with at most `prompt_rows` and prefill_chunk prompt rows; empty if
    // no sequence has a slot. Prefilling sequences take turns: those that got rows go to the back, and
    // the one in front always gets a grain, so that each waits for at most one turn of every other.
    // Valid until the next call.
    std::span<const Share> plan(int64_t prompt_rows = INT32_MAX);
    // Forgets a sequence in whatever phase; its slot is free at once.
    void remove(Sequence &sequence);

    bool idle() const { return waiting_.empty() && active_.empty(); }
    int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
    int64_t prefilling() const;
    int64_t embedding() const;  // of these: those that will draw nothing
    int64_t running() const { return static_cast<int64_t>(active_.size()) - prefilling(); }

private:
    int32_t max_batch_, prefill_chunk_, grain_;
    std::deque<Sequence *> waiting_;
    std::vector<Sequence *> active_;  // those with a slot; prefilling ones in order of their turns
    std::vector<Sequence *> served_;  // scratch of plan()
    std::vector<int32_t> free_;       // slots that have been used and given back
    int32_t slots_ = 0;               // slots used so far
    std::vector<Share> plan_;
};

}  // namespace rwkv
