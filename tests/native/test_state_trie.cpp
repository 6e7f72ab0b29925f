// The cache of states alone: random operations against a list that counts everything anew, start
// states that never meet, logits, texts cut in other tokens, and chains of any length; and the
// memory for snapshots.
#include "check.h"
#include "engine/state_trie.h"
#include "memory/prefault.h"
#include "memory/slab.h"
#include "tiny_model.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>

namespace {

using rwkv::Snapshot;
using rwkv::StateTrie;
using Ids = std::vector<int32_t>;
using Start = StateTrie::Start;

constexpr size_t state_floats = 50;
constexpr size_t state_bytes = 4 * state_floats, logit_bytes = 80;

// What somebody has saved, told from others by its mark.
Snapshot marked(float mark) { return {std::make_shared<float>(mark), sizeof(float)}; }
float mark_of(const Snapshot &snapshot) {
    return *static_cast<const float *>(snapshot.owner.get());
}

// Keeps every text whole, in a list by use, and works out what a trie of them must weigh.
class Oracle {
public:
    struct Text {
        Start start;
        Ids tokens;
        float mark = 0;
        std::optional<float> logits{};
    };
    size_t limit = 0;
    std::list<Text> texts;  // the most recently used first
    int64_t evicted = 0;

    Text *find(const Start &start, const Ids &tokens) {
        auto best = texts.end();
        for (auto text = texts.begin(); text != texts.end(); ++text) {
            const bool whole = text->tokens.size() == tokens.size();
            if (text->start != start || text->tokens.size() > tokens.size()) continue;
            if (!std::equal(text->tokens.begin(), text->tokens.end(), tokens.begin())) continue;
            if (whole && !text->logits) continue;
            if (best == texts.end() || text->tokens.size() > best->tokens.size()) best = text;
        }
        if (best == texts.end()) return nullptr;
        texts.splice(texts.begin(), texts, best);
        return &texts.front();
    }
    // The text, first in use, with what is new about it; nullptr: too large.
    Text *insert(const Start &start, const Ids &tokens, bool logits, bool &is_new, bool &adds) {
        const size_t least = state_bytes + (logits ? logit_bytes : 0) + 4 * tokens.size() +
                             (start ? 4 * start->size() : 0) + StateTrie::node_bytes();
        if (tokens.empty() || least > limit) return nullptr;
        const auto known = std::find_if(texts.begin(), texts.end(), [&](const Text &text) {
            return text.start == start && text.tokens == tokens;
        });
        is_new = known == texts.end();
        if (is_new)
            texts.push_front({start, tokens});
        else
            texts.splice(texts.begin(), texts, known);
        adds = logits && !texts.front().logits;
        if (adds) texts.front().logits = 0;
        shrink();
        return &texts.front();
    }
    void shrink() {
        for (; bytes() > limit; ++evicted) texts.pop_back();
    }
    size_t bytes() const {
        size_t total = 0;
        std::map<Start, std::set<Ids>> beginnings;  // all but the empty one
        std::map<Start, std::map<Ids, std::set<int32_t>>> followers;
        for (const Text &text : texts) {
            total += state_bytes + (text.logits ? logit_bytes : 0);
            for (size_t n = 0; n < text.tokens.size(); ++n) {
                const Ids before(text.tokens.begin(), text.tokens.begin() + static_cast<long>(n));
                followers[text.start][before].insert(text.tokens[n]);
                if (n) beginnings[text.start].insert(before);
            }
            beginnings[text.start].insert(text.tokens);
        }
        for (const auto &texts_of : beginnings) {
            const Start &start = texts_of.first;
            const std::set<Ids> &all = texts_of.second;
            total += 4 * all.size() + (start ? 4 * start->size() : 0);
            for (const Ids &one : all) {
                const bool ends = std::any_of(texts.begin(), texts.end(), [&](const Text &text) {
                    return text.start == start && text.tokens == one;
                });
                if (ends || followers[start][one].size() > 1) total += StateTrie::node_bytes();
            }
        }
        return total;
    }
};

// Few different tokens, so that texts share beginnings.
Ids random_text(Random &random) {
    Ids tokens;
    for (int64_t n = random.below(4) ? random.below(8) : random.below(30); n > 0; --n)
        tokens.push_back(static_cast<int32_t>(random.below(2)));
    return tokens;
}

void test_against_an_oracle() {
    Random random{3};
    const std::array<Start, 3> starts{nullptr, std::make_shared<std::vector<float>>(state_floats),
                                      std::make_shared<std::vector<float>>(state_floats)};
    for (int round = 0; round < 8; ++round) {
        StateTrie cache(state_bytes, logit_bytes);
        Oracle oracle;
        oracle.limit = static_cast<size_t>(random.below(round % 4 ? 8000 : 100000));
        cache.set_limit(oracle.limit);
        int64_t saved = 0, found = 0;
        for (int step = 0; step < 400; ++step) {
            const Start &start = starts[static_cast<size_t>(random.below(3))];
            const Ids tokens = random_text(random);
            if (random.below(2)) {
                const bool logits = random.below(3) == 0;
                bool is_new = false, adds = false;
                Oracle::Text *text = oracle.insert(start, tokens, logits, is_new, adds);
                const auto room = cache.insert(start, tokens, logits);
                CHECK((room.state != nullptr) == (text && is_new));
                CHECK((room.logits != nullptr) == (text && adds));
                const auto mark = static_cast<float>(step);
                if (room.state) *room.state = marked(text->mark = mark);
                if (room.logits) *room.logits = marked(*(text->logits = mark));
                saved += room.state != nullptr;
            } else {
                const Oracle::Text *text = oracle.find(start, tokens);
                const auto seen = cache.find(start, tokens);
                CHECK(static_cast<bool>(seen.state) == (text != nullptr));
                CHECK(seen.tokens == (text ? text->tokens.size() : 0));
                if (!text || !seen.state) continue;
                ++found;
                CHECK(mark_of(seen.state) == text->mark);
                CHECK(static_cast<bool>(seen.logits) == (seen.tokens == tokens.size()));
                if (seen.logits) CHECK(mark_of(seen.logits) == *text->logits);
            }
            if (random.below(100) == 0) {
                oracle.limit = static_cast<size_t>(random.below(10000));
                oracle.shrink();
                cache.set_limit(oracle.limit);
            }
            if (random.below(200) == 0) {
                oracle.texts.clear();
                cache.clear();
            }
            CHECK(cache.bytes() == oracle.bytes() && cache.bytes() <= cache.limit());
            CHECK(cache.entries() == oracle.texts.size());
            CHECK(cache.evicted() == oracle.evicted && cache.saved() == saved);
        }
        if (round == 4) CHECK(found > 20);
    }
}

// An address that is used again does not bring another start's texts back.
void test_a_start_state_lives_as_long_as_its_texts() {
    StateTrie cache(state_bytes, logit_bytes);
    cache.set_limit(100000);
    auto start = std::make_shared<const std::vector<float>>(state_floats);
    const std::weak_ptr<const std::vector<float>> watched = start;
    CHECK(cache.insert(start, Ids{1, 2}, false).state);
    CHECK(cache.find(start, Ids{1, 2, 3}).tokens == 2);
    CHECK(cache.find(nullptr, Ids{1, 2, 3}).tokens == 0);
    start.reset();
    CHECK(!watched.expired());
    cache.set_limit(0);
    CHECK(watched.expired() && cache.bytes() == 0 && cache.evicted() == 1);
    CHECK(!cache.insert(nullptr, Ids{1}, false).state);
}

void test_other_tokens() {
    // 1 "a", 2 "b", 3 "ab", 4 "abc", 5 "c", 6 no text
    const rwkv::Vocab vocab({"", "a", "b", "ab", "abc", "c", ""});
    StateTrie cache(state_bytes, logit_bytes);
    cache.set_limit(100000);
    const auto rewords = [&](const Ids &tokens) { return cache.rewords(nullptr, tokens, vocab); };
    CHECK(!rewords({1}));
    cache.insert(nullptr, Ids{5, 5, 1, 2, 1}, false);
    CHECK(!rewords({5, 5, 1, 2, 1}));  // known as it is
    CHECK(!rewords({5, 5, 1, 2, 1, 4}));
    CHECK(rewords({5, 5, 3, 1, 5}));  // the same text, in the middle of an edge
    CHECK(rewords({5, 5, 3, 1}));
    CHECK(rewords({5, 6, 5, 1, 2, 1}));  // a token without text
    CHECK(!rewords({5, 5, 3}));          // shorter
    CHECK(!rewords({5, 5, 3, 2}));       // another text
    CHECK(!rewords({5, 5, 4, 1}));
    cache.insert(nullptr, Ids{5, 5, 1, 5}, false);
    CHECK(rewords({5, 5, 3, 1}));  // behind a branch
    CHECK(!rewords({5, 5, 4}));
    cache.insert(nullptr, Ids{5, 5, 1, 2}, false);
    CHECK(rewords({5, 5, 4}));  // which ends inside a token
    CHECK(!cache.rewords(std::make_shared<std::vector<float>>(1), Ids{5, 5, 4}, vocab));
}

// For one statistic, at every miss: it looks up what may come next, however many texts have begun
// here.
void test_other_tokens_of_many() {
    std::vector<std::string> tokens(20000);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = "<" + std::to_string(i) + ">";
    tokens[1] = "<", tokens[2] = "77", tokens[3] = "77>";
    const rwkv::Vocab vocab(tokens);
    StateTrie wide(4, 4), narrow(4, 4);
    for (StateTrie *cache : {&wide, &narrow}) cache->set_limit(size_t{1} << 30);
    for (int32_t id = 10; id < 20000; ++id) wide.insert(nullptr, Ids{id}, false);
    for (int32_t id = 70; id < 80; ++id) narrow.insert(nullptr, Ids{id}, false);
    const auto seconds = [&](const StateTrie &cache, int times) {
        const auto start = std::chrono::steady_clock::now();
        for (int i = 0; i < times; ++i) {
            CHECK(cache.rewords(nullptr, Ids{1, 3}, vocab));
            CHECK(!cache.rewords(nullptr, Ids{1, 2, 2}, vocab));
        }
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    seconds(wide, 10);
    double in_wide = 1e9, in_narrow = 1e9;
    for (int turn = 0; turn < 5; ++turn) {
        in_wide = std::min(in_wide, seconds(wide, 100));
        in_narrow = std::min(in_narrow, seconds(narrow, 100));
    }
    CHECK(in_wide < 30 * in_narrow);  // 2000 times as many children
}

// Pages of a mapping that somebody has written to.
size_t touched(void *memory, size_t bytes) {
    std::vector<unsigned char> pages((bytes + 4095) / 4096);
    CHECK(mincore(memory, bytes, pages.data()) == 0);
    return static_cast<size_t>(
        std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; }));
}

