#include "model/strategy.h"

#include "error.h"
#include "weights/gguf_blocks.h"

#include <algorithm>
#include <optional>
#include <sstream>
#include <string_view>

namespace rwkv {

namespace {

constexpr size_t longest = 256;  // characters: more stages than any model has use for

const char *const usable =
    "use 'cpu fp32', 'cpu bf16', 'cpu fp16' (with i8 or i4 behind it for quantised weights) or 'auto'";

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
    for (size_t at; (at = words.find(arrow, from)) != std::string::npos; from = at + arrow.size())
        parts.push_back(words.substr(from, at - from));
    parts.push_back(words.substr(from));
    return parts;
}

// The string is read from the front; what has been read is cut off.
bool skip(std::string_view &text, std::string_view wanted) {
    if (!text.starts_with(wanted)) return false;
    text.remove_prefix(wanted.size());
    return true;
}
std::string_view digits(std::string_view &text) {
    const std::string_view found =
        text.substr(0, std::min(text.find_first_not_of("0123456789"), text.size()));
    text.remove_prefix(found.size());
    return found;
}

// One stage as it is written.
struct Words {
    std::string device, type, blocks;  // "cuda:1", "fp16", "i8" or ""
    std::string count;                 // "10", "10+" or ""
};

// DEVICE TYPE[Q] [*N[+]]
std::optional<Words> words_of(std::string_view text) {
    Words words;
    for (const char *device : {"cuda", "cpu", "mps", "dml"}) {
        if (skip(text, device)) {
            words.device = device;
            break;
        }
    }
    if (words.device == "cuda" && skip(text, ":")) {
        const std::string_view number = digits(text);
        if (number.empty()) return {};
        words.device += ":" + std::string(number);
    }
    if (words.device.empty() || !skip(text, " ")) return {};
    for (const char *type : {"fp16", "fp32", "bf16"})
        if (skip(text, type)) words.type = type;
    if (words.type.empty()) return {};
    for (const char *blocks : {"i8", "i4", "i3"}) {
        if (skip(text, blocks)) {
            words.blocks = blocks;
            break;
        }
    }
    if (skip(text, " *")) {
        words.count = digits(text);
        if (words.count.empty() || words.count.size() > 6) return {};
        if (skip(text, "+")) words.count += '+';
    }
    if (!text.empty()) return {};
    return words;
}

// What somebody may have meant who knows another program's words: int8, q4_0, float32, half.
std::string nearest(const std::string &part) {
    struct Word {
        const char *said, *meant;
    };
    static constexpr Word types[] = {{"fp32", "fp32"}, {"f32", "fp32"},      {"float32", "fp32"},
                                     {"bf16", "bf16"}, {"bfloat16", "bf16"}, {"fp16", "fp16"},
                                     {"f16", "fp16"},  {"float16", "fp16"},  {"half", "fp16"}};
    static constexpr Word blocks[] = {{"int8", "i8"}, {"i8", "i8"}, {"q8", "i8"}, {"8bit", "i8"},
                                      {"int4", "i4"}, {"i4", "i4"}, {"q4", "i4"}, {"4bit", "i4"}};
    std::string type, quantised;
    for (const Word &word : types)
        if (type.empty() && part.find(word.said) != std::string::npos) type = word.meant;
    for (const Word &word : blocks)
        if (quantised.empty() && part.find(word.said) != std::string::npos) quantised = word.meant;
    if (type.empty() && quantised.empty()) return {};
    return "cpu " + (type.empty() ? "bf16" : type) + quantised;
}

Precision precision_of(const Words &words) {
    const DType compute = words.type == "fp32"   ? DType::f32
                          : words.type == "fp16" ? DType::f16
                                                 : DType::bf16;
    if (words.blocks.empty()) return compute;
    return {compute, words.blocks == "i8" ? DType::i8 : DType::i4};
}

}  // namespace

Strategy parse_strategy(const std::string &text) {
    if (text.size() > longest)
        throw invalid("the strategy is longer than " + std::to_string(longest) + " characters");
    const std::string words = normalised(text);
    Strategy strategy;
    if (words.empty() || words == "auto") return strategy;

    std::string alternative, lacking;
    bool streamed = false;
    for (const std::string &part : split(words)) {
        const std::optional<Words> found = words_of(part);
        if (!found) {
            const std::string meant = nearest(part);
            std::string message = "'" + text + "' is no strategy";
            if (part != words) message += ": '" + part + "' is no stage of one";
            message +=
                meant.empty() ? "; " + std::string(usable) : "; did you mean '" + meant + "'?";
            throw invalid(message);
        }
        Stage stage{precision_of(*found), -1, found->count.ends_with('+')};
        if (!found->count.empty()) stage.layers = std::stol(found->count);
        if (stage.streamed && streamed) {
            throw invalid("'" + text +
                          "' is no strategy: only one stage can be streamed ('*LAYERS+')");
        }
        streamed |= stage.streamed;
        strategy.stages.push_back(stage);

        if (found->device != "cpu" && lacking.empty())
            lacking = "the device " + found->device + ", which this build lacks";
        if (found->blocks == "i3" && lacking.empty())
            lacking = "weights quantised to i3, which this version does not offer";
        alternative += (alternative.empty() ? "cpu " : " -> cpu ") + found->type +
                       (found->blocks == "i3" ? "i4" : found->blocks);
        if (!found->count.empty()) alternative += " *" + found->count;
    }
    if (!lacking.empty()) {
        if (alternative != "cpu fp32") alternative += "' or 'cpu fp32";
        throw unsupported("the strategy '" + text + "' needs " + lacking + "; use '" + alternative +
                          "'");
    }
    return strategy;
}

std::vector<Precision> Strategy::place(int64_t layers, DType file_dtype) const {
    const int64_t total = layers + 1;
    if (stages.empty()) {
        Precision precision = file_dtype == DType::f64 ? DType::f32 : file_dtype;
        if (is_quantised(file_dtype)) precision = {DType::bf16, file_dtype};
        if (in_blocks(file_dtype)) {
            precision = {DType::bf16, kept_as(file_dtype)};
            precision.own = true;
        }
        return std::vector<Precision>(static_cast<size_t>(total), precision);
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

    std::vector<Precision> precisions;
    for (size_t i = 0; i < stages.size(); ++i)
        precisions.insert(precisions.end(), static_cast<size_t>(share[i]), stages[i].precision);
    for (Precision &precision : precisions)
        if (is_quantised(file_dtype) && is_quantised(precision.stored))
            precision.stored = file_dtype;
    return precisions;
}

std::string strategy_text(const std::vector<Precision> &precisions) {
    std::string text;
    for (auto from = precisions.begin(); from != precisions.end();) {
        const auto to =
            std::find_if(from, precisions.end(), [&](const Precision &p) { return p != *from; });
        text += (text.empty() ? "cpu " : " -> cpu ") + std::string(name_of(from->compute));
        if (from->stored == DType::i8) text += "i8";
        if (from->stored == DType::i4) text += "i4";
        if (to - from != static_cast<int64_t>(precisions.size()))
            text += " *" + std::to_string(to - from);
        from = to;
    }
    return text;
}

}  // namespace rwkv
