// Matrices that a backend packs in block formats: every weight where quant.h has it, the same bytes
// whatever the threads, and int8 where int4 would harm.
#include "oracle.h"
#include "quant.h"

using namespace rwkv;
using namespace oracle;

namespace {

std::span<const std::byte> bytes_of(const Matrix &m) {
    return {static_cast<const std::byte *>(m.data), m.bytes};
}

// Output o of a packed matrix.
Floats unpacked(const Matrix &m, int64_t o) {
    Floats row(static_cast<size_t>(m.in));
    const size_t panel = quant::panel_bytes(m.stored, m.in);
    quant::unpack(row.data(), bytes_of(m).data() + static_cast<size_t>(o / 16) * panel, m.stored, m.in, o % 16);
    return row;
}

// Root mean square of the change over that of the weights.
double change(const Matrix &m, const Doubles &values) {
    double error = 0, norm = 0;
    for (int64_t o = 0; o < m.out; ++o) {
        const Floats row = unpacked(m, o);
        for (int64_t k = 0; k < m.in; ++k) {
            const double w = values[static_cast<size_t>(o * m.in + k)];
            error += (row[static_cast<size_t>(k)] - w) * (row[static_cast<size_t>(k)] - w);
            norm += w * w;
        }
    }
    return std::sqrt(error / norm);
}

void test_every_shape_and_source() {
    Random random{7};
    const auto one = open_backend("cpu", 1), three = open_backend("cpu", 3);
    const int64_t shapes[][2] = {{1, 1}, {16, 32}, {90, 72}, {40, 257}, {1100, 64}};
    for (const auto &shape : shapes)
        for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64})
            for (const bool strided : {false, true})
                for (const DType stored : {DType::i8, DType::i4}) {
                    const int64_t out = shape[0], in = shape[1];
                    const Source source(random, out, in, dtype, strided, 0.02);
                    const Matrix m = one->matrix(source.tensor, {DType::bf16, stored}, false);
                    CHECK(m.out == out && m.in == in && m.stored == stored && m.compute == DType::bf16);
                    const size_t panels = static_cast<size_t>((out + 15) / 16);
                    CHECK(m.bytes == panels * quant::panel_bytes(stored, in));
                    CHECK(reinterpret_cast<uintptr_t>(m.data) % 64 == 0);
                    CHECK(change(m, source.values) < (stored == DType::i8 ? 0.006 : 0.1));
                    const Matrix again = three->matrix(source.tensor, {DType::bf16, stored}, false);
                    CHECK(std::ranges::equal(bytes_of(m), bytes_of(again)));
                }
}

void test_transposed() {
    Random random{8};
    const auto backend = open_backend("cpu", 2);
    const Source source(random, 50, 70, DType::bf16);
    const Matrix m = backend->matrix(source.tensor, {DType::f32, DType::i8}, true);
    CHECK(m.out == 70 && m.in == 50);
    Doubles values;
    for (size_t o = 0; o < 70; ++o)
        for (size_t k = 0; k < 50; ++k) values.push_back(source.values[k * 70 + o]);
    CHECK(change(m, values) < 0.006);
}

// One weight in 33 a hundred times as large as the others: they all but vanish in their groups.
void test_what_int4_would_harm_becomes_int8() {
    Random random{9};
    const auto backend = open_backend("cpu", 2);
    Source source(random, 100, 330, DType::f32);
    std::fill(source.values.begin(), source.values.end(), 1.0);
    for (size_t i = 0; i < source.values.size(); ++i) {
        const float w = static_cast<float>(random.next()) * (i % 33 == 0 ? 20.0f : 1.0f);
        std::memcpy(source.bytes.data() + 1 + i * 4, &w, 4);
        source.values[i] = w;
    }
    const Matrix m = backend->matrix(source.tensor, {DType::bf16, DType::i4}, false);
    CHECK(m.stored == DType::i8);
    CHECK(change(m, source.values) < 0.03);
    CHECK(backend->matrix(source.tensor, {DType::bf16, DType::i8}, false).stored == DType::i8);
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_every_shape_and_source();
    test_transposed();
    test_what_int4_would_harm_becomes_int8();
    return report();
}
