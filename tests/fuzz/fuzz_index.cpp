// The index of a checkpoint: a tiny model of any version whose rows an input then changes. It is
// refused with a reason, or it loads and its description is sane. Half of the rows lie in a file,
// where offset and nbytes may say anything; the others in allocations of their exact size.
#include "fuzz.h"

#include "tiny_model.h"

#include <rwkv.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include <sys/mman.h>
#include <unistd.h>

namespace {

const char *const kVersions[] = {"4", "5.0", "5.1", "5.2", "6.0", "7", "7a", "7b", "8rc"};

struct Row {
    std::string name;
    std::vector<char> bytes;  // of a row in memory
    rwkv_tensor row{};
    bool filed = false;
};

// The seeds of all inputs: made once, copied for each.
struct Original {
    std::vector<Row> rows;
    std::string path;  // a file that holds every second row
};

Original original(const char *version) {
    const TinyShape shape{.version = version,
                          .layers = 2,
                          .width = 8,
                          .head_size = 4,
                          .ffn = 12,
                          .vocab = 9,
                          .rank = 2};
    const TinyTensors tiny(shape);
    Original made;
    const int file = memfd_create("index", 0);
    CLAIM(file >= 0);
    made.path = "/proc/self/fd/" + std::to_string(file);
    uint64_t at = 0;
    for (const rwkv::Tensor &tensor : tiny.tensors()) {
        Row r;
        r.name = tensor.name;
        r.row.dtype = RWKV_F32;
        r.row.rank = static_cast<int32_t>(tensor.shape.size());
        std::copy(tensor.shape.begin(), tensor.shape.end(), r.row.shape);
        std::copy(tensor.stride.begin(), tensor.stride.end(), r.row.stride);
        r.row.nbytes = static_cast<uint64_t>(tensor.count()) * 4;
        r.filed = made.rows.size() % 2 == 0;
        const auto *bytes = reinterpret_cast<const char *>(tensor.data);
        if (r.filed) {
            CLAIM(write(file, bytes, r.row.nbytes) == static_cast<ssize_t>(r.row.nbytes));
            r.row.offset = at;
            at += r.row.nbytes;
        } else {
            r.bytes.assign(bytes, bytes + r.row.nbytes);
        }
        made.rows.push_back(std::move(r));
    }
    return made;
}

// Version 7 with what an adapter changes of every kind, and an embedding that has been normalised.
Original adapted() {
    Original made = original("7");
    const auto add = [&made](const char *name, std::vector<int64_t> shape) {
        Row r;
        r.name = name;
        r.row.dtype = RWKV_F32;
        r.row.rank = static_cast<int32_t>(shape.size());
        int64_t count = 1;
        for (size_t i = shape.size(); i-- > 0;) {
            r.row.shape[i] = shape[i];
            r.row.stride[i] = count;
            count *= shape[i];
        }
        r.row.nbytes = static_cast<uint64_t>(count) * 4;
        r.bytes.assign(r.row.nbytes, 0);
        made.rows.push_back(std::move(r));
    };
    add("blocks.0.att.key.weight/0/low_rank/a", {3, 8});
    add("blocks.0.att.key.weight/0/low_rank/b", {8, 3});
    add("blocks.0.att.key.weight/0/low_rank/scale", {});
    add("blocks.0.att.key.weight/1/magnitude/a", {8});
    add("blocks.0.att.value.weight/0/shard/a", {3, 8});
    add("blocks.1.att.key.weight/0/bat_columns/a", {2, 4, 4});
    add("blocks.1.ffn.key.weight/0/bat_rows/a", {3, 4, 4});
    add("emb.weight/0/low_rank/a", {2, 8});
    add("emb.weight/0/low_rank/b", {9, 2});
    add("emb.weight/0/low_rank/scale", {});
    add("emb.weight/normed", {});
    return made;
}

// Small numbers, extents that are there already, powers of two, or any.
int64_t extent(Input &input) {
    const uint8_t kind = input.byte();
    if (kind < 128) return kind - 8;
    if (kind < 200) return int64_t{1} << (kind - 136 < 0 ? 0 : (kind - 136) % 64);
    if (kind < 220) return -(int64_t{1} << (kind - 200));
    return input.number<int64_t>();
}

const char *const kParts[] = {
    "att.",        "ffn.",       "ln0.",       "ln1.",         "ln2.",
    "weight",      "bias",       "x_r",        "w1",           "time_mix_k",
    "time_maa_x",  "time_decay", "time_faaaa", "time_state",   "r_k",
    "v0",          "blocks.0.",  "blocks.1.",  "blocks.2.",    "blocks.99999.",
    "head.weight", "emb.weight", "qkv.",       "s_emb.weight", "enn.weight"};

void change(std::vector<Row> &rows, Input &input) {
    const size_t which = input.byte() % rows.size();
    Row &row = rows[which];
    rwkv_tensor &r = row.row;
    switch (input.byte() % 14) {
    case 0: rows.erase(rows.begin() + static_cast<std::ptrdiff_t>(which)); break;
    case 1: rows.push_back(Row(row)); break;
    case 2: row.name = input.text(); break;
    case 3: row.name = rows[input.byte() % rows.size()].name; break;
    case 4: {  // one part of the name becomes another
        const std::string from = kParts[input.byte() % std::size(kParts)];
        const std::string to = kParts[input.byte() % std::size(kParts)];
        const size_t at = row.name.find(from);
        if (at == std::string::npos)
            row.name += to;
        else
            row.name.replace(at, from.size(), to);
        break;
    }
    case 5: r.dtype = static_cast<int8_t>(input.byte()); break;
    case 6: r.rank = static_cast<int8_t>(input.byte()); break;
    case 7: r.shape[input.byte() % 8] = extent(input); break;
    case 8: r.stride[input.byte() % 8] = extent(input); break;
    case 9: r.offset = static_cast<uint64_t>(extent(input)); break;
    case 10: r.nbytes = static_cast<uint64_t>(extent(input)); break;
    case 11: {
        const uint32_t bits = input.number<uint32_t>();
        std::memcpy(&r.scale, &bits, sizeof bits);
        break;
    }
    case 12: r.scale = static_cast<float>(extent(input)); break;
    default:
        if (!row.bytes.empty()) {
            const uint32_t bits = input.number<uint32_t>();
            const size_t at = input.byte() * size_t{4} % row.bytes.size();
            std::memcpy(row.bytes.data() + at, &bits, std::min(sizeof bits, row.bytes.size() - at));
        }
    }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const std::vector<Original> originals = [] {
        std::vector<Original> made;
        for (const char *version : kVersions) made.push_back(original(version));
        return made;
    }();
    Input input(data, size);
    static const Original changed = adapted();
    const uint8_t kind = input.byte();
    const Original &from = kind >= 251 ? changed : originals[kind % originals.size()];
    const std::string strategy = input.text();
    std::vector<Row> rows = from.rows;
    while (input.left() > 0 && !rows.empty()) change(rows, input);

    std::vector<rwkv_tensor> index;
    for (Row &row : rows) {
        rwkv_tensor r = row.row;
        row.name = row.name.c_str();
        r.name = row.name.c_str();
        if (row.filed) {
            r.path = from.path.c_str();
        } else {  // what the caller vouches for
            r.data = row.bytes.data();
            r.offset = std::min<uint64_t>(r.offset, row.bytes.size());
            r.nbytes = std::min<uint64_t>(r.nbytes, row.bytes.size() - r.offset);
        }
        index.push_back(r);
    }
    rwkv_model_options options{};
    options.size = sizeof options;
    options.strategy = strategy.c_str();
    options.threads = 1;
    rwkv_load *load = nullptr;
    const int started = rwkv_load_start(&load, index.data(), index.size(), &options);
    CLAIM((started == RWKV_OK) == (load != nullptr));
    if (started != RWKV_OK) {
        CLAIM(started == RWKV_INVALID || started == RWKV_UNSUPPORTED);
        CLAIM(*rwkv_last_error());
        return 0;
    }
    rwkv_model *model = nullptr;
    const int loaded = rwkv_load_finish(&model, load);
    CLAIM((loaded == RWKV_OK) == (model != nullptr));
    if (loaded != RWKV_OK) {
        CLAIM(loaded == RWKV_INVALID || loaded == RWKV_UNSUPPORTED);
        CLAIM(*rwkv_last_error());
        return 0;
    }
    rwkv_model_info info{};
    info.size = sizeof info;
    CLAIM(rwkv_model_describe(&info, model) == RWKV_OK);
    CLAIM(info.layers > 0 && info.width > 0);
    CLAIM((info.heads > 0 && info.head_size > 0) || info.version[0] == '4');
    CLAIM(info.ffn > 0 && info.vocab > 0 && info.parameters > 0 && info.weight_bytes > 0);
    CLAIM(info.weight_bytes < int64_t{64} << 20);
    rwkv_model_free(model);
    return 0;
}
