// See pool.h.
#include "cpu/pool.h"

#include <algorithm>
#include <chrono>

namespace rwkv::cpu {

namespace {

// How long to spin before sleeping. The budget doubles when the wait ended in time and halves when
// it did not: within a decoding step the gaps between runs are a few microseconds, between steps
// they are not worth burning a core for. Waking a sleeper costs 5 us on bare metal and some 50 on
// a virtual machine whose halted core must first be scheduled again.
constexpr int kMinSpinUs = 4, kMaxSpinUs = 64;

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

template <class Ready>
bool spin(int &budget_us, Ready ready) {
    for (int i = 0; i < 64; ++i) {  // most waits are over within a microsecond: no clock for those
        if (ready()) return true;
        relax();
    }
    using Clock = std::chrono::steady_clock;
    const auto limit = Clock::now() + std::chrono::microseconds(budget_us);
    do {
        for (int i = 0; i < 16; ++i) {
            if (ready()) {
                budget_us = std::min(2 * budget_us, kMaxSpinUs);
                return true;
            }
            relax();
        }
    } while (Clock::now() < limit);
    budget_us = std::max(budget_us / 2, kMinSpinUs);
    return false;
}

}  // namespace

Pool::Pool(int threads) : caller_spin_us_(kMaxSpinUs) {
    workers_.reserve(static_cast<size_t>(std::max(threads - 1, 0)));
    try {
        for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
    } catch (...) {
        stop();
        throw;
    }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
    stop_.store(true);
    epoch_.fetch_add(1);
    epoch_.notify_all();
    for (std::thread &worker : workers_) worker.join();
    workers_.clear();
}

void Pool::run_erased(int64_t count, Call call, void *context) {
    if (count <= 0) return;
    const std::lock_guard turn(turn_);
    barriers_.fetch_add(1, std::memory_order_relaxed);
    if (count == 1 || workers_.empty()) {
        for (int64_t i = 0; i < count; ++i) call(context, i, 0);
        return;
    }
    const uint32_t tasks = static_cast<uint32_t>(count);
    const uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
    call_.store(call, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    tasks_.store(tasks, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    claim_.store(static_cast<uint64_t>(epoch) << 32 | tasks, std::memory_order_release);
    epoch_.store(epoch);  // sequentially consistent, like the accesses of a worker that lies down
    if (sleepers_.load() > 0) epoch_.notify_all();
    work(0);
    wait_until_done(tasks);
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

// Claims and runs tasks until none is left.
void Pool::work(int thread) {
    uint64_t claim = claim_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(claim) != 0) {
        const Call call = call_.load(std::memory_order_relaxed);
        void *const context = context_.load(std::memory_order_relaxed);
        const uint32_t tasks = tasks_.load(std::memory_order_relaxed);
        if (!claim_.compare_exchange_weak(claim, claim - 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire))
            continue;
        try {
            call(context, tasks - static_cast<uint32_t>(claim), thread);
        } catch (...) {
            const std::lock_guard lock(error_mutex_);
            if (!error_) error_ = std::current_exception();
        }
        if (done_.fetch_add(1) + 1 == tasks && caller_sleeps_.load()) done_.notify_all();
        claim = claim_.load(std::memory_order_acquire);
    }
}

void Pool::wait_until_done(uint32_t tasks) {
    const auto ready = [&] { return done_.load(std::memory_order_acquire) == tasks; };
    if (ready() || spin(caller_spin_us_, ready)) return;
    caller_sleeps_.store(true);
    for (uint32_t done = done_.load(); done != tasks; done = done_.load()) done_.wait(done);
    caller_sleeps_.store(false);
}

void Pool::serve(int thread) {
    int spin_us = kMaxSpinUs;
    for (;;) {
        const uint32_t epoch = epoch_.load(std::memory_order_acquire);
        if (stop_.load(std::memory_order_acquire)) return;
        work(thread);
        const auto ready = [&] { return epoch_.load(std::memory_order_acquire) != epoch; };
        if (spin(spin_us, ready)) continue;
        sleepers_.fetch_add(1);
        while (epoch_.load() == epoch) epoch_.wait(epoch);
        sleepers_.fetch_sub(1);
    }
}

}  // namespace rwkv::cpu
