// Which states of a sequence the cache keeps, and when: after the places that its request names,
// after its prompt and after its answer. Called by the engine's thread, which moves the states,
// between two steps.
#pragma once

#include "engine/sequence.h"
#include "engine/state_pool.h"
#include "engine/state_trie.h"
#include "engine/stats.h"
#include "model/model.h"
#include "text/vocab.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace rwkv {

class PrefixCache {
public:
    PrefixCache(const Model &model, StatePool &pool);
    ~PrefixCache() { set_limit(0); }

    // Bytes of what is kept; 0: off, and everything is freed.
    void set_limit(size_t bytes);
    void clear() noexcept { cache_.clear(); }
    CacheStats stats() const;

    // Puts a sequence that has just got its slot, with that slot's state, behind the part of its
    // prompt that is known. Where that is all of it, the logits that follow are there, too.
    StateTrie::Found resume(Sequence &sequence, const Vocab &vocab);
    // After a step of the prompt: keeps its state at the end, with the logits, and where the
    // request asks for it, unless a few tokens before one is kept: those are read again sooner than
    // a state is copied.
    void keep_prompt(Sequence &sequence, const float *logits) noexcept;
    // The end of a prompt that has just been read, for those who go on from it. Throws
    // std::bad_alloc.
    std::shared_ptr<const Fork> save(const Sequence &sequence, const float *logits) const;
    // After a draw: keeps the state of an answer that has ended, and hands it out where the request
    // wants that, or sets one aside while text is held back. Only where one to be handed out finds
    // no memory the sequence ends with the error.
    void keep_answer(Sequence &sequence) noexcept;

private:
    size_t expect(size_t floats, size_t bytes) const;
    void keep(Sequence &sequence, int64_t read, const float *state, const float *logits);
    void hand_out(Sequence &sequence, int64_t read, const float *state) noexcept;
    void set_aside(Sequence &sequence, int64_t read, const float *state);

    const Model &model_;
    StatePool &pool_;
    StateTrie cache_;
    size_t limit_ = 0;           // of what is kept and of memory made ready for more
    CacheStats asked_;           // counts of what it was asked
    std::vector<int32_t> path_;  // scratch: the tokens of a state
};

}  // namespace rwkv
