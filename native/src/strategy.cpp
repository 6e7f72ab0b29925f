#include "strategy.h"

#include "error.h"

#include <regex>
#include <sstream>

namespace rwkv {

namespace {

const char *const usable = "use 'cpu fp32', 'cpu bf16', 'cpu fp16' or 'auto'";

}  // namespace

Strategy parse_strategy(const std::string &text, DType file_dtype) {
    std::istringstream stream(text);
    std::string words, word;
    while (stream >> word) words += (words.empty() ? "" : " ") + word;

    if (words.empty() || words == "auto") {
        return {"cpu", file_dtype == DType::f64 ? DType::f32 : file_dtype};
    }
    if (words.size() > 256) throw invalid("the strategy is longer than 256 characters");
    static const std::regex stage(
        "(cuda(:[0-9]+)?|cpu|mps|dml) (fp16|fp32|bf16)(i8|i4|i3)?( \\*[0-9]+\\+?)?");
    std::string rest = words;
    int stages = 0;
    std::smatch match, first;
    while (true) {
        const size_t arrow = rest.find("->");
        std::string part = rest.substr(0, arrow);
        while (!part.empty() && part.back() == ' ') part.pop_back();
        while (!part.empty() && part.front() == ' ') part.erase(0, 1);
        if (!std::regex_match(part, match, stage)) {
            throw invalid("'" + text + "' is no strategy: " + usable);
        }
        if (stages++ == 0) words = part;
        if (arrow == std::string::npos) break;
        rest = rest.substr(arrow + 2);
    }
    const auto refuse = [&text](const std::string &why) {
        return unsupported("the strategy '" + text + "' needs " + why + "; " + usable);
    };
    if (stages > 1) throw refuse("layers on several devices, which this version does not offer");
    std::regex_match(words, first, stage);
    if (first[1] != "cpu") throw refuse("the device " + first[1].str() + ", which this build lacks");
    if (first[4].matched) throw refuse("quantised weights, which this version does not offer");
    if (first[5].matched) throw refuse("a layer split, which this version does not offer");
    const std::string type = first[3];
    return {"cpu", type == "fp32" ? DType::f32 : type == "fp16" ? DType::f16 : DType::bf16};
}

}  // namespace rwkv
