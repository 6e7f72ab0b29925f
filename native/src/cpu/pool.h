// The thread pool: persistent workers that share the tasks of one run() at a time. Used by the CPU
// backend for every operation and for packing weights. Knows nothing of models.
//
// A run is over when all TASKS are done, not when all workers have arrived: a worker that lost its
// core before it claimed anything delays nobody, and whoever is awake does the rest. Idle workers
// and a waiting caller spin for some tens of microseconds and then sleep on a futex, so that a
// busy neighbour process costs its share of the machine and not whole time slices per barrier.
//
// Cores of two speeds: tasks are claimed one by one, large ones first, so that a slow core takes
// fewer. Several sockets: nothing is pinned, and weights lie where the thread that packed them ran;
// a step waits for memory across sockets some of the time, so a server per node (numactl
// --cpunodebind=N --membind=N) serves more than one over all.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace rwkv::cpu {

class Pool {
public:
    // The caller of run() is one of the threads. threads >= 1.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }
    // Runs so far.
    uint64_t barriers() const { return barriers_.load(std::memory_order_relaxed); }

    // Calls body(task, thread) once for every task in [0, tasks), thread in [0, threads()), and
    // returns when all have returned; afterwards throws the first exception that a body threw.
    // Callers from several threads take turns; a body must not call run().
    template <class Body>
    void run(int64_t tasks, Body &&body) {
        run_erased(
            tasks,
            [](void *context, int64_t task, int thread) {
                (*static_cast<std::remove_reference_t<Body> *>(context))(task, thread);
            },
            &body);
    }

private:
    using Call = void (*)(void *context, int64_t task, int thread);

    void run_erased(int64_t tasks, Call call, void *context);
    void stop();
    void work(int thread);
    void serve(int thread);
    void wait_until_done(uint32_t tasks);

    std::mutex turn_;
    std::vector<std::thread> workers_;
    std::atomic<uint64_t> barriers_{0};
    std::mutex error_mutex_;
    std::exception_ptr error_;
    int caller_spin_us_;

    // The job. Written only while no task is left and none is running; a worker reads it between a
    // load of claim_ that shows a task and the compare-exchange that proves that claim_ has not
    // moved since: what it read then belongs to that epoch, however late the worker is.
    std::atomic<Call> call_{nullptr};
    std::atomic<void *> context_{nullptr};
    std::atomic<uint32_t> tasks_{0};

    alignas(64) std::atomic<uint64_t> claim_{0};  // epoch << 32 | tasks left to claim
    alignas(64) std::atomic<uint32_t> done_{0};   // tasks of this epoch that have returned
    std::atomic<bool> caller_sleeps_{false};
    alignas(64) std::atomic<uint32_t> epoch_{0};  // what sleeping workers wait on
    std::atomic<uint32_t> sleepers_{0};
    std::atomic<bool> stop_{false};
};

}  // namespace rwkv::cpu
