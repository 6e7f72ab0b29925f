// The numbers under the CPU backend: conversions over every 16-bit pattern, elementary functions,
// checkpoint tensors, and what the backend refuses.
#include "cpu/isa.h"
#include "oracle.h"

#include <atomic>
#include <limits>

using namespace rwkv;
using namespace oracle;

namespace {

void test_numbers() {
    const cpu::Kernels &kernels = cpu::chosen_kernels();
    const auto value_f16 = [](uint16_t h) {  // the definition
        const int exponent = h >> 10 & 31, mantissa = h & 1023;
        const double sign = h & 0x8000 ? -1 : 1;
        if (exponent == 31) return mantissa ? std::nan("") : sign * HUGE_VAL;
        return sign *
               (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
    };
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    Floats wide(65536);
    int wrong = 0;
    kernels.widen(wide.data(), all.data(), 65536, cpu::kF16);
    for (size_t i = 0; i < 65536; ++i) {
        const double expected = value_f16(all[i]);
        const float scalar = from_f16(all[i]);
        const bool nan = std::isnan(expected);
        wrong +=
            nan ? !(std::isnan(wide[i]) && std::isnan(scalar))
                : !(wide[i] == expected && scalar == expected &&
                    std::signbit(wide[i]) == std::signbit(expected) &&
                    to_f16(scalar) == (std::isinf(expected) ? (all[i] & 0x8000) | 0x7bff : all[i]));
    }
    CHECK(wrong == 0);
    kernels.widen(wide.data(), all.data(), 65535, cpu::kBf16);
    for (size_t i = 0; i < 65535; ++i) {
        uint32_t u;
        std::memcpy(&u, &wide[i], 4);
        const bool nan = (all[i] & 0x7fff) > 0x7f80;
        wrong += nan ? !std::isnan(wide[i]) : u != static_cast<uint32_t>(all[i]) << 16;
        wrong += nan ? !std::isnan(from_bf16(to_bf16(wide[i]))) : to_bf16(wide[i]) != all[i];
    }
    CHECK(wrong == 0);

    // Rounding, at and beside every boundary between two neighbours: the middle goes to the even
    // one.
    for (const DType type : {DType::f16, DType::bf16}) {
        Floats in, expected;
        const uint32_t largest = type == DType::f16 ? 0x7bff : 0x7f7f;
        for (uint32_t i = 0; i < largest; ++i) {
            const auto value = [&](uint32_t h) {
                const uint16_t bits = static_cast<uint16_t>(h);
                return type == DType::f16 ? static_cast<float>(value_f16(bits)) : from_bf16(bits);
            };
            const float a = value(i), b = value(i + 1);
            const float middle = static_cast<float>((static_cast<double>(a) + b) / 2);
            const float even = i % 2 == 0 ? a : b;
            for (const float sign : {1.0f, -1.0f}) {
                for (const auto &[x, y] : {std::pair{a, a},
                                           {std::nextafterf(middle, 0), a},
                                           {middle, even},
                                           {std::nextafterf(middle, HUGE_VALF), b}}) {
                    in.push_back(sign * x);
                    expected.push_back(sign * y);
                }
            }
        }
        if (type == DType::f16)
            for (const float x : {65504.0f, 65519.0f, 65520.0f, 1e9f, HUGE_VALF}) {
                in.push_back(x), expected.push_back(65504.0f);
                in.push_back(-x), expected.push_back(-65504.0f);
            }
        Floats out(in.size() + 16);
        const auto round = [&](const float *x, int64_t n) {
            kernels.round(reinterpret_cast<char *>(out.data()), x, n,
                          type == DType::f16 ? cpu::kF16 : cpu::kBf16, cpu::kFloats);
        };
        round(in.data(), static_cast<int64_t>(in.size()));
        int vector = 0, scalar = 0;
        for (size_t i = 0; i < in.size(); ++i) {
            vector += !(out[i] == expected[i] && std::signbit(out[i]) == std::signbit(expected[i]));
            scalar += !(static_cast<float>(rounded(in[i], type)) == expected[i]);
        }
        CHECK(vector == 0);
        CHECK(scalar == 0);
        const float nan = std::numeric_limits<float>::quiet_NaN();
        round(&nan, 1);
        CHECK(std::isnan(out[0]));
        CHECK(out[1] == 0 && out[15] == 0);
    }
}

// Weights of every bit pattern that is a number through a product with 1. Instructions for pairs
// take subnormal ones as 0.
void test_all_weights() {
    const auto backend = open_backend("cpu", 2);
    for (const DType type : {DType::f16, DType::bf16})
        for (const DType compute : {DType::f32, type}) {
            const uint16_t exponent = type == DType::f16 ? 0x7c00 : 0x7f80;
            std::vector<uint16_t> all(65536);
            for (size_t i = 0; i < all.size(); ++i)
                all[i] = (i & exponent) == exponent ? 0 : static_cast<uint16_t>(i);
            const Tensor tensor{
                "w", reinterpret_cast<const std::byte *>(all.data()), type, {65536, 1}, {1, 1}};
            const Matrix w = backend->matrix(tensor, compute, false);
            CHECK(w.stored == type && w.compute == compute);
            const bool pairs =
                cpu::chosen_kernels().input(static_cast<cpu::Type>(w.stored),
                                            static_cast<cpu::Type>(w.compute)) == cpu::kPairs;
            Sequences one(*backend, {1}, 1);
            Floats x(65536, 0.0f);
            const float y = 1;
            backend->linear_add(x.data(), w, &y, one.batch());
            int wrong = 0;
            for (size_t i = 0; i < 65536; ++i) {
                float expected = type == DType::f16 ? from_f16(all[i]) : from_bf16(all[i]);
                if (pairs && std::fabs(expected) < 0x1p-126f) expected = 0;
                wrong += x[i] != expected;
            }
            CHECK(wrong == 0);
        }
}

void test_functions() {
    const cpu::Kernels &kernels = cpu::chosen_kernels();
    const auto worst = [&](char f, double low, double high, auto exact, double *mean) {
        constexpr int64_t n = 200001;
        Floats x(n), y(n);
        for (int64_t i = 0; i < n; ++i)
            x[static_cast<size_t>(i)] =
                static_cast<float>(low + (high - low) * static_cast<double>(i) / (n - 1));
        kernels.function(y.data(), x.data(), n, f);
        double largest = 0, squares = 0;
        for (size_t i = 0; i < n; ++i) {
            const double want = exact(static_cast<double>(x[i]));
            const double error = std::fabs(y[i] - want) / std::max(std::fabs(want), 1e-37);
            largest = std::max(largest, error);
            squares += error * error;
        }
        if (mean) *mean = std::sqrt(squares / n);
        return largest;
    };
    const auto exp_of = [](double x) { return std::exp(x); };
    const auto tanh_of = [](double x) { return std::tanh(x); };
    const auto decay_of = [](double x) { return std::exp(-0.606531 * sigmoid(x)); };
    CHECK_NEAR(worst('e', -87, 88, exp_of, nullptr), 0, 1.5e-7);
    CHECK_NEAR(worst('s', -80, 80, sigmoid, nullptr), 0, 2.5e-7);
    CHECK_NEAR(worst('t', -12, 12, tanh_of, nullptr), 0, 2.5e-7);
    CHECK_NEAR(worst('t', -1e-3, 1e-3, tanh_of, nullptr), 0, 1.5e-7);
    double mean = 0;
    CHECK_NEAR(worst('w', -20, 20, decay_of, &mean), 0, 1.5e-7);
    CHECK_NEAR(mean, 0, 5e-8);
    const float special[] = {HUGE_VALF, -HUGE_VALF, 0.0f, 1000.0f, -1000.0f, NAN};
    float y[6];
    kernels.function(y, special, 6, 'e');
    CHECK(std::isinf(y[0]) && y[1] == 0 && y[2] == 1 && std::isinf(y[3]) && y[4] == 0 &&
          std::isnan(y[5]));
    kernels.function(y, special, 6, 's');
    CHECK(y[0] == 1 && y[1] == 0 && y[2] == 0.5f && y[3] == 1 && y[4] == 0 && std::isnan(y[5]));
    kernels.function(y, special, 6, 't');
    CHECK(y[0] == 1 && y[1] == -1 && y[2] == 0 && y[3] == 1 && y[4] == -1 && std::isnan(y[5]));
}

void test_tensors() {
    Random random{6};
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64})
        for (const bool strided : {false, true}) {
            Source source(random, 5, 7, dtype, strided);
            Floats all(35), row(7);
            read_floats(all.data(), source.tensor);
            read_row(row.data(), source.tensor, 3);
            for (size_t i = 0; i < 35; ++i) CHECK(all[i] == static_cast<float>(source.values[i]));
            for (size_t i = 0; i < 7; ++i)
                CHECK(row[i] == static_cast<float>(source.values[21 + i]));
            source.tensor.shape = {5, 1, 7};
            source.tensor.stride.insert(source.tensor.stride.begin() + 1, 0);
            Floats again(35);
            read_floats(again.data(), source.tensor);
            CHECK(again == all);
        }
    CHECK(std::string(name_of(DType::bf16)) == "bf16" &&
          std::string(name_of(DType::f64)) == "fp64");
}

