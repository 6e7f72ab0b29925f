// Hold-back and stop strings against a brute-force oracle that looks at whole answers, on random
// bytes split at random places.
#include "check.h"
#include "text/output.h"

#include <algorithm>
#include <random>
#include <vector>

using namespace rwkv;

namespace {

using Strings = std::vector<std::string>;
const std::string unknown = "\xef\xbf\xbd";  // U+FFFD

// What the answer looks like if `bytes` is all that is ever drawn.
struct Answer {
    std::string text;
    bool stopped = false;
};

Answer answer(const Strings &stops, const Strings &tokens) {
    Output output(stops);
    Answer out;
    for (const std::string &token : tokens)
        if (output.add(token, out.text)) out.stopped = true;
    output.finish(out.text);
    return out;
}

// ---- The oracle. UTF-8 by table 3-7 of the Unicode standard, maximal parts by trying all lengths.
bool in(uint8_t byte, int low, int high) { return byte >= low && byte <= high; }

// Whether s[0, n) begins a character (n < its length) or is one.
bool well_formed(const std::string &s, size_t at, size_t n, bool &complete) {
    struct Row {
        int lead_low, lead_high, low, high;
        size_t length;
    };
    static const Row rows[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    for (const Row &row : rows) {
        const auto byte = [&](size_t i) { return static_cast<uint8_t>(s[at + i]); };
        bool fits = n <= row.length && in(byte(0), row.lead_low, row.lead_high);
        fits = fits && (n < 2 || in(byte(1), row.low, row.high));
        for (size_t i = 2; i < n; ++i) fits = fits && in(byte(i), 0x80, 0xbf);
        if (fits) {
            complete = n == row.length;
            return true;
        }
    }
    return false;
}

// The characters of a text, each after replacement. With `more`, an incomplete end is left out.
Strings characters(const std::string &bytes, bool more) {
    Strings out;
    for (size_t i = 0; i < bytes.size();) {
        size_t n = 0;
        bool complete = false;
        while (!complete && i + n < bytes.size() && well_formed(bytes, i, n + 1, complete)) ++n;
        if (complete)
            out.push_back(bytes.substr(i, n));
        else if (i + n == bytes.size() && n > 0 && more)
            break;
        else
            out.push_back(unknown);
        i += std::max<size_t>(n, 1);
    }
    return out;
}

// The text after replacement, up to the stop that ends it: at the first character at which any stop
// is complete, the one of them that begins first.
struct Expected {
    std::string text;
    bool stopped = false;
};

Expected expect(const Strings &stops, const std::string &bytes, bool more) {
    Expected out;
    for (const std::string &character : characters(bytes, more)) {
        out.text += character;
        size_t size = 0;
        for (const std::string &stop : stops)
            if (out.text.ends_with(stop)) size = std::max(size, stop.size());
        if (size > 0) {
            out.text.resize(out.text.size() - size);
            out.stopped = true;
            break;
        }
    }
    return out;
}

// What must be held back at the end of a text that goes on.
size_t held(const Strings &stops, const std::string &text) {
    size_t size = 0;
    for (const std::string &stop : stops) {
        for (size_t n = 1; n < stop.size(); ++n)
            if (text.ends_with(stop.substr(0, n))) size = std::max(size, n);
    }
    return size;
}

void compare(const Strings &stops, const std::string &bytes, std::mt19937 &random) {
    Output output(stops);
    std::string text, given;
    bool stopped = false;
    while (given.size() < bytes.size()) {
        const size_t n = std::min<size_t>(random() % 5, bytes.size() - given.size());
        const std::string token = bytes.substr(given.size(), n);
        given += token;
        stopped = output.add(token, text);
        const Expected now = expect(stops, given, true);
        CHECK(stopped == now.stopped);
        const size_t keep = stopped ? 0 : held(stops, now.text);
        CHECK(text == now.text.substr(0, now.text.size() - keep));
    }
    output.finish(text);
    CHECK(text == expect(stops, bytes, false).text);
    output.finish(text);
    CHECK(output.add("x", text) || !stopped);
    CHECK(text == expect(stops, bytes, false).text);
}

// Stops that are complete too early are text, and one that ends later may begin inside them.
void test_early_stops() {
    std::mt19937 random(2);
    const auto letters = [&](size_t n) {
        std::string out;
        while (out.size() < n) out += static_cast<char>('a' + random() % 2);
        return out;
    };
    for (int round = 0; round < 20000 && !failures; ++round) {
        Strings stops(1 + random() % 3);
        for (std::string &stop : stops) stop = letters(1 + random() % 5);
        const std::string bytes = letters(random() % 20);
        const size_t least = random() % 12;
        std::string expected = bytes;
        bool stops_at_all = false;
        for (size_t end = std::max<size_t>(least, 1); end <= bytes.size() && !stops_at_all; ++end) {
            size_t size = 0;
            for (const std::string &stop : stops)
                if (std::string_view(bytes).substr(0, end).ends_with(stop))
                    size = std::max(size, stop.size());
            if (size == 0) continue;
            stops_at_all = true;
            expected = bytes.substr(0, end - size);
        }
        Output output(stops);
        std::string text;
        bool stopped = false;
        for (size_t i = 0; i < bytes.size() && !stopped; ++i) {
            stopped = output.add(bytes.substr(i, 1), text, i + 1 >= least);
            CHECK(stopped || text.size() + output.held() == i + 1);
        }
        if (!stopped) output.finish(text);
        CHECK(stopped == stops_at_all);
        CHECK(text == expected);
    }
}

void test_random() {
    std::mt19937 random(1);
    const Strings alphabets[] = {
        {"a", "b"},
        {"\n", "A", "s", "User", "\n\n", ":"},
        {"\xc3\xa9", "\xc3\xa8", "e", "\xe4\xb8\xad", "\xe4\xb8\xae", "\xf0\x9f\x99\x82"},
        {"\xc3", "\xa9", "\xe4", "\xb8", "\xf0", "\x9f", "\xed", "\xa0", "\xf4", "\x90", "a",
         "\xff", "\xc0", "\xf5", "\xe0", unknown}};
    for (int round = 0; round < 20000; ++round) {
        const Strings &alphabet = alphabets[random() % 4];
        const Strings &valid = alphabets[random() % 3];
        const auto text = [&](const Strings &letters, size_t n) {
            std::string out;
            for (size_t i = 0; i < n; ++i) out += letters[random() % letters.size()];
            return out;
        };
        Strings stops(random() % 4);
        for (std::string &stop : stops) {
            stop = text(&alphabet == &alphabets[3] ? Strings{unknown, "a", "\xc3\xa9"} : valid,
                        1 + random() % 8);
        }
        compare(stops, text(alphabet, random() % 30), random);
        if (failures) {
            std::printf("in round %d\n", round);
            return;
        }
    }
}

// ---- By hand.
void test_stops() {
    const auto check = [](const Strings &stops, const Strings &tokens, const char *text,
                          bool stopped) {
        const Answer out = answer(stops, tokens);
        CHECK(out.text == text);
        CHECK(out.stopped == stopped);
    };
    // runner-api.md 11.2, except that no beginning of a stop is ever shown
    check({"\n\nUser"}, {" Hello", "! How can I help?", "\n\n", "User", ":", " bye"},
          " Hello! How can I help?", true);
    check({"STOP"}, {" a", " b", " ST", "OP", " d"}, " a b ", true);
    check({"OP", "ST"}, {" a", " b", " ST", "OP", " d"}, " a b ", true);
    check({}, {" a", "\n\n", "User:", " b"}, " a\n\nUser: b", false);
    check({"STOP"}, {" ST"}, " ST", false);
    // the rules in the header
    check({"\n\nAssistant", "\n\nA"}, {"x\n", "\nAbc"}, "x", true);
    check({"abcd", "bc"}, {"abcd"}, "a", true);
    check({"abcd", "bc"}, {"ab", "c", "d"}, "a", true);
    check({"c", "abc"}, {"xab", "c"}, "x", true);
    check({"aab"}, {"a", "a", "a", "b"}, "a", true);
    check({"abab", "abac"}, {"ababx"}, "", true);
    check({"abac"}, {"aba", "bac!"}, "ab", true);
    check({"aabaaac"}, {"aabaaabaaac"}, "aaba", true);
    check({"a"}, {"a"}, "", true);
    // stops are matched on the text after replacement, also at the very end
    check({unknown + "x"}, {"a\xff", "x"}, "a", true);
    check({unknown}, {"a\xe4\xb8"}, "a", false);

    Output output({"STOP"});
    std::string text;
    CHECK(!output.add(" ST", text));
    CHECK(text == " ");
    CHECK(!output.add("E", text));
    CHECK(text == " STE");
    CHECK(output.add("STOP!", text));
    CHECK(text == " STE");
    CHECK(output.add("more", text));
    output.finish(text);
    CHECK(text == " STE");
}

// Every split of every kind of character gives the character, and nothing before it is complete.
void test_splits() {
    const std::string bytes = "a\xc3\xa9\xe4\xb8\xad\xf0\x9f\x99\x82\xed\x9f\xbf"
                              "\xf4\x8f\xbf\xbf"
                              "z";
    for (size_t mask = 0; mask < size_t{1} << (bytes.size() - 1); ++mask) {
        Output output({});
        std::string text, token;
        for (size_t i = 0; i < bytes.size(); ++i) {
            token += bytes[i];
            if (i + 1 == bytes.size() || mask >> i & 1) {
                output.add(token, text);
                token.clear();
                if (!bytes.starts_with(text)) CHECK(bytes.starts_with(text));
                if (i + 1 < bytes.size() && text.size() + 3 < i + 1)
                    CHECK(text.size() + 3 >= i + 1);
            }
        }
        output.finish(text);
        if (text != bytes) CHECK(text == bytes);
    }
}

// Python: bytes(...).decode("utf-8", "replace")
void test_replacement() {
    const auto check = [](const std::string &bytes, const std::string &text) {
        CHECK(answer({}, {bytes}).text == text);
    };
    check("\xff", unknown);
    check("\xc0\x80", unknown + unknown);
    check("\xe4\xb8", unknown);
    check("\xe4\xb8"
          "a",
          unknown + "a");
    check("\xe4\xb8\xe4\xb8\xad", unknown + "\xe4\xb8\xad");
    check("\xed\xa0\x80", unknown + unknown + unknown);
    check("\xf0\x9f\x99", unknown);
    check("\xf0\x80\x80\x80", unknown + unknown + unknown + unknown);
    check("\xf4\x90\x80\x80", unknown + unknown + unknown + unknown);
    check("\xf1\x80\x80\xc3\xa9", unknown + "\xc3\xa9");
    check(std::string("a\0b", 3), std::string("a\0b", 3));
    CHECK_THROWS(Output({"a", ""}), "stop[1] is empty");
    CHECK_THROWS(Output({"\xff"}), "stop[0] is not UTF-8");
    CHECK_THROWS(Output({"a", "b", "\xe4\xb8"}), "stop[2] is not UTF-8");
}

}  // namespace

int main() {
    test_stops();
    test_splits();
    test_replacement();
    test_early_stops();
    test_random();
    return report();
}
