// Matrices that a backend packs: every weight where quant.h has it, the same bytes whatever the
// threads, and int8 where int4 would harm; those of a GGUF file exactly, where that can be. Packed
// ones used where they lie.
#include "oracle.h"
#include "weights/gguf_blocks.h"
#include "weights/quant.h"

using namespace rwkv;
using namespace oracle;

namespace {

std::span<const std::byte> bytes_of(const Matrix &m) {
    return {static_cast<const std::byte *>(m.data), m.bytes};
}

// Output o of a packed matrix.
Floats unpacked(const Matrix &m, int64_t o) {
    Floats row(static_cast<size_t>(m.in));
    const size_t panel = panels::bytes(m.stored, m.in);
    quant::unpack(row.data(), bytes_of(m).data() + static_cast<size_t>(o / 16) * panel, m.stored,
                  m.in, o % 16);
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
                    CHECK(m.out == out && m.in == in && m.stored == stored &&
                          m.compute == DType::bf16);
                    const size_t panels = static_cast<size_t>((out + 15) / 16);
                    CHECK(m.bytes == panels * panels::bytes(stored, in));
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

// A matrix of a packed file: lines of its own, kept by whoever uses them.
struct Packed {
    Tensor tensor;

    Packed(const Source &source, DType type, bool transposed = false) {
        struct alignas(64) Line {
            std::byte bytes[64];
        };
        const int64_t out = source.tensor.shape[0], in = source.tensor.shape[1];
        const size_t size = static_cast<size_t>((out + 15) / 16) * panels::bytes(type, in);
        const auto lines = std::make_shared<std::vector<Line>>(size / 64);
        const Floats values(source.values.begin(), source.values.end());
        quant::pack(lines->front().bytes, values.data(), type, out, in);
        tensor = source.tensor;
        tensor.dtype = type;
        tensor.packed = true;
        tensor.shape = {transposed ? in : out, transposed ? out : in};
        tensor.stride = {transposed ? 1 : in, transposed ? in : 1};
        tensor.data = lines->front().bytes;
        tensor.owner = lines;
    }
};

constexpr int64_t kShapes[][2] = {{1, 1}, {16, 32}, {90, 72}, {40, 257}, {33, 1}};
constexpr DType kPlain[] = {DType::f32, DType::f16, DType::bf16};

// The layout of quant.h, written for files, is that of the matrices in memory, which stay where
// they lie.
void test_packed_where_it_lies() {
    Random random{13};
    const auto backend = open_backend("cpu", 2);
    for (const auto &shape : kShapes)
        for (const DType type : kPlain)
            for (const bool transposed : {false, true}) {
                if (transposed && shape[1] == 1) continue;
                const Source source(random, shape[0], shape[1], type);
                const Packed packed(source, type, transposed);
                for (const DType compute : {type, DType::f32}) {
                    const Matrix wanted = backend->matrix(source.tensor, compute, false);
                    const Matrix m = backend->matrix(packed.tensor, compute, transposed);
                    CHECK(m.data == packed.tensor.data && m.owner == packed.tensor.owner);
                    CHECK(m.out == shape[0] && m.in == shape[1] && m.stored == wanted.stored);
                    CHECK(m.compute == compute &&
                          std::ranges::equal(bytes_of(m), bytes_of(wanted)));
                }
            }
}

// Where the strategy keeps another type, the same bytes as from numbers that are not packed.
void test_packed_as_another_type() {
    Random random{14};
    const auto backend = open_backend("cpu", 2);
    const Precision precisions[] = {
        DType::f32, DType::f16, DType::bf16, {DType::f32, DType::i8}, {DType::bf16, DType::i4}};
    for (const auto &shape : kShapes)
        for (const DType type : kPlain)
            for (const Precision &precision : precisions) {
                const Source source(random, shape[0], shape[1], type, false, 0.02);
                const Matrix wanted = backend->matrix(source.tensor, precision, false);
                const Matrix m = backend->matrix(Packed(source, type).tensor, precision, false);
                CHECK(m.stored == wanted.stored &&
                      std::ranges::equal(bytes_of(m), bytes_of(wanted)));
            }
}

void test_packed_refused() {
    Random random{15};
    const auto backend = open_backend("cpu", 1);
    const Source source(random, 32, 64, DType::bf16);
    const Packed packed(source, DType::bf16), turned(source, DType::bf16, true),
        bytes(source, DType::i8);
    CHECK_THROWS(backend->matrix(packed.tensor, DType::bf16, true),
                 "not with its outputs side by side");
    CHECK_THROWS(backend->matrix(turned.tensor, DType::bf16, false),
                 "not with its outputs side by side");
    CHECK_THROWS(backend->matrix(bytes.tensor, DType::bf16, false),
                 "w is packed as int8; use 'auto', 'cpu bf16i8'");
    CHECK_THROWS(backend->table(packed.tensor), "should be a plain table");
    Tensor moved = packed.tensor, scaled = packed.tensor;
    moved.data += 32;
    scaled.scale = 2;
    CHECK_THROWS(backend->matrix(moved, DType::bf16, false), "starts at no multiple of 64");
    CHECK_THROWS(backend->matrix(scaled, DType::bf16, false), "has a scale");
}

// A table is looked up in its file if that may stay and holds rows as look-ups want them.
void test_tables_where_they_lie() {
    Random random{16};
    const auto backend = open_backend("cpu", 2);
    Source source(random, 40, 32, DType::bf16);
    std::memmove(source.bytes.data(), source.tensor.data, source.bytes.size() - 1);
    const auto owner = std::make_shared<std::vector<std::byte>>(source.bytes.size() + 64);
    std::byte *const line =
        owner->data() + (64 - reinterpret_cast<uintptr_t>(owner->data()) % 64) % 64;
    std::ranges::copy(source.bytes, line);
    Tensor table = source.tensor;
    table.data = line;
    CHECK(backend->table(table).data != line);  // nobody keeps it
    table.owner = owner;
    const Matrix m = backend->table(table);
    CHECK(m.data == line && m.owner == owner && m.bytes == 40 * 32 * 2);
    Tensor every_other = table, moved = table, scaled = table;
    every_other.shape[0] = 20, every_other.stride[0] = 64;
    moved.shape[0] = 39, moved.data += 2;
    scaled.scale = 2;
    for (const Tensor &t : {every_other, moved, scaled}) {
        const Matrix copy = backend->table(t);
        CHECK(copy.owner != owner && copy.out == t.shape[0]);
    }
}

// Rows of random blocks of a GGUF file, with scales of about 0.01, and their numbers.
struct Blocks {
    Tensor tensor;
    std::vector<std::byte> bytes;
    Floats values;

    Blocks(Random &random, DType dtype, int64_t rows, int64_t columns) {
        const Unit unit = unit_of(dtype);
        bytes.resize(static_cast<size_t>(bytes_of(dtype, rows * columns)));
        const auto put = [&](size_t at, double x) {
            const uint16_t h = to_f16(static_cast<float>(x));
            std::memcpy(bytes.data() + at, &h, 2);
        };
        for (std::byte &b : bytes)
            b = static_cast<std::byte>(static_cast<int>(random.next() * 1e5) & 0xff);
        for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(unit.bytes)) {
            if (!symmetric(dtype) && dtype != DType::q6_k) put(at + 2, 0.01 * random.next());
            put(dtype == DType::q6_k ? at + 208 : at, 0.01 * random.next());
            if (dtype == DType::q8_0)  // no quantiser writes −128
                for (size_t i = at + 2; i < at + 34; ++i)
                    if (bytes[i] == std::byte{128}) bytes[i] = std::byte{5};
        }
        tensor.name = "w";
        tensor.dtype = dtype;
        tensor.data = bytes.data();
        tensor.shape = {rows, columns};
        tensor.stride = {columns, 1};
        values.resize(static_cast<size_t>(rows * columns));
        read_blocks(values.data(), bytes.data(), dtype, rows * columns);
    }
};

// Q4_0 is int4 to the bit; the others lose at most half a step of int8.
void test_blocks_of_a_file() {
    Random random{10};
    const auto backend = open_backend("cpu", 2);
    for (const DType dtype : {DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::q8_0,
                              DType::q4_k, DType::q5_k, DType::q6_k})
        for (const DType stored : {DType::i8, DType::i4}) {
            const Blocks source(random, dtype, 40, 512);
            const Matrix m = backend->matrix(source.tensor, {DType::bf16, stored}, false);
            const bool exact = m.stored == DType::i4 && dtype == DType::q4_0;
            if (m.stored == DType::i4 && !exact) continue;
            double used = 0;
            bool same = true;
            for (int64_t o = 0; o < m.out; ++o) {
                const Floats row = unpacked(m, o);
                const float *wanted = source.values.data() + o * m.in;
                for (int64_t g = 0; g < m.in; g += panels::group(m.stored)) {
                    double largest = 0;
                    const int64_t end = g + panels::group(m.stored);
                    for (int64_t k = g; k < end; ++k)
                        largest = std::max(largest, std::fabs(double{wanted[k]}));
                    for (int64_t k = g; k < end; ++k) {
                        const double error =
                            std::fabs(row[static_cast<size_t>(k)] - double{wanted[k]});
                        used = std::max(used, error / (largest / 127 * 0.501));
                        same &= row[static_cast<size_t>(k)] == wanted[k];
                    }
                }
            }
            CHECK(exact ? same : used > 0.5 && used <= 1);
        }
}

// The file's power of two goes into the scales.
void test_a_rescaled_tensor() {
    Random random{11};
    const auto backend = open_backend("cpu", 1);
    Blocks source(random, DType::q4_0, 16, 64);
    source.tensor.scale = 8;
    const Matrix m = backend->matrix(source.tensor, {DType::bf16, DType::i4}, false);
    for (int64_t o = 0; o < m.out; ++o) {
        const Floats row = unpacked(m, o);
        for (int64_t k = 0; k < m.in; ++k)
            CHECK(row[static_cast<size_t>(k)] ==
                  8 * source.values[static_cast<size_t>(o * m.in + k)]);
    }
}

// A block runs along the inputs: what is read across them is refused, and so is a scale that is no
// number.
void test_blocks_refused() {
    Random random{12};
    const auto backend = open_backend("cpu", 2);
    Blocks source(random, DType::q8_0, 32, 64);
    for (const DType stored : {DType::f32, DType::bf16, DType::i8})
        CHECK_THROWS(backend->matrix(source.tensor, {DType::bf16, stored}, true),
                     "w is quantised (Q8_0)");
    source.bytes[34 * 7 + 1] = std::byte{0x7c};
    CHECK_THROWS(backend->matrix(source.tensor, {DType::bf16, DType::i8}, false), "w holds a NaN");
    CHECK_THROWS(backend->matrix(source.tensor, {DType::bf16, DType::i4}, false), "w holds a NaN");
    CHECK_THROWS(backend->table(source.tensor), "w holds a NaN");
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_every_shape_and_source();
    test_transposed();
    test_what_int4_would_harm_becomes_int8();
    test_packed_where_it_lies();
    test_packed_as_another_type();
    test_packed_refused();
    test_tables_where_they_lie();
    test_blocks_of_a_file();
    test_a_rescaled_tensor();
    test_blocks_refused();
    return report();
}