// One weight that is no number, anywhere, whatever its type and the one it is packed to.
void test_not_finite() {
    Random random{7};
    const auto backend = open_backend("cpu", 3);
    const struct {
        DType dtype;
        uint64_t infinity, nan, largest;
    } kinds[] = {{DType::f32, 0x7f800000, 0xff800001, 0x7f7fffff},
                 {DType::f16, 0x7c00, 0xfc01, 0x7bff},
                 {DType::bf16, 0x7f80, 0xffff, 0xff7f},
                 {DType::f64, 0x7ff0000000000000, 0xfff8000000000000, 0x47efffffe0000000}};
    const Precision precisions[] = {
        DType::f32, DType::f16, DType::bf16, {DType::f32, DType::i8}, {DType::bf16, DType::i4}};
    for (const auto &kind : kinds)
        for (const bool strided : {false, true})
            for (const int64_t in : {1, 45, 130})
                for (const int64_t at : {int64_t{0}, 17 * in, 18 * in + in / 2, 19 * in - 1}) {
                    Source source(random, 19, in, kind.dtype, strided);
                    const int64_t place =
                        at / in * source.tensor.stride[0] + at % in * source.tensor.stride[1];
                    const size_t size = size_of(kind.dtype);
                    std::byte *const byte =
                        source.bytes.data() + 1 + static_cast<size_t>(place) * size;
                    for (const uint64_t bits : {kind.infinity, kind.nan}) {
                        std::memcpy(byte, &bits, size);
                        for (const Precision &precision : precisions)
                            for (const bool transposed : {false, true})
                                CHECK_THROWS(backend->matrix(source.tensor, precision, transposed),
                                             "the tensor w holds a NaN or an infinity");
                        CHECK_THROWS(backend->table(source.tensor), "the tensor w holds a NaN");
                    }
                    std::memcpy(byte, &kind.largest, size);
                    CHECK(backend->matrix(source.tensor, DType::f32, false).in == in);
                    CHECK(backend->table(source.tensor).in == in);
                    source.tensor.scale = 2;
                    CHECK_THROWS(backend->matrix(source.tensor, DType::f32, false),
                                 "a NaN or an inf");
                }
}

