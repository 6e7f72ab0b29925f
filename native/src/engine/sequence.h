// One request on its way through the engine: prompt, slot, sampler, output, status, and what it has
// to say. Made by Engine::submit on the caller's thread; afterwards only the engine thread touches
// it. It knows neither its neighbours nor when it is its turn: that is the scheduler's business.
#pragma once

#include "backend.h"
#include "engine/prompt_lookup.h"
#include "engine/state_pool.h"
#include "sampling/sampler.h"
#include "text/output.h"
#include "text/vocab.h"

#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rwkv {

// Says which ids may come next: rwkv_request.mask. Null: all.
struct MaskCall {
    int32_t (*call)(void *payload, uint64_t *bits, const int32_t *tokens, size_t n) = nullptr;
    void *payload = nullptr;
};

// What a caller asks for: the C++ form of rwkv_request.
struct Request {
    std::vector<int32_t> prompt;
    SamplingOptions sampling;
    int64_t max_tokens = 0;  // 0: the prompt is read, and nothing is drawn
    std::vector<std::string> stops;
    std::vector<int32_t> stop_ids, end_ids;
    std::shared_ptr<const std::vector<float>> state;  // null: zero; many requests may share one
    TextCache cache;         // that belongs to the start state, or the sequence's own
    int32_t speculate = -1;  // tokens to guess ahead at most; 0: none, -1: as the engine does
    bool quiet = false;      // says nothing between its first token and its end
    // Numbers of prompt tokens, ascending, after which others may go on differently.
    std::vector<int64_t> save_at;
    int32_t dimensions = 0;  // above 0: an embedding of so many numbers is wanted, and no token
    bool quick = false;      // of the first layer's memory
    // Whose turn it is; see scheduler.h. Requests of one client that came together have one number.
    uint64_t client = 0;
    uint64_t group = 0;       // 0: this request alone
    int32_t n = 1;            // answers
    bool keep_state = false;  // the state after an answer is part of its last event
    bool score = false;       // the log-probabilities of the prompt are wanted, and no token
    MaskCall mask;
};

// The state after an answer, and the tokens of its text that it has not read.
struct KeptState {
    States state;  // a pool of one
    std::vector<int32_t> unread;
};

// The end of a prompt, for those who go on from it: its state and the logits that follow.
struct Fork {
    Snapshot state, logits;
    TextCache cache;
};

// A state so few tokens after one that is kept is not worth its copy: these are read again sooner.
constexpr int64_t least_apart = 16;
// The most that Request::speculate may be.
constexpr int32_t most_speculation = 64;
// And Request::dimensions.
constexpr int32_t most_dimensions = 4096;
// And Request::n.
constexpr int32_t most_answers = 1024;
// Rows of a prompt in one step whose logits are all wanted: so many of 65536 take 16 MB.
constexpr int32_t most_scores = 64;

// Throws Error (RWKV_INVALID) naming the field. Stop strings are checked by Output.
void check(const Request &request, size_t vocab, size_t state_floats);

// Adds to the sampling what must not be drawn: ids without text (`undecodable`, ascending), unless
// they end the answer, and what ends it before its least length.
void forbid(Request &request, std::span<const int32_t> undecodable);

enum class Finish { running, stop, length, cancel, error };

// What one request has to say. An error is an event of its own, whose text is the message, after
// one with what was said before.
struct Event {
    uint64_t id = 0;
    Finish finish = Finish::running;
    std::string text;
    std::vector<int32_t> tokens;       // those that count, stop ids included
    std::vector<int32_t> logprob_ids;  // [tokens][logprob_width]
    std::vector<float> logprobs;
    size_t logprob_width = 0;
    std::vector<float> embedding;  // of the last event, where one is wanted
    int64_t prompt_tokens = 0, completion_tokens = 0;
    int64_t cached_tokens = 0;        // of the prompt: were not computed
    std::shared_ptr<KeptState> kept;  // of the last event, where it is wanted

    // Becomes this event followed by a later one of the same request. Where memory runs out it
    // stays as it is.
    void append(const Event &later);
    bool empty() const { return text.empty() && tokens.empty() && embedding.empty(); }
};

struct Sequence {
    explicit Sequence(Request request);

    uint64_t id = 0;
    uint64_t follows = 0;  // the request that reads the prompt for it, too, until it has; 0: none
    Request request;
    Output output;

