// The scheduler alone: cuts, budget, turns, admission, slots. No model and no thread takes part;
// the tests play the engine's part by moving `prefilled` on.
#include "check.h"
#include "pace.h"
#include "scheduler.h"
#include "tiny_model.h"

#include <algorithm>
#include <memory>
#include <set>
#include <vector>

namespace {

using rwkv::Scheduler;
using rwkv::Sequence;
using rwkv::Share;

std::unique_ptr<Sequence> sequence(int64_t prompt, int64_t max_tokens = 1) {
    rwkv::Request request;
    request.prompt.assign(static_cast<size_t>(prompt), 1);
    request.max_tokens = max_tokens;
    return std::make_unique<Sequence>(std::move(request));
}

// What the engine does with a plan, model and sampler left out. Removes the sequences that end.
std::vector<Sequence *> play(Scheduler &scheduler, std::span<const Share> plan) {
    std::vector<Sequence *> done;
    for (auto [s, rows] : plan) {
        const bool draws = s->draws_after(rows);
        if (!s->decoding()) s->prefilled += rows;
        if (draws && ++s->completion == s->request.max_tokens) done.push_back(s);
    }
    for (Sequence *s : done) scheduler.remove(*s);
    return done;
}

int64_t prefill_rows(std::span<const Share> plan) {
    int64_t rows = 0;
    for (const Share &share : plan)
        if (!share.sequence->decoding()) rows += share.rows;
    return rows;
}

int32_t rows_of(std::span<const Share> plan, const Sequence *s) {
    for (const Share &share : plan)
        if (share.sequence == s) return share.rows;
    return 0;
}

void admit_all(Scheduler &scheduler) {
    while (scheduler.admit()) {
    }
}

void test_cuts_depend_on_the_prompt_alone() {
    for (int64_t length : {1, 7, 8, 9, 16, 17, 100}) {
        Scheduler scheduler(4, 8);
        auto s = sequence(length);
        scheduler.add(*s);
        admit_all(scheduler);
        std::vector<int32_t> cuts;
        while (!scheduler.idle()) {
            const auto plan = scheduler.plan();
            CHECK(plan.size() == 1);
            cuts.push_back(plan[0].rows);
            play(scheduler, plan);
        }
        for (size_t i = 0; i + 1 < cuts.size(); ++i) CHECK(cuts[i] == 8);
        CHECK(static_cast<int64_t>(cuts.size()) == (length + 7) / 8);
        CHECK(cuts.back() == (length - 1) % 8 + 1);
    }
    // A prompt of which a part is known already goes on at the same places.
    auto s = sequence(20);
    s->prefilled = 5;
    CHECK(s->prompt_rows(8, 8) == 3);
    CHECK(s->prompt_rows(8, 12) == 11);
    CHECK(s->prompt_rows(8, 2) == 0);
    s->prefilled = 8;
    CHECK(s->prompt_rows(8, 8) == 8);
    CHECK(s->prompt_rows(8, 11) == 8);
    CHECK(s->prompt_rows(8, 12) == 12);
    s->prefilled = 16;
    CHECK(s->prompt_rows(8, 8) == 4);
    CHECK(s->prompt_rows(8, 3) == 0);
}

void test_short_prompts_share_a_step() {
    Scheduler scheduler(8, 16);
    std::vector<std::unique_ptr<Sequence>> all;
    for (int64_t length : {5, 5, 5, 5, 16}) {
        all.push_back(sequence(length));
        scheduler.add(*all.back());
    }
    admit_all(scheduler);
    CHECK(scheduler.plan().size() == 3);  // 5 + 5 + 5; the others are not split to fill up
    play(scheduler, scheduler.plan());
}

void test_budget_and_turns() {
    Scheduler scheduler(8, 16);
    auto a = sequence(160), b = sequence(160);
    scheduler.add(*a);
    scheduler.add(*b);
    admit_all(scheduler);
    for (int i = 0; i < 6; ++i) {
        const auto plan = scheduler.plan();
        CHECK(plan.size() == 1);
        CHECK(plan[0].sequence == (i % 2 ? b.get() : a.get()));
        play(scheduler, plan);
    }
    // A short prompt that comes now waits for one chunk of each, not for the whole of either.
    auto c = sequence(3);
    scheduler.add(*c);
    admit_all(scheduler);
    int steps = 1;
    for (; rows_of(scheduler.plan(), c.get()) == 0; ++steps) play(scheduler, scheduler.plan());
    CHECK(steps <= 3);
}

void test_decoding_is_in_every_step() {
    Scheduler scheduler(8, 16);
    auto stream = sequence(3, 1000), prompt = sequence(1600);
    scheduler.add(*stream);
    admit_all(scheduler);
    play(scheduler, scheduler.plan());
    CHECK(stream->decoding());
    scheduler.add(*prompt);
    admit_all(scheduler);
    int steps = 0;
    while (!prompt->decoding()) {
        const auto plan = scheduler.plan();
        CHECK(plan.size() == 2);
        CHECK(plan[0].sequence == stream.get() && plan[0].rows == 1);
        CHECK(plan[1].sequence == prompt.get() && plan[1].rows == 16);
        play(scheduler, plan);
        ++steps;
    }
    CHECK(steps == 100);
}

// A step takes what it is allowed to, in grains; the first prompt always gets one.
void test_prompts_beside_streams() {
    Scheduler scheduler(4, 256);
    auto stream = sequence(3, 1000), prompt = sequence(1000), brief = sequence(11);
    for (Sequence *s : {stream.get(), prompt.get(), brief.get()}) scheduler.add(*s);
    admit_all(scheduler);
    play(scheduler, scheduler.plan(3));
    CHECK(stream->decoding());
    const auto turn = [&](int64_t prompt_rows) {
        const auto plan = scheduler.plan(prompt_rows);
        CHECK(plan[0].sequence == stream.get() && plan[0].rows == 1);
        const int32_t rows = rows_of(plan, prompt.get());
        play(scheduler, plan);
        return rows;
    };
    CHECK(turn(30) == 16 && brief->decoding());  // 16 + 11 fit
    CHECK(turn(0) == 16);
    CHECK(turn(15) == 16);
    CHECK(turn(100) == 96);
    CHECK(turn(1000) == 256);
    CHECK(turn(50) == 48);
    CHECK(prompt->prefilled % Scheduler::largest_grain == 0);
}

void test_pace() {
    rwkv::Pace pace(0.020);
    CHECK(pace.estimate(5) == 0);
    CHECK(pace.rows_beside(1, 1) > 10000);  // nothing is known yet
    for (int i = 0; i < 100; ++i) {
        pace.saw(1, 0.010);
        pace.saw(21, 0.012);
        pace.saw(101, 0.052);
    }
    CHECK_NEAR(pace.estimate(1), 0.010, 1e-4);
    CHECK_NEAR(pace.estimate(11), 0.011, 1e-4);
    CHECK_NEAR(pace.estimate(61), 0.032, 1e-4);
    // 2.5 steps of one stream: 25 ms. Of 21 streams: 30 ms.
    CHECK_NEAR(static_cast<double>(pace.rows_beside(1, 1)), 47, 1);
    CHECK_NEAR(static_cast<double>(pace.rows_beside(21, 21)), 57, 1);
    // Twenty prompts wait beside one stream: steps will soon be those of 21.
    CHECK_NEAR(static_cast<double>(pace.rows_beside(1, 21)), 57, 1);
    for (int i = 0; i < 4; ++i) pace.saw(1, 10);  // the process was stopped
    for (int i = 0; i < 40; ++i) pace.saw(1, 0.010);
    CHECK_NEAR(pace.estimate(1), 0.010, 1e-4);
    // A target above the streams' own steps.
    rwkv::Pace slow(1.0);
    slow.saw(1, 0.010);
    slow.saw(101, 0.110);
    CHECK(slow.rows_beside(1, 1) > 900);
}

void test_admission_and_slots() {
    Scheduler scheduler(2, 16);
    std::vector<std::unique_ptr<Sequence>> all;
    for (int i = 0; i < 5; ++i) {
        all.push_back(sequence(1, 10));
        scheduler.add(*all.back());
    }
    CHECK(scheduler.plan().empty());
    CHECK(scheduler.admit() == all[0].get() && all[0]->slot == 0);
    CHECK(scheduler.admit() == all[1].get() && all[1]->slot == 1);
    CHECK(scheduler.admit() == nullptr);
    CHECK(scheduler.waiting() == 3 && scheduler.prefilling() == 2 && scheduler.running() == 0);
    play(scheduler, scheduler.plan());
    CHECK(scheduler.prefilling() == 0 && scheduler.running() == 2);

    scheduler.remove(*all[2]);  // from the queue: no slot comes free
    CHECK(scheduler.waiting() == 2 && scheduler.admit() == nullptr);
    scheduler.remove(*all[0]);  // a running one: its slot goes to the oldest of the queue
    CHECK(all[0]->slot == -1);
    CHECK(scheduler.admit() == all[3].get() && all[3]->slot == 0);
    CHECK(scheduler.admit() == nullptr);
    scheduler.remove(*all[3]);  // a prefilling one
    CHECK(scheduler.admit() == all[4].get() && all[4]->slot == 0);
    scheduler.remove(*all[1]);
    scheduler.remove(*all[4]);
    CHECK(scheduler.idle() && scheduler.plan().empty() && scheduler.admit() == nullptr);
}

// Random arrivals, lengths and removals; every rule is checked in every step.
void test_random_workload(uint64_t seed) {
    Random random{seed};
    const int32_t max_batch = static_cast<int32_t>(1 + random.below(9));
    const int32_t chunk = static_cast<int32_t>(1 + random.below(40));
    const int32_t grain = std::min(chunk, Scheduler::largest_grain);
    Scheduler scheduler(max_batch, chunk);
    std::vector<std::unique_ptr<Sequence>> all;
    std::vector<Sequence *> queue, active;
    std::vector<std::pair<Sequence *, int64_t>> patience;  // steps that a prefilling one may wait
    for (int step = 0; step < 300; ++step) {
        for (int64_t n = random.below(3); n > 0; --n) {
            all.push_back(sequence(1 + random.below(5 * chunk), 1 + random.below(20)));
            scheduler.add(*all.back());
            queue.push_back(all.back().get());
        }
        if (!active.empty() && random.below(8) == 0) {
            Sequence *victim = active[static_cast<size_t>(random.below(
                static_cast<int64_t>(active.size())))];
            scheduler.remove(*victim);
            std::erase(active, victim);
        }
        if (!queue.empty() && random.below(8) == 0) {
            scheduler.remove(*queue.back());
            queue.pop_back();
        }
        while (Sequence *s = scheduler.admit()) {
            CHECK(s == queue.front());
            queue.erase(queue.begin());
            active.push_back(s);
        }
        CHECK(queue.empty() || static_cast<int32_t>(active.size()) == max_batch);
        std::set<int32_t> slots;
        for (Sequence *s : active) slots.insert(s->slot);
        CHECK(slots.size() == active.size());
        CHECK(slots.empty() || (*slots.begin() >= 0 && *slots.rbegin() < max_batch));

        const auto plan = scheduler.plan();
        const int64_t prefilling = scheduler.prefilling();
        CHECK(prefill_rows(plan) <= chunk);
        CHECK((prefill_rows(plan) > 0) == (prefilling > 0));
        std::erase_if(patience, [&](const auto &p) {
            return std::find(active.begin(), active.end(), p.first) == active.end();
        });
        for (Sequence *s : active) {
            const int32_t rows = rows_of(plan, s);
            if (s->decoding()) {
                CHECK(rows == 1);
                continue;
            }
            auto wait = std::find_if(patience.begin(), patience.end(),
                                     [s](const auto &p) { return p.first == s; });
            if (rows == 0) {
                if (wait == patience.end())
                    patience.emplace_back(s, prefilling - 1);
                else
                    CHECK(--wait->second > 0);
                continue;
            }
            if (wait != patience.end()) patience.erase(wait);
            CHECK(s->prefilled % grain == 0);
            CHECK(rows % grain == 0 || s->draws_after(rows));
        }
        for (Sequence *s : play(scheduler, plan)) std::erase(active, s);
    }
}

}  // namespace

int main() {
    test_cuts_depend_on_the_prompt_alone();
    test_short_prompts_share_a_step();
    test_budget_and_turns();
    test_decoding_is_in_every_step();
    test_prompts_beside_streams();
    test_pace();
    test_admission_and_slots();
    for (uint64_t seed = 1; seed <= 200; ++seed) test_random_workload(seed);
    return report();
}
