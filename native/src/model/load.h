// From an index of tensors to a model, on a native thread: maps the files, checks every range
// again, calls Model::load. Made by api.cpp; never reads a file format (the index comes from
// outside).
#pragma once

#include "model/model.h"

#include <rwkv.h>

#include <atomic>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

namespace rwkv {

// The numbers of a packed matrix, for the types of the C interface that are packed.
constexpr std::optional<DType> packed_type(int32_t dtype) {
    switch (dtype) {
    case RWKV_I8: return DType::i8;
    case RWKV_I4: return DType::i4;
    case RWKV_PACKED_F32: return DType::f32;
    case RWKV_PACKED_F16: return DType::f16;
    case RWKV_PACKED_BF16: return DType::bf16;
    default: return {};
    }
}

// A file mapped for reading.
class MappedFile {
public:
    explicit MappedFile(const std::string &path);  // throws Error: RWKV_IO
    ~MappedFile();
    MappedFile(const MappedFile &) = delete;
    MappedFile &operator=(const MappedFile &) = delete;

    std::span<const std::byte> bytes() const { return {data_, size_}; }
    // Has the kernel read all of it, first to last. Takes as long as a cold disk takes: for a
    // thread of its own, so that what has arrived is packed meanwhile.
    void fetch(std::stop_token stop) const;
    // Takes what has been read out of this process; the system keeps it while it has room.
    void forget() const;

private:
    int fd_ = -1;
    const std::byte *data_ = nullptr;
    size_t size_ = 0;
};

class Load {
public:
    // Copies the index and starts the thread. Throws Error if a row is wrong in itself.
    Load(std::span<const rwkv_tensor> index, std::string strategy, int threads, DType state);
    ~Load();  // asks the load to end early and waits

    bool finished() const { return finished_; }
    const LoadProgress &progress() const { return progress_; }
    void cancel() { progress_.cancel = true; }
    // Waits; throws what the load threw.
    std::shared_ptr<Model> take();

private:
    struct Row {
        Tensor tensor;     // data is set once the file is mapped
        std::string path;  // empty: tensor.data is set already
        uint64_t offset = 0, nbytes = 0;
    };
    void run();
    std::shared_ptr<Model> load();

    std::vector<Row> rows_;
    std::string strategy_;
    int threads_;
    DType state_;
    LoadProgress progress_;
    std::atomic<bool> finished_{false};
    std::shared_ptr<Model> model_;
    std::exception_ptr error_;
    std::thread thread_;
};

}  // namespace rwkv
