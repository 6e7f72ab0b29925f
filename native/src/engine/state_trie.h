// States that prompts and answers have passed through, by the tokens that led to them, so that a
// text with a known beginning is read from there on. Called by the engine thread alone; what a
// state is made of, and when one is worth keeping, is the engine's business.
//
// A compressed trie over token ids: every edge is a run of tokens, and every node but a root holds
// a state or has at least two children. Texts that begin from different start states never meet:
// each start has a root of its own. Least recently used by bytes: states, tokens and nodes all
// count.
#pragma once

#include "backend.h"
#include "text/vocab.h"

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <vector>

namespace rwkv {

class StateTrie {
public:
    // Where a text begins; null: the model's own initial state. Told apart by address, and kept
    // alive by its root, so that an address cannot come to mean another state.
    using Start = std::shared_ptr<const std::vector<float>>;

    // Bytes of a state and of a row of logits. Nothing is kept until there is a limit.
    StateTrie(size_t state_bytes, size_t logit_bytes);
    ~StateTrie();
    StateTrie(const StateTrie &) = delete;
    StateTrie &operator=(const StateTrie &) = delete;

    // The state after the longest kept beginning of `tokens`. The whole of them counts only where
    // the logits after it were kept, too: something must be there to draw from.
    struct Found {
        size_t tokens = 0;       // how many; 0: none was found
        Snapshot state, logits;  // logits: of the whole only
    };
    Found find(const Start &start, std::span<const int32_t> tokens);
    // Whether a longer beginning of the same text is kept, in other tokens: the text was cut
    // differently where an answer had ended.
    bool rewords(const Start &start, std::span<const int32_t> tokens, const Vocab &vocab) const;

    // Room for the state after `tokens`, at least one, to be filled before the next call, and for
    // the logits, if wanted. Null: it is kept already, which makes it the most recently used one,
    // or it is too large for the limit.
    struct Room {
        Snapshot *state = nullptr, *logits = nullptr;
    };
    Room insert(const Start &start, std::span<const int32_t> tokens, bool logits);

    // Forgets what does not fit any more.
    void set_limit(size_t bytes);
    void clear() noexcept;

    size_t limit() const { return limit_; }
    size_t bytes() const { return bytes_; }
    size_t entries() const { return used_.size(); }
    int64_t saved() const { return saved_; }      // states so far
    int64_t evicted() const { return evicted_; }  // for lack of room

    // What a node counts beside its tokens and states: itself and its place among its siblings.
    static size_t node_bytes();

private:
    struct Node;
    struct Root;
    using Used = std::list<Node *>;

    // The deepest place that the first tokens lead to: the last `rest` tokens of the node's edge
    // lie beyond it.
    struct Place {
        Node *node;
        size_t tokens, rest;
    };

    Root *root_of(const Start &start) const;
    Place descend(Node &root, std::span<const int32_t> tokens) const;
    Node &make_node(Root &root, std::span<const int32_t> tokens);
    Node &split(Place place);
    void touch(Node &node);
    void shrink(const Node *spared);
    void forget(Node &node);
    void prune(Node *node);

    const size_t state_bytes_, logit_bytes_;
    size_t limit_ = 0, bytes_ = 0;
    int64_t saved_ = 0, evicted_ = 0;
    std::map<const void *, std::unique_ptr<Root>> roots_;
    Used used_;  // nodes with a state, the most recently used first
};

}  // namespace rwkv
