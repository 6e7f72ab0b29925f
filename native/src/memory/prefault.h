// Writes to memory before it is wanted: where the host of a virtual machine has first to give a
// page to it, the first write costs 2 ms per MB, and whoever waits for it holds up all streams.
// Called by slab.cpp, by one thread; the writing is done by a thread of low priority, which knows
// nothing of what the memory is for.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

namespace rwkv {

class Prefault {
public:
    explicit Prefault(size_t block_bytes) : bytes_(block_bytes) {}
    ~Prefault();
    Prefault(const Prefault &) = delete;
    Prefault &operator=(const Prefault &) = delete;

    // The next block to write to. Throws std::system_error where no thread can be had,
    // std::bad_alloc.
    void send(void *block);
    // One that has been written to; null: none yet.
    void *take();
    // Blocks sent and not taken.
    size_t out() const { return out_; }
    // Forgets all of them; their memory may then go. Waits for one page at most.
    void recall();

private:
    void run() noexcept;

    const size_t bytes_;
    size_t out_ = 0;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<void *> orders_;
    std::vector<void *> ready_;
    bool writing_ = false, stopping_ = false;
    std::atomic<bool> recalled_{false};  // what is being written is wanted no more
    std::thread thread_;
};

}  // namespace rwkv
