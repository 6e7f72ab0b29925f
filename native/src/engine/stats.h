// What an engine has done, counted: the C++ form of rwkv_engine_stats and rwkv_cache_stats.
#pragma once

#include <cstdint>

namespace rwkv {

// Every submitted request is waiting, has a slot (prefilling, running), or has ended (finished by
// stop, length or error; cancelled).
struct EngineStats {
    int64_t waiting = 0, prefilling = 0, running = 0;
    int64_t submitted = 0, finished = 0, cancelled = 0;
    int64_t steps = 0;              // forwards
    int64_t prompt_tokens = 0;      // prompt rows that went through the model
    int64_t completion_tokens = 0;  // tokens drawn that count
    int64_t guessed_tokens = 0;     // guesses that went through the model
    int64_t accepted_tokens = 0;    // of these: were then drawn
    int64_t forked = 0;             // states copied for further answers to a prompt
};

// Of the prefix cache. A request that finds a part of its prompt there is a hit.
struct CacheStats {
    int64_t limit = 0, bytes = 0, entries = 0;  // now
    int64_t hits = 0, misses = 0;
    int64_t asked_tokens = 0, cached_tokens = 0;  // of their prompts: in all; not computed
    int64_t saved = 0, evicted = 0;               // states
    // Requests that found less than the text of a state, for it was cut otherwise.
    int64_t reworded = 0;
};

}  // namespace rwkv
