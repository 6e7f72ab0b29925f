// The pool of states: slots that never move, which ones are taken, and the memory behind them,
// which comes with the first use, lies in huge pages, and goes back when nobody has a use for it.
#include "check.h"
#include "engine/state_pool.h"
#include "tiny_model.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <new>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

using rwkv::StatePool;
using Slots = std::vector<StatePool::Slot>;

// Of the mapping that holds an address, in KiB: a line of /proc/self/smaps; -1: there is none.
int64_t kilobytes(const void *address, const std::string &what) {
    std::ifstream maps("/proc/self/smaps");
    const auto wanted = reinterpret_cast<uintptr_t>(address);
    bool inside = false;
    for (std::string line; std::getline(maps, line);) {
        unsigned long first = 0, last = 0;
        if (std::sscanf(line.c_str(), "%lx-%lx ", &first, &last) == 2)
            inside = wanted >= first && wanted < last;
        else if (inside && line.starts_with(what + ":"))
            return std::stoll(line.substr(what.size() + 1));
    }
    return -1;
}

bool has_huge_pages() {
    std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
    std::string text;
    std::getline(file, text);
    return text.find("[always]") != std::string::npos ||
           text.find("[madvise]") != std::string::npos;
}

Slots take(StatePool &pool, int n) {
    Slots slots;
    for (int i = 0; i < n; ++i) slots.push_back(pool.take());
    return slots;
}

void test_slots() {
    const auto model = tiny_model();
    StatePool pool(*model, 5, 0);
    Slots slots = take(pool, 5);
    std::set<int32_t> numbers;
    for (const auto &slot : slots) {
        numbers.insert(slot.number());
        CHECK(slot && slot.data() == pool.states().at(slot.number()));
        CHECK(reinterpret_cast<uintptr_t>(slot.data()) % 64 == 0);
        std::fill_n(slot.data(), model->state_floats(), static_cast<float>(slot.number()));
    }
    CHECK(numbers.size() == 5 && pool.taken() == 5);
    bool refused = false;
    try {
        pool.take();
    } catch (const std::bad_alloc &) {
        refused = true;
    }
    CHECK(refused && pool.taken() == 5);
    for (const auto &slot : slots)
        for (size_t i = 0; i < model->state_floats(); ++i)
            CHECK(slot.data()[i] == static_cast<float>(slot.number()));
    std::swap(slots[1], slots[3]);
    CHECK(slots[1].number() == 3 && slots[3].number() == 1 && pool.taken() == 5);
    slots[1] = {};
    slots[0] = {};
    CHECK(!slots[0] && !slots[0].data() && pool.taken() == 3);
    CHECK(pool.take().number() == 0);  // the lowest, and back again
    CHECK(pool.taken() == 3);
    StatePool::Slot moved = std::move(slots[2]);
    CHECK(moved && !slots[2] && pool.taken() == 3);
}

// States of 2 MB: what is written to is resident, and after it has been given back it is not, but
// for the spare ones and as many as are in use.
void test_memory_goes_back() {
    const auto model = tiny_model({.layers = 8, .width = 256, .head_size = 256, .ffn = 32});
    const auto each = static_cast<int64_t>(model->state_floats() * sizeof(float) / 1024);
    CHECK(each > 2000 && each < 2500);
    StatePool pool(*model, 100, 4);
    CHECK(pool.open() == 0);
    const float *const base = pool.states().data;
    for (int i = 0; i < 4; ++i) CHECK(pool.make_ahead());
    CHECK(!pool.make_ahead() && pool.open() == 4 && pool.taken() == 0);
    Slots slots = take(pool, 60);
    CHECK(pool.open() == 60 && pool.states().data == base);
    for (const auto &slot : slots) std::fill_n(slot.data(), model->state_floats(), 1.0f);
    const int64_t full = kilobytes(base, "Rss");
    CHECK(full >= 60 * each);
    slots.resize(30);
    CHECK(pool.open() == 60);  // as many as are taken may come back soon
    slots.resize(10);
    CHECK(pool.open() == 20);
    CHECK(kilobytes(base, "Rss") <= 21 * each + 4096);
    for (const auto &slot : slots) CHECK(slot.data()[model->state_floats() - 1] == 1);
    slots.erase(slots.begin(), slots.begin() + 9);
    CHECK(pool.open() == 10);  // the last one taken holds those below it
    slots.clear();
    CHECK(pool.open() == 4 && !pool.make_ahead());
    CHECK(kilobytes(base, "Rss") <= 5 * each + 4096);
    slots = take(pool, 8);
    for (const auto &slot : slots) std::fill_n(slot.data(), model->state_floats(), 2.0f);
    CHECK(pool.states().data == base && slots.back().data()[0] == 2);
}

// Large states, too, which have been the ones in small pages.
void test_huge_pages() {
    const auto model = tiny_model({.layers = 5, .width = 992, .head_size = 992, .ffn = 32});
    const auto each = static_cast<int64_t>(model->state_floats() * sizeof(float) / 1024);
    CHECK(each > 16 * 1024);
    StatePool pool(*model, 8, 0);
    Slots slots = take(pool, 4);
    for (const auto &slot : slots) std::fill_n(slot.data(), model->state_floats(), 1.0f);
    if (has_huge_pages())
        CHECK(kilobytes(slots[0].data(), "AnonHugePages") >= 2 * each);  // a machine may lack some
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_slots();
    test_memory_goes_back();
    test_huge_pages();
    return report();
}
