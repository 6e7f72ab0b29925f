// The vocabulary file format, and the trie against a map that tries every length. With
// RWKV_WORLD_VOCAB set to the path of rwkv_vocab_v20230424.txt, known ids of that one as well.
#include "check.h"
#include "text/vocab.h"

#include <chrono>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

using namespace rwkv;

namespace {

using Ids = std::vector<int32_t>;

Ids encode(const Vocab &vocab, std::string_view text) {
    Ids ids;
    vocab.encode(ids, text);
    return ids;
}

// Into no room, too little, exactly enough and more: what does not fit is left out.
std::string decode(const Vocab &vocab, const Ids &ids) {
    std::string text(vocab.decode({}, ids), '\0');
    CHECK(vocab.decode(text, ids) == text.size());
    for (const size_t room : {text.size() / 2, text.size() + 40}) {
        std::string other(room + 1, '#');
        CHECK(vocab.decode({other.data(), room}, ids) == text.size());
        CHECK(other.back() == '#');
        CHECK(other.compare(0, std::min(room, text.size()), text, 0, room) == 0);
    }
    return text;
}

void test_parse() {
    const Vocab vocab = Vocab::parse("1 'a' 1\r\n"
                                     "3 \"it's\" 4\n"
                                     "4 ' ' 1\n"
                                     "5 '  x  ' 5\n"
                                     "6 '\\x80' 2\n"
                                     "7 b'\\x80' 1\n"
                                     "8 b'\\xe4\\xb8a\\n' 4\n"
                                     "9 '\\u4e2d\\t\\r\\\\\\'\\\"' 8\n"
                                     "10 '\xe4\xb8\xad' 3\n"
                                     "11 '\\U0001f642' 4\n"
                                     "12 b\"'\" 1\n"
                                     "13 '\\x00' 1");
    CHECK(vocab.size() == 14);
    CHECK(vocab.bytes(0).empty() && vocab.bytes(2).empty() && vocab.bytes(-1).empty());
    CHECK(vocab.bytes(14).empty() && !vocab.has(2) && vocab.has(3));
    CHECK(vocab.bytes(1) == "a");
    CHECK(vocab.bytes(3) == "it's");
    CHECK(vocab.bytes(4) == " ");
    CHECK(vocab.bytes(5) == "  x  ");
    CHECK(vocab.bytes(6) == "\xc2\x80");
    CHECK(vocab.bytes(7) == "\x80");
    CHECK(vocab.bytes(8) == "\xe4\xb8"
                            "a\n");
    CHECK(vocab.bytes(9) == "\xe4\xb8\xad\t\r\\'\"");
    CHECK(vocab.bytes(10) == "\xe4\xb8\xad");
    CHECK(vocab.bytes(11) == "\xf0\x9f\x99\x82");
    CHECK(vocab.bytes(12) == "'");
    CHECK(vocab.bytes(13) == std::string_view("\0", 1));
}

void test_parse_errors() {
    const auto bad = [](const std::string &line, const char *what) {
        CHECK_THROWS(Vocab::parse("1 'a' 1\n" + line + "\n"), "vocabulary line 2: ");
        CHECK_THROWS(Vocab::parse("1 'a' 1\n" + line + "\n"), what);
    };
    CHECK_THROWS(Vocab::parse(""), "empty");
    bad("", "expected");
    bad("2", "expected");
    bad("2 'b'", "expected");
    bad("x 'b' 1", "the id is not a number");
    bad("-2 'b' 1", "the id is not a number");
    bad(" 'b' 1", "the id is not a number");
    bad("99999999999999999999 'b' 1", "the id is not a number");
    bad("1048576 'b' 1", "below 1048576");
    bad("1 'b' 1", "occurs twice, first in line 1");
    bad("2 'b' x", "the length is not a number");
    bad("2 'b' ", "the length is not a number");
    bad("2 'b' 2", "has 1 bytes, not 2");
    bad("2 b 1", "not a quoted");
    bad("2 ' 1", "not a quoted");
    bad("2 'b\" 1", "not a quoted");
    bad("2 b' 1", "not a quoted");
    bad("2  1", "not a quoted");
    bad("2 '' 0", "empty");
    bad("2 'a'b' 3", "not escaped");
    bad("2 '\\q' 1", "unknown");
    bad("2 '\\101' 1", "unknown");
    bad("2 '\\' 1", "unknown or cut short");
    bad("2 '\\x' 1", "hexadecimal");
    bad("2 '\\x1' 1", "hexadecimal");
    bad("2 '\\x-1' 1", "hexadecimal");
    bad("2 '\\u12g4' 1", "hexadecimal");
    bad("2 '\\U0011000' 1", "hexadecimal");
    bad("2 '\\ud800' 3", "no character");
    bad("2 '\\U00110000' 4", "no character");
    bad("2 b'\\u0041' 1", "unknown");
    bad("2 b'\xe4\xb8\xad' 3", "outside ASCII");
}

void test_table() {
    const Vocab vocab(std::vector<std::string>{"", "a", "ab", "", "abc", "ab", "c", "b"});
    CHECK(vocab.size() == 8);
    CHECK((encode(vocab, "abcabac") == Ids{4, 2, 1, 6}));  // the longest; of equals the smallest id
    CHECK(encode(vocab, "").empty());
    CHECK(decode(vocab, Ids{4, 0, 3, 5}) == "abcab");
    CHECK_THROWS(decode(vocab, Ids{1, 8}), "token id 8 is outside the vocabulary of 8");
    CHECK_THROWS(decode(vocab, Ids{-1}), "token id -1 is outside");
    Ids ids{7};
    CHECK_THROWS(vocab.encode(ids, "abxc"), "no token matches the text at byte 2");
    CHECK(ids == Ids{7});
    vocab.encode(ids, "c");
    CHECK((ids == Ids{7, 6}));
    CHECK_THROWS(Vocab(std::vector<std::string>{"", ""}), "empty");
    CHECK_THROWS(Vocab(std::vector<std::string>{}), "empty");
    CHECK_THROWS(Vocab(std::vector<std::string>((1 << 20) + 1, "a")), "at most");
    const Vocab longest(std::vector<std::string>{"a", std::string(100000, 'a')});
    CHECK((encode(longest, std::string(200001, 'a')) == Ids{1, 1, 0}));
}

// Greedy longest match, word by word.
Ids oracle(const std::map<std::string, int32_t> &ids, size_t longest, const std::string &text) {
    Ids out;
    for (size_t i = 0; i < text.size();) {
        size_t n = std::min(longest, text.size() - i);
        while (n > 0 && !ids.count(text.substr(i, n))) --n;
        if (n == 0) return {-1, static_cast<int32_t>(i)};
        out.push_back(ids.at(text.substr(i, n)));
        i += n;
    }
    return out;
}

void test_random() {
    std::mt19937 random(1);
    for (int round = 0; round < 300; ++round) {
        const unsigned letters = std::array{2u, 4u, 30u, 256u}[random() % 4];
        const auto word = [&](size_t n) {
            std::string out;
            for (size_t i = 0; i < n; ++i)
                out += static_cast<char>(random() % letters + (letters == 256 ? 0 : 'a'));
            return out;
        };
        std::vector<std::string> tokens(1 + random() % 3000);
        std::map<std::string, int32_t> ids;
        for (size_t id = 0; id < tokens.size(); ++id)
            tokens[id] = word(random() % (letters == 2 ? 12 : 5));
        for (unsigned byte = 0; byte < letters && random() % 2; ++byte)
            tokens.push_back(std::string(1, static_cast<char>(letters == 256 ? byte : byte + 'a')));
        tokens.push_back("a");
        for (size_t id = 0; id < tokens.size(); ++id)
            if (!tokens[id].empty()) ids.emplace(tokens[id], static_cast<int32_t>(id));
        const Vocab vocab(tokens);
        for (int i = 0; i < 20; ++i) {
            const std::string text = word(random() % 200);
            const Ids expected = oracle(ids, 12, text);
            if (!expected.empty() && expected[0] == -1) {
                CHECK_THROWS(encode(vocab, text), "at byte " + std::to_string(expected[1]));
            } else {
                CHECK(encode(vocab, text) == expected);
                CHECK(decode(vocab, expected) == text);
            }
        }
    }
}

void test_world(const char *path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream stream;
    stream << file.rdbuf();
    const auto start = std::chrono::steady_clock::now();
    const Vocab vocab = Vocab::parse(stream.str());
    const std::chrono::duration<double, std::milli> ms = std::chrono::steady_clock::now() - start;
    std::printf("World vocabulary: parsed in %.1f ms\n", ms.count());
    CHECK(vocab.size() == 65530);
    CHECK(!vocab.has(0) && vocab.bytes(65529) == std::string(128, ' '));
    for (int32_t byte = 0; byte < 256; ++byte)
        CHECK(vocab.bytes(byte + 1) == std::string(1, static_cast<char>(byte)));
    const std::map<std::string, Ids> known{
        {"\n\n\n", {3328}},
        {"User: hi\n\nAssistant: Hi there!\n\n",
         {24281, 59, 4571, 261, 5585, 41693, 59, 3880, 39934, 34, 261}},
        {"Assistant: <think></think", {5585, 41693, 59, 295, 35762, 5439, 35762}},
        {"12345 3.14159 2024-05-06",
         {632, 654, 54, 286, 47, 634, 635, 58, 3493, 644, 46, 625, 46, 626}},
        {"\u4e2d\u6587\u6d4b\u8bd5\uff0c\u4f60\u597d\uff01",
         {10285, 13012, 13827, 16707, 19137, 10464, 11685, 19126}},
        {"\uc548\ub155\ud558\uc138\uc694", {18815, 3266, 150, 19052, 18777, 18862}},
        {"na\u00efve caf\u00e9 \u2014 \u201cquotes\u201d \u2026",
         {2059, 27698, 37946, 22898, 22903, 35478, 116, 9823, 22908}},
        {"T9\xd1\xc1g?\xf8\xb0\xc0\xf0", {85, 58, 210, 194, 104, 64, 249, 177, 193, 241}}};
    for (const auto &[text, ids] : known) {
        CHECK(encode(vocab, text) == ids);
        CHECK(decode(vocab, ids) == text);
    }
    std::mt19937 random(2);
    std::string text;
    for (int i = 0; i < 200000; ++i) {
        text += vocab.bytes(static_cast<int32_t>(random() % vocab.size()));
        text += static_cast<char>(random());
    }
    CHECK(decode(vocab, encode(vocab, text)) == text);
}

}  // namespace

int main() {
    test_parse();
    test_parse_errors();
    test_table();
    test_random();
    if (const char *path = std::getenv("RWKV_WORLD_VOCAB")) test_world(path);
    return report();
}
