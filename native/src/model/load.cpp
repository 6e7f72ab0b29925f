#include "model/load.h"

#include "error.h"
#include "model/strategy.h"
#include "weights/quant.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace rwkv {

namespace {

constexpr int64_t max_elements = int64_t{1} << 48;

// A block holds neighbours of one row, and a row whole blocks.
void require_whole_blocks(const Tensor &t) {
    const int64_t unit = unit_of(t.dtype).elements;
    if (unit == 1) return;
    bool whole = !t.shape.empty() && t.shape.back() % unit == 0 && t.stride.back() == 1;
    for (size_t i = 0; i + 1 < t.stride.size(); ++i) whole &= t.stride[i] % unit == 0;
    if (!whole) {
        throw invalid("the tensor " + t.name + " does not consist of whole blocks of " +
                      std::to_string(unit) + ", as " + name_of(t.dtype) + " needs");
    }
}

// A packed matrix [out, in] has its size from its shape; strides [1, in] show one of [in, out]. A
// single row of that kind would be taken for the other one.
void require_whole_panels(const Tensor &t, uint64_t nbytes) {
    const bool two = t.shape.size() == 2,
               plain = two && t.stride[1] == 1 && t.stride[0] == t.shape[1];
    const bool turned =
        two && !plain && t.shape[0] > 1 && t.stride[0] == 1 && t.stride[1] == t.shape[0];
    const bool matrix = plain || turned;
    const int64_t out = matrix ? t.shape[turned ? 1 : 0] : 0,
                  in = matrix ? t.shape[turned ? 0 : 1] : 0;
    if (!matrix || nbytes / panels::bytes(t.dtype, in) <
                       (static_cast<uint64_t>(out) + panels::kOutputs - 1) / panels::kOutputs) {
        throw invalid("the tensor " + t.name + " is not a matrix packed as " + name_of(t.dtype));
    }
}

// A checked row of the index: the shape is sane and its last element lies within nbytes. More
// elements than nbytes can hold (a view that repeats bytes) would let a small file ask for any
// amount of memory.
Tensor checked(const rwkv_tensor &row) {
    if (!row.name) throw invalid("a tensor of the index has no name");
    const std::string name = row.name;
    const bool blocks = row.dtype >= RWKV_Q4_0 && row.dtype <= RWKV_Q6_K;
    if (!blocks && (row.dtype < RWKV_F32 || row.dtype > RWKV_PACKED_BF16))
        throw invalid("the tensor " + name + " has the unknown type " + std::to_string(row.dtype));
    if (row.rank < 0 || row.rank > 8)
        throw invalid("the tensor " + name + " has the rank " + std::to_string(row.rank));
    // A power of two changes no mantissa, and this range no sane weight's class.
    const float scale = row.scale == 0 ? 1 : row.scale;
    int exponent = 0;
    if (std::frexp(scale, &exponent) != 0.5f || exponent < -30 || exponent > 31) {
        throw invalid("the tensor " + name +
                      " has a scale that is not a power of two from 2^-30 to 2^30");
    }
    Tensor t;
    t.name = name;
    t.scale = scale;
    t.packed = packed_type(row.dtype).has_value();
    t.dtype = packed_type(row.dtype).value_or(static_cast<DType>(row.dtype));
    int64_t count = 1, last = 0;
    for (int i = 0; i < row.rank; ++i) {
        const int64_t size = row.shape[i], stride = row.stride[i];
        if (size < 1 || size > max_elements || stride < 0 || stride > max_elements) {
            throw invalid("the tensor " + name +
                          " has an impossible shape or stride in dimension " + std::to_string(i));
        }
        int64_t step = 0;
        if (__builtin_mul_overflow(count, size, &count) ||
            __builtin_mul_overflow(size - 1, stride, &step) ||
            __builtin_add_overflow(last, step, &last) || count > max_elements ||
            last > max_elements) {
            throw invalid("the tensor " + name + " is impossibly large");
        }
        t.shape.push_back(size);
        t.stride.push_back(stride);
    }
    if (t.packed) {
        require_whole_panels(t, row.nbytes);
        return t;
    }
    require_whole_blocks(t);
    if (static_cast<uint64_t>(bytes_of(t.dtype, last + 1)) > row.nbytes ||
        static_cast<uint64_t>(bytes_of(t.dtype, count)) > row.nbytes) {
        throw invalid("the tensor " + name + " reaches beyond its " + std::to_string(row.nbytes) +
                      " bytes");
    }
    return t;
}

}  // namespace

