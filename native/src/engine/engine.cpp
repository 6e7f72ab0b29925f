// The engine thread and what other threads one with it. Callers leave requests and cancellations
// in the inbox and take events from the outbox; the thread looks at both between two steps and
// holds no lock during one. Called by api.cpp. Never knows what a token means: see sequence.cpp.
#include "engine/engine.h"

#include "engine/scheduler.h"
#include "engine/step_time.h"
#include "error.h"
#include "memory/slab.h"
#include "model/embedding.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

namespace rwkv {

struct Engine::Core {
    Core(std::shared_ptr<Model> model, std::shared_ptr<const Vocab> vocab, EngineOptions options);

    void run() noexcept;
    bool receive();
    bool has_work() const;
    void make_states(std::unique_lock<std::mutex> &lock) noexcept;
    void drop_cancelled();
    void leave(Sequence &sequence);
    void admit();
    StepTime &step_time_of(int64_t layers);
    void plan();
    void back_up() noexcept;
    void make_room();
    bool drop_guesses() noexcept;
    bool fail_scheduled(const std::exception &error, bool prompts_only);
    void lay_out();
    void step();
    void sample();
    bool resume(Sequence &sequence);
    void go_on(Sequence &sequence);
    void draw_first(Sequence &sequence, const Snapshot &row);
    void pass_on(Sequence &sequence, const float *row);
    void pass_on(const Sequence &sequence, const std::shared_ptr<const Fork> &fork);
    void promote();
    Sequence *at_work(uint64_t id) const;
    void keep_prompts() noexcept;
    void embed(Sequence &sequence) const noexcept;
    void emit() noexcept;
    void report(Sequence &sequence) noexcept;
    void end_all(const std::exception &error) noexcept;
    void ring_if_reported(std::unique_lock<std::mutex> lock) noexcept;
    void forbid_undecodable(Request &request) const;
    static void hold_ends(Request &request);
    void refuse_speculation(int32_t speculate) const;
    size_t keepable(int64_t bytes) const;
    void show_stats();

    const std::shared_ptr<Model> model;
    const std::shared_ptr<const Vocab> vocab;
    const EngineOptions options;
    const size_t n_vocab;              // columns of the logits
    std::vector<int32_t> undecodable;  // ids of the model that the vocabulary cannot turn into text

    // Shared by all threads, guarded by `mutex`, which is only ever held for moments.
    std::mutex mutex;
    std::condition_variable work;  // something up to `stopping` has changed
    std::vector<std::unique_ptr<Sequence>> inbox;
    std::vector<uint64_t> cancelled;
    std::optional<size_t> new_cache_bytes;
    bool clears_cache = false;
    bool stopping = false;
    uint64_t last_id = 0;
    size_t alive = 0;  // requests whose last word is still to come
    // With room for three more events of each of these: what one said while nothing could be
    // merged, its end and an error. So nobody's end is lost where memory runs out.
    std::vector<Event> outbox;
    uint64_t period = 1;  // polls so far + 1
    EngineStats stats;
    CacheStats cache_stats;

    // Held from before a step's events become visible until the bell has been rung for them, and by
    // poll. Without it a poll could slip between the two, and the late ring would be followed by
    // another one with no poll in between. Taken before `mutex`.
    std::mutex bell;
    bool rung = false;          // since the last poll
    std::vector<Event> polled;  // what the last poll handed out

