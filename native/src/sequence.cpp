// What a request may be, and what a drawn token means for it: end, stop, length, text. Called by
// the engine; never knows about batches, threads or slots.
#include "sequence.h"

#include "error.h"

#include <algorithm>
#include <new>

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
    if (request.max_tokens < 1)
        throw invalid("max_tokens is " + std::to_string(request.max_tokens) +
                      ", it must be at least 1");
    if (request.state && request.state->size() != state_floats)
        throw invalid("the start state has " + std::to_string(request.state->size()) +
                      " numbers, the states of this model have " + std::to_string(state_floats));
    if (request.speculate < -1 || request.speculate > most_speculation)
        throw invalid("speculate is " + std::to_string(request.speculate) + ", outside [0, " +
                      std::to_string(most_speculation) + "]");
    check(request.sampling, vocab);
}

void Event::append(const Event &later) {
    finish = later.finish;
    text += later.text;
    tokens.insert(tokens.end(), later.tokens.begin(), later.tokens.end());
    logprob_ids.insert(logprob_ids.end(), later.logprob_ids.begin(), later.logprob_ids.end());
    logprobs.insert(logprobs.end(), later.logprobs.begin(), later.logprobs.end());
    logprob_width = std::max(logprob_width, later.logprob_width);
    completion_tokens = later.completion_tokens;
}

Sequence::Sequence(Request asked)
    : request(std::move(asked)),
      sampler(request.sampling, request.prompt),
      output(request.stops),
      draft_(request.prompt, request.speculate) {}

int32_t Sequence::prompt_rows(int32_t grain, int32_t most) const {
    const int64_t size = static_cast<int64_t>(request.prompt.size());
    const int64_t reach = prefilled + most;
    const int64_t cut = reach >= size ? size : reach / grain * grain;
    return static_cast<int32_t>(std::max<int64_t>(cut - prefilled, 0));
}

std::span<const int32_t> Sequence::input(int32_t rows) const {
    if (decoding()) return std::span(ahead).first(static_cast<size_t>(rows));
    return std::span(request.prompt)
        .subspan(static_cast<size_t>(prefilled), static_cast<size_t>(rows));
}

void Sequence::draw(std::span<const float> logits, int32_t draws, const Vocab &vocab) noexcept {
    const size_t n = logits.size() / static_cast<size_t>(draws);
    verified = draws - 1;
    accepted = 0;
    undone = false;
    try {
        for (;; ++accepted) {
            const Drawn drawn =
                sampler.draw(logits.subspan(static_cast<size_t>(accepted) * n, n));
            take(drawn, vocab);
            if (finish != Finish::running) return;
            undone = accepted < verified &&
                     drawn.token != ahead[static_cast<size_t>(known + accepted)];
            if (undone || accepted == verified) {
                // What has been through the model for good is not fed to it again.
                ahead.resize(undone ? static_cast<size_t>(known + accepted) : 0);
                ahead.push_back(drawn.token);
                known = static_cast<int32_t>(ahead.size());
                break;
            }
        }
        if (!draft_.on()) return;
        draft_.judge(verified, accepted);
        const int64_t left = request.max_tokens - completion - 1;
        const int64_t room = std::min<int64_t>(left, draft_.most() + 1 - known);
        const auto guess = draft_.guess(static_cast<int32_t>(room));
        ahead.insert(ahead.end(), guess.begin(), guess.end());
    } catch (const std::exception &error) {
        fail(error);
    }
}

void Sequence::take(const Drawn &drawn, const Vocab &vocab) {
    const int32_t next = drawn.token;
    draft_.add(next);
    if (contains(request.end_ids, next)) {
        output.finish(event.text);
        finish = Finish::stop;
        return;
    }
    ++completion;
    event.tokens.push_back(next);
    event.logprob_width = drawn.logprobs.size();
    for (auto [token, logprob] : drawn.logprobs) {
        event.logprob_ids.push_back(token);
        event.logprobs.push_back(logprob);
    }
    if (contains(request.stop_ids, next)) {
        output.finish(event.text);
        finish = Finish::stop;
    } else if (output.add(vocab.bytes(next), event.text)) {
        finish = Finish::stop;
    } else if (completion == request.max_tokens) {
        output.finish(event.text);
        finish = Finish::length;
    }
}

void Sequence::fail(const std::exception &error) noexcept {
    finish = Finish::error;
    event = {};
    try {
        const bool memory = dynamic_cast<const std::bad_alloc *>(&error);
        event.text = memory ? "out of memory" : error.what();
    } catch (const std::exception &) {
        // No memory even for the message: the finish alone must do.
    }
}

}  // namespace rwkv
