// What a draft guesses: the longest match, the latest of equals, and less of it after failures.
#include "check.h"
#include "engine/prompt_lookup.h"

#include <vector>

namespace {

using rwkv::Draft;
using Ids = std::vector<int32_t>;

Ids guess(const Draft &draft, int32_t room = 100) { return draft.guess(room); }

void test_matches() {
    const Ids text{1, 2, 3, 40, 41, 2, 3, 50, 3, 60, 9, 2, 3};
    CHECK(guess(Draft(text, 4)) == (Ids{50, 3, 60, 9}));  // `2 3`, the later of two, not `3`
    CHECK(guess(Draft(text, 2)) == (Ids{50, 3}));
    CHECK(guess(Draft(text, 4), 1) == Ids{50});
    CHECK(guess(Draft(text, 4), 0).empty() && guess(Draft(text, 4), -3).empty());
    CHECK(guess(Draft(text, 0)).empty());
    Draft longer(text, 4);
    for (int32_t id : {7, 1, 2, 3}) longer.add(id);
    CHECK(guess(longer) == (Ids{40, 41, 2, 3}));  // `1 2 3` before the later `2 3`
    CHECK(guess(Draft(Ids{5, 6, 7}, 4)).empty());
    CHECK(guess(Draft(Ids{5}, 4)).empty() && guess(Draft(Ids{}, 4)).empty());
    CHECK(guess(Draft(Ids{5, 5}, 4)) == (Ids{5, 5, 5, 5}));
    CHECK(guess(Draft(Ids{8, 9, 8, 9}, 5)) == (Ids{8, 9, 8, 9, 8}));
}

void test_success_and_failure() {
    const Ids text{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3};
    Draft draft(text, 6);
    CHECK(guess(draft) == (Ids{4, 5, 6, 7, 8, 9}));
    draft.judge(6, 2);
    CHECK(guess(draft) == (Ids{4, 5}));
    draft.judge(2, 2);
    CHECK(guess(draft) == (Ids{4, 5, 6, 7}));
    draft.judge(4, 0);
    CHECK(guess(draft) == Ids{4});
    // In vain: then one token that occurred before is not enough, and later two are not.
    Draft one(Ids{1, 2, 3, 1}, 4), two(Ids{1, 2, 3, 1, 2}, 4);
    for (int i = 0; i < 4; ++i) {
        CHECK(!guess(one).empty());
        one.judge(1, 0), two.judge(1, 0);
        one.judge(0, 0);  // nothing was guessed: no failure
    }
    CHECK(guess(one).empty() && !guess(two).empty());
    for (int i = 0; i < 4; ++i) two.judge(1, 0);
    CHECK(guess(two).empty());
    two.add(3);
    CHECK(guess(two) == Ids{1});
    two.judge(1, 1);
    CHECK(guess(two) == (Ids{1, 2}));
}

}  // namespace

int main() {
    test_matches();
    test_success_and_failure();
    return report();
}
