// Token bytes -> whole UTF-8 characters -> text that cannot be the start of a stop string. One Output per
// sequence; called by the engine for every drawn token. Never knows about logits.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rwkv {

class Output {
public:
    // Stops are UTF-8, none empty. Throws Error (RWKV_INVALID) otherwise.
    explicit Output(std::vector<std::string> stops);

    // Adds the bytes of one token and appends to `text` what is now safe to show: complete characters,
    // invalid bytes as U+FFFD, nothing that could still become part of a stop string. Returns true when
    // a stop string has been completed: the text then ends right before it, and the answer is over. Of
    // several stops the one that begins first wins (the longest of those that begin at one place).
    bool add(std::string_view bytes, std::string &text);
    // The answer ends otherwise: appends everything still held back; an incomplete character becomes U+FFFD.
    void finish(std::string &text);

private:
    std::vector<std::string> stops_;
    std::string bytes_;  // an incomplete character, at most 3 bytes
    std::string held_;   // whole characters that may begin a stop string
};

}  // namespace rwkv
