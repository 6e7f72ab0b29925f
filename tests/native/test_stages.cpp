// A model in stages, as several machines would run it: each has some layers, activations of its own
// and what the stage before hands to it. Every version gives the logits and states of one stage,
// bit for bit.
#include "arch/v4.h"
#include "arch/v5.h"
#include "arch/v6.h"
#include "arch/v7.h"
#include "check.h"
#include "tiny_model.h"
#include "weights/tensor_table.h"

#include <algorithm>
#include <vector>

using namespace rwkv;

namespace {

// A step with a sequence of three rows and one of a single row, then one with a row of each.
template <class Weights>
void test_stages(const std::string &version, Backend &backend, const TinyShape &shape,
                 Weights (*load)(WeightReader &, StateLayout &)) {
    const TinyTensors tiny(shape);
    TensorTable table(tiny.tensors());
    WeightReader reader(backend, table,
                        std::vector<Precision>(static_cast<size_t>(shape.layers + 1)),
                        [](const Tensor &) {});
    StateLayout state;
    const Weights weights = load(reader, state);
    const int64_t L = shape.layers;

    struct Run {
        States states;
        std::vector<TextCache> caches{2};
        std::vector<float> logits;
    };
    const auto run = [&](std::vector<int64_t> cuts) {
        Run r;
        r.states = backend.states(static_cast<size_t>(state.size), 2);
        backend.use_slots(r.states, 2);
        const std::vector<float> zeros(static_cast<size_t>(state.size));
        for (const int32_t slot : {0, 1}) backend.upload(r.states.at(slot), zeros);
        for (const int rows : {3, 1}) {
            const std::vector<int32_t> tokens{5, 200, 7, 9};
            const std::vector<Span> spans{{0, 1, 0, &r.caches[0]}, {1, rows, 1, &r.caches[1]}};
            const std::vector<int32_t> wanted{0, rows};
            const Batch batch{&r.states, std::span(tokens).first(static_cast<size_t>(rows) + 1),
                              spans, wanted};
            std::vector<float> logits(2 * static_cast<size_t>(shape.vocab), -1);
            const auto carried_floats = static_cast<size_t>(carried(weights, batch.rows()));
            std::vector<float> handed(carried_floats);
            for (size_t stage = 0; stage + 1 < cuts.size(); ++stage) {
                Buffer scratch =
                    backend.floats(static_cast<size_t>(scratch_size(weights, batch.rows())));
                CHECK(carried_floats <= scratch.count);
                std::fill_n(scratch.data, scratch.count, NAN);  // nothing else comes from before
                backend.upload(scratch.data, handed);
                forward(backend, weights, {cuts[stage], cuts[stage + 1]}, batch, scratch.data,
                        logits.data());
                backend.download(handed, scratch.data);
                const bool last = stage + 2 == cuts.size();
                CHECK(std::count(logits.begin(), logits.end(), -1.f) ==
                      (last ? 0 : std::ssize(logits)));
            }
            r.logits.insert(r.logits.end(), logits.begin(), logits.end());
        }
        return r;
    };
    const Run whole = run({0, L});
    for (const float x : whole.logits) CHECK(std::isfinite(x));
    for (const std::vector<int64_t> &cuts :
         {std::vector<int64_t>{0, 1, L}, {0, L - 1, L}, {0, 1, 2, L}}) {
        const Run parts = run(cuts);
        const bool same = parts.logits == whole.logits;
        CHECK(same);
        if (!same) std::printf("version %s\n", version.c_str());
        for (const int32_t slot : {0, 1})
            CHECK(std::equal(parts.states.at(slot), parts.states.at(slot) + state.size,
                             whole.states.at(slot)));
    }
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    const auto backend = open_backend("cpu", 2);
    for (const char *version : {"4", "5.0", "5.1", "5.2", "6.0", "7", "7a", "7b", "8rc"}) {
        TinyShape shape;
        shape.version = version;
        shape.layers = 3;
        switch (version[0]) {
        case '4': test_stages<v4::Weights>(version, *backend, shape, v4::load); break;
        case '5': test_stages<v5::Weights>(version, *backend, shape, v5::load); break;
        case '6': test_stages<v6::Weights>(version, *backend, shape, v6::load); break;
        default: test_stages<v7::Weights>(version, *backend, shape, v7::load);
        }
    }
    return report();
}