MappedFile::MappedFile(const std::string &path) {
    const auto fail = [&path](int code) {
        return Error(RWKV_IO, "cannot open " + path + ": " + std::strerror(code));
    };
    // Nobody may ever write to what has the name of a FIFO by now.
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd_ < 0) throw fail(errno);
    struct stat info{};
    if (fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
        const int code = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
        close(fd_);
        throw fail(code);
    }
    size_ = static_cast<size_t>(info.st_size);
    if (size_ > 0) {
        void *map = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd_, 0);
        const int code = errno;
        if (map == MAP_FAILED) {
            close(fd_);
            throw fail(code);
        }
        data_ = static_cast<const std::byte *>(map);
    }
}

// Reading brings the file in large pieces of the page cache, of which the mapping then needs a
// quarter of the page faults that it has after madvise(WILLNEED).
void MappedFile::fetch(std::stop_token stop) const {
    std::byte
        unused[size_t{256} << 10];  // on the stack: a thread that throws would end the process
    for (size_t at = 0; at < size_ && !stop.stop_requested(); at += sizeof unused)
        if (pread(fd_, unused, sizeof unused, static_cast<off_t>(at)) <= 0) return;
}

void MappedFile::forget() const {
    if (data_) madvise(const_cast<std::byte *>(data_), size_, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
    if (data_) munmap(const_cast<std::byte *>(data_), size_);
    close(fd_);
}

Load::Load(std::span<const rwkv_tensor> index, std::string strategy, int threads, DType state)
    : strategy_(std::move(strategy)), threads_(threads), state_(state) {
    parse_strategy(strategy_);  // what is wrong with it is the caller's mistake, not the file's
    if (index.empty()) throw invalid("the index holds no tensors");
    rows_.reserve(index.size());
    for (const rwkv_tensor &row : index) {
        Row r{checked(row), row.path ? row.path : "", row.offset, row.nbytes};
        if (!row.path) {
            if (r.tensor.packed)
                throw invalid("the tensor " + r.tensor.name + " is packed and not in a file");
            if (!row.data)
                throw invalid("the tensor " + r.tensor.name + " has neither path nor data");
            r.tensor.data = static_cast<const std::byte *>(row.data) + row.offset;
        }
        rows_.push_back(std::move(r));
    }
    thread_ = std::thread([this] { run(); });
}

Load::~Load() {
    cancel();
    if (thread_.joinable()) thread_.join();
}

std::shared_ptr<Model> Load::take() {
    if (thread_.joinable()) thread_.join();
    if (error_) std::rethrow_exception(error_);
    return std::move(model_);
}

void Load::run() {
    try {
        model_ = load();
    } catch (...) {
        error_ = std::current_exception();
    }
    finished_ = true;
}

std::shared_ptr<Model> Load::load() {
    // Of a packed file everything may stay where it is; others are let go once they are read.
    std::set<std::string> kept;
    for (const Row &row : rows_)
        if (row.tensor.packed) kept.insert(row.path);
    std::map<std::string, std::shared_ptr<MappedFile>> files;
    std::vector<Tensor> tensors;
    tensors.reserve(rows_.size());
    for (Row &row : rows_) {
        if (!row.path.empty()) {
            std::shared_ptr<MappedFile> &file = files[row.path];
            if (!file) file = std::make_shared<MappedFile>(row.path);
            const auto bytes = file->bytes();
            if (row.offset > bytes.size() || row.nbytes > bytes.size() - row.offset) {
                throw invalid("the tensor " + row.tensor.name + " lies outside the file " +
                              row.path);
            }
            row.tensor.data = bytes.data() + row.offset;
            if (kept.contains(row.path)) row.tensor.owner = file;
        }
        tensors.push_back(std::move(row.tensor));
    }
    const std::jthread ahead([&files](std::stop_token stop) {
        for (const auto &[path, file] : files) file->fetch(stop);
    });
    const auto forget = [&files] {
        for (const auto &[path, file] : files) file->forget();
    };
    return Model::load(std::move(tensors), strategy_, threads_, progress_, forget, state_);
}

}  // namespace rwkv
