// Owns the vocabulary file format, the trie and the greedy tokenizer. Called by api.cpp (encode,
// decode) and sequence.cpp (bytes of a drawn token); never normalises text and never looks for
// special tokens.
#include "text/vocab.h"

#include "error.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>

namespace rwkv {
namespace {

constexpr size_t max_ids = size_t{1} << 20;

// ---- The trie: a double array. The child of a node for byte c is units[base ^ c], and it is real
// if its label is c. A base belongs to one node only, so the label alone proves the parent. One
// unit is 64 bits:
//
//   base: 34 | id + 1: 21 (0 = no token ends here) | label: 9 (256 = free or root)
//
// XOR keeps the children of a node inside one block of 256 units (2 KiB). The World vocabulary
// takes 1.1 MB this way (88 % of the units in use); a step is one load and one comparison. On 17 MB
// of mixed code, English, CJK and Cyrillic text one core tokenises 170 MB/s.
constexpr uint64_t no_label = 256;

uint64_t unit_base(uint64_t unit) { return unit >> 30; }
uint64_t unit_id(uint64_t unit) { return unit >> 9 & 0x1fffff; }
uint64_t unit_label(uint64_t unit) { return unit & 0x1ff; }

class Bits256 {
public:
    void set(size_t i) { words_[i / 64] |= uint64_t{1} << i % 64; }
    void clear(size_t i) { words_[i / 64] &= ~(uint64_t{1} << i % 64); }
    bool test(size_t i) const { return words_[i / 64] >> i % 64 & 1; }
    uint64_t word(size_t i) const { return words_[i]; }

private:
    std::array<uint64_t, 4> words_{};
};

// Finds room for nodes. Only a few blocks stay open: old and hard ones are closed with their holes,
// so that a hostile vocabulary costs linear time (16 blocks and 32 vain searches per block).
class Places {
public:
    explicit Places(std::vector<uint64_t> &units) : units_(units) {
        Block &first = add_block();
        first.free.clear(0);  // the root
        first.count = 255;
        first.base_taken.set(0);  // base 0 marks leaves: it must lead nowhere
    }

    // A base for a node with these child labels, whose units are then taken.
    uint64_t take(std::span<const uint8_t> labels) {
        for (size_t i = 0; i < open_.size(); ++i) {
            Block &block = open_[i];
            if (block.count >= labels.size()) {
                const int base = find(block, labels);
                if (base >= 0) return occupy(i, static_cast<uint64_t>(base), labels);
            }
            if (++block.failures > 32) open_.erase(open_.begin() + static_cast<ptrdiff_t>(i--));
        }
        if (open_.size() >= 16) open_.erase(open_.begin());
        add_block();
        return occupy(open_.size() - 1, 0, labels);
    }

private:
    struct Block {
        uint64_t start;
        Bits256 free, base_taken;
        size_t count = 256;
        int failures = 0;
    };

    Block &add_block() {
        Block block{.start = units_.size(), .free = {}, .base_taken = {}};
        for (size_t i = 0; i < 256; ++i) block.free.set(i);
        units_.resize(units_.size() + 256, no_label);
        return open_.emplace_back(block);
    }

    static int find(const Block &block, std::span<const uint8_t> labels) {
        for (size_t w = 0; w < 4; ++w) {
            for (uint64_t bits = block.free.word(w); bits; bits &= bits - 1) {
                const size_t slot = w * 64 + static_cast<size_t>(std::countr_zero(bits));
                const size_t base = slot ^ labels[0];
                if (!block.base_taken.test(base) &&
                    std::all_of(labels.begin(), labels.end(),
                                [&](uint8_t label) { return block.free.test(base ^ label); })) {
                    return static_cast<int>(base);
                }
            }
        }
        return -1;
    }

    uint64_t occupy(size_t i, uint64_t low, std::span<const uint8_t> labels) {
        Block &block = open_[i];
        const uint64_t base = block.start + low;
        block.base_taken.set(low);
        block.count -= labels.size();
        for (const uint8_t label : labels) {
            block.free.clear(low ^ label);
            units_[base ^ label] = label;
        }
        if (block.count == 0) open_.erase(open_.begin() + static_cast<ptrdiff_t>(i));
        return base;
    }