    // Counts. consistent() says how they hang together.
    int32_t slot = -1;  // its place in the scheduler; -1: none
    // While it has one: its state, the state before the last step if that had guesses, and one set
    // aside while text is held back.
    StatePool::Slot state, before, aside;
    int64_t prefilled = 0;        // prompt tokens that have been through the model
    int64_t cached = 0;           // ... and before: their state was known
    int64_t saved = 0;            // tokens whose state was known or has been kept last
    int64_t completion = 0;       // tokens counted as answer
    std::vector<int32_t> answer;  // these
    // The next rows once the prompt is through: `certain` tokens, the last of which has just been
    // drawn, and guesses. Certain tokens before that one have been through the model in a step that
    // was undone.
    std::vector<int32_t> next{-1};
    int32_t certain = 1;
    // Of the last step: guesses that were verified and came true, and whether one did not. The
    // state is then to be what it was before the step.
    int32_t verified = 0, accepted = 0;
    bool undone = false;
    // Tokens of prompt and answer that its state has read, now and before the last step.
    int64_t read = 0, read_before = 0;
    int64_t aside_read = -1;  // the same of `aside`; -1: none
    int64_t held_from = -1;   // number of the answer's first token that is held back, if one is
    Finish finish = Finish::running;
    Event event;               // since the engine last collected it
    std::string failure;       // the message of an error
    uint64_t reported_in = 0;  // the poll period in which it last spoke ...
    size_t reported_at = 0;    // ... and the place of its event in that period's outbox

    // The end of its prompt, where another has read it, or where it has just been saved for others.
    std::shared_ptr<const Fork> fork;
    std::vector<uint64_t> mask;  // of the next draw

    // Whether the counts agree. Of a prompt, what has been cached is a part of what has been read.
    // Of an answer that goes on, the state has read all of prompt and answer but the `certain`
    // tokens, which are the answer's last ones and the next rows; what is set aside has read no
    // more than that, and nothing that is held back.
    bool consistent() const;
    bool embeds() const { return request.dimensions > 0; }
    bool decoding() const { return prefilled == prompt_size(); }
    // At most `most` rows up to the prompt's end, the next of `save_at` that is worth a state or a
    // multiple of `grain`, counted from the prompt's own start; 0 if that many do not reach one.
    int32_t prompt_rows(int32_t grain, int32_t most) const;
    int64_t prompt_left() const { return prompt_size() - prefilled; }
    // Whether so many rows more are the end of the prompt.
    bool ends_with(int32_t rows) const { return prefilled + rows >= prompt_size(); }
    // The tokens of the next `rows` rows.
    std::span<const int32_t> input(int32_t rows) const;
    // How many of the last of them need logits, because a token may be drawn there.
    int32_t draws_after(int32_t rows) const {
        if (decoding()) return rows - certain + 1;
        if (request.score) return rows - ends_with(rows);
        return !embeds() && ends_with(rows);
    }
    // The first tokens of prompt and answer, in place where they can be.
    std::span<const int32_t> first(int64_t tokens, std::vector<int32_t> &scratch) const;
    // How many of them are whole in the prompt or in the text that has been shown.
    int64_t shown() const { return prompt_size() + (held_from < 0 ? completion : held_from); }
    int32_t guesses() const { return static_cast<int32_t>(next.size()) - certain; }

    // The tokens of what is shown that its state, which has read so many, has not.
    std::vector<int32_t> unread(int64_t state_read) const;

    // Whether something is drawn for it: it has not failed, and more than its prompt is wanted.
    bool draws() const { return finish == Finish::running && request.max_tokens > 0; }
    // Of the next draw; null: it has no mask.
    const uint64_t *mask_bits() const { return mask.empty() ? nullptr : mask.data(); }
    // The first of its guesses.
    std::span<const int32_t> guessed(int32_t n) const {
        return std::span(next).subspan(static_cast<size_t>(certain), static_cast<size_t>(n));
    }
    // Decides what each token means that has been drawn, where so many guesses were verified, and
    // guesses again. Never throws: a failure ends this sequence with Finish::error.
    void settle(const Drawn &drawn, int32_t guesses, const Vocab &vocab) noexcept;
    // Adds what has been scored of the prompt to the event.
    void score(const Drawn &scored) noexcept;
    // Asks for the mask of the next draw. A failure ends this sequence.
    void ask_mask(size_t vocab) noexcept;
    // Text that was held back as a possible stop is dropped.
    void cancel() { finish = Finish::cancel; }
    void fail(const std::exception &error) noexcept;

private:
    int64_t prompt_size() const { return static_cast<int64_t>(request.prompt.size()); }
    void take(const Drawn::Token &drawn, const Vocab &vocab);
    void add(const Drawn::Token &token);

    PromptLookup lookup_;
};

}  // namespace rwkv
