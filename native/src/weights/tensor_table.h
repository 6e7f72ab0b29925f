// The tensors of one checkpoint by official name: what version detection looks at and what the
// architectures take their weights from. Counts what was taken, so that nothing unexpected is
// ignored.
#pragma once

#include "weights/tensor.h"

#include <initializer_list>
#include <string>
#include <unordered_map>
#include <vector>

namespace rwkv {

class TensorTable {
public:
    explicit TensorTable(std::vector<Tensor> tensors);  // throws Error on a name that occurs twice

    bool has(const std::string &name) const { return index_.contains(name); }
    // Throws Error if the tensor is missing.
    const Tensor &peek(const std::string &name) const;
    // A matrix [rows, columns] (leading dimensions of 1 are dropped); marks it as taken.
    const Tensor &matrix(const std::string &name, int64_t rows, int64_t columns);
    // A tensor of exactly this shape; marks it as taken.
    const Tensor &tensor(const std::string &name, const std::vector<int64_t> &shape);
    // A vector of `count` elements in any shape, as floats; marks it as taken.
    std::vector<float> vector(const std::string &name, int64_t count);
    // Marks as taken without reading, if present.
    void ignore(const std::string &name);
    // One more than the largest i in "blocks.i."; 0 if there is none.
    int64_t layers() const;
    // Names never taken, sorted.
    std::vector<std::string> untaken() const;
    // Type of most elements, those of changes left out.
    DType main_dtype() const;

    const std::vector<Tensor> &all() const { return tensors_; }

private:
    const Tensor &take(const std::string &name);

    std::vector<Tensor> tensors_;
    std::unordered_map<std::string, size_t> index_;
    std::vector<bool> taken_;
};

// Whether a name is that of a statement about a tensor, `NAME/...`, in place of a tensor's own.
inline bool is_statement(const std::string &name) { return name.find('/') != std::string::npos; }

std::string shape_text(const std::vector<int64_t> &shape);  // "[768, 64]"

}  // namespace rwkv