// Whoever wants the memory back does not wait until a thread of low priority has been all through
// it.
void test_prefaulting_is_called_back() {
    constexpr size_t bytes = size_t{512} << 20;
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED);
    {
        rwkv::Prefault prefault(bytes);
        prefault.send(memory);
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        while (touched(memory, 1 << 20) == 0 && std::chrono::steady_clock::now() < end)
            std::this_thread::yield();
        prefault.recall();
        CHECK(touched(memory, bytes) < bytes / 4096);
        CHECK(prefault.take() == nullptr && prefault.out() == 0);
        prefault.send(memory);  // and it can be sent again
    }
    munmap(memory, bytes);
}

// Blocks are whole and apart, memory is used again, and what is not needed goes.
void test_a_slab() {
    rwkv::Slab slab(1000);
    std::vector<char *> blocks;
    const size_t per_mapping = (size_t{64} << 20) / 1024;
    for (size_t i = 0; i < 2 * per_mapping + 1; ++i)
        blocks.push_back(static_cast<char *>(slab.take()));
    CHECK(slab.mapped() == 3);
    for (size_t i = 0; i < blocks.size(); i += 1000)
        std::fill_n(blocks[i], 1000, static_cast<char>(i / 1000));
    for (size_t i = 0; i < blocks.size(); i += 1000)
        CHECK(std::count(blocks[i], blocks[i] + 1000, static_cast<char>(i / 1000)) == 1000);
    std::sort(blocks.begin(), blocks.end());
    for (size_t i = 1; i < blocks.size(); ++i) CHECK(blocks[i] - blocks[i - 1] >= 1024);
    slab.give(blocks[5]);
    CHECK(slab.take() == blocks[5]);
    // A mapping without blocks goes if another one has room, and the last one stays.
    for (char *block : blocks) slab.give(block);
    CHECK(slab.mapped() == 1);
    slab.clear();
    CHECK(slab.mapped() == 0);
}

