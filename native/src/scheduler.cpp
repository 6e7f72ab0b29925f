// The queue, the turns and the budget; see scheduler.h for the rules.
#include "scheduler.h"

#include <algorithm>

namespace rwkv {

Scheduler::Scheduler(int32_t max_batch, int32_t prefill_chunk)
    : max_batch_(max_batch),
      prefill_chunk_(prefill_chunk),
      grain_(std::min(prefill_chunk, largest_grain)) {}

void Scheduler::add(Sequence &sequence) { waiting_.push_back(&sequence); }

Sequence *Scheduler::admit() {
    if (waiting_.empty() || static_cast<int64_t>(active_.size()) == max_batch_) return nullptr;
    Sequence *sequence = waiting_.front();
    active_.push_back(sequence);
    waiting_.pop_front();
    if (free_.empty()) {
        sequence->slot = slots_++;
    } else {
        sequence->slot = free_.back();
        free_.pop_back();
    }
    return sequence;
}

std::span<const Share> Scheduler::plan(int64_t prompt_rows) {
    plan_.clear();
    int64_t rows_so_far = 0;
    for (Sequence *sequence : active_) {
        if (!sequence->decoding()) continue;
        plan_.push_back({sequence, sequence->known});
        rows_so_far += sequence->known;
    }
    for (Share &share : plan_) {
        const int64_t room = std::max<int64_t>(guessing_rows - rows_so_far, 0);
        const auto guesses = std::min<int64_t>(share.sequence->guesses(), room);
        share.rows += static_cast<int32_t>(guesses);
        rows_so_far += guesses;
    }

    // A grain that does not fit is passed over, not split, and a shorter one behind it may still
    // fit. Nobody starves: who is passed over only moves forward, and the first one always fits.
    auto budget = static_cast<int32_t>(std::min<int64_t>(prompt_rows, prefill_chunk_));
    auto keep = active_.begin();
    served_.clear();
    for (Sequence *sequence : active_) {
        int32_t rows = sequence->decoding() ? 0 : sequence->prompt_rows(grain_, budget);
        if (rows == 0 && !sequence->decoding() && served_.empty())
            rows = sequence->prompt_rows(grain_, grain_);
        if (rows == 0) {
            *keep++ = sequence;
            continue;
        }
        budget -= rows;
        plan_.push_back({sequence, rows});
        served_.push_back(sequence);
    }
    std::copy(served_.begin(), served_.end(), keep);
    return plan_;
}

void Scheduler::remove(Sequence &sequence) {
    if (sequence.slot < 0) {
        std::erase(waiting_, &sequence);
        return;
    }
    std::erase(active_, &sequence);
    free_.push_back(sequence.slot);
    sequence.slot = -1;
}

int64_t Scheduler::prefilling() const {
    return std::count_if(active_.begin(), active_.end(),
                         [](const Sequence *sequence) { return !sequence->decoding(); });
}

int64_t Scheduler::embedding() const {
    return std::count_if(active_.begin(), active_.end(),
                         [](const Sequence *sequence) { return sequence->embeds(); });
}

}  // namespace rwkv