void test_packing_that_is_ended() {
    Random random{8};
    const auto backend = open_backend("cpu", 3);
    Source source(random, 700, 10, DType::bf16);
    std::atomic<int> calls{0};
    backend->while_packing([&] {
        if (++calls == 20) throw std::runtime_error("enough");
    });
    CHECK_THROWS(backend->table(source.tensor), "enough");
    calls = 0;
    CHECK_THROWS(backend->matrix(source.tensor, DType::bf16, false), "enough");
    backend->while_packing([] {});
    CHECK(backend->matrix(source.tensor, DType::bf16, false).out == 700);
}

void test_refusals() {
    CHECK_THROWS(open_backend("tpu", 1), "\"cpu\"");
    CHECK_THROWS(open_backend("cpu", -1), "threads");
    const auto backend = open_backend("cpu", 0);
    CHECK(backend->name() == "cpu" && backend->threads() >= 1 && backend->isa() == cpu_isa());
    const float one = 1;
    const Tensor vector{"v", reinterpret_cast<const std::byte *>(&one), DType::f32, {1}, {1}};
    CHECK_THROWS(backend->matrix(vector, DType::f32, false), "two dimensions");
}

// Small ones and large ones.
void test_buffers() {
    auto backend = open_backend("cpu", 1);
    for (const size_t count : {size_t{1000}, size_t{300'001}, size_t{5'000'000}}) {
        std::vector<Buffer> buffers;
        for (int round = 0; round < 3; ++round) {
            while (buffers.size() < 4) buffers.push_back(backend->floats(count));
            for (const Buffer &made : buffers) {
                CHECK(reinterpret_cast<uintptr_t>(made.data) % 64 == 0 && made.count == count);
                const float own = made.data[0];
                CHECK(std::all_of(made.data, made.data + count, [&](float x) { return x == own; }));
            }
            buffers.erase(buffers.begin(), buffers.begin() + (round == 1 ? 4 : 2));
            float mark = static_cast<float>(round);
            for (const Buffer &kept : buffers) std::fill_n(kept.data, count, mark += 0.25f);
        }
    }
    const Buffer longer_lived = backend->floats(300'001);
    backend.reset();
    longer_lived.data[300'000] = 1;
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_numbers();
    test_all_weights();
    test_functions();
    test_tensors();
    test_not_finite();
    test_packing_that_is_ended();
    test_refusals();
    test_buffers();
    return report();
}
