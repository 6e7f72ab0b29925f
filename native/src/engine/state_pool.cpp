// See state_pool.h. Low slots are preferred, so that the memory of the high ones can go back: as
// many free slots keep theirs as are taken, and the spare ones.
#include "engine/state_pool.h"

#include <algorithm>
#include <new>

namespace rwkv {

StatePool::StatePool(const Model &model, int32_t slots, int32_t spare)
    : model_(model),
      states_(model.backend().states(model.state_floats(), slots)),
      spare_(std::min(spare, slots)),
      taken_(static_cast<size_t>(slots)) {}

StatePool::Slot StatePool::take() {
    const auto free = std::find(taken_.begin(), taken_.end(), false);
    if (free == taken_.end()) throw std::bad_alloc();
    const auto number = static_cast<int32_t>(free - taken_.begin());
    open_up(number + 1);
    *free = true;
    ++count_;
    written_ = std::max(written_, number + 1);  // by whoever asks for it
    return {this, number};
}

bool StatePool::make_ahead() {
    if (written_ >= spare_) return false;
    open_up(written_ + 1);
    model_.backend().upload(states_.at(written_), model_.initial_state());
    ++written_;
    return true;
}

void StatePool::open_up(int32_t slots) {
    if (slots <= open_) return;
    model_.backend().use_slots(states_, slots);
    open_ = slots;
}

void StatePool::give(int32_t number) noexcept {
    taken_[static_cast<size_t>(number)] = false;
    --count_;
    int32_t last = open_;
    while (last > 0 && !taken_[static_cast<size_t>(last - 1)]) --last;
    const int32_t wanted = std::max({last, spare_, 2 * count_});
    if (wanted >= open_) return;
    model_.backend().use_slots(states_, wanted);
    open_ = wanted;
    written_ = std::min(written_, wanted);
}

}  // namespace rwkv
