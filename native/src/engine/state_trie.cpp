// See state_trie.h. Everything that allocates comes before what it changes: where memory runs out
// the trie stays whole.
#include "engine/state_trie.h"

#include <algorithm>
#include <string>
#include <utility>

namespace rwkv {

struct StateTrie::Node {
    Node *parent = nullptr;  // null: a root
    std::vector<int32_t> edge;
    std::map<int32_t, std::unique_ptr<Node>> children;  // by the first token of their edges
    Snapshot state, logits;
    bool kept = false;     // has a state, or is about to get one
    Used::iterator place;  // if kept
};

struct StateTrie::Root {
    Start start;
    Node node;
};

StateTrie::StateTrie(size_t state_bytes, size_t logit_bytes)
    : state_bytes_(state_bytes), logit_bytes_(logit_bytes) {}

StateTrie::~StateTrie() { clear(); }

size_t StateTrie::node_bytes() { return sizeof(Node) + 48; }

static size_t bytes_of(const StateTrie::Start &start) {
    return start ? start->size() * sizeof(float) : 0;
}

StateTrie::Root *StateTrie::root_of(const Start &start) const {
    const auto found = roots_.find(start.get());
    return found == roots_.end() ? nullptr : found->second.get();
}

StateTrie::Place StateTrie::descend(Node &root, std::span<const int32_t> tokens) const {
    Place place{&root, 0, 0};
    while (place.rest == 0 && place.tokens < tokens.size()) {
        const auto child = place.node->children.find(tokens[place.tokens]);
        if (child == place.node->children.end()) break;
        const auto &edge = child->second->edge;
        const auto left = tokens.subspan(place.tokens);
        const auto [mine, theirs] =
            std::mismatch(edge.begin(), edge.end(), left.begin(), left.end());
        place.node = child->second.get();
        place.tokens += static_cast<size_t>(theirs - left.begin());
        place.rest = static_cast<size_t>(edge.end() - mine);
    }
    return place;
}

StateTrie::Found StateTrie::find(const Start &start, std::span<const int32_t> tokens) {
    Root *root = root_of(start);
    if (!root) return {};
    const Place place = descend(root->node, tokens);
    size_t reached = place.tokens;
    Node *node = place.node;
    if (place.rest > 0) {
        reached -= node->edge.size() - place.rest;
        node = node->parent;
    }
    while (node->parent && (!node->kept || (reached == tokens.size() && !node->logits))) {
        reached -= node->edge.size();
        node = node->parent;
    }
    if (!node->parent) return {};
    touch(*node);
    return {reached, node->state, reached == tokens.size() ? node->logits : Snapshot{}};
}

namespace {

// A place in the text of some tokens.
struct Reader {
    std::span<const int32_t> tokens;
    const Vocab *vocab;
    std::string_view left{};  // of the token in front

