// The block formats: what rounding leaves, the layout byte by byte, and the product of quantised
// rows.
#include "check.h"
#include "oracle.h"
#include "weights/half.h"
#include "weights/quant.h"

using namespace rwkv;
using oracle::Floats;
using oracle::Random;

namespace {

using Panel = std::vector<std::byte>;

// Weights [groups · group][16] as pack_panel takes them: `outputs` columns and `in` rows filled by
// `value`.
template <class Value>
Floats tile(DType type, int64_t in, int64_t outputs, Value value) {
    Floats w(static_cast<size_t>(panels::groups(type, in) * panels::group(type) * 16), 0.0f);
    for (int64_t k = 0; k < in; ++k)
        for (int64_t o = 0; o < outputs; ++o) w[static_cast<size_t>(k * 16 + o)] = value(k, o);
    return w;
}

Floats unpacked(const Panel &panel, DType type, int64_t in, int64_t o) {
    Floats w(static_cast<size_t>(in));
    quant::unpack(w.data(), panel.data(), type, in, o);
    return w;
}

Panel packed(const Floats &w, DType type, int64_t in, const uint16_t *scales = nullptr,
             quant::Loss *loss = nullptr) {
    Panel panel(panels::bytes(type, in), std::byte{0xee});
    const quant::Loss found = quant::pack_panel(panel.data(), w.data(), type, in, scales);
    if (loss) *loss = found;
    return panel;
}

uint16_t scale_of(const Panel &panel, int64_t group, int64_t o) {
    uint16_t d;
    std::memcpy(&d, panel.data() + (group * 16 + o) * 2, 2);
    return d;
}

void test_sizes() {
    CHECK(panels::bytes(DType::i8, 768) == 12 * 16 * (2 + 64));
    CHECK(panels::bytes(DType::i4, 768) == 24 * 16 * (2 + 16));
    // 3 groups: 96 bytes of scales, filled up to 128.
    CHECK(panels::bytes(DType::i8, 129) == 128 + 3 * 16 * 64);
    CHECK(panels::bytes(DType::i4, 65) == 128 + 3 * 16 * 16);
    CHECK(panels::bytes(DType::i4, 1) == 64 + 16 * 16);
}

// Numbers that are their own q at d = 1/2, at the places that quant.h gives them.
void test_layout() {
    const std::vector<uint16_t> scales(3 * 16, to_f16(0.5f));
    for (const DType type : {DType::i8, DType::i4}) {
        const int64_t size = panels::group(type), in = 2 * size + 6;
        const int least = type == DType::i8 ? -127 : -8, values = type == DType::i8 ? 255 : 16;
        const auto number = [&](int64_t k, int64_t o) {
            return least + static_cast<int>((k * 37 + o * 11) % values);
        };
        const Floats w = tile(type, in, 13, [&](int64_t k, int64_t o) {
            return 0.5f * static_cast<float>(number(k, o));
        });
        quant::Loss loss;
        const Panel panel = packed(w, type, in, scales.data(), &loss);
        CHECK(loss.error == 0 && loss.norm > 0);
        for (int64_t g = 0; g < 3; ++g)
            for (int64_t o = 0; o < 16; ++o) CHECK(scale_of(panel, g, o) == to_f16(0.5f));
        for (size_t i = 96; i < 128; ++i) CHECK(panel[i] == std::byte{0});
        for (int64_t k = 0; k < 3 * size; ++k)
            for (int64_t o = 0; o < 16; ++o) {
                const int wanted = k < in && o < 13 ? number(k, o) : 0;
                const int64_t group = k / size, in_group = k % size;
                if (type == DType::i8) {
                    const int64_t at = 128 + ((group * 16 + in_group / 4) * 16 + o) * 4 + k % 4;
                    CHECK(static_cast<int>(panel[static_cast<size_t>(at)]) == wanted + 128);
                } else {
                    const int64_t at = 128 + ((group * 4 + in_group / 8) * 16 + o) * 4 + k % 4;
                    const int both = static_cast<int>(panel[static_cast<size_t>(at)]);
                    CHECK((in_group % 8 < 4 ? both & 15 : both >> 4) == wanted + 8);
                }
            }
        for (int64_t o = 0; o < 13; ++o) {
            const Floats back = unpacked(panel, type, in, o);
            for (int64_t k = 0; k < in; ++k)
                CHECK(back[static_cast<size_t>(k)] == 0.5f * static_cast<float>(number(k, o)));
        }
    }
}

// Half a step everywhere, whatever the magnitude; d as small as fp16 can hold has coarse steps of
// its own.
void test_int8_is_within_half_a_step() {
    Random random{3};
    for (const double size : {1e-9, 3e-7, 2e-5, 1e-3, 0.02, 1.0, 4e5}) {
        const int64_t in = 100;
        const Floats w = tile(DType::i8, in, 16, [&](int64_t, int64_t) {
            return static_cast<float>(size * random.next());
        });
        const Panel panel = packed(w, DType::i8, in);
        for (int64_t o = 0; o < 16; ++o) {
            const Floats back = unpacked(panel, DType::i8, in, o);
            for (int64_t k = 0; k < in; ++k) {
                const double exact = w[static_cast<size_t>(k * 16 + o)];
                const double d = from_f16(scale_of(panel, k / 64, o));
                const double half = d == 0 ? 127 * 0x1p-25 : 0.5001 * d;
                CHECK_NEAR(back[static_cast<size_t>(k)], exact, half);
            }
        }
    }
}

// The least error that any of many scales leaves in one group.
double least_error(const float *w, double extreme) {
    double least = HUGE_VAL;
    for (int i = 0; i < 800; ++i) {
        const double sign = i % 2 ? 1 : -1, target = 5 + 0.0125 * (i / 2);
        const double d = from_f16(to_f16(static_cast<float>(sign * extreme / target)));
        double error = 0;
        for (int k = 0; k < 32; ++k) {
            const double q = std::clamp(std::nearbyint(w[k * 16] / d), -8.0, 7.0);
            error += (w[k * 16] - d * q) * (w[k * 16] - d * q);
        }
        least = std::min(least, error);
    }
    return least;
}

void test_int4_finds_the_scale() {
    Random random{4};
    const int64_t in = 2048;
    for (const bool heavy : {false, true}) {
        const Floats w = tile(DType::i4, in, 16, [&](int64_t, int64_t) {
            const double x = random.next();
            return static_cast<float>(0.02 * (heavy ? x * x * x : x));
        });
        quant::Loss loss;
        const Panel panel = packed(w, DType::i4, in, nullptr, &loss);
        double error = 0, least = 0, plain = 0;
        int negative = 0;
        for (int64_t g = 0; g < panels::groups(DType::i4, in); ++g)
            for (int64_t o = 0; o < 16; ++o) {
                const float *group = w.data() + g * 512 + o;
                double extreme = 0;
                for (int k = 0; k < 32; ++k)
                    extreme = std::max(extreme, std::fabs(double{group[k * 16]}));
                least += least_error(group, extreme);
                for (int k = 0; k < 32; ++k) {
                    const double d = extreme / 7.5, x = group[k * 16];
                    plain += std::pow(x - d * std::clamp(std::nearbyint(x / d), -8.0, 7.0), 2);
                }
                negative += scale_of(panel, g, o) >> 15;
            }
        for (int64_t o = 0; o < 16; ++o) {
            const Floats back = unpacked(panel, DType::i4, in, o);
            for (int64_t k = 0; k < in; ++k)
                error += std::pow(
                    double{w[static_cast<size_t>(k * 16 + o)]} - back[static_cast<size_t>(k)], 2);
        }
        CHECK_NEAR(loss.error, error, 1e-5 * error);
        CHECK(error < 1.01 * least);
        CHECK(error < 0.95 * plain);
        // The value that has no counterpart, -8, serves extremes of both signs.
        CHECK(negative > 200 && negative < 824);
    }
}

void test_extremes() {
    for (const DType type : {DType::i8, DType::i4}) {
        // nothing but zeros, one weight, far more than fp16 can scale
        for (const float only : {0.0f, 1.0f, -3.5f, 1e-30f, 1e30f, -1e30f}) {
            const Floats w =
                tile(type, 32, 16, [&](int64_t k, int64_t) { return k == 5 ? only : 0.0f; });
            const Floats back = unpacked(packed(w, type, 32), type, 32, 7);
            const float most = (type == DType::i8 ? 127 : 8) * 65504.0f;
            const double wanted = std::clamp(only, -most, most);
            for (int64_t k = 0; k < 32; ++k)
                CHECK_NEAR(back[static_cast<size_t>(k)], k == 5 ? wanted : 0,
                           1e-3 * std::fabs(wanted) + 1e-6);
        }
    }
}

// A product of quantised rows is that of the numbers they stand for.
void test_product() {
    Random random{5};
    for (const int64_t in : {int64_t{1}, int64_t{31}, int64_t{64}, int64_t{200}})
        for (const DType type : {DType::i8, DType::i4}) {
            const Floats w = tile(
                type, in, 16, [&](int64_t, int64_t) { return static_cast<float>(random.next()); });
            const Panel panel = packed(w, type, in);
            Floats x = random.floats(in), s(static_cast<size_t>(panels::groups(type, in)));
            const int64_t size = panels::group(type);
            std::fill_n(x.begin(), std::min<int64_t>(in, size), in == 200 ? 0.0f : 0.25f);
            std::vector<int8_t> p(static_cast<size_t>(panels::groups(type, in) * size), 99);
            quant::quantise_row(p.data(), s.data(), x.data(), type, in);
            for (int64_t k = 0; k < static_cast<int64_t>(p.size()); ++k) {
                const double step = s[static_cast<size_t>(k / size)],
                             value = step * p[static_cast<size_t>(k)];
                CHECK_NEAR(value, k < in ? x[static_cast<size_t>(k)] : 0, 0.5001 * step);
            }
            for (int64_t o = 0; o < 16; ++o) {
                const Floats row = unpacked(panel, type, in, o);
                double y = 0;
                for (int64_t k = 0; k < in; ++k)
                    y += double{row[static_cast<size_t>(k)]} * s[static_cast<size_t>(k / size)] *
                         p[static_cast<size_t>(k)];
                CHECK_NEAR(quant::product(panel.data(), type, in, o, p.data(), s.data()), y, 1e-9);
            }
        }
}

}  // namespace

int main() {
    test_sizes();
    test_layout();
    test_int8_is_within_half_a_step();
    test_int4_finds_the_scale();
    test_extremes();
    test_product();
    return report();
}
