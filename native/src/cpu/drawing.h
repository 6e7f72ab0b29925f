// Draws on the CPU: a Sampler for each seat, and the pool's threads for the draws of one call. What
// is drawn is there at once. Made by cpu_backend.cpp.
#pragma once

#include "backend.h"
#include "cpu/pool.h"
#include "sampling/sampler.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace rwkv::cpu {

class CpuDrawing final : public Drawing {
public:
    CpuDrawing(Pool &pool, int32_t seats, size_t vocab);

    void seat(int32_t seat, const SamplingOptions &options,
              std::span<const int32_t> prompt) override;
    void draw(std::span<const Draw> draws) override;
    std::span<const Drawn> settle() override { return drawn_; }

private:
    void draw_one(const Draw &draw, Drawn &drawn);

    struct Seat {
        std::optional<Sampler> sampler;
        size_t logprobs = 0;  // of a score
    };

    Pool &pool_;
    const size_t vocab_;
    std::vector<Seat> seats_;
    std::vector<Drawn> drawn_;
};

}  // namespace rwkv::cpu