    // The engine thread's own.
    Scheduler scheduler;
    StatePool pool;
    std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences;
    // By the request that reads the prompt: the further answers to it, which wait outside the
    // scheduler.
    std::unordered_map<uint64_t, std::vector<uint64_t>> followers;
    int64_t following = 0;                          // of these: alive
    std::map<int64_t, StepTime> step_times;         // by depth: texts to embed need fewer layers
    std::chrono::steady_clock::time_point started;  // this step's forward
    EngineStats done;                               // counts of what has been done
    PrefixCache prefix_cache;
    std::vector<std::unique_ptr<Sequence>> new_sequences;
    std::vector<uint64_t> new_cancelled;
    std::vector<Scheduled> scheduled;  // of this step
    std::vector<int32_t> tokens, logit_rows;
    std::vector<Span> spans;
    // [logits' rows, n_vocab], in huge pages: products write to all rows at once, which lie far
    // apart.
    std::unique_ptr<Slab> logits_memory;
    std::span<float> logits;
    struct Drawing {
        Sequence *sequence;
        size_t row;     // its first of the logits
        int32_t draws;  // and how many it has
        bool first;     // its prompt ends in this step
    };
    std::vector<Drawing> drawing, prompts_read;  // read to their end in this step, and going on
    std::vector<Sequence *> embedded;            // those whose text ends with this step
    struct Scoring {
        Sequence *sequence;
        size_t row;  // its first of the logits
        int32_t rows;
        int64_t token;  // of its prompt: what the first row predicts
    };
    std::vector<Scoring> scoring;
    int64_t depth = 0;                  // layers that this step needs
    std::vector<Sequence *> reporting;  // those with something to say after this step

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

// For each that has a place a state and one set aside, and one for each that may guess in a step.
static int32_t slots_for(const Scheduler &scheduler) {
    const int64_t places = scheduler.max_batch() + scheduler.extra_slots();
    return static_cast<int32_t>(2 * places + Scheduler::guessing_rows);
}

Engine::Core::Core(std::shared_ptr<Model> model_, std::shared_ptr<const Vocab> vocab_,
                   EngineOptions options_)
    : model(std::move(model_)),
      vocab(std::move(vocab_)),
      options(options_),
      n_vocab(static_cast<size_t>(model->info().vocab)),
      scheduler(at_least_1("max_batch", options.max_batch),
                at_least_1("prefill_chunk", options.prefill_chunk)),
      pool(*model, slots_for(scheduler), spare_states(*model, options)),
      prefix_cache(*model, pool) {
    if (!(options.step_ms >= 0 && options.step_ms <= 60e3)) {
        char text[64];
        std::snprintf(text, sizeof text, "step_ms is %g, outside [0, 60000]", options.step_ms);
        throw invalid(text);
    }
    at_least_1("max_queue", options.max_queue);
    if (options.speculate < 0 || options.speculate > most_speculation)
        throw invalid("speculate is " + std::to_string(options.speculate) + ", outside [0, " +
                      std::to_string(most_speculation) + "]");
    refuse_speculation(options.speculate);
    prefix_cache.set_limit(keepable(options.cache_bytes));
    show_stats();
    for (size_t id = 0; id < n_vocab; ++id)
        if (!vocab->has(static_cast<int32_t>(id))) undecodable.push_back(static_cast<int32_t>(id));
}

void Engine::Core::run() noexcept {
    for (;;) {
        try {
            while (receive()) {
                drop_cancelled();
                admit();
                plan();
                step();
                sample();
                emit();
                keep_prompts();
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
    std::unique_lock lock(mutex);
    make_states(lock);
    work.wait(lock, [this] { return has_work(); });
    if (stopping) return false;
    const auto cache_bytes = std::exchange(new_cache_bytes, std::nullopt);
    const bool clears = std::exchange(clears_cache, false);
    new_sequences.swap(inbox);
    new_cancelled.swap(cancelled);
    lock.unlock();
    if (clears) prefix_cache.clear();
    if (cache_bytes) prefix_cache.set_limit(*cache_bytes);
    sequences.reserve(sequences.size() +
                      new_sequences.size());  // a place that grows would lose what is put in it
    for (auto &sequence : new_sequences) {
        if (sequence->follows != 0)
            followers[sequence->follows].push_back(sequence->id), ++following;
        else
            scheduler.add(*sequence);
        sequences.emplace(sequence->id, std::move(sequence));
    }
    new_sequences.clear();
    reporting.clear();
    return true;
}

// Caller holds `mutex`.
bool Engine::Core::has_work() const {
    return stopping || !inbox.empty() || !cancelled.empty() || !scheduler.idle() ||
           !followers.empty() || new_cache_bytes || clears_cache;
}

// While there is no work yet: the states of the first slots. Where memory is new, each takes as
// long as a token, and the first requests that come together would wait for all of them.
void Engine::Core::make_states(std::unique_lock<std::mutex> &lock) noexcept {
    for (bool more = true; more && !has_work();) {
        lock.unlock();
        try {
            more = pool.make_ahead();
        } catch (const std::exception &) {
            more = false;  // whoever needs one will hear of it
        }
        lock.lock();
    }
}

// Gives back its place and its states.
void Engine::Core::leave(Sequence &sequence) {
    scheduler.remove(sequence);
    sequence.state = {}, sequence.before = {}, sequence.aside = {};
}

void Engine::Core::drop_cancelled() {
    for (uint64_t id : new_cancelled) {
        const auto found = sequences.find(id);
        if (found == sequences.end() || found->second->finish != Finish::running) continue;
        Sequence &sequence = *found->second;
        sequence.cancel();
        if (std::exchange(sequence.follows, 0) != 0) --following;
        leave(sequence);
        reporting.push_back(&sequence);
    }
    new_cancelled.clear();
}

// Null: it has ended, perhaps in this step.
Sequence *Engine::Core::at_work(uint64_t id) const {
    const auto found = sequences.find(id);
    return found != sequences.end() && found->second->finish == Finish::running
               ? found->second.get()
               : nullptr;
}

// Those whose prompt nobody reads any more: the first of them does.
void Engine::Core::promote() {
    for (auto it = followers.begin(); it != followers.end();) {
        if (sequences.contains(it->first)) {
            ++it;
            continue;
        }
        std::vector<uint64_t> left = std::move(it->second);
        it = followers.erase(it);
        std::erase_if(left, [this](uint64_t id) { return !at_work(id); });
        if (left.empty()) continue;
        Sequence &first = *sequences.at(left.front());
        left.erase(left.begin());
        for (const uint64_t id : left) sequences.at(id)->follows = first.id;
        first.follows = 0, --following;
        scheduler.add(first);
        if (left.empty()) continue;
        followers.emplace(first.id, std::move(left));
        it = followers.begin();  // a table that has grown has moved
    }
}

void Engine::Core::admit() {
    promote();
    while (Sequence *sequence = scheduler.admit()) {
        try {
            const auto &start = sequence->request.state;
            sequence->state = pool.take();
            if (sequence->fork) {
                go_on(*sequence);
                continue;
            }
            if (!sequence->embeds() && !sequence->request.score && resume(*sequence)) continue;
            model->backend().upload(sequence->state.data(), start ? std::span<const float>(*start)
                                                                  : model->initial_state());
        } catch (const std::exception &error) {
            sequence->fail(error);
            leave(*sequence);
            reporting.push_back(sequence);
        }
    }
    std::lock_guard lock(mutex);  // what has left the queue makes room in it at once
    show_stats();
}

StepTime &Engine::Core::step_time_of(int64_t layers) {
    return step_times.try_emplace(layers, options.step_ms / 1000).first->second;
}

void Engine::Core::plan() {
    const int64_t running = std::min<int64_t>(scheduler.running(), options.max_batch);
    const int64_t later = scheduler.running() + scheduler.prefilling() - scheduler.embedding();
    const bool quick = scheduler.quick() == scheduler.embedding();
    const StepTime &step_time =
        step_time_of(later > 0 ? model->info().layers : embedding_layer(*model, quick) + 1);
    const auto planned = scheduler.plan(running ? step_time.rows_beside(running, later) - running
                                                : step_time.rows_alone());
    scheduled.assign(planned.begin(), planned.end());
    back_up();
    make_room();
    lay_out();
}

// What the step feeds to the model, and what is done with the result.
void Engine::Core::lay_out() {
    tokens.clear(), spans.clear(), logit_rows.clear(), drawing.clear(), embedded.clear(),
        scoring.clear();
    depth = 0;
    for (auto [sequence, rows] : scheduled) {
        const auto input = sequence->input(rows);
        spans.push_back({static_cast<int32_t>(tokens.size()), rows, sequence->state.number(),
                         &sequence->request.cache});
        tokens.insert(tokens.end(), input.begin(), input.end());
        const Request &request = sequence->request;
        depth = std::max(depth, sequence->embeds() ? embedding_layer(*model, request.quick) + 1
                                                   : model->info().layers);
        if (sequence->embeds() && sequence->ends_with(rows)) embedded.push_back(sequence);
        const int32_t draws = sequence->draws_after(rows);
        if (request.score)
            scoring.push_back({sequence, logit_rows.size(), draws, sequence->prefilled + 1});
        else if (draws > 0)
            drawing.push_back({sequence, logit_rows.size(), draws, !sequence->decoding()});
        // The last ones, or those of a score: all but the prompt's last.
        const int32_t end =
            static_cast<int32_t>(tokens.size()) - (request.score ? rows - draws : 0);
        for (int32_t i = draws; i > 0; --i) logit_rows.push_back(end - i);
    }
}

// Copies the states that a step with guesses may have to go back to; without memory for that
// nothing is guessed.
void Engine::Core::back_up() noexcept {
    for (auto &[sequence, rows] : scheduled) {
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
void Engine::Core::make_room() {
    for (;;) {
        size_t draws = 0;
        int64_t rows = 0;
        for (const Scheduled &one : scheduled) {
            draws += static_cast<size_t>(one.sequence->draws_after(one.rows));
            rows += one.rows;
        }
        try {
            if (draws * n_vocab > logits.size()) {
                const size_t room = 2 * draws * n_vocab;  // so that a growing batch moves seldom
                auto larger = std::make_unique<Slab>(room * sizeof(float), 1);
                logits = {static_cast<float *>(larger->take()), room};
                logits_memory = std::move(larger);
            }
            if (rows > 0) model->make_room(rows);
            return;
        } catch (const std::exception &error) {
            if (!drop_guesses() && !fail_scheduled(error, true)) fail_scheduled(error, false);
        }
    }
}

// False: there were none.
bool Engine::Core::drop_guesses() noexcept {
    bool any = false;
    for (auto &[sequence, rows] : scheduled) {
        if (!sequence->decoding() || rows == sequence->certain) continue;
        rows = sequence->certain;
        any = true;
    }
    return any;
}

// Ends what is part of the step, or those of it that read their prompts. False: there are none.
bool Engine::Core::fail_scheduled(const std::exception &error, bool prompts_only) {
    const auto ends = [&](const Scheduled &one) {
        return !prompts_only || !one.sequence->decoding();
    };
    for (const Scheduled &one : scheduled) {
        if (!ends(one)) continue;
        one.sequence->fail(error);
        leave(*one.sequence);
        reporting.push_back(one.sequence);
    }
    return std::erase_if(scheduled, ends) > 0;
}

void Engine::Core::step() {
    if (scheduled.empty()) return;
    started = std::chrono::steady_clock::now();
    try {
        model->forward({&pool.states(), tokens, spans, logit_rows, depth}, logits.data());
    } catch (const std::exception &error) {
        // The states are somewhere in the middle of the step: none of them can go on.
        fail_scheduled(error, false);
        drawing.clear(), embedded.clear(), scoring.clear();
        return;
    }
    ++done.steps;
    for (auto [sequence, rows] : scheduled) {
        if (sequence->decoding()) continue;
        sequence->prefilled += rows;
        done.prompt_tokens += rows;
        if (!sequence->decoding()) prefix_cache.keep_prompt(*sequence, nullptr);
    }
}

void Engine::Core::sample() {
    for (const Drawing &drawn : drawing) done.completion_tokens -= drawn.sequence->completion;
    for (const Drawing &drawn : drawing) drawn.sequence->ask_mask(n_vocab);
    // Each draw and each embedding touches its own sequence and the memory of its thread only.
    model->backend().spread(static_cast<int64_t>(drawing.size()), [this](int64_t i) {
        const auto [sequence, row, draws, first] = drawing[static_cast<size_t>(i)];
        if (sequence->finish != Finish::running) return;  // it has no mask
        const size_t size = static_cast<size_t>(draws) * n_vocab;
        sequence->draw(logits.subspan(row * n_vocab, size), draws, *vocab);
    });
    model->backend().spread(static_cast<int64_t>(embedded.size()),
                            [this](int64_t i) { embed(*embedded[static_cast<size_t>(i)]); });
    model->backend().spread(static_cast<int64_t>(scoring.size()), [this](int64_t i) {
        const auto [sequence, row, rows, token] = scoring[static_cast<size_t>(i)];
        sequence->score(logits.subspan(row * n_vocab, static_cast<size_t>(rows) * n_vocab), rows,
                        token);
    });
    for (const Scoring &scored : scoring)
        if (scored.sequence->finish != Finish::running) embedded.push_back(scored.sequence);
    for (Sequence *sequence : embedded) {
        leave(*sequence);
        reporting.push_back(sequence);
    }
    for (const Drawing &drawn : drawing) {
        Sequence &sequence = *drawn.sequence;
        if (sequence.undone) std::swap(sequence.state, sequence.before);
        if (drawn.first) pass_on(sequence, &logits[drawn.row * n_vocab]);
        if (sequence.finish != Finish::error) {
            if (drawn.first && sequence.finish == Finish::running)
                prompts_read.push_back(drawn);
            else if (drawn.first)
                prefix_cache.keep_prompt(sequence, &logits[drawn.row * n_vocab]);
            prefix_cache.keep_answer(sequence);
        }
        sequence.before = {};
        done.guessed_tokens += sequence.verified;
        done.accepted_tokens += sequence.accepted;
        done.completion_tokens += sequence.completion;
        if (sequence.finish != Finish::running) leave(sequence);
        reporting.push_back(&sequence);
    }
    if (scheduled.empty()) return;
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
    step_time_of(depth).saw(static_cast<int64_t>(tokens.size()), took.count());
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

// Of a sequence whose prompt has been read; `row` are the logits behind it.
void Engine::Core::draw_first(Sequence &sequence, const Snapshot &row) {
    std::vector<float> logits_row(n_vocab);
    model->backend().restore(logits_row.data(), row);
    sequence.ask_mask(n_vocab);
    if (sequence.finish == Finish::running) sequence.draw(logits_row, 1, *vocab);
    done.completion_tokens += sequence.completion;
    if (sequence.finish != Finish::error) prefix_cache.keep_answer(sequence);
    if (sequence.finish == Finish::running) return;
    leave(sequence);
    reporting.push_back(&sequence);
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

// To those who wait for the prompt that has just been read, and is followed by these logits.
void Engine::Core::pass_on(Sequence &sequence, const float *row) {
    if (!followers.contains(sequence.id)) return;
    try {
        sequence.fork = prefix_cache.save(sequence, row);
    } catch (const std::bad_alloc &) {
        sequence.fork = nullptr;
    }
    pass_on(sequence, sequence.fork);
}

// Null: there was no memory for it.
void Engine::Core::pass_on(const Sequence &sequence, const std::shared_ptr<const Fork> &fork) {
    const auto found = followers.find(sequence.id);
    if (found == followers.end()) return;
    std::vector<Sequence *> ready;
    for (const uint64_t id : found->second)
        if (Sequence *const one = at_work(id)) ready.push_back(one);
    followers.erase(found);
    for (Sequence *one : ready) {
        one->follows = 0, --following;
        one->fork = fork;
        if (fork) {
            scheduler.add(*one);
        } else {
            one->fail(std::bad_alloc());
            reporting.push_back(one);
        }
    }
}

// The prompts whose first tokens have just been reported: a state of a few MB can take as many
// milliseconds, where its memory is new.
void Engine::Core::keep_prompts() noexcept {
    for (const Drawing &drawn : prompts_read)
        prefix_cache.keep_prompt(*drawn.sequence, &logits[drawn.row * n_vocab]);
    prompts_read.clear();
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

// Makes the step's events visible, then rings, unless that was done since the last poll.
void Engine::Core::emit() noexcept {
    for (const Sequence *sequence : reporting) {
        if (sequence->finish == Finish::running) continue;
        ++(sequence->finish == Finish::cancel ? done.cancelled : done.finished);
    }
    {
        std::lock_guard bell_lock(bell);
        std::unique_lock lock(mutex);
        for (Sequence *sequence : reporting) report(*sequence);
        show_stats();
        ring_if_reported(std::move(lock));
    }
    for (const Sequence *sequence : reporting)  // freed after the locks
        if (sequence->finish != Finish::running) sequences.erase(sequence->id);
    reporting.clear();
}

// Moves what a sequence has to say to the outbox, merged with what it said since the last poll. One
// that is quiet goes on collecting it, and so does one for whose words there is no memory now.
void Engine::Core::report(Sequence &sequence) noexcept {
    const bool ends = sequence.finish != Finish::running, failed = sequence.finish == Finish::error;
    if (sequence.request.quiet && sequence.reported_in > 0 && !ends) return;
    Event &event = sequence.event;
    const auto push = [&](Event &&said) {
        sequence.reported_in = period;
        sequence.reported_at = outbox.size();
        outbox.push_back(std::move(said));
    };
    event.id = sequence.id;
    event.finish = failed ? Finish::running : sequence.finish;
    event.prompt_tokens = static_cast<int64_t>(sequence.request.prompt.size());
    event.completion_tokens = sequence.completion;
    event.cached_tokens = sequence.cached;
    if (sequence.reported_in == period && !event.empty()) {
        try {
            outbox[sequence.reported_at].append(event);
        } catch (const std::exception &) {
            if (!ends) return;
            push(std::move(event));
        }
    } else if (sequence.reported_in == period && !failed) {
        outbox[sequence.reported_at].append(event);
    } else if (!failed || !event.empty()) {
        push(std::move(event));
    }
    if (failed) {
        Event last;
        last.id = sequence.id;
        last.finish = Finish::error;
        last.text = std::move(sequence.failure);
        last.prompt_tokens = static_cast<int64_t>(sequence.request.prompt.size());
        last.completion_tokens = sequence.completion;
        last.cached_tokens = sequence.cached;
        push(std::move(last));
    }
    event = {};
    if (ends) --alive;
}

// Holds `bell`; gives `mutex` back first.
void Engine::Core::ring_if_reported(std::unique_lock<std::mutex> lock) noexcept {
    const bool must_ring = options.ring && !rung && !outbox.empty();
    lock.unlock();
    if (!must_ring) return;
    rung = true;
    options.ring(options.payload);
}

// After a fault of the loop itself: every request ends with the error, and the engine goes on.
// Needs no memory.
void Engine::Core::end_all(const std::exception &error) noexcept {
    scheduler = Scheduler(options.max_batch, options.prefill_chunk);
    prompts_read.clear(), drawing.clear(), embedded.clear(), scheduled.clear(), reporting.clear();
    scoring.clear(), followers.clear(), following = 0;
    new_cancelled.clear();
    const auto end = [&](Sequence &sequence) {
        if (sequence.finish == Finish::running) sequence.fail(error);
        ++(sequence.finish == Finish::cancel ? done.cancelled : done.finished);
        report(sequence);
    };
    {
        std::lock_guard bell_lock(bell);
        std::unique_lock lock(mutex);
        for (const auto &sequence : new_sequences)
            if (sequence) end(*sequence);
        for (const auto &[id, sequence] : sequences) end(*sequence);
        show_stats();
        ring_if_reported(std::move(lock));
    }
    new_sequences.clear();
    sequences.clear();
}

// Caller holds `mutex`.
void Engine::Core::show_stats() {
    done.submitted = stats.submitted;
    stats = done;
    stats.waiting = static_cast<int64_t>(inbox.size()) + scheduler.waiting() + following;
    stats.prefilling = scheduler.prefilling();
    stats.running = scheduler.running();
    cache_stats = prefix_cache.stats();
}

// What cannot become text must not be drawn; ids that end the answer need no text.
void Engine::Core::forbid_undecodable(Request &request) const {
    if (undecodable.empty()) return;
    std::vector<int32_t> allowed = request.end_ids;
    allowed.insert(allowed.end(), request.stop_ids.begin(), request.stop_ids.end());
    std::sort(allowed.begin(), allowed.end());
    std::set_difference(undecodable.begin(), undecodable.end(), allowed.begin(), allowed.end(),
                        std::back_inserter(request.sampling.forbidden));
}

// What ends an answer is not drawn before its least length.
void Engine::Core::hold_ends(Request &request) {
    SamplingOptions &sampling = request.sampling;
    if (sampling.min_tokens == 0) return;
    for (const auto *ids : {&request.end_ids, &request.stop_ids})
        sampling.late.insert(sampling.late.end(), ids->begin(), ids->end());
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
    std::unique_lock lock(core_->mutex);
    core_->stopping = true;
    lock.unlock();
    core_->work.notify_one();
    core_->thread.join();
}

// For `more` events; twice as many as there were, so that they move seldom.
static void keep_room(std::vector<Event> &events, size_t more) {
    if (events.capacity() - events.size() < more) events.reserve(2 * (events.size() + more));
}

uint64_t Engine::submit(Request request) {
    Core &core = *core_;
    check(request, core.n_vocab, core.model->state_floats());
    if (request.speculate < 0) request.speculate = core.options.speculate;
    if (request.dimensions > 0 || request.score || request.mask.call) request.speculate = 0;
    core.refuse_speculation(request.speculate);
    if (request.keep_state && core.model->info().version == "7b")
        throw unsupported(
            "keep_state needs a state that is all of the past, and RWKV-7b also keeps its whole text");
    core.forbid_undecodable(request);
    core.hold_ends(request);
    std::vector<std::unique_ptr<Sequence>> answers;
    const int64_t n = request.n;
    for (int64_t i = 1; i < n; ++i) {
        answers.push_back(std::make_unique<Sequence>(request));
        ++request.sampling.seed;
    }
    answers.push_back(std::make_unique<Sequence>(std::move(request)));
    std::unique_lock lock(core.mutex);
    if (core.stopping) throw Error(RWKV_STOPPED, "the engine has stopped");
    // Those who will find a slot before the next step do not wait for one.
    const EngineStats &now = core.stats;
    const int64_t free =
        std::max<int64_t>(core.options.max_batch - now.prefilling - now.running, 0);
    if (now.waiting - free + n > core.options.max_queue)
        throw Error(RWKV_BUSY,
                    "the queue is full: " + std::to_string(now.waiting) + " requests are waiting");
    keep_room(core.outbox, 3 * (core.alive + answers.size()));
    if (core.inbox.capacity() - core.inbox.size() < answers.size())
        core.inbox.reserve(2 * (core.inbox.size() + answers.size()));
    const uint64_t id = core.last_id + 1;
    for (auto &sequence : answers) {
        sequence->id = ++core.last_id;
        sequence->follows = sequence->id == id ? 0 : id;
        core.inbox.push_back(std::move(sequence));
    }
    core.alive += answers.size();
    core.stats.waiting += n;
    core.stats.submitted += n;
    lock.unlock();
    core.work.notify_one();
    return id;
}

void Engine::cancel(uint64_t id) {
    std::unique_lock lock(core_->mutex);
    core_->cancelled.push_back(id);
    lock.unlock();
    core_->work.notify_one();
}

std::span<const Event> Engine::poll() {
    Core &core = *core_;
    std::lock_guard bell_lock(core.bell);
    core.polled.clear();
    std::lock_guard lock(core.mutex);
    keep_room(core.polled, 3 * core.alive);  // before anything is taken
    core.polled.swap(core.outbox);
    ++core.period;
    core.rung = false;
    return core.polled;
}

void Engine::resize_cache(int64_t bytes) {
    const size_t limit = core_->keepable(bytes);
    std::unique_lock lock(core_->mutex);
    core_->new_cache_bytes = limit;
    lock.unlock();
    core_->work.notify_one();
}

void Engine::clear_cache() {
    std::unique_lock lock(core_->mutex);
    core_->clears_cache = true;
    lock.unlock();
    core_->work.notify_one();
}

CacheStats Engine::cache_stats() const {
    std::lock_guard lock(core_->mutex);
    return core_->cache_stats;
}

EngineStats Engine::stats() const {
    std::lock_guard lock(core_->mutex);
    return core_->stats;
}

}  // namespace rwkv