// Where it is known how many are wanted, no more is mapped: 33 MB of logits would take 134 MB of
// what ulimit -v allows.
void test_a_slab_of_one_block() {
    constexpr size_t bytes = size_t{1} << 30;
    const auto pages = [] {
        long count = 0;
        if (std::FILE *file = std::fopen("/proc/self/statm", "r")) {
            if (std::fscanf(file, "%ld", &count) != 1) count = 0;
            std::fclose(file);
        }
        return static_cast<size_t>(count);
    };
    const size_t before = pages();
    rwkv::Slab slab(bytes, 1);
    auto *block = static_cast<char *>(slab.take());
    block[0] = block[bytes - 1] = 1;
    CHECK(slab.mapped() == 1);
    CHECK((pages() - before) * static_cast<size_t>(sysconf(_SC_PAGESIZE)) < 2 * bytes);
}

// Blocks that are written to in the background are as whole and apart as others, whenever they are
// asked for.
void test_a_slab_written_ahead() {
    constexpr size_t size = size_t{1} << 20;
    rwkv::Slab slab(size);
    slab.write_ahead(8 * size);
    for (int round = 0; round < 3; ++round) {
        std::vector<char *> blocks;
        for (int i = 0; i < 20; ++i) {
            blocks.push_back(static_cast<char *>(slab.take()));
            std::fill_n(blocks.back(), size, static_cast<char>(i));
            if (i % 5 == 4)
                slab.give(blocks[static_cast<size_t>(i) - 2]),
                    blocks[static_cast<size_t>(i) - 2] = nullptr;
        }
        std::erase(blocks, nullptr);
        for (char *block : blocks) {
            const char own = *block;
            CHECK(std::count(block, block + size, own) == static_cast<std::ptrdiff_t>(size));
        }
        std::sort(blocks.begin(), blocks.end());
        for (size_t i = 1; i < blocks.size(); ++i)
            CHECK(blocks[i] - blocks[i - 1] >= static_cast<std::ptrdiff_t>(size));
        if (round == 1) slab.clear();
    }
    slab.write_ahead(0);
    CHECK(slab.take() != nullptr);
}

// Every token of a long text: neither lookups nor the end recurse.
void test_a_long_chain() {
    StateTrie cache(4, 4);
    cache.set_limit(size_t{1} << 30);
    constexpr size_t length = 8000;
    const Ids text(length, 7);
    for (size_t n = length; n > 0; --n) cache.insert(nullptr, std::span(text).first(n), false);
    CHECK(cache.entries() == length);
    CHECK(cache.bytes() == length * (StateTrie::node_bytes() + 8));
    CHECK(cache.find(nullptr, text).tokens ==
          length - 1);  // nothing to draw from after the whole ...
    const auto room = cache.insert(nullptr, text, true);
    CHECK(room.logits);
    *room.logits = marked(1);
    CHECK(cache.find(nullptr, text).tokens == length);  // ... until there is
    cache.set_limit(cache.bytes() / 2);
    CHECK(cache.find(nullptr, std::span(text).first(length - 1)).tokens < length / 2);
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_against_an_oracle();
    test_a_start_state_lives_as_long_as_its_texts();
    test_other_tokens();
    test_other_tokens_of_many();
    test_a_slab();
    test_a_slab_of_one_block();
    test_prefaulting_is_called_back();
    test_a_slab_written_ahead();
    test_a_long_chain();
    return report();
}
