// Further answers to a prompt (rwkv_request.n): they wait, outside the scheduler, until the first
// of them has read it. Used by the engine's thread alone.
#pragma once

#include "engine/sequence.h"

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace rwkv {

class Followers {
public:
    bool empty() const { return lists_.empty(); }
    bool has(uint64_t leader) const { return lists_.contains(leader); }
    int64_t waiting() const { return waiting_; }

    // Whom it follows, Sequence::follows, is the request that reads the prompt.
    void add(Sequence &sequence);
    // Forgets one that waits for nothing any more; nothing happens if it never followed.
    void drop(Sequence &sequence) noexcept;
    // All that wait for this request; they follow nobody then.
    std::vector<Sequence *> take(uint64_t leader);
    // The first of those whose leader has gone: the others follow it, and it nobody. Null: there
    // are none. `is_there` says whether a leader is.
    template <class IsThere>
    Sequence *promote(const IsThere &is_there) {
        for (const auto &[leader, list] : lists_)
            if (!is_there(leader)) return promote_in(leader);
        return nullptr;
    }

private:
    Sequence *promote_in(uint64_t leader);

    std::unordered_map<uint64_t, std::vector<Sequence *>> lists_;  // by leader; none is empty
    int64_t waiting_ = 0;
};

}  // namespace rwkv
