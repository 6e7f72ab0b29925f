// Output: what is shown must be what a decoder that sees the whole answer at once would show, cut
// before the stop that is complete first; wherever tokens split the bytes.
#include "fuzz.h"

#include "error.h"
#include "text/output.h"

#include <algorithm>
#include <string_view>
#include <vector>

using namespace rwkv;

namespace {

// Unicode, table 3-7, written as the ranges of each position; independent of output.cpp.
size_t valid_length(std::string_view s, size_t *part) {
    const auto at = [&](size_t i) -> int { return i < s.size() ? static_cast<uint8_t>(s[i]) : -1; };
    const int lead = at(0);
    *part = 1;
    if (lead < 0x80) return 1;
    size_t n = 0;
    int low = 0x80, high = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf) {
        n = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        n = 3;
        if (lead == 0xe0) low = 0xa0;
        if (lead == 0xed) high = 0x9f;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        n = 4;
        if (lead == 0xf0) low = 0x90;
        if (lead == 0xf4) high = 0x8f;
    } else {
        return 0;
    }
    for (size_t i = 1; i < n; ++i, low = 0x80, high = 0xbf) {
        if (at(i) < low || at(i) > high) return 0;
        *part = i + 1;
    }
    return n;
}

std::string decoded(std::string_view bytes) {
    std::string out;
    while (!bytes.empty()) {
        size_t part = 0;
        if (const size_t n = valid_length(bytes, &part)) {
            out += bytes.substr(0, n);
            bytes.remove_prefix(n);
        } else {
            out += "\xef\xbf\xbd";
            bytes.remove_prefix(part);
        }
    }
    return out;
}

// The answer by definition: cut before the longest of the stops that are complete first.
std::string answer(const std::string &text, const std::vector<std::string> &stops, bool *stopped) {
    for (size_t end = 1; end <= text.size(); ++end) {
        size_t longest = 0;
        for (const std::string &stop : stops)
            if (end >= stop.size() && text.compare(end - stop.size(), stop.size(), stop) == 0)
                longest = std::max(longest, stop.size());
        if (longest > 0) {
            *stopped = true;
            return text.substr(0, end - longest);
        }
    }
    *stopped = false;
    return text;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 4096) return 0;
    Input input(data, size);
    std::vector<std::string> stops(input.byte() % 5);
    for (std::string &stop : stops) stop = input.text();
    const bool fine = std::all_of(stops.begin(), stops.end(), [](const std::string &stop) {
        return !stop.empty() && decoded(stop) == stop;
    });
    std::vector<std::string> tokens;
    while (input.left() > 0) tokens.push_back(input.text());

    try {
        Output output(stops);
        CLAIM(fine);
        std::string shown, whole;
        bool ended = false;
        for (const std::string &token : tokens) {
            const std::string before = shown;
            whole += token;
            const bool now = output.add(token, shown);
            CLAIM(shown.starts_with(before));
            CLAIM(!ended || (now && shown == before));
            ended = now;
            CLAIM(decoded(shown) == shown);
            bool stopped = false;
            // Nothing is held back longer than it must be: at most the beginning of a stop and of
            // a character.
            const std::string expected = answer(decoded(whole), stops, &stopped);
            size_t longest = 0;
            for (const std::string &stop : stops) longest = std::max(longest, stop.size());
            if (!ended) CLAIM(expected.size() <= shown.size() + longest + 3);
        }
        output.finish(shown);
        bool stopped = false;
        CLAIM(shown == answer(decoded(whole), stops, &stopped));
        CLAIM(!ended || stopped);
        output.finish(shown);
        CLAIM(output.add("more", shown));
        CLAIM(shown == answer(decoded(whole), stops, &stopped));
    } catch (const Error &error) {
        CLAIM(!fine && error.status == RWKV_INVALID);
    }
    return 0;
}
