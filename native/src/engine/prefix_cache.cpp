// When a state is worth keeping. Only memory can run out here, and what is kept can be done
// without: it is then dropped, and the requests go on.
#include "engine/prefix_cache.h"

#include <algorithm>
#include <exception>

namespace rwkv {

PrefixCache::PrefixCache(const Model &model, StatePool &pool)
    : model_(model),
      pool_(pool),
      cache_(model.state_floats() * sizeof(float),
             static_cast<size_t>(model.info().vocab) * sizeof(float)) {}

// What a burst of some twenty requests wants of a model of 0.1B, for their prompts and their
// answers, and a small part of the limit; none of states so small that their first writing costs
// nothing.
constexpr size_t states_ahead = size_t{128} << 20, logits_ahead = size_t{8} << 20,
                 small = size_t{256} << 10;

void PrefixCache::set_limit(size_t bytes) {
    limit_ = bytes;
    if (bytes == 0) cache_.clear();
    size_t ahead = 0;
    if (model_.state_floats() * sizeof(float) >= small) {
        ahead += expect(model_.state_floats(), std::min(states_ahead, bytes / 16));
        ahead +=
            expect(static_cast<size_t>(model_.info().vocab), std::min(logits_ahead, bytes / 16));
    }
    cache_.set_limit(bytes - ahead);
}

// As many whole ones as these bytes hold; returns what they take.
size_t PrefixCache::expect(size_t floats, size_t bytes) const {
    const size_t each = floats * sizeof(float), all = bytes / each * each;
    model_.backend().expect_snapshots(floats, all);
    return all;
}

CacheStats PrefixCache::stats() const {
    CacheStats now = asked_;
    now.limit = static_cast<int64_t>(limit_);
    now.bytes = static_cast<int64_t>(cache_.bytes());
    now.entries = static_cast<int64_t>(cache_.entries());
    now.saved = cache_.saved();
    now.evicted = cache_.evicted();
    return now;
}

StateTrie::Found PrefixCache::resume(Sequence &sequence, const Vocab &vocab) {
    if (cache_.limit() == 0) {
        sequence.request.save_at.clear();  // no need to cut there
        return {};
    }
    const std::span<const int32_t> prompt = sequence.request.prompt;
    auto known = cache_.find(sequence.request.state, prompt);
    ++(known.state ? asked_.hits : asked_.misses);
    asked_.asked_tokens += static_cast<int64_t>(prompt.size());
    asked_.cached_tokens += static_cast<int64_t>(known.tokens);
    asked_.reworded +=
        known.tokens < prompt.size() && cache_.rewords(sequence.request.state, prompt, vocab);
    if (known.state) {
        model_.backend().restore(sequence.state.data(), known.state);
        sequence.prefilled = sequence.cached = sequence.saved = static_cast<int64_t>(known.tokens);
    }
    return known;
}

void PrefixCache::keep_prompt(Sequence &sequence, const float *logits) noexcept {
    if (sequence.embeds()) return;  // the layers above the last that it needed have read nothing
    const int64_t at = sequence.prefilled;
    const auto &marks = sequence.request.save_at;
    if (!logits &&
        (at - sequence.saved < least_apart || !std::binary_search(marks.begin(), marks.end(), at)))
        return;
    try {
        keep(sequence, at, sequence.state.data(), logits);
    } catch (const std::exception &) {
        cache_.clear();
    }
    sequence.fork = nullptr;
}

// Of the states at hand it is the one that has read most of what is shown: an answer that ends
// before a stop string goes on from there, whatever tokens the rest becomes in the next prompt.
void PrefixCache::keep_answer(Sequence &sequence) noexcept {
    const bool wanted = sequence.request.keep_state;
    if (cache_.limit() == 0 && !wanted) return;
    const bool running = sequence.finish == Finish::running;
    if (running && sequence.held_from < 0) {
        sequence.aside_read = -1;
        sequence.aside = {};
        return;
    }
    const int64_t shown = sequence.shown();
    const auto better = [&](int64_t by) { return by <= shown && by > sequence.aside_read; };
    const float *best = nullptr;
    int64_t read = sequence.aside_read;
    if (better(sequence.read))
        best = sequence.state.data(), read = sequence.read;
    else if (sequence.verified > 0 && better(sequence.read_before))
        best = sequence.before.data(), read = sequence.read_before;
    if (!best && read >= 0) best = sequence.aside.data();
    if (!running && wanted) hand_out(sequence, read, best);
    try {
        if (!running && read > sequence.saved && cache_.limit() > 0)
            keep(sequence, read, best, nullptr);
        else if (running && read > sequence.aside_read)
            set_aside(sequence, read, best);
    } catch (const std::exception &) {
        cache_.clear();
    }
}

void PrefixCache::keep(Sequence &sequence, int64_t read, const float *state, const float *logits) {
    const auto room = cache_.insert(sequence.request.state, sequence.first(read, path_), logits);
    Backend &backend = model_.backend();
    const Fork *const fork = logits ? sequence.fork.get() : nullptr;  // saved for others already
    if (room.state) *room.state = fork ? fork->state : backend.save(state, model_.state_floats());
    if (room.logits)
        *room.logits =
            fork ? fork->logits : backend.save(logits, static_cast<size_t>(model_.info().vocab));
    sequence.saved = read;
}

std::shared_ptr<const Fork> PrefixCache::save(const Sequence &sequence, const float *logits) const {
    auto fork = std::make_shared<Fork>();
    Backend &backend = model_.backend();
    fork->state = backend.save(sequence.state.data(), model_.state_floats());
    fork->logits = backend.save(logits, static_cast<size_t>(model_.info().vocab));
    fork->cache = sequence.request.cache;
    return fork;
}

void PrefixCache::hand_out(Sequence &sequence, int64_t read, const float *state) noexcept {
    try {
        if (!state) throw std::bad_alloc();  // there was none to set it aside
        auto kept = std::make_shared<KeptState>();
        kept->unread = sequence.unread(read);
        kept->state = model_.new_state();
        model_.backend().copy(kept->state.data, state, model_.state_floats());
        sequence.event.kept = std::move(kept);
    } catch (const std::exception &error) {
        sequence.fail(error);
    }
}

void PrefixCache::set_aside(Sequence &sequence, int64_t read, const float *state) {
    if (!sequence.aside) sequence.aside = pool_.take();
    model_.backend().copy(sequence.aside.data(), state, model_.state_floats());
    sequence.aside_read = read;
}

}  // namespace rwkv
