// What a prompt lookup guesses: the longest match, the latest of equals, and less of it after
// failures.
#include "check.h"
#include "engine/prompt_lookup.h"

#include <vector>

namespace {

using rwkv::PromptLookup;
using Ids = std::vector<int32_t>;

Ids guess(const PromptLookup &lookup, int32_t room = 100) { return lookup.guess(room); }

void test_matches() {
    const Ids text{1, 2, 3, 40, 41, 2, 3, 50, 3, 60, 9, 2, 3};
    CHECK(guess(PromptLookup(text, 4)) == (Ids{50, 3, 60, 9}));  // `2 3`, the later of two, not `3`
    CHECK(guess(PromptLookup(text, 2)) == (Ids{50, 3}));
    CHECK(guess(PromptLookup(text, 4), 1) == Ids{50});
    CHECK(guess(PromptLookup(text, 4), 0).empty() && guess(PromptLookup(text, 4), -3).empty());
    CHECK(guess(PromptLookup(text, 0)).empty());
    PromptLookup longer(text, 4);
    for (int32_t id : {7, 1, 2, 3}) longer.add(id);
    CHECK(guess(longer) == (Ids{40, 41, 2, 3}));  // `1 2 3` before the later `2 3`
    CHECK(guess(PromptLookup(Ids{5, 6, 7}, 4)).empty());
    CHECK(guess(PromptLookup(Ids{5}, 4)).empty() && guess(PromptLookup(Ids{}, 4)).empty());
    CHECK(guess(PromptLookup(Ids{5, 5}, 4)) == (Ids{5, 5, 5, 5}));
    CHECK(guess(PromptLookup(Ids{8, 9, 8, 9}, 5)) == (Ids{8, 9, 8, 9, 8}));
}

void test_success_and_failure() {
    const Ids text{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3};
    PromptLookup lookup(text, 6);
    CHECK(guess(lookup) == (Ids{4, 5, 6, 7, 8, 9}));
    lookup.learn(6, 2);
    CHECK(guess(lookup) == (Ids{4, 5}));
    lookup.learn(2, 2);
    CHECK(guess(lookup) == (Ids{4, 5, 6, 7}));
    lookup.learn(4, 0);
    CHECK(guess(lookup) == Ids{4});
    // In vain: then one token that occurred before is not enough, and later two are not.
    PromptLookup one(Ids{1, 2, 3, 1}, 4), two(Ids{1, 2, 3, 1, 2}, 4);
    for (int i = 0; i < 4; ++i) {
        CHECK(!guess(one).empty());
        one.learn(1, 0), two.learn(1, 0);
        one.learn(0, 0);  // nothing was guessed: no failure
    }
    CHECK(guess(one).empty() && !guess(two).empty());
    for (int i = 0; i < 4; ++i) two.learn(1, 0);
    CHECK(guess(two).empty());
    two.add(3);
    CHECK(guess(two) == Ids{1});
    two.learn(1, 1);
    CHECK(guess(two) == (Ids{1, 2}));
}

}  // namespace

int main() {
    test_matches();
    test_success_and_failure();
    return report();
}
