// Owns the two reasons why drawn text waits: incomplete characters and beginnings of stop strings.
// Called by sequence.cpp for every drawn token; never looks back further than the longest stop
// string.
#include "text/output.h"

#include "error.h"

#include <algorithm>

namespace rwkv {
namespace {

constexpr std::string_view replacement = "\xef\xbf\xbd";  // U+FFFD

// Length of the character that a lead byte announces; 0 if no character begins with it.
size_t announced(uint8_t lead) {
    return lead < 0x80   ? 1
           : lead < 0xc2 ? 0
           : lead < 0xe0 ? 2
           : lead < 0xf0 ? 3
           : lead < 0xf5 ? 4
                         : 0;
}

// Whether `byte` may follow `lead` as the second byte: neither overlong forms nor surrogates nor
// code points past U+10FFFF (Unicode, table 3-7).
bool second_fits(uint8_t lead, uint8_t byte) {
    const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return byte >= low && byte <= high;
}

// Appends the complete characters of partial + bytes and leaves an incomplete one in `partial`.
// Every maximal part of a character that cannot go on, and every byte that begins none, becomes
// U+FFFD. Returns the number of replacements.
size_t decode(std::string &out, std::string &partial, std::string_view bytes) {
    size_t replaced = 0;
    for (size_t i = 0; i < bytes.size();) {
        const auto byte = static_cast<uint8_t>(bytes[i]);
        if (!partial.empty()) {
            const auto lead = static_cast<uint8_t>(partial[0]);
            const bool fits = partial.size() == 1 ? second_fits(lead, byte) : (byte & 0xc0) == 0x80;
            if (!fits) {  // the byte itself is looked at again
                out += replacement;
                ++replaced;
                partial.clear();
                continue;
            }
            partial += bytes[i++];
            if (partial.size() == announced(lead)) {
                out += partial;
                partial.clear();
            }
            continue;
        }
        ++i;
        switch (announced(byte)) {
        case 0:
            out += replacement;
            ++replaced;
            break;
        case 1: out += static_cast<char>(byte); break;
        default: partial += static_cast<char>(byte);
        }
    }
    return replaced;
}

}  // namespace

Output::Output(const std::vector<std::string> &stops) {
    for (size_t n = 0; n < stops.size(); ++n) {
        const std::string &stop = stops[n];
        const std::string name = "stop[" + std::to_string(n) + "]";
        if (stop.empty()) throw invalid(name + " is empty");
        std::string characters, partial;
        if (decode(characters, partial, stop) > 0 || !partial.empty())
            throw invalid(name + " is not UTF-8");
        std::vector<uint32_t> border(stop.size() + 1);
        uint32_t k = 0;
        for (size_t i = 1; i < stop.size(); ++i) {
            while (k > 0 && stop[i] != stop[k]) k = border[k];
            k += stop[i] == stop[k];
            border[i + 1] = k;
        }
        stops_.push_back({stop, std::move(border)});
    }
}

bool Output::add(std::string_view bytes, std::string &text, bool may_stop) {
    if (stopped_) return true;
    std::string characters;
    decode(characters, partial_, bytes);
    return match(characters, text, may_stop);
}

void Output::finish(std::string &text) {
    if (!stopped_ && !partial_.empty()) {
        partial_.clear();
        match(replacement, text, true);
    }
    if (!stopped_) {
        text += held_;
        held_.clear();
        stopped_ = true;
    }
}

// Only whole characters come in, and stops are whole characters, so whatever matches the beginning
// of a stop at the end of the text is whole characters too: bytes can be compared.
bool Output::match(std::string_view characters, std::string &text, bool may_stop) {
    for (const char c : characters) {
        held_ += c;
        size_t complete = 0;
        for (Stop &stop : stops_) {
            uint32_t k = stop.matched;
            while (k > 0 && stop.text[k] != c) k = stop.border[k];
            k += stop.text[k] == c;
            stop.matched = k;
            if (k < stop.text.size()) continue;
            if (may_stop)
                complete = std::max(complete, stop.text.size());
            else
                stop.matched = stop.border[k];  // another one may begin inside it
        }
        if (complete > 0) {
            text.append(held_, 0, held_.size() - complete);
            held_.clear();
            return stopped_ = true;
        }
    }
    size_t keep = 0;
    for (const Stop &stop : stops_) keep = std::max<size_t>(keep, stop.matched);
    text.append(held_, 0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
    return false;
}

}  // namespace rwkv
