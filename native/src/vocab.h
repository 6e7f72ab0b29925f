// id -> bytes for every tokenizer, and greedy longest match for byte vocabularies such as World. Called
// by api.cpp and by output.cpp; never knows about prompts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv {

class Vocab {
public:
    // Lines `id<space>python string or bytes literal<space>byte length`, LF or CRLF. Throws Error.
    static Vocab parse(std::string_view text);
    // tokens[id] = bytes; empty = no such token.
    explicit Vocab(std::vector<std::string> tokens);

    size_t size() const { return offsets_.size() - 1; }
    std::string_view bytes(int32_t id) const;  // empty outside the vocabulary
    bool has(int32_t id) const { return !bytes(id).empty(); }
    void encode(std::vector<int32_t> &ids, std::string_view text) const;
    std::string decode(std::span<const int32_t> ids) const;

private:
    std::string blob_;                // all token bytes in id order
    std::vector<uint64_t> offsets_;   // [size + 1]
    struct Node;                      // the trie; see vocab.cpp
    std::vector<uint32_t> trie_;
};

}  // namespace rwkv
