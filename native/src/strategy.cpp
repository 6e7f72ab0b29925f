#include "strategy.h"

#include "error.h"

#include <algorithm>
#include <regex>
#include <sstream>

namespace rwkv {

namespace {

constexpr size_t longest = 256;  // characters: more stages than any model has use for

const char *const usable = "use 'cpu fp32', 'cpu bf16', 'cpu fp16' or 'auto'";

// The text with single blanks, none at the ends, and " -> " around every arrow.
std::string normalised(const std::string &text) {
    std::string spaced;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text.compare(i, 2, "->") == 0) {
            spaced += " -> ";
            ++i;
        } else {
            spaced += text[i];
        }
    }
    std::istringstream stream(spaced);
    std::string words, word;
    while (stream >> word) words += (words.empty() ? "" : " ") + word;
    return words;
}

std::vector<std::string> split(const std::string &words) {
    std::vector<std::string> parts;
    const std::string arrow = " -> ";
    size_t from = 0;
    for (size_t at; (at = words.find(arrow, from)) != std::string::npos; from = at + arrow.size()) {
        parts.push_back(words.substr(from, at - from));
    }
    parts.push_back(words.substr(from));
    return parts;
}

DType type_of(const std::string &name) {
    return name == "fp32" ? DType::f32 : name == "fp16" ? DType::f16 : DType::bf16;
}

}  // namespace

Strategy parse_strategy(const std::string &text) {
    if (text.size() > longest) {
        throw invalid("the strategy is longer than " + std::to_string(longest) + " characters");
    }
    const std::string words = normalised(text);
    Strategy strategy;
    if (words.empty() || words == "auto") return strategy;

    static const std::regex form(
        "(cuda(?::[0-9]+)?|cpu|mps|dml) (fp16|fp32|bf16)(i8|i4|i3)?(?: \\*([0-9]{1,6})(\\+)?)?");
    std::string alternative, lacking;
    bool streamed = false;
    for (const std::string &part : split(words)) {
        std::smatch match;
        if (!std::regex_match(part, match, form)) {
            throw invalid("'" + text + "' is no strategy: '" + part +
                          "' is not 'DEVICE TYPE' with an optional '*LAYERS' or '*LAYERS+'; " +
                          usable);
        }
        Stage stage{type_of(match[2]), -1, match[5].matched};
        if (match[4].matched) stage.layers = std::stol(match[4]);
        if (stage.streamed && streamed) {
            throw invalid("'" + text +
                          "' is no strategy: only one stage can be streamed ('*LAYERS+')");
        }
        streamed |= stage.streamed;
        strategy.stages.push_back(stage);

        if (match[1] != "cpu" && lacking.empty()) {
            lacking = "the device " + match[1].str() + ", which this build lacks";
        }
        if (match[3].matched && lacking.empty()) {
            lacking =
                "quantised weights (" + match[3].str() + "), which this version does not offer";
        }
        alternative += (alternative.empty() ? "cpu " : " -> cpu ") + match[2].str();
        if (match[4].matched) alternative += " *" + match[4].str() + match[5].str();
    }
    if (!lacking.empty()) {
        if (alternative != "cpu fp32") alternative += "' or 'cpu fp32";
        throw unsupported("the strategy '" + text + "' needs " + lacking + "; use '" + alternative +
                          "'");
    }
    return strategy;
}

std::vector<DType> Strategy::place(int64_t layers, DType file_dtype) const {
    const int64_t total = layers + 1;
    if (stages.empty()) {
        const DType type = file_dtype == DType::f64 ? DType::f32 : file_dtype;
        return std::vector<DType>(static_cast<size_t>(total), type);
    }
    // First the counts, cut off where the layers end; then what they leave goes to the streamed
    // stage or in equal parts to those without a count, or to the last stage.
    std::vector<int64_t> share;
    int64_t left = total, sharers = 0;
    size_t taker = stages.size() - 1;
    for (size_t i = 0; i < stages.size(); ++i) {
        share.push_back(std::min(left, std::max<int64_t>(stages[i].layers, 0)));
        left -= share.back();
        if (stages[i].layers < 0) ++sharers;
        if (stages[i].streamed) taker = i;
    }
    if (!stages[taker].streamed) {
        for (size_t i = 0; i < stages.size(); ++i) {
            if (stages[i].layers >= 0) continue;
            share[i] = left / sharers--;  // the remainder falls to the later ones
            left -= share[i];
        }
    }
    share[taker] += left;

    std::vector<DType> types;
    for (size_t i = 0; i < stages.size(); ++i) {
        types.insert(types.end(), static_cast<size_t>(share[i]), stages[i].compute);
    }
    return types;
}

std::string strategy_text(const std::vector<DType> &types) {
    std::string text;
    for (auto from = types.begin(); from != types.end();) {
        const auto to = std::find_if(from, types.end(), [&](DType t) { return t != *from; });
        text += (text.empty() ? "cpu " : " -> cpu ") + std::string(name_of(*from));
        if (to - from != static_cast<int64_t>(types.size()))
            text += " *" + std::to_string(to - from);
        from = to;
    }
    return text;
}

}  // namespace rwkv
