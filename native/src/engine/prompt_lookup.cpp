// See prompt_lookup.h.
#include "engine/prompt_lookup.h"

#include <algorithm>

namespace rwkv {

PromptLookup::PromptLookup(std::span<const int32_t> prompt, int32_t most)
    : most_(most), reach_(most) {
    if (on()) text_.assign(prompt.begin(), prompt.end());
}

void PromptLookup::add(int32_t token) {
    if (on()) text_.push_back(token);
}

std::vector<int32_t> PromptLookup::guess(int32_t room) const {
    constexpr size_t longest = 3;
    const size_t n = text_.size();
    const size_t wanted = static_cast<size_t>(std::max(0, std::min(room, reach_)));
    if (!on() || wanted == 0 || n < 2) return {};
    // A single token that has occurred before says little: after guesses in vain more must agree.
    const size_t least = 1 + static_cast<size_t>(std::min(failures_ / 4, 2));
    size_t best = least - 1, place = 0;  // the guess starts at text_[place]
    const int32_t last = text_.back();
    for (size_t i = n - 1; i-- > 0 && best < longest;) {  // one pass, the latest place first
        if (text_[i] != last) continue;
        size_t length = 1;
        while (length < longest && length <= i && text_[i - length] == text_[n - 1 - length])
            ++length;
        if (length > best) {
            best = length;
            place = i + 1;
        }
    }
    if (place == 0) return {};
    std::vector<int32_t> out(wanted);
    for (size_t i = 0; i < wanted; ++i) out[i] = text_[place + i % (n - place)];
    return out;
}

void PromptLookup::learn(int32_t verified, int32_t accepted) {
    if (verified == 0) return;
    failures_ = accepted == 0 ? failures_ + 1 : 0;
    reach_ =
        accepted == verified ? std::min(most_, 2 * std::max(reach_, 1)) : std::max(1, accepted);
}

}  // namespace rwkv
