// See followers.h.
#include "engine/followers.h"

#include <utility>

namespace rwkv {

void Followers::add(Sequence &sequence) {
    lists_[sequence.follows].push_back(&sequence);
    ++waiting_;
}

void Followers::drop(Sequence &sequence) noexcept {
    const auto found = lists_.find(std::exchange(sequence.follows, 0));
    if (found == lists_.end()) return;
    waiting_ -= static_cast<int64_t>(std::erase(found->second, &sequence));
    if (found->second.empty()) lists_.erase(found);
}

std::vector<Sequence *> Followers::take(uint64_t leader) {
    auto list = lists_.extract(leader);
    if (list.empty()) return {};
    for (Sequence *sequence : list.mapped()) sequence->follows = 0;
    waiting_ -= static_cast<int64_t>(list.mapped().size());
    return std::move(list.mapped());
}

Sequence *Followers::promote_in(uint64_t leader) {
    auto list = lists_.extract(leader);
    Sequence *const first = list.mapped().front();
    list.mapped().erase(list.mapped().begin());
    first->follows = 0;
    --waiting_;
    if (list.mapped().empty()) return first;
    for (Sequence *sequence : list.mapped()) sequence->follows = first->id;
    list.key() = first->id;
    lists_.insert(std::move(list));
    return first;
}

}  // namespace rwkv
