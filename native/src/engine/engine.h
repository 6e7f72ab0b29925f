// One thread: admit -> plan -> forward -> draw -> settle -> emit. The only user of the scheduler;
// the only place where requests of different callers meet. Never knows about HTTP, Python or chat.
#pragma once

#include "engine/sequence.h"
#include "engine/stats.h"
#include "model/model.h"
#include "text/vocab.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rwkv {

struct EngineOptions {
    int32_t max_batch = 64;       // slots
    int32_t prefill_chunk = 256;  // prompt rows of one step at most
    int32_t max_queue = 1024;     // requests beyond the free slots
    int32_t speculate = 0;        // of requests that do not say: tokens to guess ahead at most
    double step_ms = 20;          // of a step beside running streams; see step_time.h
    int64_t cache_bytes = 0;      // of states that are kept for texts to come; see prefix_cache.h
    void (*ring)(void *payload) = nullptr;
    void *payload = nullptr;
};

class Engine {
public:
    Engine(std::shared_ptr<Model> model, std::shared_ptr<const Vocab> vocab, EngineOptions options);
    ~Engine();  // ends the thread after the step in progress; unfinished requests vanish

    // The id of the first of Request::n answers; the others have the following ids. Throws Error:
    // RWKV_INVALID, RWKV_BUSY, RWKV_STOPPED.
    uint64_t submit(Request request);
    // Takes effect before the next step; the request then says Finish::cancel as its last word.
    // Ids that are unknown or have ended are ignored.
    void cancel(uint64_t id);
    // Every event since the last poll, merged per request; valid until the next poll. One thread at
    // a time. A poll falls before a step's events and their ring or after both. Where memory runs
    // out it throws std::bad_alloc, and nothing is lost.
    std::span<const Event> poll();
    EngineStats stats() const;
    // Both take effect before the next step. What requests at work have found stays theirs, and
    // what they save comes after. 0 bytes: off, and everything kept is freed. RWKV-7b never keeps
    // anything: its past is more than a state.
    void resize_cache(int64_t bytes);
    void clear_cache();
    CacheStats cache_stats() const;

private:
    struct Core;
    std::unique_ptr<Core> core_;
};

}  // namespace rwkv