    std::vector<uint64_t> &units_;
    std::vector<Block> open_;
};

// The first 8 bytes, most significant first: settles most comparisons of a sort without a look at
// the bytes themselves.
uint64_t sort_key(std::string_view bytes) {
    uint64_t key = 0;
    for (size_t i = 0; i < 8; ++i)
        key = key << 8 | (i < bytes.size() ? static_cast<uint8_t>(bytes[i]) : 0);
    return key;
}

// ---- The file format.

[[noreturn]] void bad_line(size_t line, const std::string &what) {
    throw invalid("vocabulary line " + std::to_string(line) + ": " + what);
}

uint32_t parse_number(std::string_view text, size_t line, const char *name) {
    uint32_t value = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc() || end != text.data() + text.size())
        bad_line(line, std::string(name) + " is not a number");
    return value;
}

uint32_t parse_hex(std::string_view text, size_t at, size_t digits, size_t line) {
    uint32_t value = 0;
    const std::string_view hex = text.substr(at, digits);
    const char *end = hex.data() + hex.size();
    if (hex.size() < digits || std::from_chars(hex.data(), end, value, 16).ptr != end)
        bad_line(line, "an escape lacks hexadecimal digits");
    return value;
}

void append_utf8(std::string &out, uint32_t code, size_t line) {
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        bad_line(line, "an escape is no character");
    if (code < 0x80) {
        out += static_cast<char>(code);
    } else if (code < 0x800) {
        out += static_cast<char>(0xc0 | code >> 6);
        out += static_cast<char>(0x80 | (code & 0x3f));
    } else {
        if (code < 0x10000) {
            out += static_cast<char>(0xe0 | code >> 12);
        } else {
            out += static_cast<char>(0xf0 | code >> 18);
            out += static_cast<char>(0x80 | (code >> 12 & 0x3f));
        }
        out += static_cast<char>(0x80 | (code >> 6 & 0x3f));
        out += static_cast<char>(0x80 | (code & 0x3f));
    }
}

// Appends the value of a Python literal: '...' and "..." are text (\x80 is the character U+0080,
// two bytes), b'...' is bytes (\x80 is that byte).
void append_literal(std::string &out, std::string_view text, size_t line) {
    const bool raw = !text.empty() && text.front() == 'b';
    text.remove_prefix(raw);
    if (text.size() < 2 || (text[0] != '\'' && text[0] != '"') || text.back() != text[0])
        bad_line(line, "the token is not a quoted Python literal");
    const char quote = text[0];
    text = text.substr(1, text.size() - 2);
    for (size_t i = 0; i < text.size();) {
        const char c = text[i++];
        if (c == quote) bad_line(line, "a quote inside the token is not escaped");
        if (c != '\\') {
            if (raw && static_cast<uint8_t>(c) >= 0x80)
                bad_line(line, "a bytes literal holds a character outside ASCII");
            out += c;
            continue;
        }
        const char escape = i < text.size() ? text[i++] : '\0';
        size_t digits = 0;
        switch (escape) {
        case 'n': out += '\n'; continue;
        case 't': out += '\t'; continue;
        case 'r': out += '\r'; continue;
        case '\\':
        case '\'':
        case '"': out += escape; continue;
        case 'x': digits = 2; break;
        case 'u': digits = raw ? 0 : 4; break;
        case 'U': digits = raw ? 0 : 8; break;
        default: break;
        }
        if (digits == 0) bad_line(line, "an escape is unknown or cut short");
        const uint32_t code = parse_hex(text, i, digits, line);
        i += digits;
        if (raw)
            out += static_cast<char>(code);
        else
            append_utf8(out, code, line);
    }
}

}  // namespace

Vocab Vocab::parse(std::string_view text) {
    struct Entry {
        uint64_t offset = 0;
        uint32_t length = 0, line = 0;  // line 0: no such token
    };
    std::vector<Entry> entries;  // by id
    std::string bytes;           // in file order
    bytes.reserve(text.size() / 2);
    size_t line = 0;
    while (!text.empty()) {
        ++line;
        const size_t end = text.find('\n');
        std::string_view row = text.substr(0, end);
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        if (row.ends_with('\r')) row.remove_suffix(1);
        const size_t first = row.find(' '), last = row.rfind(' ');
        if (first == std::string_view::npos || first == last)
            bad_line(line, "expected `id literal length`");
        const uint32_t id = parse_number(row.substr(0, first), line, "the id");
        if (id >= max_ids) bad_line(line, "the id must be below " + std::to_string(max_ids));
        if (id >= entries.size()) entries.resize(id + 1);
        if (entries[id].line) {
            bad_line(line, "the id " + std::to_string(id) + " occurs twice, first in line " +
                               std::to_string(entries[id].line));
        }
        const size_t offset = bytes.size();
        append_literal(bytes, row.substr(first + 1, last - first - 1), line);
        const size_t length = bytes.size() - offset;
        if (length == 0) bad_line(line, "the token is empty");
        if (parse_number(row.substr(last + 1), line, "the length") != length) {
            bad_line(line, "the token has " + std::to_string(length) + " bytes, not " +
                               std::string(row.substr(last + 1)));
        }
        entries[id] = {offset, static_cast<uint32_t>(length), static_cast<uint32_t>(line)};
    }
    if (entries.empty()) throw invalid("the vocabulary is empty");

    Vocab vocab;
    vocab.blob_.reserve(bytes.size());
    vocab.offsets_.reserve(entries.size() + 1);
    vocab.offsets_.push_back(0);
    for (const Entry &entry : entries) {
        vocab.blob_.append(bytes, entry.offset, entry.length);
        vocab.offsets_.push_back(vocab.blob_.size());
    }
    vocab.build_trie();
    return vocab;
}

