// The engine's thread: the loop, and what it does between two steps. What other threads share with
// it is mailbox.h. Never knows what a token means: see sequence.cpp.
#include "engine/engine.h"

#include "engine/followers.h"
#include "engine/mailbox.h"
#include "engine/prefix_cache.h"
#include "engine/scheduler.h"
#include "engine/state_pool.h"
#include "engine/step.h"
#include "engine/step_time.h"
#include "error.h"
#include "model/embedding.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <thread>
#include <unordered_map>
#include <utility>

namespace rwkv {

struct Engine::Core {
    Core(std::shared_ptr<Model> model, std::shared_ptr<const Vocab> vocab, EngineOptions options);

    void run() noexcept;
    bool receive();
    bool has_work() const;
    void make_states() noexcept;
    void drop_cancelled();
    void admit();
    void start(Sequence &sequence);
    bool resume(Sequence &sequence);
    void go_on(Sequence &sequence);
    void draw_first(Sequence &sequence, const Snapshot &row);
    void plan(Step &step);
    StepTime &step_time_of(int64_t layers);
    void back_up(Step &step) noexcept;
    void make_room(Step &step);
    bool fail_scheduled(Step &step, const std::exception &error, bool prompts_only);
    void forward(Step &step);
    void draw(Step &step);
    void settle(Step &step);
    void go_on_after(const Step::Draw &draw, Step &step);
    void pass_on(Sequence &sequence, const float *row);
    void pass_on(const Sequence &sequence, const std::shared_ptr<const Fork> &fork);
    void embed(Sequence &sequence) const noexcept;
    void keep_prompts(const Step &step) noexcept;
    void leave(Sequence &sequence);
    void fail(Sequence &sequence, const std::exception &error);
    void emit() noexcept;
    void end_all(const std::exception &error) noexcept;
    EngineStats stats() const;
    float *row(size_t i) const { return logits.data + i * n_vocab; }
    void refuse_speculation(int32_t speculate) const;
    size_t keepable(int64_t bytes) const;

    const std::shared_ptr<Model> model;
    const std::shared_ptr<const Vocab> vocab;
    const EngineOptions options;
    const size_t n_vocab;              // columns of the logits
    std::vector<int32_t> undecodable;  // ids of the model that the vocabulary cannot turn into text

    Mailbox mailbox;

    // The thread's own.
    Mail mail;
    Scheduler scheduler;
    StatePool pool;
    std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences;
    Followers followers;
    PrefixCache prefix_cache;
    std::vector<Sequence *> reporting;       // those with something to say after this step
    std::map<int64_t, StepTime> step_times;  // by depth: texts to embed need fewer layers
    EngineStats done;                        // counts of what has been done
    const std::unique_ptr<Drawing> drawing;
    // [rows, n_vocab], as one slot, since products write to all rows at once, which lie far apart.
    States logits;
    const Buffer known_logits;  // [n_vocab]: behind a prompt that nobody has to read

