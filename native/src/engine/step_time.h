// How long steps take, and so how many prompt rows one may carry. Fed and asked by the engine
// thread; knows neither sequences nor the machine.
#pragma once

#include <array>
#include <cstdint>

namespace rwkv {

class StepTime {
public:
    // A step beside running streams should last no longer than `seconds`, or than `ratio` of the
    // steps that follow, if that is longer: their readers then see no gap.
    explicit StepTime(double seconds) : seconds_(seconds) {}

    // A step of so many rows has taken so long.
    void saw(int64_t rows, double seconds);
    // The rows that a step may have in all if `decoding` of them are running streams, and `later`
    // streams will run once the prompts that wait have been read: of those, each stream will see
    // more steps.
    int64_t rows_beside(int64_t decoding, int64_t later) const;
    // The same where no stream runs: who comes or hangs up meanwhile waits for the end of the step.
    // One grain of a prompt until a step has been seen.
    int64_t rows_alone() const;
    // The time that a step of so many rows will take: 0 until one has been seen.
    double estimate(int64_t rows) const;

private:
    static constexpr double ratio = 2.5;
    // A step of prompts alone lasts no longer than so many seconds, or steps of one row, if that is
    // longer: large models need as many rows to read prompts at full speed.
    static constexpr double alone = 0.050, alone_ratio = 4;
    // Steps of [2^i, 2^(i+1)) rows: moving averages of rows and seconds. The cost is far from
    // proportional: a few rows cost as much as one, because all of them read the weights once.
    struct Seen {
        double rows = 0, seconds = 0;
    };
    int64_t rows_within(double limit, int64_t least) const;
    double slope(const Seen &from, const Seen *above) const;

    double seconds_;
    std::array<Seen, 20> seen_{};
};

}  // namespace rwkv
