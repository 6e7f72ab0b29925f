// The grammar of strategies, and which layers they give to whom.
#include "check.h"
#include "error.h"
#include "model/strategy.h"
#include "tiny_model.h"

#include <cstring>

using namespace rwkv;

namespace {

std::string placed(const std::string &text, int64_t layers, DType file = DType::bf16) {
    const std::vector<Precision> precisions = parse_strategy(text).place(layers, file);
    CHECK(precisions.size() == static_cast<size_t>(layers + 1));
    return strategy_text(precisions);
}

int code_of(const std::string &text, std::string *message = nullptr) {
    try {
        parse_strategy(text);
        return RWKV_OK;
    } catch (const Error &error) {
        if (message) *message = error.what();
        return error.status;
    }
}

void test_one_stage() {
    CHECK(placed("cpu fp32", 3) == "cpu fp32");
    CHECK(placed("  cpu\tbf16 \n", 3) == "cpu bf16");
    for (const char *text : {"cpu fp32i8", "cpu fp16i8", "cpu bf16i8", "cpu bf16i4"})
        CHECK(placed(text, 3) == text);
    for (const char *automatic : {"", "auto", " auto "}) {
        CHECK(placed(automatic, 2, DType::f16) == "cpu fp16");
        CHECK(placed(automatic, 2, DType::f64) == "cpu fp32");
    }
    CHECK(placed("auto", 2, DType::q4_0) == "cpu bf16i4");
    CHECK(placed("auto", 2, DType::q4_k) == "cpu bf16i8");
    // What a file holds rounded to int8 or int4 is not rounded again.
    CHECK(placed("cpu bf16i4", 3, DType::i8) == "cpu bf16i8");
    CHECK(placed("cpu fp32i8 *1 -> cpu bf16", 3, DType::i4) == "cpu fp32i4 *1 -> cpu bf16 *3");
    // Whatever a single stage asks for, it gets all layers.
    for (const char *text :
         {"cpu fp16 *1", "cpu fp16 *4", "cpu fp16 *99", "cpu fp16 *1+", "cpu fp16 *0"})
        CHECK(placed(text, 3) == "cpu fp16");
}

// Four layers and the head: five to place.
void test_several_stages() {
    CHECK(placed("cpu fp32 *2 -> cpu bf16", 4) == "cpu fp32 *2 -> cpu bf16 *3");
    CHECK(placed("cpu fp32->cpu bf16 *1", 4) == "cpu fp32 *4 -> cpu bf16 *1");
    CHECK(placed("cpu fp32 *2 -> cpu bf16 *3", 4) == "cpu fp32 *2 -> cpu bf16 *3");
    // Equal shares; the later ones take what does not divide.
    CHECK(placed("cpu fp32 -> cpu bf16", 4) == "cpu fp32 *2 -> cpu bf16 *3");
    CHECK(placed("cpu fp32 -> cpu bf16 -> cpu fp16", 4) ==
          "cpu fp32 *1 -> cpu bf16 *2 -> cpu fp16 *2");
    CHECK(placed("cpu fp32 -> cpu bf16 *1 -> cpu fp16", 4) ==
          "cpu fp32 *2 -> cpu bf16 *1 -> cpu fp16 *2");
    CHECK(placed("cpu bf16i8 *2 -> cpu bf16i4", 4) == "cpu bf16i8 *2 -> cpu bf16i4 *3");
    CHECK(placed("cpu bf16i4 *4 -> cpu bf16", 4) == "cpu bf16i4 *4 -> cpu bf16 *1");
    // A shortage falls to the last stage, a surplus is cut off.
    CHECK(placed("cpu fp32 *1 -> cpu bf16 *1", 4) == "cpu fp32 *1 -> cpu bf16 *4");
    CHECK(placed("cpu fp32 *3 -> cpu bf16 *9", 4) == "cpu fp32 *3 -> cpu bf16 *2");
    CHECK(placed("cpu fp32 *9 -> cpu bf16 *9", 4) == "cpu fp32");
    CHECK(placed("cpu fp32 *9 -> cpu bf16", 4) == "cpu fp32");
    // A streamed stage takes everything that the counts leave.
    CHECK(placed("cpu fp32 *1+ -> cpu bf16 *1", 4) == "cpu fp32 *4 -> cpu bf16 *1");
    CHECK(placed("cpu fp32 *1 -> cpu bf16 *1+", 4) == "cpu fp32 *1 -> cpu bf16 *4");
    CHECK(placed("cpu fp32 *1+ -> cpu bf16", 4) == "cpu fp32");
    // Neighbours of one type are told as one, and what is told leads to the same placement.
    CHECK(placed("cpu fp32 -> cpu fp32 *1 -> cpu bf16 *1", 4) == "cpu fp32 *4 -> cpu bf16 *1");
    const std::string told = placed("cpu fp32 *1 -> cpu bf16 *2 -> cpu fp32", 7);
    CHECK(placed(told, 7) == told);
}

void test_refusals() {
    // no strategies
    for (const char *text : {"cpu",
                             "fp32",
                             "gpu fp32",
                             "cpu fp64",
                             "cpu  fp32 fp32",
                             "cpu fp32i5",
                             "cpu fp32i",
                             "cpu fp32i88",
                             "cpu i8",
                             "cpufp32",
                             "cpu fp32fp16",
                             "cuda:x fp16",
                             "cpu fp32 i8",
                             "cpu fp32 *",
                             "cpu fp32 *-1",
                             "cpu fp32 *+",
                             "cpu fp32 *1++",
                             "cpu fp32 * 1",
                             "cpu fp32*1",
                             "cpu fp32 *9999999",
                             "cpu fp32 ->",
                             "-> cpu fp32",
                             "cpu fp32 -> -> cpu fp32",
                             "->",
                             "cpu:0 fp32",
                             "cuda: fp16",
                             "CPU fp32",
                             "auto fp32",
                             "auto -> cpu fp32",
                             "cpu fp32 *1+ -> cpu bf16 *1+",
                             "cpu fp32;",
                             "cpu fp32 > cpu fp16"}) {
        std::string message;
        CHECK(code_of(text, &message) == RWKV_INVALID);
        CHECK(message.find("strategy") != std::string::npos);
    }
    CHECK(code_of(std::string(257, 'x')) == RWKV_INVALID);
    CHECK(code_of("cpu fp32" + std::string(200, ' ')) == RWKV_OK);

    // the words of other programs
    const std::pair<const char *, const char *> meant[] = {
        {"int8", "cpu bf16i8"},
        {"cpu int8", "cpu bf16i8"},
        {"cpu i8", "cpu bf16i8"},
        {"cpu q4_0", "cpu bf16i4"},
        {"i4", "cpu bf16i4"},
        {"float32", "cpu fp32"},
        {"cpu half int8", "cpu fp16i8"},
        {"CPU fp32", "cpu fp32"},
        {"cpu fp32;", "cpu fp32"},
        {"cpu bf16 *2 -> int8", "cpu bf16i8"},
    };
    for (const auto &[text, right] : meant) {
        std::string message;
        CHECK(code_of(text, &message) == RWKV_INVALID);
        CHECK(message.ends_with("did you mean '" + std::string(right) + "'?"));
        CHECK(code_of(right) == RWKV_OK);
    }

    // strategies of another build: the alternative keeps the types and works
    const std::pair<const char *, const char *> wanted[] = {
        {"cuda fp16", "'cpu fp16'"},
        {"cuda:1 bf16", "'cpu bf16'"},
        {"mps fp32", "'cpu fp32'"},
        {"dml fp16", "'cpu fp16'"},
        {"cpu fp16i3", "'cpu fp16i4'"},
        {"cuda fp16i8 *20+", "'cpu fp16i8 *20+'"},
        {"cuda fp16 -> cuda fp16 *1", "'cpu fp16 -> cpu fp16 *1'"},
        {"cuda fp16 *10 -> cpu fp32", "'cpu fp16 *10 -> cpu fp32'"},
        {"cpu fp32 -> cuda:0 fp16i4 *2", "'cpu fp32 -> cpu fp16i4 *2'"},
    };
    for (const auto &[text, alternative] : wanted) {
        std::string message;
        CHECK(code_of(text, &message) == RWKV_UNSUPPORTED);
        CHECK(message.find(std::string("use ") + alternative) != std::string::npos);
        CHECK(code_of(std::string(alternative).substr(1, std::strlen(alternative) - 2)) == RWKV_OK);
    }
}

// A model whose layers differ in type: the same bits as each type alone where all types agree, and
// something in between otherwise.
std::vector<float> logits_of(const std::string &strategy, std::string *told = nullptr) {
    const auto model = tiny_model({}, strategy);
    if (told) *told = model->info().strategy;
    const States state = model->new_state();
    const std::vector<int32_t> tokens = {1, 100, 7}, wanted = {2};
    const Span span{0, 3, 0};
    std::vector<float> logits(static_cast<size_t>(model->info().vocab));
    model->forward({&state, tokens, {&span, 1}, wanted}, logits.data());
    return logits;
}

void test_layers_of_several_types() {
    std::string told;
    const auto exact = logits_of("cpu fp32"), coarse = logits_of("cpu bf16");
    CHECK(logits_of("cpu fp32 *1 -> cpu fp32", &told) == exact && told == "cpu fp32");
    CHECK(logits_of("cpu bf16 *2+", &told) == coarse && told == "cpu bf16");
    const auto error = [&exact](const std::vector<float> &logits) {
        double largest = 0;
        for (size_t i = 0; i < logits.size(); ++i)
            largest = std::max(largest, std::fabs(static_cast<double>(logits[i]) - exact[i]));
        return largest;
    };
    const auto mixed = logits_of("cpu fp32 *2 -> cpu bf16 *1", &told);
    CHECK(told == "cpu fp32 *2 -> cpu bf16 *1");
    CHECK(mixed != exact && mixed != coarse);
    CHECK(error(mixed) < error(coarse));
    CHECK(logits_of("cpu fp16 *1 -> cpu bf16 *1 -> cpu fp32 *1") != coarse);
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_one_stage();
    test_several_stages();
    test_refusals();
    test_layers_of_several_types();
    return report();
}
