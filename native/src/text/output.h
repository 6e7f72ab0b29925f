// Token bytes -> whole UTF-8 characters -> text that cannot be the start of a stop string. One
// Output per sequence; called by sequence.cpp for every drawn token. Never knows about logits.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv {

// What is shown depends on the bytes alone, not on where tokens split them: the answer ends at the
// first character that completes a stop string, right before that stop. So
//   * of "\n\nA" and "\n\nAssistant" the shorter one ends the answer at once; the text is the same;
//   * of "bc" and "abcd", in the text "abcd", "bc" ends the answer with "a": what might become an
//     earlier stop does not delay one that is complete;
//   * of "c" and "abc", in "abc", both complete at once and the one that begins first wins: "".
class Output {
public:
    // Stops are UTF-8, none empty. Throws Error (RWKV_INVALID) otherwise.
    explicit Output(const std::vector<std::string> &stops);

    // Adds the bytes of one token and appends to `text` what is now safe to show: complete
    // characters, invalid bytes as U+FFFD (one for each maximal part of a character, like Python's
    // "replace"), nothing that could still become part of a stop string. Stops are looked for after
    // replacement. Returns true when a stop string has been completed: the answer is then over, and
    // nothing more is ever appended. Without `may_stop` the text goes on behind one.
    bool add(std::string_view bytes, std::string &text, bool may_stop = true);
    // The answer ends otherwise: appends everything still held back; an incomplete character
    // becomes U+FFFD (which may complete a stop).
    void finish(std::string &text);
    // Bytes of whole characters that are held back.
    size_t held() const { return held_.size(); }

private:
    // Knuth, Morris and Pratt: border[i] = length of the longest proper border of the first i
    // bytes.
    struct Stop {
        std::string text;
        std::vector<uint32_t> border;  // [text.size() + 1]
        uint32_t matched = 0;          // bytes at the end of the answer that begin this stop
    };

    bool match(std::string_view characters, std::string &text, bool may_stop);

    std::vector<Stop> stops_;
    std::string partial_;  // an incomplete character, at most 3 bytes
    std::string held_;     // whole characters that may begin a stop string
    bool stopped_ = false;
};

}  // namespace rwkv
