// How every version takes its weights: vectors widened to floats, matrices packed by the backend.
// Counts what it packs and reports progress. Used by the load() of each version; knows no
// equations.
#pragma once

#include "backend.h"
#include "weights/tensor_table.h"

#include <functional>
#include <string>
#include <vector>

namespace rwkv {

class WeightReader {
public:
    // `precisions` holds that of every layer and, last, of the head. `check` is called with every
    // matrix before it is packed.
    WeightReader(Backend &backend, TensorTable &table, std::vector<Precision> precisions,
                 std::function<void(const Tensor &)> check)
        : backend_(backend),
          table_(table),
          precisions_(std::move(precisions)),
          check_(std::move(check)) {}

    TensorTable &table() { return table_; }

    // `count` floats on the backend, each passed through `change` if given.
    float *vector(const std::string &name, int64_t count, float (*change)(float) = nullptr);
    // Values made by the caller.
    float *vector(const std::vector<float> &values);
    Norm norm(const std::string &name, int64_t count);  // name.weight, name.bias
    // blocks.0.ln0; without weights where the rows of the embedding have been normalised already.
    Norm first_norm(int64_t count);
    // A large matrix: what a strategy quantises.
    Matrix matrix(const std::string &name, int64_t out, int64_t in);
    // A low-rank factor, [in, out] in the file; kept in the compute type.
    Matrix factor(const std::string &name, int64_t in, int64_t out);
    // The same for any two-dimensional view.
    Matrix part(const Tensor &view, bool transposed);
    Matrix lookup(const std::string &name, int64_t rows, int64_t columns);

    // Everything the vectors returned above lie in.
    std::vector<Buffer> vectors() { return std::move(vectors_); }
    // Bytes that one decoded token reads of what was packed so far, and elements multiplied.
    int64_t bytes() const { return bytes_; }
    int64_t elements() const { return elements_; }
    // Weights that are kept in a block format.
    int64_t quantised(DType format) const { return format == DType::i8 ? int8_ : int4_; }

private:
    Matrix pack(const Tensor &t, Precision precision, bool transposed);
    // The tensor with what adapters change of it, read for as long as it is packed.
    Tensor changed(const Tensor &t);
    const Precision &precision_of(const std::string &name) const;

    Backend &backend_;
    TensorTable &table_;
    std::vector<Precision> precisions_;
    std::function<void(const Tensor &)> check_;
    std::vector<Buffer> vectors_;
    int64_t bytes_ = 0, elements_ = 0, int8_ = 0, int4_ = 0;
};

// "blocks.3.att.key.weight"
std::string block(int64_t layer, const char *name);
// Size of the last dimension; 1 for [D, 1] too, whose trailing 1 is kept.
int64_t columns(const TensorTable &table, const std::string &name);

}  // namespace rwkv
