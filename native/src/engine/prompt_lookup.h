// Guesses how a text goes on, by looking up where its last tokens occurred before. Called by
// sequence.cpp, which has the model verify the guess; knows no model and no sampling, so that a bad
// guess costs time and never changes a text.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rwkv {

class PromptLookup {
public:
    // At most `most` tokens are guessed at a time; 0: none ever, and nothing is kept.
    PromptLookup(std::span<const int32_t> prompt, int32_t most);

    bool on() const { return most_ > 0; }
    int32_t most() const { return most_; }
    // The text goes on with this token.
    void add(int32_t token);
    // What followed the latest place where the last 3 tokens occurred, or 2, or 1: at most `room`
    // tokens. Where that reaches the end of the text it begins again: so a loop goes on.
    std::vector<int32_t> guess(int32_t room) const;
    // How many of the guessed tokens that were verified have come true.
    void learn(int32_t verified, int32_t accepted);

private:
    int32_t most_;
    int32_t reach_;         // tokens worth guessing: doubles with success, falls to what came true
    int32_t failures_ = 0;  // guesses in a row of which nothing came true
    std::vector<int32_t> text_;
};

}  // namespace rwkv
