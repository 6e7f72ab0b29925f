// What a request may be, and what a drawn token means for it: end, stop, length, text. Called by
// the engine; never knows about batches, threads or slots.
#include "engine/sequence.h"

#include <algorithm>
#include <iterator>
#include <new>
#include "error.h"

namespace rwkv {

namespace {

void check_ids(std::span<const int32_t> ids, const char *field, size_t vocab) {
    for (size_t i = 0; i < ids.size(); ++i)
        if (ids[i] < 0 || static_cast<size_t>(ids[i]) >= vocab)
            throw invalid(std::string(field) + " " + std::to_string(i) + " is " +
                          std::to_string(ids[i]) + ", outside [0, " + std::to_string(vocab) + ")");
}

bool contains(std::span<const int32_t> ids, int32_t id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

void check(const Request &request, size_t vocab, size_t state_floats) {
    if (request.prompt.empty()) throw invalid("the prompt is empty: at least one token is needed");
    check_ids(request.prompt, "prompt token", vocab);
    check_ids(request.stop_ids, "stop id", vocab);
    check_ids(request.end_ids, "end id", vocab);
    if (request.dimensions < 0 || request.dimensions > most_dimensions)
        throw invalid("dimensions is " + std::to_string(request.dimensions) + ", outside [1, " +
                      std::to_string(most_dimensions) + "]");
    if (request.dimensions == 0 && request.max_tokens < 0)
        throw invalid("max_tokens is " + std::to_string(request.max_tokens) +
                      ", it must be at least 0");
    if (request.sampling.min_tokens > request.max_tokens)
        throw invalid("min_tokens is " + std::to_string(request.sampling.min_tokens) +
                      ", above max_tokens, which is " + std::to_string(request.max_tokens));
    if (request.state && request.state->size() != state_floats)
        throw invalid("the start state has " + std::to_string(request.state->size()) +
                      " numbers, the states of this model have " + std::to_string(state_floats));
    if (request.speculate < -1 || request.speculate > most_speculation)
        throw invalid("speculate is " + std::to_string(request.speculate) + ", outside [0, " +
                      std::to_string(most_speculation) + "]");
    if (request.dimensions > 0 && !request.save_at.empty())
        throw invalid("save_at has no meaning for an embedding, whose state is not a text's");
    if (request.n < 1 || request.n > most_answers)
        throw invalid("n is " + std::to_string(request.n) + ", outside [1, " +
                      std::to_string(most_answers) + "]");
    if (request.dimensions > 0 || request.score) {
        const char *const what = request.score ? "scores of a prompt" : "an embedding";
        const auto refuse = [&](bool given, const char *field) {
            if (given) throw invalid(std::string(field) + " has no meaning for " + what);
        };
        refuse(request.n > 1, "n");
        refuse(request.keep_state, "keep_state");
        refuse(request.mask.call, "mask");
        refuse(request.score && request.dimensions > 0, "dimensions");
    }
    int64_t last = 0;
    for (const int64_t at : request.save_at) {
        if (at <= last || static_cast<size_t>(at) > request.prompt.size())
            throw invalid("save_at must hold ascending numbers of prompt tokens, from 1 to " +
                          std::to_string(request.prompt.size()) + "; " + std::to_string(at) +
                          " is not");
        last = at;
    }
    check(request.sampling, vocab);
}

void forbid(Request &request, std::span<const int32_t> undecodable) {
    SamplingOptions &sampling = request.sampling;
    std::vector<int32_t> ends = request.end_ids;
    ends.insert(ends.end(), request.stop_ids.begin(), request.stop_ids.end());
    if (sampling.min_tokens > 0)
        sampling.late.insert(sampling.late.end(), ends.begin(), ends.end());
    std::sort(ends.begin(), ends.end());
    std::set_difference(undecodable.begin(), undecodable.end(), ends.begin(), ends.end(),
                        std::back_inserter(sampling.forbidden));
}

// For `more` items; twice as much as there was, so that many small pieces cost what one large one
// does.
template <class List>
static void make_room(List &list, size_t more) {
    if (list.capacity() - list.size() < more)
        list.reserve(std::max(list.size() + more, 2 * list.size()));
}

void Event::append(const Event &later) {
    std::vector<float> vector = later.embedding;
    make_room(text, later.text.size());
    make_room(tokens, later.tokens.size());
    make_room(logprob_ids, later.logprob_ids.size());
    make_room(logprobs, later.logprobs.size());
    finish = later.finish;
    text += later.text;
    tokens.insert(tokens.end(), later.tokens.begin(), later.tokens.end());
    logprob_ids.insert(logprob_ids.end(), later.logprob_ids.begin(), later.logprob_ids.end());
    logprobs.insert(logprobs.end(), later.logprobs.begin(), later.logprobs.end());
    logprob_width = std::max(logprob_width, later.logprob_width);
    embedding = std::move(vector);
    kept = later.kept;
    completion_tokens = later.completion_tokens;
    cached_tokens = later.cached_tokens;
}

Sequence::Sequence(Request asked)
    : request(std::move(asked)),
      output(request.stops),
      lookup_(request.prompt, request.speculate) {}

bool Sequence::consistent() const {
    const auto n = static_cast<int64_t>(answer.size());
    const bool prompt = 0 <= cached && cached <= prefilled && prefilled <= prompt_size();
    const bool kept = saved <= prompt_size() + completion && aside_read <= shown();
    const bool counted = completion == n && held_from < std::max<int64_t>(n, 1);
    const bool guessed = 0 <= accepted && accepted <= verified;
    if (!prompt || !kept || !counted || !guessed) return false;
    if (!decoding() || n == 0 || finish != Finish::running) return true;
    const auto known = static_cast<size_t>(certain);
    return certain >= 1 && known <= next.size() && read + certain == prompt_size() + n &&
           aside_read <= read && std::equal(answer.end() - certain, answer.end(), next.begin());
}

int32_t Sequence::prompt_rows(int32_t grain, int32_t most) const {
    const auto &marks = request.save_at;
    const auto mark =
        std::lower_bound(marks.begin(), marks.end(), std::max(prefilled + 1, saved + least_apart));
    const int64_t end = mark == marks.end() ? prompt_size() : *mark;
    const int64_t reach = prefilled + (request.score ? std::min(most, most_scores) : most);
    const int64_t cut = reach >= end ? end : reach / grain * grain;
    return static_cast<int32_t>(std::max<int64_t>(cut - prefilled, 0));
}

std::span<const int32_t> Sequence::input(int32_t rows) const {
    if (decoding()) return std::span(next).first(static_cast<size_t>(rows));
    return std::span(request.prompt)
        .subspan(static_cast<size_t>(prefilled), static_cast<size_t>(rows));
}

std::span<const int32_t> Sequence::first(int64_t tokens, std::vector<int32_t> &scratch) const {
    const size_t n = static_cast<size_t>(tokens), n_prompt = request.prompt.size();
    if (n <= n_prompt) return std::span(request.prompt).first(n);
    scratch = request.prompt;
    const auto more = std::span(answer).first(n - n_prompt);
    scratch.insert(scratch.end(), more.begin(), more.end());
    return scratch;
}

std::vector<int32_t> Sequence::unread(int64_t state_read) const {
    const auto begin = answer.begin() + (state_read - prompt_size());
    return {begin, begin + (shown() - state_read)};
}

// A token that counts, with its log-probabilities.
void Sequence::add(const Drawn::Token &token) {
    event.tokens.push_back(token.id);
    event.logprob_width = token.logprobs.size();
    for (const auto &[likely, logprob] : token.logprobs) {
        event.logprob_ids.push_back(likely);
        event.logprobs.push_back(logprob);
    }
}

void Sequence::score(const Drawn &scored) noexcept {
    try {
        event.logprob_width = static_cast<size_t>(std::max(request.sampling.logprobs, 0)) + 1;
        for (const Drawn::Token &token : scored.tokens) add(token);
        if (scored.failure) std::rethrow_exception(scored.failure);
        if (decoding()) finish = Finish::stop;
    } catch (const std::exception &error) {
        fail(error);
    }
}

void Sequence::ask_mask(size_t vocab) noexcept {
    if (!request.mask.call || request.max_tokens == 0) return;
    try {
        mask.assign((vocab + 63) / 64, ~uint64_t{0});
        if (request.mask.call(request.mask.payload, mask.data(), answer.data(), answer.size()) != 0)
            throw invalid("the mask failed");
        if (vocab % 64 > 0) mask.back() &= (uint64_t{1} << vocab % 64) - 1;
        if (std::all_of(mask.begin(), mask.end(), [](uint64_t bits) { return bits == 0; }))
            throw invalid("the mask allows no token");
    } catch (const std::exception &error) {
        fail(error);
    }
}

void Sequence::settle(const Drawn &drawn, int32_t guesses, const Vocab &vocab) noexcept {
    verified = guesses;
    accepted = 0;
    undone = false;
    read_before = read;
    if (request.max_tokens == 0) {  // nothing but the prompt is to be read
        read = prompt_size();
        finish = Finish::length;
        return;
    }
    // What has been said before a failure stays said.
    size_t n_text = event.text.size(), n_tokens = event.tokens.size(),
           n_logprobs = event.logprobs.size();
    int64_t counted = completion;
    try {
        for (;; ++accepted) {
            n_text = event.text.size(), n_tokens = event.tokens.size(),
            n_logprobs = event.logprobs.size();
            counted = completion;
            read = prompt_size() + completion;
            if (static_cast<size_t>(accepted) == drawn.tokens.size())
                std::rethrow_exception(drawn.failure);
            const Drawn::Token &token = drawn.tokens[static_cast<size_t>(accepted)];
            take(token, vocab);
            undone =
                accepted < verified && (finish != Finish::running ||
                                        token.id != next[static_cast<size_t>(certain + accepted)]);
            if (undone) read = read_before;
            if (finish != Finish::running) return;
            if (undone || accepted == verified) {
                // What has been through the model for good is not fed to it again.
                next.resize(undone ? static_cast<size_t>(certain + accepted) : 0);
                next.push_back(token.id);
                certain = static_cast<int32_t>(next.size());
                break;
            }
        }
        if (!lookup_.on()) return;
        lookup_.learn(verified, accepted);
        const int64_t left = request.max_tokens - completion - 1;
        const int64_t room = std::min<int64_t>(left, lookup_.most() + 1 - certain);
        const auto guess = lookup_.guess(static_cast<int32_t>(room));
        next.insert(next.end(), guess.begin(), guess.end());
    } catch (const std::exception &error) {
        event.text.resize(n_text), event.tokens.resize(n_tokens);
        event.logprob_ids.resize(n_logprobs), event.logprobs.resize(n_logprobs);
        completion = counted;
        fail(error);
    }
}

void Sequence::take(const Drawn::Token &drawn, const Vocab &vocab) {
    const int32_t token = drawn.id;
    lookup_.add(token);
    if (contains(request.end_ids, token)) {
        output.finish(event.text);
        finish = Finish::stop;
        held_from = -1;
        return;
    }
    ++completion;
    answer.push_back(token);
    add(drawn);
    const std::string_view bytes = vocab.bytes(token);
    const bool stop_id = contains(request.stop_ids, token);
    const bool may_stop = completion >= request.sampling.min_tokens;
    if (!stop_id && output.add(bytes, event.text, may_stop)) {
        finish = Finish::stop;
        if (held_from < 0) held_from = completion - 1;
        return;
    }
    if (stop_id || completion == request.max_tokens) {
        output.finish(event.text);
        finish = stop_id ? Finish::stop : Finish::length;
    }
    if (stop_id)
        held_from = completion - 1;
    else if (output.held() == 0)
        held_from = -1;
    else if (held_from < 0 || output.held() <= bytes.size())
        held_from = completion - 1;
}

void Sequence::fail(const std::exception &error) noexcept {
    finish = Finish::error;
    try {
        const bool memory = dynamic_cast<const std::bad_alloc *>(&error);
        failure = memory ? "out of memory" : error.what();
    } catch (const std::exception &) {
        // No memory even for the message: the finish alone must do.
    }
}

}  // namespace rwkv
