// Rows of logits for the tests of sampling: flat ones and steep ones, with ties, with tokens that
// cannot be drawn and with some that stand out.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

constexpr float inf = std::numeric_limits<float>::infinity();
using Floats = std::vector<float>;

inline Floats random_logits(std::mt19937_64 &random, size_t n) {
    std::normal_distribution<float> normal;
    const float spread = std::array{0.f, 1e-4f, 0.3f, 1.f, 3.f, 10.f, 60.f}[random() % 7];
    const float grid = std::array{0.f, 0.f, 0.25f, 4.f}[random() % 4];
    Floats x(n);
    for (float &v : x) {
        v = spread * normal(random);
        v = grid > 0 ? std::round(v / grid) * grid : v;
    }
    for (size_t i = random() % 3 == 0 ? n / 3 : 0; i > 0; --i) x[random() % n] = -inf;
    for (size_t i = random() % 3 == 0 ? std::min<size_t>(n, 8) : 0; i > 0; --i)
        x[random() % n] = 20 + normal(random);
    x[random() % n] = 1;  // one finite at least
    return x;
}
