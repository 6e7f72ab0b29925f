// See prefault.h.
#include "memory/prefault.h"

#if defined(__linux__)
#include <sys/resource.h>
#include <unistd.h>
#endif

namespace rwkv {

Prefault::~Prefault() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = recalled_ = true;
        orders_.clear();
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
}

void Prefault::send(void *block) {
    if (!thread_.joinable()) thread_ = std::thread(&Prefault::run, this);
    {
        const std::lock_guard lock(mutex_);
        ready_.reserve(out_ + 1);  // so that the thread needs no memory
        orders_.push_back(block);
    }
    ++out_;
    changed_.notify_all();
}

void *Prefault::take() {
    if (out_ == 0) return nullptr;
    const std::lock_guard lock(mutex_);
    if (ready_.empty()) return nullptr;
    void *block = ready_.back();
    ready_.pop_back();
    --out_;
    return block;
}

void Prefault::recall() {
    std::unique_lock lock(mutex_);
    orders_.clear();
    recalled_ = true;
    changed_.wait(lock, [this] { return !writing_; });
    recalled_ = false;
    ready_.clear();
    out_ = 0;
}

void Prefault::run() noexcept {
#if defined(__linux__)
    // Of this thread alone: a tenth of a busy core, enough for 40 states of 0.1B a second.
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10);
#endif
    constexpr size_t page = 4096;
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return stopping_ || !orders_.empty(); });
        if (stopping_) return;
        void *block = orders_.front();
        orders_.pop_front();
        writing_ = true;
        lock.unlock();
        auto *bytes = static_cast<volatile char *>(block);
        for (size_t i = 0; i < bytes_ && !recalled_; i += page) bytes[i] = 0;
        if (!recalled_) bytes[bytes_ - 1] = 0;
        lock.lock();
        writing_ = false;
        ready_.push_back(block);
        changed_.notify_all();
    }
}

}  // namespace rwkv
