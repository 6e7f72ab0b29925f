// The moving averages behind step_time.h.
#include "engine/step_time.h"

#include <algorithm>
#include <bit>

namespace rwkv {

void StepTime::saw(int64_t rows, double seconds) {
    if (rows < 1) return;
    const size_t i = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(rows))) - 1;
    Seen &seen = seen_[std::min(i, seen_.size() - 1)];
    const auto now = static_cast<double>(rows);
    if (seen.rows == 0) {
        seen = {now, seconds};
        return;
    }
    // A step that another process has interrupted says little, a quick one says what is possible.
    const double weight = seconds / now > seen.seconds / seen.rows ? 0.1 : 0.3;
    seen.rows += weight * (now - seen.rows);
    seen.seconds += weight * (seconds - seen.seconds);
}

// Seconds that one more row costs beyond `from`. Where nothing larger has been seen: 1/16 of the
// step if it was small (its time went into reading the weights), or its mean.
double StepTime::slope(const Seen &from, const Seen *above) const {
    if (above) return std::max(above->seconds - from.seconds, 0.0) / (above->rows - from.rows);
    return from.seconds / std::max(from.rows, 16.0);
}

double StepTime::estimate(int64_t rows) const {
    const auto wanted = static_cast<double>(rows);
    const Seen *below = nullptr;
    for (const Seen &seen : seen_) {
        if (seen.rows == 0) continue;
        if (seen.rows > wanted)
            return below ? below->seconds + (wanted - below->rows) * slope(*below, &seen)
                         : seen.seconds * std::max(wanted, 16.0) / std::max(seen.rows, 16.0);
        below = &seen;
    }
    return below ? below->seconds + (wanted - below->rows) * slope(*below, nullptr) : 0;
}

// The most rows that are estimated to take no longer; `least` in any case.
int64_t StepTime::rows_within(double limit, int64_t least) const {
    int64_t rows = least;
    for (int64_t step = int64_t{1} << (seen_.size() - 1); step > 0; step /= 2)
        if (estimate(rows + step) <= limit) rows += step;
    return rows;
}

int64_t StepTime::rows_beside(int64_t decoding, int64_t later) const {
    return rows_within(std::max(seconds_, ratio * estimate(later)), decoding);
}

int64_t StepTime::rows_alone() const {
    if (estimate(1) == 0) return 0;
    return rows_within(std::max({seconds_, alone, alone_ratio * estimate(1)}), 0);
}

}  // namespace rwkv
