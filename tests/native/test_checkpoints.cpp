// Checkpoints that nobody has trained: tensors left out, of another version, turned, cut, of other
// sizes. Each is refused by Model::load or runs; none of them may end the process, or ask for
// memory out of all proportion. Run under AddressSanitizer, too. RWKV_TEST_SCALE multiplies the
// rounds.
#include "check.h"
#include "error.h"
#include "model/load.h"
#include "model/model.h"
#include "tiny_model.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string>
#include <vector>

using namespace rwkv;

namespace {

const char *const kVersions[] = {"4", "5.0", "5.1", "5.2", "6.0", "7", "7a", "7b", "8rc"};

TinyShape shape_of(const std::string &version, uint64_t seed = 1) {
    TinyShape shape;
    shape.version = version;
    shape.seed = seed;
    shape.layers = 2, shape.width = 36, shape.head_size = 12, shape.ffn = 20, shape.vocab = 30,
    shape.rank = 3;
    return shape;
}

std::shared_ptr<Model> load(std::vector<Tensor> tensors) {
    LoadProgress progress;
    return Model::load(std::move(tensors), "cpu fp32", 2, progress);
}

// Three tokens, and one more.
void run(Model &model) {
    const auto vocab = static_cast<size_t>(model.info().vocab);
    const States state = model.new_state();
    TextCache cache;
    std::vector<float> logits(2 * vocab);
    for (const int rows : {3, 1}) {
        std::vector<int32_t> tokens(static_cast<size_t>(rows));
        for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i % vocab);
        const Span span{0, rows, 0, &cache};
        const std::vector<int32_t> wanted{rows - 1};
        model.forward({&state, tokens, {&span, 1}, wanted}, logits.data());
    }
}

std::vector<Tensor> without(const TinyTensors &tiny, const std::vector<std::string> &parts) {
    std::vector<Tensor> left;
    for (const Tensor &tensor : tiny.tensors())
        if (std::ranges::none_of(parts, [&](const auto &part) {
                return tensor.name.find(part) != std::string::npos;
            }))
            left.push_back(tensor);
    return left;
}

// Variants are detected one by one, but not every set of them is a model.
void test_variants() {
    const TinyTensors b(shape_of("7b")), rc(shape_of("8rc"));
    CHECK_THROWS(load(without(b, {".ffn.s"})), "without the blocks.0.ffn.s*");
    std::vector<Tensor> both = b.tensors();
    for (const Tensor &tensor : rc.tensors())
        if (tensor.name.find("enn") != std::string::npos) both.push_back(tensor);
    CHECK_THROWS(load(both), "both blocks.0.ffn.enn");
    std::erase_if(
        both, [](const Tensor &tensor) { return tensor.name.find(".qkv.") != std::string::npos; });
    CHECK_THROWS(load(both), "both blocks.0.ffn.enn");
    std::erase_if(
        both, [](const Tensor &tensor) { return tensor.name.find(".ffn.s") != std::string::npos; });
    const auto found = load(both);
    CHECK(found->info().version == "8rc");
    run(*found);
    // Of one block alone.
    for (const char *block : {"blocks.0.", "blocks.1."})
        for (const char *part : {"ffn.s_emb.", "ffn.s1", "qkv.qq", "qkv.lnv"})
            CHECK_THROWS(load(without(b, {std::string(block) + part})), "");
}

// H is read from shapes in versions 5 and 6: a single head would have a state of A x A numbers.
void test_large_heads() {
    for (const char *version : {"5.0", "5.1", "5.2", "6.0", "7"}) {
        TinyShape shape = shape_of(version);
        shape.layers = 1, shape.width = 1040, shape.head_size = 1040, shape.ffn = 4,
        shape.vocab = 4;
        CHECK_THROWS(load(TinyTensors(shape).tensors()), "heads of 1040 channels");
        shape.head_size = 520;
        run(*load(TinyTensors(shape).tensors()));
    }
}

