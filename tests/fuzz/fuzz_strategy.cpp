// Strategies: a text is refused with a reason, or gives each layer and the head its types; and the
// placement, printed, means itself again.
#include "fuzz.h"

#include "error.h"
#include "model/strategy.h"

using namespace rwkv;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    const int64_t layers = input.byte();
    const DType file = static_cast<DType>(input.byte() % 4);
    const std::string text = input.rest();
    Strategy strategy;
    try {
        strategy = parse_strategy(text);
    } catch (const Error &error) {
        CLAIM(error.status == RWKV_INVALID || error.status == RWKV_UNSUPPORTED);
        CLAIM(std::string(error.what()).size() < 3000);
        return 0;
    }
    const std::vector<Precision> precisions = strategy.place(layers, file);
    CLAIM(precisions.size() == static_cast<size_t>(layers + 1));
    for (const Precision &p : precisions) {
        CLAIM(p.compute == DType::f32 || p.compute == DType::f16 || p.compute == DType::bf16);
        CLAIM(p.stored == p.compute || p.stored == DType::i8 || p.stored == DType::i4);
    }
    const std::string shown = strategy_text(precisions);
    if (shown.size() <= 256) CLAIM(parse_strategy(shown).place(layers, file) == precisions);
    return 0;
}
