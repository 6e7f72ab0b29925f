// Where the activations of a step lie in scratch memory: one behind the other, [rows, size] each.
// Every version, and every part of one, says in one place what it needs; over no memory that says
// how much.
#pragma once

#include <cstdint>

namespace rwkv {

class RowLayout {
public:
    // `memory` may be null: then all parts are, and they are only counted.
    RowLayout(float *memory, int64_t rows) : memory_(memory), rows_(rows) {}

    // [rows, size]
    float *take(int64_t size) {
        float *part = memory_ ? memory_ + floats_ : nullptr;
        floats_ += rows_ * size;
        return part;
    }
    int64_t floats() const { return floats_; }

private:
    float *memory_;
    int64_t rows_, floats_ = 0;
};

// Floats of the activations of so many rows.
template <class Rows, class Weights>
int64_t floats_of(const Weights &weights, int64_t rows) {
    RowLayout layout(nullptr, rows);
    Rows(weights, layout);
    return layout.floats();
}

}  // namespace rwkv
