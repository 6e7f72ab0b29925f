// The scheduler alone: cuts, budget, turns, admission, slots. No model and no thread takes part;
// the tests play the engine's part by moving `prefilled` on.
#include "check.h"
#include "engine/scheduler.h"
#include "engine/step_time.h"
#include "tiny_model.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <vector>

namespace {

using rwkv::Scheduled;
using rwkv::Scheduler;
using rwkv::Sequence;

struct Asker {
    uint64_t client = 0, group = 0;
};

std::unique_ptr<Sequence> sequence(int64_t prompt, int64_t max_tokens = 1, Asker asker = {},
                                   int32_t dimensions = 0) {
    rwkv::Request request;
    request.prompt.assign(static_cast<size_t>(prompt), 1);
    request.max_tokens = max_tokens;
    request.client = asker.client;
    request.group = asker.group;
    request.dimensions = dimensions;
    return std::make_unique<Sequence>(std::move(request));
}

std::unique_ptr<Sequence> text(int64_t prompt, Asker asker = {}) {
    return sequence(prompt, 0, asker, 8);
}

// What the engine does with a plan, model and sampler left out. Removes the sequences that end.
std::vector<Sequence *> play(Scheduler &scheduler, std::span<const Scheduled> plan) {
    std::vector<Sequence *> done;
    for (auto [s, rows] : plan) {
        const bool draws = s->draws_after(rows);
        if (!s->decoding()) s->prefilled += rows;
        if (draws && ++s->completion == s->request.max_tokens) done.push_back(s);
        if (s->embeds() && s->decoding()) done.push_back(s);
    }
    for (Sequence *s : done) scheduler.remove(*s);
    return done;
}

int64_t prefill_rows(std::span<const Scheduled> plan) {
    int64_t rows = 0;
    for (const Scheduled &share : plan)
        if (!share.sequence->decoding()) rows += share.rows;
    return rows;
}

int32_t rows_of(std::span<const Scheduled> plan, const Sequence *s) {
    for (const Scheduled &share : plan)
        if (share.sequence == s) return share.rows;
    return 0;
}

void admit_all(Scheduler &scheduler) {
    while (scheduler.admit()) {}
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

// A scheduler with all that it was given, played step by step.
struct Game {
    Scheduler scheduler;
    std::vector<std::unique_ptr<Sequence>> all{};
    std::vector<Sequence *> done{};
    int64_t steps = 0, rows = 0;  // of prompts

    Sequence *add(std::unique_ptr<Sequence> one) {
        all.push_back(std::move(one));
        scheduler.add(*all.back());
        return all.back().get();
    }
    std::vector<Scheduled> step(int64_t prompt_rows = INT32_MAX) {
        admit_all(scheduler);
        const auto plan = scheduler.plan(prompt_rows);
        const std::vector<Scheduled> scheduled(plan.begin(), plan.end());
        ++steps, rows += prefill_rows(plan);
        for (Sequence *s : play(scheduler, plan)) done.push_back(s);
        return scheduled;
    }
    bool has_ended(const Sequence *s) const {
        return std::find(done.begin(), done.end(), s) != done.end();
    }
    // Steps until it has drawn so many tokens.
    int64_t wait(const Sequence *s, int64_t tokens = 1, int64_t prompt_rows = INT32_MAX) {
        const int64_t before = steps;
        while (s->completion < tokens && !has_ended(s) && steps - before < 100'000)
            step(prompt_rows);
        return steps - before;
    }
};

// Equal prompts: the mean wait is little more than half of the last one's, which is all the work
// there is.
void test_equal_prompts_come_one_after_the_other() {
    Game game{Scheduler(8, 96)};
    std::vector<Sequence *> asked;
    for (int i = 0; i < 8; ++i) asked.push_back(game.add(sequence(1024)));
    int64_t sum = 0;
    for (Sequence *s : asked) {
        game.wait(s);
        sum += game.steps;
    }
    CHECK(game.done == asked);
    CHECK(game.steps <= 8 * 1024 / 96 + 2);
    CHECK(sum <= 8 * game.steps * 6 / 10);
}

// One that is no longer than a grain does not wait, and what it shares its step with is a grain.
void test_a_short_prompt_passes() {
    Game alone{Scheduler(8, 256)};
    const int64_t steps_alone = alone.wait(alone.add(sequence(4096)), 1, 96);
    Game game{Scheduler(8, 256)};
    Sequence *const prompt = game.add(sequence(4096));
    for (int i = 0; i < 10; ++i) game.step(96);
    Sequence *const brief = game.add(sequence(13));
    const auto scheduled = game.step(96);
    CHECK(rows_of(scheduled, brief) == 13 && rows_of(scheduled, prompt) == 16);
    CHECK(game.has_ended(brief));
    game.wait(prompt, 1, 96);
    CHECK(game.steps <= steps_alone + 1);
    CHECK(game.rows == 4096 + 13);
}

// A prompt waits for as much of the others' as it has itself, and no more.
void test_longer_prompts_do_not_hold_up_shorter_ones() {
    Game game{Scheduler(8, 96)};
    Sequence *const prompt = game.add(sequence(100'000));
    for (int i = 0; i < 10; ++i) game.step();
    Sequence *const other = game.add(sequence(1000, 1, {.client = 2}));
    CHECK(game.wait(other) <= 1000 / 96 + 2);
    game.wait(prompt);
    CHECK(game.rows == 101'000 && game.steps <= 101'000 / 96 + 5);
}

void test_nobody_starves() {
    // Short ones come in every step: the long one has a grain all the same.
    Game flood{Scheduler(8, 96)};
    Sequence *prompt = flood.add(sequence(4096));
    for (int i = 0; i < 4096 / 16; ++i) {
        for (int k = 0; k < 7; ++k) flood.add(sequence(16));
        flood.step();
    }
    CHECK(flood.has_ended(prompt) && flood.done.size() > 4096 / 16);

    // With room for a grain in a step they take turns.
    Game narrow{Scheduler(8, 16)};
    prompt = narrow.add(sequence(160));
    for (int i = 0; i < 20; ++i) {
        narrow.add(sequence(16));
        narrow.step(0);
    }
    CHECK(narrow.has_ended(prompt) && narrow.done.size() >= 10);

    // Three others ask for 1000 again and again: each of them is given no more than it asks for.
    Game busy{Scheduler(8, 96)};
    prompt = busy.add(sequence(4096, 1, {.client = 9}));
    std::vector<Sequence *> others(3);
    while (!busy.has_ended(prompt) && busy.steps < 100'000) {
        for (size_t i = 0; i < others.size(); ++i)
            if (!others[i] || busy.has_ended(others[i]))
                others[i] = busy.add(sequence(1000, 1, {.client = i}));
        busy.step();
    }
    CHECK(busy.rows <= 4 * 4096 + 3 * 1000 + 200);
}

// One request of many prompts, and another one: it has a slot and its first token in the next step,
// though all slots are taken, and then a token in nearly every step.
void test_a_group_leaves_room() {
    for (const Asker asker : {Asker{0, 0}, {0, 8}, {1, 7}}) {
        Game game{Scheduler(64, 256)};
        std::vector<Sequence *> crowd;
        for (int i = 0; i < 1024; ++i) crowd.push_back(game.add(sequence(100, 2000, {0, 7})));
        for (int i = 0; i < 400; ++i) game.step(32);
        CHECK(game.scheduler.running() == 64);
        Sequence *const chat = game.add(sequence(13, 4, asker));
        CHECK(game.wait(chat, 1, 32) == 1);
        CHECK(game.wait(chat, 4, 32) <= 4);
        CHECK(game.has_ended(chat));
        CHECK(std::all_of(crowd.begin(), crowd.begin() + 64,
                          [](Sequence *s) { return s->completion > 90; }));
    }
}

// A client with many requests, and another one. Slots go to who holds the fewest, and prompts of
// one client do not stand in front of another's.
void test_turns_go_by_client() {
    Game game{Scheduler(8, 96)};
    for (int i = 0; i < 100; ++i) game.add(sequence(1000, 500, {.client = 1}));
    for (int i = 0; i < 5; ++i) game.step();
    Sequence *const first = game.add(sequence(1000, 500, {.client = 2}));
    CHECK(game.wait(first) <= 2000 / 96 + 2);
    Sequence *const second = game.add(sequence(1000, 500, {.client = 3}));
    CHECK(game.wait(second) <= 2000 / 96 + 2);  // that was the other one of the two extra slots
    Sequence *const third = game.add(sequence(13, 500, {.client = 4}));
    game.step();
    CHECK(third->slot == -1);
    while (third->slot == -1 && game.steps < 100'000) game.step();
    CHECK(game.done.size() ==
          1);  // the first slot that came free, after 92 others had waited for longer

    // With one slot they go round, client by client.
    Game narrow{Scheduler(1, 16)};
    std::vector<Sequence *> order;
    for (uint64_t client : {1, 1, 1, 2, 2, 3})
        order.push_back(narrow.add(sequence(1, 1, {.client = client})));
    for (int i = 0; i < 6; ++i) narrow.step();
    CHECK(narrow.done == (std::vector{order[0], order[3], order[5], order[1], order[4], order[2]}));
    // And group by group.
    Game grouped{Scheduler(1, 16)};
    order.clear();
    for (uint64_t group : {1, 1, 1, 2, 2, 0})
        order.push_back(grouped.add(sequence(1, 1, {1, group})));
    for (int i = 0; i < 6; ++i) grouped.step();
    CHECK(grouped.done ==
          (std::vector{order[0], order[3], order[5], order[1], order[4], order[2]}));
}

// Texts to embed hold at most half of the slots and rows while chats wait, and all of them
// otherwise.
void test_texts_leave_room_for_chats() {
    for (const int64_t length : {5, 16, 100, 8000}) {
        for (const bool together : {true, false}) {
            Game game{Scheduler(64, 256)};
            std::vector<Sequence *> texts;
            for (int i = 0; i < 200; ++i)
                texts.push_back(game.add(text(length, {0, together ? 7u : 0u})));
            game.step(96);
            CHECK(game.rows >= 80);
            Sequence *const chat = game.add(sequence(13, 4));
            CHECK(game.wait(chat, 1, 96) < 2);
            Sequence *const longer = game.add(sequence(480, 4));
            int64_t most = 0, steps = 0;
            for (; !longer->decoding() && steps < 1000; ++steps) {
                int64_t rows = 0;
                for (const Scheduled &share : game.step(96))
                    rows += share.sequence->embeds() ? share.rows : 0;
                most = std::max(most, rows);
            }
            CHECK(most <= 48 && steps <= 12);
        }
    }
    // Chats that wait for a slot get it before more texts than half of them do.
    Game game{Scheduler(8, 16)};
    for (int i = 0; i < 20; ++i) game.add(text(1000, {1, 7}));
    game.step();
    CHECK(game.scheduler.embedding() == 8);
    for (int i = 0; i < 20; ++i) game.add(sequence(3, 100'000, {2, 8}));
    for (int i = 0; i < 2000; ++i) game.step();
    CHECK(game.scheduler.embedding() <= 4 && game.scheduler.running() >= 4);
}

// More answers than a step may hold: none is left out twice running.
void test_answers_take_turns() {
    Game game{Scheduler(8, 64)};
    for (int i = 0; i < 20; ++i) game.add(sequence(1, 1000, {0, 7}));
    for (int i = 0; i < 5; ++i) game.step();
    Sequence *const a = game.add(sequence(1, 1000)), *const b = game.add(sequence(1, 1000));
    Sequence *const c = game.add(sequence(1, 1000));
    game.step();
    CHECK(a->slot == 8 && b->slot == 9 && c->slot == -1 && game.scheduler.running() == 10);
    std::map<const Sequence *, int> left_out;
    for (int i = 0; i < 100; ++i) {
        const auto scheduled = game.step();
        CHECK(scheduled.size() == 8);
        for (size_t k = 0; k < game.all.size(); ++k) {
            const Sequence *const s = game.all[k].get();
            if (s->slot < 0) continue;
            CHECK((left_out[s] = rows_of(scheduled, s) ? 0 : left_out[s] + 1) < 2);
        }
    }
    CHECK(a->completion == 80 || a->completion == 81);
}

// So few rows are to spare for guesses that not everybody can have some: they go round.
void test_guesses_take_turns() {
    Game game{Scheduler(8, 64)};
    std::map<const Sequence *, int64_t> guesses;
    for (int i = 0; i < 8; ++i) {
        Sequence *const s = game.add(sequence(1, 1000));
        game.step();
        s->next.resize(5, 1);
    }
    for (int i = 0; i < 80; ++i)
        for (auto [s, rows] : game.scheduler.plan()) guesses[s] += rows - s->certain;
    for (const auto &[s, rows] : guesses) CHECK(rows == 80);
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

// A step takes what it is allowed to, in grains, and one in any case.
void test_prompts_beside_streams() {
    Scheduler scheduler(4, 256);
    auto stream = sequence(3, 1000), prompt = sequence(1000), brief = sequence(11, 1000);
    for (Sequence *s : {stream.get(), prompt.get(), brief.get()}) scheduler.add(*s);
    admit_all(scheduler);
    play(scheduler, scheduler.plan(3));
    CHECK(stream->decoding() && brief->decoding() && prompt->prefilled == 0);  // 3 + 11 fit
    const auto turn = [&](int64_t prompt_rows) {
        const auto plan = scheduler.plan(prompt_rows);
        CHECK(rows_of(plan, stream.get()) == 1 && rows_of(plan, brief.get()) == 1);
        const int32_t rows = rows_of(plan, prompt.get());
        play(scheduler, plan);
        return rows;
    };
    CHECK(turn(30) == 16);
    CHECK(turn(0) == 16);
    CHECK(turn(-5) == 16);
    CHECK(turn(15) == 16);
    CHECK(turn(100) == 96);
    CHECK(turn(1000) == 256);
    CHECK(turn(50) == 48);
    CHECK(prompt->prefilled % Scheduler::largest_grain == 0);
}

void test_pace() {
    rwkv::StepTime step_time(0.020);
    CHECK(step_time.estimate(5) == 0);
    CHECK(step_time.rows_beside(1, 1) > 10000);  // nothing is known yet
    for (int i = 0; i < 100; ++i) {
        step_time.saw(1, 0.010);
        step_time.saw(21, 0.012);
        step_time.saw(101, 0.052);
    }
    CHECK_NEAR(step_time.estimate(1), 0.010, 1e-4);
    CHECK_NEAR(step_time.estimate(11), 0.011, 1e-4);
    CHECK_NEAR(step_time.estimate(61), 0.032, 1e-4);
    // 2.5 steps of one stream: 25 ms. Of 21 streams: 30 ms.
    CHECK_NEAR(static_cast<double>(step_time.rows_beside(1, 1)), 47, 1);
    CHECK_NEAR(static_cast<double>(step_time.rows_beside(21, 21)), 57, 1);
    // Twenty prompts wait beside one stream: steps will soon be those of 21.
    CHECK_NEAR(static_cast<double>(step_time.rows_beside(1, 21)), 57, 1);
    for (int i = 0; i < 4; ++i) step_time.saw(1, 10);  // the process was stopped
    for (int i = 0; i < 40; ++i) step_time.saw(1, 0.010);
    CHECK_NEAR(step_time.estimate(1), 0.010, 1e-4);
    // A target above the streams' own steps.
    rwkv::StepTime slow(1.0);
    slow.saw(1, 0.010);
    slow.saw(101, 0.110);
    CHECK(slow.rows_beside(1, 1) > 900);
    CHECK(slow.rows_alone() > 900);
}

// Steps of prompts alone are bounded, too: by 50 ms, or by what a large model needs to be at full
// speed.
void test_pace_of_prompts_alone() {
    rwkv::StepTime step_time(0.020);
    CHECK(step_time.rows_alone() == 0);  // nothing is known yet: the scheduler takes a grain
    step_time.saw(16, 0.012);
    CHECK(step_time.rows_alone() > 32 && step_time.rows_alone() < 100);
    for (int i = 0; i < 100; ++i) {
        step_time.saw(1, 0.008);
        step_time.saw(16, 0.012);
        step_time.saw(step_time.rows_alone(),
                      0.004 + 0.0005 * static_cast<double>(step_time.rows_alone()));
    }
    CHECK_NEAR(static_cast<double>(step_time.rows_alone()), 92, 4);
    rwkv::StepTime large(0.020);  // of 7B
    for (int i = 0; i < 100; ++i) {
        large.saw(1, 0.5);
        large.saw(large.rows_alone(), 0.4 + 0.03 * static_cast<double>(large.rows_alone()));
    }
    CHECK_NEAR(static_cast<double>(large.rows_alone()), 53, 4);
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

// A stranger's requests by the hundred thousand: were each call to look at all of them, this would
// take minutes and not a second, and in a server every step of the others.
void test_a_crowd_in_the_queue() {
    Scheduler scheduler(4, 16);
    constexpr size_t crowd = 200'000;
    std::vector<std::unique_ptr<Sequence>> all;
    for (size_t i = 0; i < crowd; ++i) {
        all.push_back(sequence(1, 1, {1, i % 3 ? 0 : 1 + i % 2'000}));
        scheduler.add(*all.back());
    }
    const auto other = sequence(1, 1, {2});
    scheduler.add(*other);
    for (int i = 0; i < 5; ++i) {
        Sequence *const s = scheduler.admit();
        CHECK(s && (s == other.get()) == (i == 1));  // the second client has its turn
        if (i < 4) scheduler.remove(*s);
    }
    for (size_t i = 0; i < crowd; i += 2) scheduler.remove(*all[crowd - 1 - i]);
    while (Sequence *s = scheduler.admit()) scheduler.remove(*s);
    CHECK(scheduler.waiting() == 0 && scheduler.running() + scheduler.prefilling() <= 1);
}

// Random arrivals, askers, lengths and removals; every rule is checked in every step.
void test_random_workload(uint64_t seed) {
    Random random{seed};
    const int32_t max_batch = static_cast<int32_t>(1 + random.below(9));
    const int32_t chunk = static_cast<int32_t>(1 + random.below(40));
    const int32_t grain = std::min(chunk, Scheduler::largest_grain);
    Scheduler scheduler(max_batch, chunk);
    const int64_t slots_at_most = max_batch + scheduler.extra_slots();
    std::vector<std::unique_ptr<Sequence>> all;
    std::vector<Sequence *> queue, active;
    const auto asker = [&] {
        return Asker{static_cast<uint64_t>(random.below(3)),
                     static_cast<uint64_t>(random.below(4))};
    };
    int quiet_steps = 0;  // in which long prompts wait and get nothing
    const auto step = [&] {
        while (Sequence *s = scheduler.admit()) {
            const auto place = std::find(queue.begin(), queue.end(), s);
            CHECK(place != queue.end());
            queue.erase(place);
            active.push_back(s);
        }
        const auto n_active = static_cast<int32_t>(active.size());
        CHECK(n_active <= slots_at_most && (queue.empty() || n_active >= max_batch));
        CHECK(scheduler.waiting() == static_cast<int64_t>(queue.size()));
        std::set<int32_t> slots;
        for (Sequence *s : active) slots.insert(s->slot);
        CHECK(slots.size() == active.size());
        CHECK(slots.empty() || (*slots.begin() >= 0 && *slots.rbegin() < slots_at_most));

        const auto plan = scheduler.plan(random.below(2) ? INT32_MAX : random.below(chunk + 1));
        const int64_t prefilling = scheduler.prefilling();
        CHECK(prefill_rows(plan) <= chunk);
        CHECK((prefill_rows(plan) > 0) == (prefilling > 0));
        CHECK(static_cast<int64_t>(plan.size()) <= max_batch + prefilling);
        int64_t answers = 0, long_rows = 0, long_ones = 0;
        for (Sequence *s : active) {
            const int32_t rows = rows_of(plan, s);
            if (s->decoding()) {
                CHECK(rows <= 1);
                answers += rows;
                continue;
            }
            if (s->prompt_left() > grain) ++long_ones, long_rows += rows;
            CHECK(rows == 0 || s->prefilled % grain == 0);
            CHECK(rows % grain == 0 || s->draws_after(rows) || (s->embeds() && s->ends_with(rows)));
        }
        CHECK(answers == std::min<int64_t>(n_active - prefilling, max_batch));
        quiet_steps = long_ones > 0 && long_rows == 0 ? quiet_steps + 1 : 0;
        CHECK(quiet_steps < 2);
        for (Sequence *s : play(scheduler, plan)) std::erase(active, s);
    };
    for (int i = 0; i < 300; ++i) {
        for (int64_t n = random.below(3); n > 0; --n) {
            const int64_t length = 1 + random.below(5 * chunk);
            all.push_back(random.below(4) ? sequence(length, 1 + random.below(20), asker())
                                          : text(length, asker()));
            scheduler.add(*all.back());
            queue.push_back(all.back().get());
        }
        for (auto *from : {&active, &queue}) {
            if (from->empty() || random.below(8)) continue;
            Sequence *victim =
                (*from)[static_cast<size_t>(random.below(static_cast<int64_t>(from->size())))];
            scheduler.remove(*victim);
            CHECK(victim->slot == -1);
            std::erase(*from, victim);
        }
        step();
    }
    for (int i = 0; !scheduler.idle() && i < 100'000; ++i) step();
    CHECK(scheduler.idle() && queue.empty() && active.empty());
}

}  // namespace

int main() {
    test_cuts_depend_on_the_prompt_alone();
    test_short_prompts_share_a_step();
    test_equal_prompts_come_one_after_the_other();
    test_a_short_prompt_passes();
    test_longer_prompts_do_not_hold_up_shorter_ones();
    test_nobody_starves();
    test_a_group_leaves_room();
    test_turns_go_by_client();
    test_texts_leave_room_for_chats();
    test_answers_take_turns();
    test_guesses_take_turns();
    test_decoding_is_in_every_step();
    test_prompts_beside_streams();
    test_pace();
    test_pace_of_prompts_alone();
    test_admission_and_slots();
    test_a_crowd_in_the_queue();
    for (uint64_t seed = 1; seed <= 200; ++seed) test_random_workload(seed);
    return report();
}
