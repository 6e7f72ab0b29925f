#include "arch/weight_reader.h"

#include "error.h"
#include "weights/gguf_blocks.h"

namespace rwkv {

std::string block(int64_t layer, const char *name) {
    return "blocks." + std::to_string(layer) + "." + name;
}

int64_t columns(const TensorTable &table, const std::string &name) {
    const Tensor &t = table.peek(name);
    if (t.shape.empty()) throw invalid("the tensor " + name + " has no dimensions");
    return t.shape.size() == 1 ? 1 : t.shape.back();
}

float *WeightReader::vector(const std::vector<float> &values) {
    Buffer buffer = backend_.floats(values.size());
    backend_.upload(buffer.data, values);
    bytes_ += static_cast<int64_t>(values.size() * sizeof(float));
    vectors_.push_back(std::move(buffer));
    return vectors_.back().data;
}

float *WeightReader::vector(const std::string &name, int64_t count, float (*change)(float)) {
    std::vector<float> values = table_.vector(name, count);
    if (change)
        for (float &x : values) x = change(x);
    return vector(values);
}

Norm WeightReader::norm(const std::string &name, int64_t count) {
    const float *weight = vector(name + ".weight", count);
    return {weight, vector(name + ".bias", count)};
}

Norm WeightReader::first_norm(int64_t count) {
    const std::string mark = "emb.weight/normed", name = "blocks.0.ln0";
    if (!table_.has(mark)) return norm(name, count);
    for (const std::string &unused : {mark, name + ".weight", name + ".bias"})
        table_.ignore(unused);
    return {};
}

Tensor WeightReader::changed(const Tensor &t) {
    static constexpr std::pair<const char *, ChangeKind> kinds[] = {
        {"low_rank", ChangeKind::low_rank},
        {"shard", ChangeKind::shard},
        {"bat_columns", ChangeKind::bat_columns},
        {"bat_rows", ChangeKind::bat_rows},
        {"magnitude", ChangeKind::magnitude}};
    std::vector<Change> changes;
    const auto next = [&] {
        for (const auto &[word, kind] : kinds) {
            const std::string name =
                t.name + "/" + std::to_string(changes.size()) + "/" + word + "/";
            if (!table_.has(name + "a")) continue;
            const auto values = [&](const char *part) {
                return table_.vector(name + part, table_.peek(name + part).count());
            };
            Change change;
            change.kind = kind;
            change.a = values("a");
            if (kind == ChangeKind::low_rank) {
                change.b = values("b");
                change.scale = table_.vector(name + "scale", 1).front();
                change.rank = static_cast<int64_t>(change.a.size()) / t.shape[1];
            } else if (kind == ChangeKind::shard) {
                // A leading dimension of 1 has been dropped.
                const std::vector<int64_t> &shape = table_.peek(name + "a").shape;
                change.rank = shape.size() == 2 ? shape.front() : 1;
            } else {
                change.rank = columns(table_, name + "a");
            }
            try {
                require_change_fits(change, t.shape[0], t.shape[1]);
            } catch (const Error &) {
                throw invalid("what an adapter has for the tensor " + t.name + ", " +
                              shape_text(t.shape) + ", does not fit it");
            }
            changes.push_back(std::move(change));
            return true;
        }
        return false;
    };
    while (next()) {}
    if (changes.empty()) return t;
    if (t.packed || in_blocks(t.dtype)) {
        throw unsupported(
            "the tensor " + t.name + " is kept as " + name_of(t.dtype) +
            ", and an adapter changes plain numbers only; use the file that it was made of");
    }
    Tensor changed = t;
    changed.changes = std::make_shared<const std::vector<Change>>(std::move(changes));
    return changed;
}

// Of the layer that a tensor belongs to; everything outside the layers goes with the head.
const Precision &WeightReader::precision_of(const std::string &name) const {
    const size_t layer =
        name.starts_with("blocks.") ? std::stoul(name.substr(7)) : precisions_.size() - 1;
    return precisions_.at(layer);
}

Matrix WeightReader::pack(const Tensor &t, Precision precision, bool transposed) {
    check_(t);
    Matrix m = backend_.matrix(t, precision, transposed);
    bytes_ += static_cast<int64_t>(m.bytes);
    elements_ += m.out * m.in;
    if (m.stored == DType::i8) int8_ += m.out * m.in;
    if (m.stored == DType::i4) int4_ += m.out * m.in;
    return m;
}

Matrix WeightReader::matrix(const std::string &name, int64_t out, int64_t in) {
    const Tensor &t = table_.matrix(name, out, in);
    Precision precision = precision_of(name);
    if (precision.own) precision.stored = in_blocks(t.dtype) ? kept_as(t.dtype) : precision.compute;
    return pack(changed(t), precision, false);
}

Matrix WeightReader::factor(const std::string &name, int64_t in, int64_t out) {
    return part(table_.matrix(name, in, out), true);
}

Matrix WeightReader::part(const Tensor &view, bool transposed) {
    return pack(view, precision_of(view.name).compute, transposed);
}

Matrix WeightReader::lookup(const std::string &name, int64_t rows, int64_t columns) {
    const Tensor &t = table_.matrix(name, rows, columns);
    check_(t);
    return backend_.table(changed(t));
}

}  // namespace rwkv
