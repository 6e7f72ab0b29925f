// A lock that is given to whoever has waited longest. A mutex that is released and taken again at
// once goes to the one who runs, so that a long prompt of Model.forward would leave an engine on
// the same model nothing. Called by model.cpp.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace rwkv {

class Turns {
public:
    void lock() {
        std::unique_lock lock(mutex_);
        const uint64_t mine = next_++;
        changed_.wait(lock, [&] { return now_ == mine; });
    }
    void unlock() {
        {
            const std::lock_guard lock(mutex_);
            ++now_;
        }
        changed_.notify_all();
    }
    // Who has it and who wait for it.
    uint64_t holders() {
        const std::lock_guard lock(mutex_);
        return next_ - now_;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    uint64_t next_ = 0, now_ = 0;  // tickets: of the next to come, and whose turn it is
};

}  // namespace rwkv
