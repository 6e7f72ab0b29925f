// Whose turn it is: the slots, and the rows of the next step. `fair_queue.h` has the queue.
// Called by the engine thread alone. Owns neither sequences nor states, runs nothing, and knows no
// model: a slot is a number.
//
// Slots. A free one goes to the next that waits. Texts to embed hold at most half of them while
// chats wait. Where all are taken, a few more are for those who hold none, so that nobody waits for
// the end of another's answers; in a step there are never more than max_batch answers, which take
// turns.
//
// Rows. A step holds the certain rows of every answer (one, unless the last step was undone), some
// rows that they have guessed, and a bounded number of prompt rows in all. Prompts are read one
// after the other, in the order in which they would end if all groups were read side by side
// ("virtual time", as in weighted fair queueing): equal ones first come first served, shorter ones
// before longer ones, and while a prompt waits, no other group reads much more than the prompt's
// own length. One of at most a grain does not wait for longer ones at all, and its step is not
// filled up with them. A prompt is cut at multiples of `grain` rows, counted from its own start:
// how many grains go together is a matter of time and neighbours, what a row is cut from is not.
#pragma once

#include "engine/fair_queue.h"
#include "engine/sequence.h"

#include <cstdint>
#include <span>
#include <vector>

namespace rwkv {

// One sequence's part of a step.
struct Scheduled {
    Sequence *sequence = nullptr;
    int32_t rows = 0;
};

class Scheduler {
public:
    // What one step beside running streams takes at least of a prompt.
    static constexpr int32_t largest_grain = 16;
    // Guessed rows are carried while a step has fewer rows than this: so few cost hardly more than
    // one, because all of them read the weights once.
    static constexpr int64_t guessing_rows = 16;

    Scheduler(int32_t max_batch, int32_t prefill_chunk);

    // To the end of the queue.
    void add(Sequence &sequence);
    // Gives the next waiting sequence a slot; nullptr if there is none of either for it. Slots are
    // numbered from 0, below max_batch + extra_slots(), and a used one is preferred to a new one.
    Sequence *admit();
    // The scheduled of the next step, with at most `prompt_rows` and prefill_chunk prompt rows, but
    // a grain in any case; empty if no sequence has a slot. Answers come first. Valid until the
    // next call.
    std::span<const Scheduled> plan(int64_t prompt_rows = INT32_MAX);
    // Forgets a sequence in whatever phase; its slot is free at once.
    void remove(Sequence &sequence);

    bool idle() const { return queue_.empty() && active_.empty(); }
    int64_t waiting() const { return queue_.size(); }
    int64_t prefilling() const;
    int64_t embedding() const { return texts_; }  // of these: those that will draw nothing
    int64_t quick() const;                        // of these: those that need the first layer only
    int64_t running() const { return static_cast<int64_t>(active_.size()) - prefilling(); }
    // Answers of one step at most.
    int64_t max_batch() const { return max_batch_; }
    int64_t extra_slots() const { return max_batch_ / 8 + 1; }

private:
    struct Place {
        Sequence *sequence;
        Group *group;
        uint64_t arrival;
        // Of its prompt, in virtual time: `weight` times its rows lie between both. 0: not set yet.
        int64_t begin = 0, end = 0, weight = 0;
        int64_t begun_at = 0;  // rows that were known then
    };

    void plan_answers();
    void plan_prompts(int64_t budget);
    void queue_up(Place &place);
    bool take(Place &place, int64_t most, int64_t &budget);

    int32_t max_batch_, prefill_chunk_, grain_;
    FairQueue queue_;
    std::vector<Place> active_;    // with a slot
    std::vector<int32_t> free_;    // slots that have been used and given back
    int32_t slots_ = 0;            // slots used so far
    int64_t texts_ = 0;            // slots of texts to embed
    int64_t clock_ = 0;            // virtual time: prompt rows, in turn
    uint64_t first_answer_ = 0;    // of the next step, among those that run
    bool long_one_waits_ = false;  // no prompt longer than a grain was in the last step
    std::vector<Scheduled> plan_;
    std::vector<Sequence *> answers_;  // scratch of plan()
    std::vector<Place *> prompts_;     // the same
};

}  // namespace rwkv
