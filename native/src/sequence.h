// One request on its way through the engine: prompt, slot, sampler, output, status, and what it has
// to say. Made by Engine::submit on the caller's thread; afterwards only the engine thread touches
// it. It knows neither its neighbours nor when it is its turn: that is the scheduler's business.
#pragma once

#include "backend.h"
#include "draft.h"
#include "output.h"
#include "sampler.h"
#include "vocab.h"

#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rwkv {

// What a caller asks for: the C++ form of rwkv_request.
struct Request {
    std::vector<int32_t> prompt;
    SamplingOptions sampling;
    int64_t max_tokens = 0;    // 0: the prompt is read, and nothing is drawn
    std::vector<std::string> stops;
    std::vector<int32_t> stop_ids, end_ids;
    std::shared_ptr<const std::vector<float>> state;  // null: zero; many requests may share one
    TextCache cache;           // that belongs to the start state, or the sequence's own
    int32_t speculate = -1;    // tokens to guess ahead at most; 0: none, -1: as the engine does
    bool quiet = false;        // says nothing between its first token and its end
    // Numbers of prompt tokens, ascending, after which others may go on differently.
    std::vector<int64_t> save_at;
    int32_t dimensions = 0;    // above 0: an embedding of so many numbers is wanted, and no token
    bool quick = false;        // of the first layer's memory
    // Whose turn it is; see scheduler.h. Requests of one client that came together have one number.
    uint64_t client = 0;
    uint64_t group = 0;        // 0: this request alone
};

// A state so few tokens after one that is kept is not worth its copy: these are read again sooner.
constexpr int64_t least_apart = 16;
// The most that Request::speculate may be.
constexpr int32_t most_speculation = 64;
// And Request::dimensions.
constexpr int32_t most_dimensions = 4096;

// Throws Error (RWKV_INVALID) naming the field. Stop strings are checked by Output.
void check(const Request &request, size_t vocab, size_t state_floats);

enum class Finish { running, stop, length, cancel, error };

// What one request has to say. An error is an event of its own, whose text is the message, after one with
// what was said before.
struct Event {
    uint64_t id = 0;
    Finish finish = Finish::running;
    std::string text;
    std::vector<int32_t> tokens;       // those that count, stop ids included
    std::vector<int32_t> logprob_ids;  // [tokens][logprob_width]
    std::vector<float> logprobs;
    size_t logprob_width = 0;
    std::vector<float> embedding;      // of the last event, where one is wanted
    int64_t prompt_tokens = 0, completion_tokens = 0;
    int64_t cached_tokens = 0;         // of the prompt: were not computed

    // Becomes this event followed by a later one of the same request. Where memory runs out it stays as it is.
    void append(const Event &later);
    bool empty() const { return text.empty() && tokens.empty() && embedding.empty(); }
};

struct Sequence {
    explicit Sequence(Request request);

    uint64_t id = 0;
    Request request;
    Sampler sampler;
    Output output;

    int32_t slot = -1;         // its place among the engine's states; -1: none
    int64_t prefilled = 0;     // prompt tokens that have been through the model
    int64_t cached = 0;        // ... and before: their state was known
    int64_t saved = 0;         // tokens whose state was known or has been kept last
    int64_t completion = 0;    // tokens counted as answer
    std::vector<int32_t> answer;  // these
    // The next rows once the prompt is through: `known` tokens, the last of which has just been drawn,
    // and guesses. Known tokens before that one have been through the model in a step that was undone.
    std::vector<int32_t> ahead{-1};
    int32_t known = 1;
    // Of the last step: guesses that were verified and came true, and whether one did not. The state
    // is then to be what it was before the step.
    int32_t verified = 0, accepted = 0;
    bool undone = false;
    // Tokens of prompt and answer that its state has read, now and before the last step.
    int64_t read = 0, read_before = 0;
    int64_t aside_read = -1;   // the same of a state that is set aside while text is held back; -1: none
    int64_t held_from = -1;    // number of the answer's first token that is held back, if one is
    Finish finish = Finish::running;
    Event event;               // since the engine last collected it
    std::string failure;       // the message of an error
    uint64_t told_in = 0;      // the poll period in which it last spoke ...
    size_t told_at = 0;        // ... and the place of its event in that period's outbox

    bool embeds() const { return request.dimensions > 0; }
    bool decoding() const { return prefilled == prompt_size(); }
    // At most `most` rows up to the prompt's end, the next of `save_at` that is worth a state or a multiple of
    // `grain`, counted from the prompt's own start; 0 if that many do not reach one.
    int32_t prompt_rows(int32_t grain, int32_t most) const;
    int64_t prompt_left() const { return prompt_size() - prefilled; }
    // Whether so many rows more are the end of the prompt.
    bool ends_with(int32_t rows) const { return prefilled + rows >= prompt_size(); }
    // The tokens of the next `rows` rows.
    std::span<const int32_t> input(int32_t rows) const;
    // How many of the last of them need logits, because a token may be drawn there.
    int32_t draws_after(int32_t rows) const {
        if (decoding()) return rows - known + 1;
        return !embeds() && ends_with(rows);
    }
    // The first tokens of prompt and answer, in place where they can be.
    std::span<const int32_t> first(int64_t tokens, std::vector<int32_t> &scratch) const;
    // How many of them are whole in the prompt or in the text that has been shown.
    int64_t shown() const { return prompt_size() + (held_from < 0 ? completion : held_from); }
    int32_t guesses() const { return static_cast<int32_t>(ahead.size()) - known; }

    // Draws from logits [draws, vocab], row after row while the guesses come true, decides what each
    // token means, and guesses again. Never throws: a failure ends this sequence with Finish::error.
    // Touches nothing but this sequence, and the logits only while it runs.
    void draw(std::span<float> logits, int32_t draws, const Vocab &vocab) noexcept;
    // Text that was held back as a possible stop is dropped.
    void cancel() { finish = Finish::cancel; }
    void fail(const std::exception &error) noexcept;

private:
    int64_t prompt_size() const { return static_cast<int64_t>(request.prompt.size()); }
    void take(const Drawn &drawn, const Vocab &vocab);

    Draft draft_;
};

}  // namespace rwkv
