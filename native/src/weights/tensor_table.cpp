#include "weights/tensor_table.h"

#include "error.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

namespace rwkv {

std::string shape_text(const std::vector<int64_t> &shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
}

TensorTable::TensorTable(std::vector<Tensor> tensors)
    : tensors_(std::move(tensors)), taken_(tensors_.size(), false) {
    for (size_t i = 0; i < tensors_.size(); ++i) {
        Tensor &t = tensors_[i];
        while (t.shape.size() > 1 && t.shape.front() == 1) {
            t.shape.erase(t.shape.begin());
            t.stride.erase(t.stride.begin());
        }
        if (!index_.emplace(t.name, i).second)
            throw invalid("the tensor " + t.name + " occurs twice");
    }
}

const Tensor &TensorTable::peek(const std::string &name) const {
    const auto found = index_.find(name);
    if (found == index_.end()) throw invalid("the tensor " + name + " is missing");
    return tensors_[found->second];
}

const Tensor &TensorTable::take(const std::string &name) {
    const Tensor &tensor = peek(name);
    taken_[index_.at(name)] = true;
    return tensor;
}

const Tensor &TensorTable::matrix(const std::string &name, int64_t rows, int64_t columns) {
    const Tensor &tensor = take(name);
    // A leading 1 was dropped above; put it back where the matrix really has one row.
    const bool fits = tensor.shape == std::vector<int64_t>{rows, columns} ||
                      (rows == 1 && tensor.shape == std::vector<int64_t>{columns});
    if (!fits) {
        throw invalid("the tensor " + name + " has the shape " + shape_text(tensor.shape) +
                      ", expected " + shape_text({rows, columns}));
    }
    if (tensor.shape.size() == 1) {
        Tensor &row = tensors_[index_.at(name)];
        row.shape.insert(row.shape.begin(), 1);
        row.stride.insert(row.stride.begin(), columns);
    }
    return tensor;
}

const Tensor &TensorTable::tensor(const std::string &name, const std::vector<int64_t> &shape) {
    const Tensor &found = take(name);
    if (found.shape != shape) {
        throw invalid("the tensor " + name + " has the shape " + shape_text(found.shape) +
                      ", expected " + shape_text(shape));
    }
    return found;
}

std::vector<float> TensorTable::vector(const std::string &name, int64_t count) {
    const Tensor &tensor = take(name);
    if (tensor.packed) {
        throw invalid("the tensor " + name + " is packed as " + name_of(tensor.dtype) +
                      " and should be plain numbers");
    }
    if (tensor.count() != count) {
        throw invalid("the tensor " + name + " has the shape " + shape_text(tensor.shape) +
                      ", expected " + std::to_string(count) + " elements");
    }
    std::vector<float> values(static_cast<size_t>(count));
    read_floats(values.data(), tensor);
    for (float x : values)
        if (!std::isfinite(x)) throw invalid("the tensor " + name + " holds a NaN or an infinity");
    return values;
}

void TensorTable::ignore(const std::string &name) {
    if (has(name)) take(name);
}

int64_t TensorTable::layers() const {
    int64_t layers = 0;
    for (const Tensor &t : tensors_) {
        if (!t.name.starts_with("blocks.")) continue;
        const char *digits = t.name.c_str() + 7;
        char *end = nullptr;
        const long long i = std::strtoll(digits, &end, 10);
        if (end == digits || *end != '.' || i < 0 || i > 100000)
            throw invalid("the tensor name " + t.name + " has no layer number");
        layers = std::max<int64_t>(layers, i + 1);
    }
    return layers;
}

std::vector<std::string> TensorTable::untaken() const {
    std::vector<std::string> names;
    for (size_t i = 0; i < tensors_.size(); ++i)
        if (!taken_[i]) names.push_back(tensors_[i].name);
    std::sort(names.begin(), names.end());
    return names;
}

DType TensorTable::main_dtype() const {
    std::map<DType, int64_t> counts;
    for (const Tensor &t : tensors_)
        if (!is_statement(t.name)) counts[t.dtype] += t.count();
    if (counts.empty()) return DType::f32;
    if (counts.contains(DType::i8) ||
        counts.contains(DType::i4))  // a packed file, whatever its embedding
        std::erase_if(counts, [](const auto &count) { return !is_quantised(count.first); });
    const auto fewer = [](const auto &a, const auto &b) { return a.second < b.second; };
    return std::max_element(counts.begin(), counts.end(), fewer)->first;
}

}  // namespace rwkv
