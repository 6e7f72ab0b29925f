// Calls on one model take turns: who asks again at once comes after those who wait.
#include "check.h"
#include "model/turns.h"

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

void wait_for(rwkv::Turns &turns, uint64_t holders) {
    while (turns.holders() < holders) std::this_thread::yield();
}

void test_first_come_first_served() {
    for (int round = 0; round < 50; ++round) {
        rwkv::Turns turns;
        std::string order;  // only written to by whoever has the turn
        turns.lock();
        std::vector<std::thread> others;
        for (char name = 'a'; name < 'd'; ++name) {
            others.emplace_back([&turns, &order, name] {
                const std::lock_guard turn(turns);
                order += name;
            });
            wait_for(turns, others.size() + 1);
        }
        turns.unlock();
        turns.lock();  // as a forward of many chunks does
        order += '.';
        turns.unlock();
        for (std::thread &other : others) other.join();
        CHECK(order == "abc.");
    }
}

void test_one_at_a_time() {
    rwkv::Turns turns;
    int64_t count = 0;
    std::atomic<int> inside{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
            for (int i = 0; i < 500; ++i) {
                const std::lock_guard turn(turns);
                if (inside.fetch_add(1) == 0) ++count;
                inside.fetch_sub(1);
            }
        });
    for (std::thread &thread : threads) thread.join();
    CHECK(count == 2000);
    CHECK(turns.holders() == 0);
}

}  // namespace

int main() {
    test_first_come_first_served();
    test_one_at_a_time();
    return report();
}
