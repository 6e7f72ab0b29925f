// The thread pool: every task once, late workers, oversubscription, exceptions, several callers.
#include "check.h"
#include "cpu/pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

using rwkv::cpu::Pool;

namespace {

void test_every_task_once(int threads) {
    Pool pool(threads);
    CHECK(pool.threads() == threads);
    uint64_t runs = 0;
    bool thread_numbers = true, once = true;
    for (int round = 0; round < 300; ++round) {
        const int tasks = round % 37;
        std::vector<std::atomic<int>> seen(static_cast<size_t>(tasks));
        std::atomic<int> outside{0};
        int plain = round;  // written here, read by all: the run must order the two
        pool.run(tasks, [&](int64_t task, int thread) {
            if (thread < 0 || thread >= threads || plain != round) outside.fetch_add(1);
            seen[static_cast<size_t>(task)].fetch_add(1);
        });
        plain = -1;
        for (const std::atomic<int> &count : seen) once = once && count.load() == 1;
        thread_numbers = thread_numbers && outside.load() == 0;
        runs += tasks > 0;
    }
    CHECK(once);
    CHECK(thread_numbers);
    CHECK(pool.barriers() == runs);
}

// What a body writes without atomics is visible to the caller and to the next run.
void test_visibility(int threads) {
    Pool pool(threads);
    std::vector<int64_t> values(1000, 0);
    for (int round = 0; round < 2000; ++round)
        pool.run(10, [&](int64_t task, int) {
            for (size_t i = 0; i < 100; ++i) values[static_cast<size_t>(task) * 100 + i] += 1;
        });
    bool all = true;
    for (const int64_t value : values) all = all && value == 2000;
    CHECK(all);
}

// Runs in quick succession: a worker that comes late must not run a body of the past.
void test_late_workers(int threads) {
    Pool pool(threads);
    int64_t expected = 0;
    std::atomic<int64_t> total{0};
    std::atomic<int> wrong{0};
    for (int round = 1; round <= 20000; ++round) {
        const int current = round;
        std::atomic<int> calls{0};
        pool.run(2, [&, current](int64_t task, int) {
            if (current != round) wrong.fetch_add(1);
            total.fetch_add(task + 1);
            calls.fetch_add(1);
        });
        expected += 3;
        if (calls.load() != 2) wrong.fetch_add(1);
    }
    CHECK(wrong.load() == 0);
    CHECK(total.load() == expected);
}

void test_sleepers(int threads) {
    Pool pool(threads);
    std::atomic<int> calls{0};
    for (int round = 0; round < 20; ++round) {
        std::this_thread::sleep_for(std::chrono::milliseconds(round % 4));  // workers park
        pool.run(8, [&](int64_t, int) {
            calls.fetch_add(1);
            std::this_thread::sleep_for(std::chrono::microseconds(300));  // and so does the caller
        });
    }
    CHECK(calls.load() == 160);
}

void test_exceptions(int threads) {
    Pool pool(threads);
    for (int round = 0; round < 200; ++round) {
        std::atomic<int> calls{0};
        CHECK_THROWS(pool.run(9,
                              [&](int64_t task, int) {
                                  calls.fetch_add(1);
                                  if (task % 4 == 1) throw std::runtime_error("task failed");
                              }),
                     "task failed");
        if (threads > 1) CHECK(calls.load() == 9);
        int after = 0;
        pool.run(1, [&](int64_t, int) { ++after; });
        CHECK(after == 1);
    }
}

void test_callers_take_turns() {
    Pool pool(3);
    std::atomic<int> overlaps{0};
    std::atomic<int64_t> total{0};
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i)
        callers.emplace_back([&] {
            for (int round = 0; round < 500; ++round) {
                std::atomic<int> mine{0};
                pool.run(5, [&](int64_t, int) {
                    mine.fetch_add(1);
                    total.fetch_add(1);
                });
                if (mine.load() != 5) overlaps.fetch_add(1);
            }
        });
    for (std::thread &caller : callers) caller.join();
    CHECK(total.load() == 4 * 500 * 5);
    CHECK(overlaps.load() == 0);
}

void test_start_and_stop() {
    for (int i = 0; i < 200; ++i) {
        Pool pool(1 + i % 5);
        if (i % 2) {
            std::atomic<int> calls{0};
            pool.run(3, [&](int64_t, int) { calls.fetch_add(1); });
            CHECK(calls.load() == 3);
        }
    }
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    for (const int threads : {1, 2, 3, cores, 4 * cores + 1}) {
        test_every_task_once(threads);
        test_visibility(threads);
        test_late_workers(threads);
        test_sleepers(threads);
        test_exceptions(threads);
    }
    test_callers_take_turns();
    test_start_and_stop();
    return report();
}