void test_mixtures() {
    const char *scale = std::getenv("RWKV_TEST_SCALE");
    const int rounds = std::max(40, static_cast<int>(400 * (scale ? std::atof(scale) : 1.0)));
    Random random{7};
    int loaded = 0;
    for (int round = 0; round < rounds; ++round) {
        const auto any = [&] { return kVersions[random.below(std::size(kVersions))]; };
        TinyShape first = shape_of(any(), 1 + random.next() % 5),
                  second = shape_of(any(), 1 + random.next() % 5);
        for (TinyShape *shape : {&first, &second}) {
            if (random.below(3)) continue;
            shape->layers = 1 + random.below(3);
            shape->head_size = 1 + random.below(40);
            shape->width = shape->head_size * (1 + random.below(4));
            shape->ffn = 1 + random.below(40);
            shape->vocab = 1 + random.below(40);
            shape->rank = 1 + random.below(12);
        }
        const TinyTensors a(first), b(second);
        std::vector<Tensor> tensors = a.tensors();
        const auto some = [&] {
            return static_cast<size_t>(random.below(static_cast<int64_t>(tensors.size())));
        };
        if (random.below(2)) {  // tensors of another one, in place of those or beside them
            const char *const parts[] = {".att.",     ".ffn.", ".qkv.", "blocks.0.",
                                         "blocks.1.", "emb",   "ffn.s", "enn"};
            const std::string part = parts[random.below(std::size(parts))];
            for (const Tensor &other : b.tensors()) {
                if (other.name.find(part) == std::string::npos || random.below(10) == 0) continue;
                const auto same = std::ranges::find(tensors, other.name, &Tensor::name);
                if (same == tensors.end())
                    tensors.push_back(other);
                else if (random.below(2))
                    *same = other;
            }
        }
        if (random.below(2)) {  // whole families gone
            const char *const parts[] = {".ffn.s", ".qkv.",      "enn",   "gate",
                                         "ln_x",   "time_faaaa", "att.v", "blocks.1."};
            const std::string part = parts[random.below(std::size(parts))];
            std::erase_if(tensors,
                          [&](const Tensor &t) { return t.name.find(part) != std::string::npos; });
        }
        for (int64_t n = random.below(3); n > 0; --n) {
            Tensor &tensor = tensors[some()];
            switch (random.below(5)) {
            case 0:  // gone
                tensor = tensors.back();
                tensors.pop_back();
                break;
            case 1:  // turned
                std::reverse(tensor.shape.begin(), tensor.shape.end());
                std::reverse(tensor.stride.begin(), tensor.stride.end());
                break;
            case 2:  // cut
                if (!tensor.shape.empty()) {
                    int64_t &size = tensor.shape[static_cast<size_t>(
                        random.below(static_cast<int64_t>(tensor.shape.size())))];
                    size = 1 + random.below(size);
                }
                break;
            case 3:  // under another's name
                tensor.name = tensors[some()].name;
                break;
            default:  // one dimension more
                tensor.shape.insert(tensor.shape.begin(), 1);
                tensor.stride.insert(tensor.stride.begin(), tensor.count());
            }
        }
        try {
            const auto model = load(tensors);
            ++loaded;
            run(*model);
        } catch (const Error &error) {
            CHECK(error.status == RWKV_INVALID || error.status == RWKV_UNSUPPORTED);
            CHECK(*error.what());
        }
    }
    CHECK(loaded >= rounds / 20);  // otherwise the mutations show nothing
    std::printf("%d of %d mixtures ran\n", loaded, rounds);
}

// A FIFO that took a file's place after it had been looked at: nobody ever writes to it.
void test_fifo() {
    char folder[] = "/tmp/rwkv-fifo-XXXXXX";
    CHECK(mkdtemp(folder) != nullptr);
    const std::string path = std::string(folder) + "/model.pth";
    CHECK(mkfifo(path.c_str(), 0600) == 0);
    alarm(60);  // instead of for ever
    CHECK_THROWS(MappedFile{path}, "cannot open " + path);
    alarm(0);
    unlink(path.c_str());
    rmdir(folder);
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_variants();
    test_large_heads();
    test_mixtures();
    test_fifo();
    return report();
}
