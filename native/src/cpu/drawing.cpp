// See drawing.h.
#include "cpu/drawing.h"

#include "sampling/distribution.h"

#include <algorithm>
#include <utility>

namespace rwkv::cpu {

CpuDrawing::CpuDrawing(Pool &pool, int32_t seats, size_t vocab)
    : pool_(pool), vocab_(vocab), seats_(static_cast<size_t>(seats)) {}

void CpuDrawing::seat(int32_t seat, const SamplingOptions &options,
                      std::span<const int32_t> prompt) {
    Seat &taken = seats_[static_cast<size_t>(seat)];
    taken.sampler.emplace(options, prompt);
    taken.logprobs = static_cast<size_t>(std::max(options.logprobs, 0));
}

// Each draw touches its own seat and row, and the memory of its thread only.
void CpuDrawing::draw(std::span<const Draw> draws) {
    drawn_.resize(draws.size());
    pool_.run(static_cast<int64_t>(draws.size()), [&](int64_t i, int) {
        Drawn &drawn = drawn_[static_cast<size_t>(i)];
        drawn.tokens.clear();
        drawn.failure = nullptr;
        try {
            draw_one(draws[static_cast<size_t>(i)], drawn);
        } catch (...) {
            drawn.failure = std::current_exception();
        }
    });
}

void CpuDrawing::draw_one(const Draw &draw, Drawn &drawn) {
    Seat &seat = seats_[static_cast<size_t>(draw.seat)];
    const auto row = [&](size_t i) { return std::span(draw.logits + i * vocab_, vocab_); };
    for (size_t i = 0; i < draw.scored.size(); ++i)
        drawn.tokens.push_back(
            {draw.scored[i], log_softmax(row(i), draw.scored[i], seat.logprobs)});
    if (!draw.scored.empty()) return;
    for (size_t i = 0;; ++i) {
        auto [token, logprobs] = seat.sampler->draw_in_place(row(i), draw.mask);
        drawn.tokens.push_back({token, std::move(logprobs)});
        if (i == draw.guesses.size() || draw.guesses[i] != token) return;
    }
}

}  // namespace rwkv::cpu