    std::thread thread;
};

static int32_t at_least_1(const char *field, int32_t value) {
    if (value >= 1) return value;
    throw invalid(std::string(field) + " is " + std::to_string(value) + ", it must be at least 1");
}

// As many as fit 48 MB, which is 20 of a model of 0.1B; none of states so small that making one
// costs nothing.
static int32_t spare_states(const Model &model, const EngineOptions &options) {
    const size_t bytes = model.state_floats() * sizeof(float);
    if (bytes < size_t{256} << 10) return 0;
    return static_cast<int32_t>(
        std::min((size_t{48} << 20) / bytes, static_cast<size_t>(options.max_batch)));
}

// Of sequences that may have one at a time.
static int32_t places(const Scheduler &scheduler) {
    return static_cast<int32_t>(scheduler.max_batch() + scheduler.extra_slots());
}

// For each that has a place a state and one set aside, and one for each that may guess in a step.
static int32_t slots_for(const Scheduler &scheduler) {
    return static_cast<int32_t>(2 * places(scheduler) + Scheduler::guessing_rows);
}

Engine::Core::Core(std::shared_ptr<Model> model_, std::shared_ptr<const Vocab> vocab_,
                   EngineOptions options_)
    : model(std::move(model_)),
      vocab(std::move(vocab_)),
      options(options_),
      n_vocab(static_cast<size_t>(model->info().vocab)),
      mailbox({options.ring, options.payload}, at_least_1("max_batch", options.max_batch),
              at_least_1("max_queue", options.max_queue)),
      scheduler(options.max_batch, at_least_1("prefill_chunk", options.prefill_chunk)),
      pool(*model, slots_for(scheduler), spare_states(*model, options)),
      prefix_cache(*model, pool),
      drawing(model->backend().drawing(places(scheduler), n_vocab)),
      known_logits(model->backend().floats(n_vocab)) {
    if (!(options.step_ms >= 0 && options.step_ms <= 60e3)) {
        char text[64];
        std::snprintf(text, sizeof text, "step_ms is %g, outside [0, 60000]", options.step_ms);
        throw invalid(text);
    }
    if (options.speculate < 0 || options.speculate > most_speculation)
        throw invalid("speculate is " + std::to_string(options.speculate) + ", outside [0, " +
                      std::to_string(most_speculation) + "]");
    refuse_speculation(options.speculate);
    prefix_cache.set_limit(keepable(options.cache_bytes));
    mailbox.show(stats(), prefix_cache.stats());
    for (size_t id = 0; id < n_vocab; ++id)
        if (!vocab->has(static_cast<int32_t>(id))) undecodable.push_back(static_cast<int32_t>(id));
}

void Engine::Core::run() noexcept {
    Step step;
    for (;;) {
        try {
            while (receive()) {
                drop_cancelled();
                admit();
                plan(step);
                forward(step);
                draw(step);
                settle(step);
                emit();
                keep_prompts(step);
            }
            return;
        } catch (const std::exception &error) {
            // Only memory can run out here. Whoever waits for an answer must hear of it.
            end_all(error);
        }
    }
}

// Sleeps until there is work. False: the engine is to end.
bool Engine::Core::receive() {
    reporting.clear();
    make_states();
    if (!mailbox.receive(mail, has_work())) return false;
    if (mail.clears_cache) prefix_cache.clear();
    if (mail.cache_bytes) prefix_cache.set_limit(*mail.cache_bytes);
    // A place that grows would lose what is put in it.
    sequences.reserve(sequences.size() + mail.sequences.size());
    for (auto &sequence : mail.sequences) {
        if (sequence->follows != 0)
            followers.add(*sequence);
        else
            scheduler.add(*sequence);
        sequences.emplace(sequence->id, std::move(sequence));
    }
    mail.sequences.clear();
    return true;
}

bool Engine::Core::has_work() const { return !scheduler.idle() || !followers.empty(); }

// While there is no work yet: the states of the first slots. Where memory is new, each takes as
// long as a token, and the first requests that come together would wait for all of them.
void Engine::Core::make_states() noexcept {
    try {
        while (!has_work() && !mailbox.has_mail() && pool.make_ahead()) continue;
    } catch (const std::exception &) {
        // Whoever needs one will hear of it.
    }
}

void Engine::Core::drop_cancelled() {
    for (const uint64_t id : mail.cancelled) {
        const auto found = sequences.find(id);
        if (found == sequences.end() || found->second->finish != Finish::running) continue;
        found->second->cancel();
        leave(*found->second);
        reporting.push_back(found->second.get());
    }
    mail.cancelled.clear();
}

// Gives back its place and its states.
void Engine::Core::leave(Sequence &sequence) {
    followers.drop(sequence);
    scheduler.remove(sequence);
    sequence.state = {}, sequence.before = {}, sequence.aside = {};
}

void Engine::Core::fail(Sequence &sequence, const std::exception &error) {
    sequence.fail(error);
    leave(sequence);
    reporting.push_back(&sequence);
}

void Engine::Core::admit() {
    // Those whose prompt nobody reads any more: the first of them does.
    const auto is_there = [this](uint64_t leader) { return sequences.contains(leader); };
    while (Sequence *const reader = followers.promote(is_there)) scheduler.add(*reader);
    while (Sequence *const sequence = scheduler.admit()) {
        try {
            start(*sequence);
        } catch (const std::exception &error) {
            fail(*sequence, error);
        }
    }
    mailbox.show(stats(), prefix_cache.stats());  // who has left the queue makes room in it at once
}

// Of a sequence that has just got its place: its state, as far as it is known.
void Engine::Core::start(Sequence &sequence) {
    sequence.state = pool.take();
    if (!sequence.embeds())
        drawing->seat(sequence.slot, sequence.request.sampling, sequence.request.prompt);
    if (sequence.fork) return go_on(sequence);
    if (!sequence.embeds() && !sequence.request.score && resume(sequence)) return;
    const auto &given = sequence.request.state;
    model->backend().upload(sequence.state.data(),
                            given ? std::span<const float>(*given) : model->initial_state());
}

// Goes on from what is known of a sequence's prompt. False: nothing is.
bool Engine::Core::resume(Sequence &sequence) {
    const auto known = prefix_cache.resume(sequence, *vocab);
    if (!known.state) return false;
    if (!sequence.decoding()) return true;
    // All of it: the first token is drawn at once, and reported with that of the step to come.
    pass_on(sequence, std::make_shared<Fork>(known.state, known.logits, sequence.request.cache));
    draw_first(sequence, known.logits);
    return true;
}

// Goes on from a prompt that another request has read.
void Engine::Core::go_on(Sequence &sequence) {
    const auto fork = std::exchange(sequence.fork, nullptr);
    model->backend().restore(sequence.state.data(), fork->state);
    sequence.request.cache = fork->cache;
    sequence.prefilled = sequence.cached = sequence.saved =
        static_cast<int64_t>(sequence.request.prompt.size());
    ++done.forked;
    draw_first(sequence, fork->logits);
}

// Of a sequence whose prompt has been read; `row` are the logits behind it.
void Engine::Core::draw_first(Sequence &sequence, const Snapshot &row) {
    sequence.ask_mask(n_vocab);
    if (sequence.draws()) {
        model->backend().restore(known_logits.data, row);
        const Draw draw{sequence.slot, known_logits.data, {}, sequence.mask_bits(), {}};
        drawing->draw({&draw, 1});
        sequence.settle(drawing->settle().front(), 0, *vocab);
    } else if (sequence.finish == Finish::running) {
        sequence.settle({}, 0, *vocab);
    }
    done.completion_tokens += sequence.completion;
    if (sequence.finish != Finish::error) prefix_cache.keep_answer(sequence);
    if (sequence.finish == Finish::running) return;
    leave(sequence);
    reporting.push_back(&sequence);
}

StepTime &Engine::Core::step_time_of(int64_t layers) {
    return step_times.try_emplace(layers, options.step_ms / 1000).first->second;
}

void Engine::Core::plan(Step &step) {
    const int64_t running = std::min<int64_t>(scheduler.running(), options.max_batch);
    const int64_t later = scheduler.running() + scheduler.prefilling() - scheduler.embedding();
    const bool quick = scheduler.quick() == scheduler.embedding();
    const StepTime &step_time =
        step_time_of(later > 0 ? model->info().layers : embedding_layer(*model, quick) + 1);
    const auto planned = scheduler.plan(running ? step_time.rows_beside(running, later) - running
                                                : step_time.rows_alone());
    step.clear();
    step.scheduled.assign(planned.begin(), planned.end());
    back_up(step);
    make_room(step);
    step.lay_out(*model);
}

// Copies the states that a step with guesses may have to go back to; without memory for that
// nothing is guessed.
void Engine::Core::back_up(Step &step) noexcept {
    for (auto &[sequence, rows] : step.scheduled) {
        if (!sequence->decoding() || rows == sequence->certain) continue;
        try {
            sequence->before = pool.take();
            model->backend().copy(sequence->before.data(), sequence->state.data(),
                                  model->state_floats());
        } catch (const std::exception &) {
            rows = sequence->certain;
        }
    }
}

// For the logits and activations of the step, before it moves any state. Where memory runs out it
// goes without guesses, then without prompts, which end with the error; streams, whose rows had
// room before, go on.
void Engine::Core::make_room(Step &step) {
    for (;;) {
        const size_t wanted = static_cast<size_t>(step.logits()) * n_vocab;
        try {
            if (wanted > static_cast<size_t>(logits.stride)) {
                // Twice as many, so that a growing batch moves seldom.
                States larger = model->backend().states(2 * wanted, 1);
                model->backend().use_slots(larger, 1);
                logits = std::move(larger);
            }
            if (const int64_t rows = step.rows()) model->make_room(rows);
            return;
        } catch (const std::exception &error) {
            if (!step.drop_guesses() && !fail_scheduled(step, error, true))
                fail_scheduled(step, error, false);
        }
    }
}

// Ends what is part of the step, or those of it that read their prompts. False: there are none.
bool Engine::Core::fail_scheduled(Step &step, const std::exception &error, bool prompts_only) {
    const auto ends = [&](const Scheduled &one) {
        return !prompts_only || !one.sequence->decoding();
    };
    for (const Scheduled &one : step.scheduled)
        if (ends(one)) fail(*one.sequence, error);
    return std::erase_if(step.scheduled, ends) > 0;
}

void Engine::Core::forward(Step &step) {
    if (step.scheduled.empty()) return;
    step.began = std::chrono::steady_clock::now();
    try {
        model->forward({&pool.states(), step.tokens, step.spans, step.logit_rows, step.depth},
                       logits.data);
    } catch (const std::exception &error) {
        // The states are somewhere in the middle of the step: none of them can go on.
        fail_scheduled(step, error, false);
        step.discard();
        return;
    }
    ++done.steps;
    for (auto [sequence, rows] : step.scheduled) {
        if (sequence->decoding()) continue;
        sequence->prefilled += rows;
        done.prompt_tokens += rows;
        if (!sequence->decoding()) prefix_cache.keep_prompt(*sequence, nullptr);
    }
}

// Asks for what comes behind the step's rows.
void Engine::Core::draw(Step &step) {
    for (const Step::Draw &draw : step.draws) {
        Sequence &sequence = *draw.sequence;
        sequence.ask_mask(n_vocab);
        if (sequence.draws())
            step.asked.push_back({sequence.slot,
                                  row(draw.row),
                                  sequence.guessed(draw.rows - 1),
                                  sequence.mask_bits(),
                                  {}});
    }
    for (const auto &[sequence, first, rows, token] : step.scores)
        if (rows > 0)
            step.asked.push_back(
                {sequence->slot,
                 row(first),
                 {},
                 {},
                 std::span(sequence->request.prompt)
                     .subspan(static_cast<size_t>(token), static_cast<size_t>(rows))});
    drawing->draw(step.asked);
}

// What has come of it, and what that means.
void Engine::Core::settle(Step &step) {
    auto drawn = drawing->settle().begin();
    for (const Step::Draw &draw : step.draws) {
        Sequence &sequence = *draw.sequence;
        done.completion_tokens -= sequence.completion;
        if (sequence.draws())
            sequence.settle(*drawn++, draw.rows - 1, *vocab);
        else if (sequence.finish == Finish::running)
            sequence.settle({}, 0, *vocab);
        go_on_after(draw, step);
    }
    for (const Step::Score &score : step.scores) {
        score.sequence->score(score.rows > 0 ? *drawn++ : Drawn{});
        if (score.sequence->finish != Finish::running) step.embedded.push_back(score.sequence);
    }
    for (Sequence *const sequence : step.embedded) {
        if (sequence->embeds()) embed(*sequence);
        leave(*sequence);
        reporting.push_back(sequence);
    }
    if (step.scheduled.empty()) return;
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - step.began;
    step_time_of(step.depth).saw(static_cast<int64_t>(step.tokens.size()), took.count());
}

// Which state it goes on from, and what is kept of it.
void Engine::Core::go_on_after(const Step::Draw &draw, Step &step) {
    Sequence &sequence = *draw.sequence;
    if (sequence.undone) std::swap(sequence.state, sequence.before);
    if (draw.first) pass_on(sequence, row(draw.row));
    if (sequence.finish != Finish::error) {
        if (draw.first && sequence.finish == Finish::running)
            step.prompts_read.push_back(draw);
        else if (draw.first)
            prefix_cache.keep_prompt(sequence, row(draw.row));
        prefix_cache.keep_answer(sequence);
    }
    sequence.before = {};
    done.guessed_tokens += sequence.verified;
    done.accepted_tokens += sequence.accepted;
    done.completion_tokens += sequence.completion;
    if (sequence.finish != Finish::running) leave(sequence);
    reporting.push_back(&sequence);
}

// To those who wait for the prompt that has just been read, and is followed by these logits.
void Engine::Core::pass_on(Sequence &sequence, const float *row) {
    if (!followers.has(sequence.id)) return;
    try {
        sequence.fork = prefix_cache.save(sequence, row);
    } catch (const std::bad_alloc &) {
        sequence.fork = nullptr;
    }
    pass_on(sequence, sequence.fork);
}

// Null: there was no memory for it.
void Engine::Core::pass_on(const Sequence &sequence, const std::shared_ptr<const Fork> &fork) {
    for (Sequence *const follower : followers.take(sequence.id)) {
        follower->fork = fork;
        if (fork)
            scheduler.add(*follower);
        else
            fail(*follower, std::bad_alloc());
    }
}

// Its whole text has been read: ends it with the vector of the state.
void Engine::Core::embed(Sequence &sequence) const noexcept {
    const Request &request = sequence.request;
    try {
        sequence.event.embedding =
            embedding(*model, sequence.state.data(), request.quick, request.dimensions);
        sequence.finish = Finish::stop;
    } catch (const std::exception &error) {
        sequence.fail(error);
    }
}

void Engine::Core::emit() noexcept {
    for (const Sequence *sequence : reporting) {
        if (sequence->finish == Finish::running) continue;
        ++(sequence->finish == Finish::cancel ? done.cancelled : done.finished);
    }
    {
        Mailbox::Delivery delivery(mailbox);
        for (Sequence *sequence : reporting) delivery.report(*sequence);
        delivery.show(stats(), prefix_cache.stats());
    }
    for (const Sequence *sequence : reporting)  // freed after the locks
        if (sequence->finish != Finish::running) sequences.erase(sequence->id);
    reporting.clear();
}

// The prompts whose first tokens have just been reported: a state of a few MB can take as many
// milliseconds, where its memory is new.
void Engine::Core::keep_prompts(const Step &step) noexcept {
    for (const Step::Draw &draw : step.prompts_read)
        prefix_cache.keep_prompt(*draw.sequence, row(draw.row));
}

// After a fault of the loop itself: every request ends with the error, and the engine goes on.
// Needs no memory.
void Engine::Core::end_all(const std::exception &error) noexcept {
    scheduler = Scheduler(options.max_batch, options.prefill_chunk);
    followers = {};
    reporting.clear();
    mail.cancelled.clear();
    {
        Mailbox::Delivery delivery(mailbox);
        const auto end = [&](Sequence &sequence) {
            if (sequence.finish == Finish::running) sequence.fail(error);
            ++(sequence.finish == Finish::cancel ? done.cancelled : done.finished);
            delivery.report(sequence);
        };
        for (const auto &sequence : mail.sequences)
            if (sequence) end(*sequence);
        for (const auto &[id, sequence] : sequences) end(*sequence);
        delivery.show(stats(), prefix_cache.stats());
    }
    mail.sequences.clear();
    sequences.clear();
}

EngineStats Engine::Core::stats() const {
    EngineStats now = done;
    now.waiting = scheduler.waiting() + followers.waiting();
    now.prefilling = scheduler.prefilling();
    now.running = scheduler.running();
    return now;
}

void Engine::Core::refuse_speculation(int32_t speculate) const {
    if (speculate > 0 && model->info().version == "7b")
        throw unsupported(
            "speculate needs a state that can be put back, and RWKV-7b also keeps its "
            "whole text; use speculate 0");
}

// Bytes of states that may be kept; none of RWKV-7b, whose past is more than a state.
size_t Engine::Core::keepable(int64_t bytes) const {
    if (bytes < 0)
        throw invalid("cache_bytes is " + std::to_string(bytes) + ", it must be at least 0");
    return model->info().version == "7b" ? 0 : static_cast<size_t>(bytes);
}

Engine::Engine(std::shared_ptr<Model> model, std::shared_ptr<const Vocab> vocab,
               EngineOptions options)
    : core_(std::make_unique<Core>(std::move(model), std::move(vocab), options)) {
    core_->thread = std::thread(&Core::run, core_.get());
}

Engine::~Engine() {
    core_->mailbox.stop();
    core_->thread.join();
}

uint64_t Engine::submit(Request request) {
    const Core &core = *core_;
    check(request, core.n_vocab, core.model->state_floats());
    if (request.speculate < 0) request.speculate = core.options.speculate;
    if (request.dimensions > 0 || request.score || request.mask.call) request.speculate = 0;
    core.refuse_speculation(request.speculate);
    if (request.keep_state && core.model->info().version == "7b")
        throw unsupported(
            "keep_state needs a state that is all of the past, and RWKV-7b also keeps its whole "
            "text");
    forbid(request, core.undecodable);
    std::vector<std::unique_ptr<Sequence>> answers;
    const int64_t n = request.n;
    for (int64_t i = 1; i < n; ++i) {
        answers.push_back(std::make_unique<Sequence>(request));
        ++request.sampling.seed;
    }
    answers.push_back(std::make_unique<Sequence>(std::move(request)));
    return core_->mailbox.submit(std::move(answers));
}

void Engine::cancel(uint64_t id) { core_->mailbox.cancel(id); }
std::span<const Event> Engine::poll() { return core_->mailbox.poll(); }
void Engine::resize_cache(int64_t bytes) { core_->mailbox.resize_cache(core_->keepable(bytes)); }
void Engine::clear_cache() { core_->mailbox.clear_cache(); }
CacheStats Engine::cache_stats() const { return core_->mailbox.cache_stats(); }
EngineStats Engine::stats() const { return core_->mailbox.stats(); }

}  // namespace rwkv
