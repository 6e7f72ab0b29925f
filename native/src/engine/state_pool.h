// Which slots of the backend's pool of states are taken, and how many have memory. Every state that
// the engine moves lies here: those of sequences, those to go back to after guesses, and those set
// aside while text is held back. Used by the engine's thread alone; knows no sequence.
#pragma once

#include "model/model.h"

#include <cstdint>
#include <utility>
#include <vector>

namespace rwkv {

class StatePool {
public:
    // A slot while it is taken; an empty one has none.
    class Slot {
    public:
        Slot() = default;
        Slot(Slot &&other) noexcept
            : pool_(std::exchange(other.pool_, nullptr)), number_(other.number_) {}
        Slot &operator=(Slot &&other) noexcept {
            std::swap(pool_, other.pool_);
            std::swap(number_, other.number_);
            return *this;
        }
        ~Slot() {
            if (pool_) pool_->give(number_);
        }
        explicit operator bool() const { return pool_ != nullptr; }
        int32_t number() const { return number_; }
        // Memory of the backend; null if empty.
        float *data() const { return pool_ ? pool_->states_.at(number_) : nullptr; }

    private:
        friend StatePool;
        Slot(StatePool *pool, int32_t number) : pool_(pool), number_(number) {}

        StatePool *pool_ = nullptr;
        int32_t number_ = -1;
    };

    // Of so many slots; `spare` of them keep their memory when nobody has them. Throws
    // std::bad_alloc.
    StatePool(const Model &model, int32_t slots, int32_t spare);

    // The lowest free slot, whatever it holds. Throws std::bad_alloc.
    Slot take();
    // Writes to a spare slot that nobody has written to, so that the first who takes it need not
    // wait for its memory. False: there is none. Throws std::bad_alloc.
    bool make_ahead();
    const States &states() const { return states_; }
    // Slots that have memory, and those taken.
    int32_t open() const { return open_; }
    int32_t taken() const { return count_; }

private:
    void give(int32_t number) noexcept;
    void open_up(int32_t slots);

    const Model &model_;
    const States states_;
    const int32_t spare_;
    std::vector<bool> taken_;
    int32_t count_ = 0, open_ = 0,
            written_ = 0;  // taken; with memory; written to, from the first on
};

}  // namespace rwkv
