// See mailbox.h.
#include "engine/mailbox.h"

#include "error.h"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

namespace rwkv {

namespace {

// For `more` of them; twice as many as there were, so that they move seldom.
template <class T>
void keep_room(std::vector<T> &list, size_t more) {
    if (list.capacity() - list.size() < more) list.reserve(2 * (list.size() + more));
}

// What each of a request's events carries.
void label(Event &event, const Sequence &sequence, Finish finish) {
    event.id = sequence.id;
    event.finish = finish;
    event.prompt_tokens = static_cast<int64_t>(sequence.request.prompt.size());
    event.completion_tokens = sequence.completion;
    event.cached_tokens = sequence.cached;
}

}  // namespace

Mailbox::Mailbox(Bell bell, int64_t max_batch, int64_t max_queue)
    : bell_(bell), max_batch_(max_batch), max_queue_(max_queue) {}

uint64_t Mailbox::submit(std::vector<std::unique_ptr<Sequence>> answers) {
    const auto n = static_cast<int64_t>(answers.size());
    std::unique_lock lock(mutex_);
    if (stopping_) throw Error(RWKV_STOPPED, "the engine has stopped");
    // Those who will find a slot before the next step do not wait for one.
    const int64_t free = std::max<int64_t>(max_batch_ - stats_.prefilling - stats_.running, 0);
    if (stats_.waiting - free + n > max_queue_)
        throw Error(RWKV_BUSY, "the queue is full: " + std::to_string(stats_.waiting) +
                                   " requests are waiting");
    keep_room(outbox_, 3 * (alive_ + answers.size()));
    keep_room(mail_.sequences, answers.size());
    const uint64_t id = last_id_ + 1;
    for (auto &sequence : answers) {
        sequence->id = ++last_id_;
        sequence->follows = sequence->id == id ? 0 : id;
        mail_.sequences.push_back(std::move(sequence));
    }
    alive_ += answers.size();
    stats_.waiting += n;
    stats_.submitted += n;
    lock.unlock();
    work_.notify_one();
    return id;
}

void Mailbox::cancel(uint64_t id) {
    std::unique_lock lock(mutex_);
    mail_.cancelled.push_back(id);
    lock.unlock();
    work_.notify_one();
}

void Mailbox::resize_cache(size_t bytes) {
    std::unique_lock lock(mutex_);
    mail_.cache_bytes = bytes;
    lock.unlock();
    work_.notify_one();
}

void Mailbox::clear_cache() {
    std::unique_lock lock(mutex_);
    mail_.clears_cache = true;
    lock.unlock();
    work_.notify_one();
}

void Mailbox::stop() {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    lock.unlock();
    work_.notify_one();
}

std::span<const Event> Mailbox::poll() {
    const std::lock_guard bell_lock(bell_mutex_);
    polled_.clear();
    const std::lock_guard lock(mutex_);
    keep_room(polled_, 3 * alive_);  // before anything is taken
    polled_.swap(outbox_);
    ++period_;
    rung_ = false;
    return polled_;
}

EngineStats Mailbox::stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
}

CacheStats Mailbox::cache_stats() const {
    const std::lock_guard lock(mutex_);
    return cache_stats_;
}

// Caller holds `mutex_`.
bool Mailbox::has_mail_now() const {
    return stopping_ || !mail_.sequences.empty() || !mail_.cancelled.empty() || mail_.cache_bytes ||
           mail_.clears_cache;
}

bool Mailbox::has_mail() const {
    const std::lock_guard lock(mutex_);
    return has_mail_now();
}

bool Mailbox::receive(Mail &mail, bool busy) {
    std::unique_lock lock(mutex_);
    work_.wait(lock, [&] { return busy || has_mail_now(); });
    if (stopping_) return false;
    mail.sequences.swap(mail_.sequences);
    mail.cancelled.swap(mail_.cancelled);
    mail.cache_bytes = std::exchange(mail_.cache_bytes, std::nullopt);
    mail.clears_cache = std::exchange(mail_.clears_cache, false);
    return true;
}

// Caller holds `mutex_`.
void Mailbox::show_now(const EngineStats &done, const CacheStats &cache) noexcept {
    const int64_t submitted = stats_.submitted;
    stats_ = done;
    stats_.submitted = submitted;
    stats_.waiting += static_cast<int64_t>(mail_.sequences.size());
    cache_stats_ = cache;
}

void Mailbox::show(const EngineStats &done, const CacheStats &cache) {
    const std::lock_guard lock(mutex_);
    show_now(done, cache);
}

Mailbox::Delivery::Delivery(Mailbox &mailbox)
    : mailbox_(mailbox), bell_lock_(mailbox.bell_mutex_), lock_(mailbox.mutex_) {}

Mailbox::Delivery::~Delivery() {
    const Bell &bell = mailbox_.bell_;
    const bool rings = bell.ring && !mailbox_.rung_ && !mailbox_.outbox_.empty();
    lock_.unlock();
    if (!rings) return;
    mailbox_.rung_ = true;
    bell.ring(bell.payload);
}

void Mailbox::Delivery::show(const EngineStats &done, const CacheStats &cache) noexcept {
    mailbox_.show_now(done, cache);
}

void Mailbox::Delivery::report(Sequence &sequence) noexcept {
    std::vector<Event> &outbox = mailbox_.outbox_;
    const bool ends = sequence.finish != Finish::running, failed = sequence.finish == Finish::error;
    if (sequence.request.quiet && sequence.reported_in > 0 && !ends) return;
    Event &event = sequence.event;
    const auto push = [&](Event &&said) {
        sequence.reported_in = mailbox_.period_;
        sequence.reported_at = outbox.size();
        outbox.push_back(std::move(said));
    };
    label(event, sequence, failed ? Finish::running : sequence.finish);
    if (sequence.reported_in == mailbox_.period_ && !event.empty()) {
        try {
            outbox[sequence.reported_at].append(event);
        } catch (const std::exception &) {
            if (!ends) return;
            push(std::move(event));
        }
    } else if (sequence.reported_in == mailbox_.period_ && !failed) {
        outbox[sequence.reported_at].append(event);
    } else if (!failed || !event.empty()) {
        push(std::move(event));
    }
    if (failed) {
        Event last;
        label(last, sequence, Finish::error);
        last.text = std::move(sequence.failure);
        push(std::move(last));
    }
    event = {};
    if (ends) --mailbox_.alive_;
}

}  // namespace rwkv
