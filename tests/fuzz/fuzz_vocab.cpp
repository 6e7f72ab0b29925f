// Vocabularies: a file is refused with its line, or greedy matching by its trie equals a search
// through all tokens, and the ids give the text back.
#include "fuzz.h"

#include "error.h"
#include "text/vocab.h"

#include <algorithm>
#include <map>
#include <optional>

using namespace rwkv;

namespace {

// The smallest id of each token.
using Table = std::map<std::string_view, int32_t>;

Table table_of(const Vocab &vocab) {
    Table table;
    for (size_t id = 0; id < vocab.size(); ++id) {
        const auto bytes = vocab.bytes(static_cast<int32_t>(id));
        if (!bytes.empty()) table.emplace(bytes, static_cast<int32_t>(id));
    }
    return table;
}

std::optional<std::vector<int32_t>> greedy(const Table &table, std::string_view text) {
    size_t longest = 0;
    for (const auto &[bytes, id] : table) longest = std::max(longest, bytes.size());
    std::vector<int32_t> ids;
    while (!text.empty()) {
        auto found = table.end();
        for (size_t n = std::min(longest, text.size()); n > 0 && found == table.end(); --n)
            found = table.find(text.substr(0, n));
        if (found == table.end()) return std::nullopt;
        ids.push_back(found->second);
        text.remove_prefix(found->first.size());
    }
    return ids;
}

void check(const Vocab &vocab, const std::string &text) {
    const Table table = table_of(vocab);
    CLAIM(vocab.size() <= size_t{1} << 20 && !table.empty());
    std::vector<std::string> texts = {text};
    if (vocab.size() < 1000) {  // and one that surely has ids
        std::string all;
        for (const auto &[bytes, id] : table) all += bytes;
        texts.push_back(all);
    }
    for (const std::string &one : texts) {
        const auto expected = greedy(table, one);
        std::vector<int32_t> ids = {-7};
        try {
            vocab.encode(ids, one);
            CLAIM(expected &&
                  std::equal(ids.begin() + 1, ids.end(), expected->begin(), expected->end()));
            std::string text(one.size(), '\0');
            CLAIM(vocab.decode(text, std::span(ids).subspan(1)) == one.size() && text == one);
        } catch (const Error &error) {
            CLAIM(!expected && ids.size() == 1 && error.status == RWKV_INVALID);
        }
    }
    for (const int32_t id : {INT32_MIN, -1, static_cast<int32_t>(vocab.size()), INT32_MAX}) {
        CLAIM(!vocab.has(id));
        try {
            (void)vocab.decode({}, {&id, 1});
            CLAIM(!"an id outside the vocabulary was decoded");
        } catch (const Error &error) {
            CLAIM(error.status == RWKV_INVALID);
        }
    }
}

}  // namespace

// The first byte is even: a file, then a zero byte, then a text. Odd: a table of tokens, a length
// byte before each, up to an empty one, then the text.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 1 << 16) return 0;
    Input input(data, size);
    try {
        if (input.byte() % 2 == 0) {
            const std::string all = input.rest();
            const size_t end = std::min(all.find('\0'), all.size());
            const std::string file = all.substr(0, end);
            check(Vocab::parse(file), all.substr(std::min(end + 1, all.size())));
        } else {
            std::vector<std::string> tokens;
            do tokens.push_back(input.text());
            while (input.left() > 0 && (tokens.size() == 1 || !tokens.back().empty()));
            check(Vocab(tokens), input.rest());
        }
    } catch (const Error &error) {
        CLAIM(error.status == RWKV_INVALID && std::string(error.what()).size() < 1 << 17);
    }
    return 0;
}
