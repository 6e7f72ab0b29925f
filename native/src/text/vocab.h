// id -> bytes for every tokenizer, and greedy longest match for byte vocabularies such as World.
// Called by api.cpp and, for the bytes of a drawn token, by sequence.cpp and state_trie.cpp; never
// knows about prompts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv {

class Vocab {
public:
    // Lines `id<space>python string or bytes literal<space>byte length`, LF or CRLF. The text may
    // be hostile: throws Error (RWKV_INVALID) naming the line.
    static Vocab parse(std::string_view text);
    // tokens[id] = bytes; empty = no such token. At most 2^20 of them, one at least with bytes.
    explicit Vocab(const std::vector<std::string> &tokens);

    size_t size() const { return offsets_.size() - 1; }
    std::string_view bytes(int32_t id) const;  // empty outside the vocabulary
    bool has(int32_t id) const { return !bytes(id).empty(); }
    // Appends to ids; of several ids with the same bytes the smallest wins. Throws Error
    // (RWKV_INVALID) naming the byte offset where no token matches; ids is then as it was.
    void encode(std::vector<int32_t> &ids, std::string_view text) const;
    // Appends the tokens that the text begins with, the shortest first; of several with the same
    // bytes the smallest.
    void beginnings(std::vector<int32_t> &ids, std::string_view text) const;
    size_t longest() const { return longest_; }  // bytes of a token
    // Writes the bytes of ids as far as `out` reaches and returns how many there are. Ids without
    // bytes add nothing; ids outside [0, size()) throw Error (RWKV_INVALID).
    size_t decode(std::span<char> out, std::span<const int32_t> ids) const;

private:
    Vocab() = default;
    void build_trie();

    std::string blob_;               // all token bytes in id order, and 16 zeros
    std::vector<uint64_t> offsets_;  // [size + 1]
    std::vector<uint64_t> trie_;     // a double array, root first; see vocab.cpp
    size_t longest_ = 0;
};

}  // namespace rwkv