Vocab::Vocab(const std::vector<std::string> &tokens) {
    if (tokens.size() > max_ids)
        throw invalid("a vocabulary has at most " + std::to_string(max_ids) + " tokens");
    offsets_.reserve(tokens.size() + 1);
    offsets_.push_back(0);
    for (const std::string &token : tokens) {
        blob_ += token;
        offsets_.push_back(blob_.size());
    }
    if (blob_.empty()) throw invalid("the vocabulary is empty");
    build_trie();
}

// Sorts the tokens; a node is then a run of them that share `depth` bytes. Breadth first, so that
// the wide nodes near the root are placed before the many narrow ones, which fill the holes.
void Vocab::build_trie() {
    struct Item {
        uint64_t key;
        int32_t id;
    };
    std::vector<Item> items;
    items.reserve(size());
    for (size_t id = 0; id < size(); ++id) {
        const auto token = bytes(static_cast<int32_t>(id));
        if (!token.empty()) {
            items.push_back({sort_key(token), static_cast<int32_t>(id)});
            longest_ = std::max(longest_, token.size());
        }
    }
    std::sort(items.begin(), items.end(), [&](const Item &a, const Item &b) {
        if (a.key != b.key) return a.key < b.key;
        const int order = bytes(a.id).compare(bytes(b.id));
        return order != 0 ? order < 0 : a.id < b.id;
    });

    struct Run {
        size_t begin, end, depth;
        uint64_t unit;
    };
    std::vector<Run> runs{{0, items.size(), 0, 0}}, next;
    Places places(trie_);
    std::vector<uint8_t> labels;
    std::vector<size_t> ends;
    for (; !runs.empty(); runs.swap(next), next.clear()) {
        for (auto [begin, end, depth, unit] : runs) {
            if (bytes(items[begin].id).size() == depth) {
                trie_[unit] |= static_cast<uint64_t>(items[begin].id + 1) << 9;  // the smallest id
                while (begin < end && bytes(items[begin].id).size() == depth) ++begin;
            }
            if (begin == end) continue;
            labels.clear();
            ends.clear();
            for (size_t i = begin; i < end; ++i) {
                const auto byte = static_cast<uint8_t>(blob_[offsets_[items[i].id] + depth]);
                if (labels.empty() || labels.back() != byte) {
                    labels.push_back(byte);
                    ends.push_back(i);
                }
                ends.back() = i + 1;
            }
            const uint64_t base = places.take(labels);
            trie_[unit] |= base << 30;
            for (size_t i = 0; i < labels.size(); ++i) {
                next.push_back({begin, ends[i], depth + 1, base ^ labels[i]});
                begin = ends[i];
            }
        }
    }
    trie_.shrink_to_fit();
    blob_.append(16, '\0');  // decode() reads that far
}

std::string_view Vocab::bytes(int32_t id) const {
    if (id < 0 || static_cast<size_t>(id) >= size()) return {};
    const size_t i = static_cast<size_t>(id);
    return std::string_view(blob_).substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
}

void Vocab::beginnings(std::vector<int32_t> &ids, std::string_view text) const {
    uint64_t unit = trie_[0];
    for (const char c : text) {
        const auto byte = static_cast<uint8_t>(c);
        unit = trie_[unit_base(unit) ^ byte];
        if (unit_label(unit) != byte) return;
        if (const uint64_t id = unit_id(unit)) ids.push_back(static_cast<int32_t>(id - 1));
    }
}

void Vocab::encode(std::vector<int32_t> &ids, std::string_view text) const {
    const size_t before = ids.size();
    ids.reserve(before + text.size() / 4 + 1);
    const uint64_t *units = trie_.data();
    const auto *begin = reinterpret_cast<const uint8_t *>(text.data());
    const auto *end = begin + text.size();
    const auto *p = begin;
    while (p < end) {
        uint64_t unit = units[0], best = 0;
        const uint8_t *best_end = p;
        for (const uint8_t *q = p; q < end;) {
            unit = units[unit_base(unit) ^ *q];
            if (unit_label(unit) != *q) break;
            ++q;
            const uint64_t id = unit_id(unit);
            best = id ? id : best;
            best_end = id ? q : best_end;
        }
        if (best == 0) {
            ids.resize(before);
            throw invalid("no token matches the text at byte " + std::to_string(p - begin));
        }
        ids.push_back(static_cast<int32_t>(best - 1));
        p = best_end;
    }
}

// Most tokens are short: 16 bytes are copied whatever their length, and the next token overwrites
// what was too much.
size_t Vocab::decode(std::span<char> out, std::span<const int32_t> ids) const {
    size_t n = 0;
    for (const int32_t id : ids) {
        if (id < 0 || static_cast<size_t>(id) >= size()) {
            throw invalid("token id " + std::to_string(id) + " is outside the vocabulary of " +
                          std::to_string(size()));
        }
        const size_t i = static_cast<size_t>(id);
        const size_t length = offsets_[i + 1] - offsets_[i];
        const char *from = blob_.data() + offsets_[i];
        if (n + 16 <= out.size() && length <= 16)
            std::memcpy(out.data() + n, from, 16);
        else if (n < out.size())
            std::memcpy(out.data() + n, from, std::min(length, out.size() - n));
        n += length;
    }
    return n;
}

}  // namespace rwkv