    // The next bytes, as many as there are up to `most`.
    void peek(std::string &text, size_t most) const {
        text.assign(left.substr(0, most));
        for (size_t i = 0; i < tokens.size() && text.size() < most; ++i)
            text += vocab->bytes(tokens[i]).substr(0, most - text.size());
    }
    // Moves over a piece of text, if that comes next.
    bool read(std::string_view piece) {
        while (!piece.empty()) {
            while (left.empty()) {
                if (tokens.empty()) return false;
                left = vocab->bytes(tokens.front());
                tokens = tokens.subspan(1);
            }
            const size_t n = std::min(left.size(), piece.size());
            if (left.substr(0, n) != piece.substr(0, n)) return false;
            left.remove_prefix(n);
            piece.remove_prefix(n);
        }
        return true;
    }
};

}  // namespace

bool StateTrie::rewords(const Start &start, std::span<const int32_t> tokens,
                        const Vocab &vocab) const {
    Root *root = root_of(start);
    if (!root) return false;
    const Place place = descend(root->node, tokens);
    struct Branch {
        const Node *node;
        size_t rest;
        Reader reader;
    };
    std::vector<Branch> branches;
    const Reader here{tokens.subspan(place.tokens), &vocab};
    // A node may have thousands of children: those are looked up that the text can go on with.
    std::string text;
    std::vector<int32_t> ids;
    const auto add_children = [&](const Node &node, const Reader &reader) {
        reader.peek(text, vocab.longest());
        ids.clear();
        vocab.beginnings(ids, text);
        for (const int32_t token : ids) {
            const auto child = node.children.find(token);
            if (child == node.children.end()) continue;
            Reader next = reader;
            next.read(vocab.bytes(token));
            branches.push_back({child->second.get(), child->second->edge.size() - 1, next});
        }
    };
    if (place.rest > 0)
        branches.push_back({place.node, place.rest, here});
    else
        add_children(*place.node, here);
    while (!branches.empty()) {
        Branch branch = branches.back();
        branches.pop_back();
        const auto ahead = std::span(branch.node->edge).last(branch.rest);
        if (!std::all_of(ahead.begin(), ahead.end(),
                         [&](int32_t token) { return branch.reader.read(vocab.bytes(token)); }))
            continue;
        if (branch.node->kept) return true;
        add_children(*branch.node, branch.reader);
    }
    return false;
}

StateTrie::Room StateTrie::insert(const Start &start, std::span<const int32_t> tokens,
                                  bool logits) {
    const size_t least = state_bytes_ + (logits ? logit_bytes_ : 0) + bytes_of(start) +
                         tokens.size() * sizeof(int32_t) + node_bytes();
    if (tokens.empty() || least > limit_) return {};
    Root *root = root_of(start);
    if (!root) {
        auto made = std::make_unique<Root>();
        made->start = start;
        root = roots_.emplace(start.get(), std::move(made)).first->second.get();
        bytes_ += bytes_of(start);
    }
    Room room;
    Used place(1, nullptr);
    Node &node = make_node(*root, tokens);
    const bool is_new = !node.kept;
    if (is_new) {
        node.kept = true;
        node.place = place.begin();
        *node.place = &node;
        used_.splice(used_.begin(), place);
        bytes_ += state_bytes_;
    }
    touch(node);
    const bool adds_logits = logits && !node.logits;
    if (adds_logits) bytes_ += logit_bytes_;
    shrink(&node);  // first, so that its memory can be used again
    if (is_new) ++saved_, room.state = &node.state;
    if (adds_logits) room.logits = &node.logits;
    return room;
}

// The node after `tokens`, made if it is missing.
StateTrie::Node &StateTrie::make_node(Root &root, std::span<const int32_t> tokens) {
    const Place place = descend(root.node, tokens);
    Node &node = place.rest > 0 ? split(place) : *place.node;
    const auto left = tokens.subspan(place.tokens);
    if (left.empty()) return node;
    auto leaf = std::make_unique<Node>();
    leaf->parent = &node;
    leaf->edge.assign(left.begin(), left.end());
    const auto made = node.children.emplace(left.front(), std::move(leaf)).first;
    bytes_ += node_bytes() + left.size() * sizeof(int32_t);
    return *made->second;
}

// Puts a node in the middle of an edge.
StateTrie::Node &StateTrie::split(Place place) {
    Node &below = *place.node;
    auto middle = std::make_unique<Node>();
    const auto cut = below.edge.end() - static_cast<std::ptrdiff_t>(place.rest);
    middle->parent = below.parent;
    middle->edge.assign(below.edge.begin(), cut);
    std::vector<int32_t> rest(cut, below.edge.end());
    auto &child = middle->children.emplace(rest.front(), nullptr).first->second;
    auto &link = below.parent->children.at(middle->edge.front());
    child = std::move(link);
    below.parent = middle.get();
    below.edge = std::move(rest);
    link = std::move(middle);
    bytes_ += node_bytes();
    return *link;
}

void StateTrie::touch(Node &node) { used_.splice(used_.begin(), used_, node.place); }

// Forgets the least recently used until the rest fits.
void StateTrie::shrink(const Node *spared) {
    while (bytes_ > limit_ && !used_.empty() && used_.back() != spared) {
        forget(*used_.back());
        ++evicted_;
    }
}

void StateTrie::forget(Node &node) {
    bytes_ -= state_bytes_ + (node.logits ? logit_bytes_ : 0);
    used_.erase(node.place);
    node.kept = false;
    node.state = {}, node.logits = {};
    prune(&node);
}

// Takes out what leads nowhere any more, and joins two edges where no branch is left between them.
void StateTrie::prune(Node *node) {
    while (node->parent && !node->kept && node->children.empty()) {
        Node *parent = node->parent;
        bytes_ -= node_bytes() + node->edge.size() * sizeof(int32_t);
        parent->children.erase(node->edge.front());
        node = parent;
    }
    if (!node->parent) {
        if (!node->children.empty()) return;
        const auto root = std::find_if(roots_.begin(), roots_.end(),
                                       [&](const auto &one) { return &one.second->node == node; });
        bytes_ -= bytes_of(root->second->start);
        roots_.erase(root);
    } else if (!node->kept && node->children.size() == 1) {
        auto &child = node->children.begin()->second;
        std::vector<int32_t> joined;
        joined.reserve(node->edge.size() + child->edge.size());
        joined.insert(joined.end(), node->edge.begin(), node->edge.end());
        joined.insert(joined.end(), child->edge.begin(), child->edge.end());
        auto &link = node->parent->children.at(joined.front());
        const std::unique_ptr<Node> old = std::move(link);
        child->edge = std::move(joined);
        child->parent = node->parent;
        link = std::move(child);
        bytes_ -= node_bytes();
    }
}

void StateTrie::set_limit(size_t bytes) {
    limit_ = bytes;
    shrink(nullptr);
}

// Not by recursion: a chain of a hundred thousand nodes is a long conversation. And without memory,
// of which there may be none.
void StateTrie::clear() noexcept {
    for (auto &[start, root] : roots_) {
        Node *node = &root->node;
        while (node->parent || !node->children.empty()) {
            if (!node->children.empty()) {
                node = node->children.begin()->second.get();
            } else {
                node = node->parent;
                node->children.erase(node->children.begin());  // where it came from
            }
        }
    }
    roots_.clear();
    used_.clear();
    bytes_ = 0;
}

}  // namespace rwkv
