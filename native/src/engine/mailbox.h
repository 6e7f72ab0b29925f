// What the callers of an engine share with its thread: requests, cancellations and orders for the
// cache on their way in, events and counts on their way out, and the bell. Callers leave and take
// at any time; the engine's thread looks in between two steps and holds no lock during one.
#pragma once

#include "engine/sequence.h"
#include "engine/stats.h"

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace rwkv {

// Called on the engine's thread when there are events, once until they have been polled.
struct Bell {
    void (*ring)(void *payload) = nullptr;
    void *payload = nullptr;
};

// What has come in since the thread last looked.
struct Mail {
    std::vector<std::unique_ptr<Sequence>> sequences;
    std::vector<uint64_t> cancelled;
    std::optional<size_t> cache_bytes;
    bool clears_cache = false;
};

class Mailbox {
public:
    // `max_queue` requests beyond `max_batch` that have a slot may wait.
    Mailbox(Bell bell, int64_t max_batch, int64_t max_queue);

    // -- any thread

    // Takes the answers to one request; the id of the first, the others have the following ids.
    // Throws Error: RWKV_BUSY, RWKV_STOPPED.
    uint64_t submit(std::vector<std::unique_ptr<Sequence>> answers);
    void cancel(uint64_t id);
    void resize_cache(size_t bytes);
    void clear_cache();
    // Engine::poll().
    std::span<const Event> poll();
    EngineStats stats() const;
    CacheStats cache_stats() const;
    // From now on nothing is taken, and receive() says so.
    void stop();

    // -- the engine's thread

    // Whether receive() would return at once though nobody is at work.
    bool has_mail() const;
    // Waits until there is mail, unless the thread is busy with what it has. False: stopped.
    bool receive(Mail &mail, bool busy);
    // What the thread has done so far; of those waiting, those that it has received.
    void show(const EngineStats &done, const CacheStats &cache);

    // The events of one step, and what has been done with it: visible all at once, when this ends,
    // and then the bell is rung, unless that was done since the last poll.
    class Delivery {
    public:
        explicit Delivery(Mailbox &mailbox);
        ~Delivery();
        Delivery(const Delivery &) = delete;

        // Moves what a sequence has to say, merged with what it said since the last poll. One that
        // is quiet goes on collecting it, and so does one for whose words there is no memory now.
        void report(Sequence &sequence) noexcept;
        void show(const EngineStats &done, const CacheStats &cache) noexcept;

    private:
        Mailbox &mailbox_;
        std::lock_guard<std::mutex> bell_lock_;
        std::unique_lock<std::mutex> lock_;
    };

private:
    bool has_mail_now() const;
    void show_now(const EngineStats &done, const CacheStats &cache) noexcept;

    const Bell bell_;
    const int64_t max_batch_, max_queue_;

    // Held from before a step's events become visible until the bell has been rung for them, and by
    // poll. Without it a poll could slip between the two, and the late ring would be followed by
    // another one with no poll in between. Taken before `mutex_`.
    std::mutex bell_mutex_;
    bool rung_ = false;          // since the last poll
    std::vector<Event> polled_;  // what the last poll handed out

    // Guards the rest, and is only ever held for moments.
    mutable std::mutex mutex_;
    std::condition_variable work_;  // something up to `stopping_` has changed
    Mail mail_;
    bool stopping_ = false;
    uint64_t last_id_ = 0;
    size_t alive_ = 0;  // requests whose last word is still to come
    // With room for three more events of each of these: what one said while nothing could be
    // merged, its end and an error. So nobody's end is lost where memory runs out.
    std::vector<Event> outbox_;
    uint64_t period_ = 1;  // polls so far + 1
    EngineStats stats_;
    CacheStats cache_stats_;
};

}  // namespace rwkv
