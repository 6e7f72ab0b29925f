// The queue, the turns and the budget; see scheduler.h for the rules.
#include "engine/scheduler.h"

#include <algorithm>
#include <tuple>

namespace rwkv {

Scheduler::Scheduler(int32_t max_batch, int32_t prefill_chunk)
    : max_batch_(max_batch),
      prefill_chunk_(prefill_chunk),
      grain_(std::min(prefill_chunk, largest_grain)) {}

void Scheduler::add(Sequence &sequence) { queue_.add(sequence); }

// Where all slots are taken, one of those for whom a few more are there.
Sequence *Scheduler::admit() {
    const auto beyond = static_cast<int64_t>(active_.size()) - max_batch_;
    if (beyond >= extra_slots()) return nullptr;
    const Waiter waiter =
        queue_.take({.full = beyond >= 0,
                     .chats_may = 2 * texts_ > max_batch_,
                     .texts_last = queue_.chats() > 0 && 2 * texts_ >= max_batch_});
    Sequence *const sequence = waiter.sequence;
    if (!sequence) return nullptr;
    texts_ += sequence->embeds();
    active_.push_back({sequence, waiter.group, waiter.arrival});
    if (free_.empty()) {
        sequence->slot = slots_++;
    } else {
        sequence->slot = free_.back();
        free_.pop_back();
    }
    return sequence;
}

std::span<const Scheduled> Scheduler::plan(int64_t prompt_rows) {
    plan_.clear();
    plan_answers();
    plan_prompts(std::clamp<int64_t>(prompt_rows, grain_, prefill_chunk_));
    return plan_;
}

// From one answer further on than in the last step, or from where that one ended.
void Scheduler::plan_answers() {
    answers_.clear();
    for (const Place &place : active_)
        if (place.sequence->decoding()) answers_.push_back(place.sequence);
    if (answers_.empty()) return;
    const size_t n = answers_.size(), taken = std::min(n, static_cast<size_t>(max_batch_));
    const size_t first = first_answer_ % n;
    first_answer_ = first + (taken < n ? taken : 1);
    int64_t rows_so_far = 0;
    for (size_t i = 0; i < taken; ++i) {
        Sequence *sequence = answers_[(first + i) % n];
        plan_.push_back({sequence, sequence->certain});
        rows_so_far += sequence->certain;
    }
    for (Scheduled &one : plan_) {
        const int64_t room = std::max<int64_t>(guessing_rows - rows_so_far, 0);
        const auto guesses = std::min<int64_t>(one.sequence->guesses(), room);
        one.rows += static_cast<int32_t>(guesses);
        rows_so_far += guesses;
    }
}

void Scheduler::plan_prompts(int64_t budget) {
    prompts_.clear();
    for (Place &place : active_) {
        if (place.sequence->decoding()) continue;
        if (place.weight == 0) queue_up(place);
        prompts_.push_back(&place);
    }
    if (prompts_.empty()) return;
    std::sort(prompts_.begin(), prompts_.end(), [](const Place *a, const Place *b) {
        return std::tie(a->end, a->arrival) < std::tie(b->end, b->arrival);
    });
    const auto embeds = [](const Place *place) { return place->sequence->embeds(); };
    const auto is_long = [this](const Place *place) {
        return place->sequence->prompt_left() > grain_;
    };
    const bool chats = !std::all_of(prompts_.begin(), prompts_.end(), embeds);
    const bool long_ones = std::any_of(prompts_.begin(), prompts_.end(), is_long);

    // The first of the longer ones has a grain in every step, or in every other if they hold little
    // more.
    const bool keeps = long_ones && (long_one_waits_ || budget >= 2 * grain_);
    const int64_t kept = keeps ? grain_ : 0;
    int64_t left = budget, for_texts = chats ? std::max<int64_t>(budget / 2, grain_) : budget;
    const auto read = [&](Place *place, int64_t most) {
        const bool text = embeds(place);
        const int64_t before = left;
        if (!take(*place, text ? std::min(most, for_texts) : most, left)) return false;
        if (text) for_texts -= before - left;
        return true;
    };
    bool somebody_listens = false;
    for (Place *place : prompts_)
        if (!is_long(place) && read(place, left - kept)) somebody_listens |= !embeds(place);
    if (somebody_listens) left = std::min<int64_t>(left, grain_);

    // A grain that does not fit is passed over, not split, and a shorter one behind it may still
    // fit.
    long_one_waits_ = long_ones;
    for (Place *place : prompts_) {
        if (!is_long(place)) continue;
        if (keeps && long_one_waits_) for_texts = std::max(for_texts, kept);
        if (read(place, left)) long_one_waits_ = false;
    }
}

// Finds its place among the prompts that are being read, once what is known of it has been left
// out.
void Scheduler::queue_up(Place &place) {
    std::vector<const Group *> reading{place.group};
    for (const Place &other : active_) {
        const Group *group = other.group;
        if (group->client == place.group->client && other.weight > 0 &&
            !other.sequence->decoding() &&
            std::find(reading.begin(), reading.end(), group) == reading.end())
            reading.push_back(group);
    }
    place.weight = static_cast<int64_t>(reading.size());  // a client's groups share its part
    place.begin = std::max(clock_, place.group->end);
    place.end = place.begin + place.weight * place.sequence->prompt_left();
    place.begun_at = place.sequence->prefilled;
    place.group->end = place.end;
}

// Gives a prompt at most `most` rows of the budget; false: it has got none.
bool Scheduler::take(Place &place, int64_t most, int64_t &budget) {
    const Sequence &sequence = *place.sequence;
    const int32_t rows =
        sequence.prompt_rows(grain_, static_cast<int32_t>(std::max<int64_t>(most, 0)));
    if (rows == 0) return false;
    budget -= rows;
    plan_.push_back({place.sequence, rows});
    const int64_t read = sequence.prefilled + rows - place.begun_at;
    clock_ = std::max(clock_, place.begin + place.weight * read);
    return true;
}

void Scheduler::remove(Sequence &sequence) {
    if (queue_.drop(sequence)) return;
    const auto place = std::find_if(active_.begin(), active_.end(),
                                    [&](const Place &one) { return one.sequence == &sequence; });
    if (place == active_.end()) return;
    texts_ -= sequence.embeds();
    free_.push_back(sequence.slot);
    sequence.slot = -1;
    queue_.release(*place->group);
    active_.erase(place);
}

int64_t Scheduler::prefilling() const {
    return std::count_if(active_.begin(), active_.end(),
                         [](const Place &place) { return !place.sequence->decoding(); });
}

int64_t Scheduler::quick() const {
    return std::count_if(active_.begin(), active_.end(), [](const Place &place) {
        return place.sequence->embeds() && place.sequence->request.quick;
    });
}

}  // namespace rwkv
