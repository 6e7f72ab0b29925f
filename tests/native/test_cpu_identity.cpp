// The promise of the CPU backend that results depend on neither batch, neighbours, path nor
// threads: whole layers compared bit by bit.
#include "oracle.h"

using namespace rwkv;
using namespace oracle;

namespace {

// A layer of version 7 as arch/v7.cpp calls it.
struct Layer {
    std::shared_ptr<Backend> backend;
    Random random{5};
    int64_t H, N, D = H * N, F = 4 * D;
    Wkv7Case c;
    Weights r, k, v, w1, a1, v1, g1, o, fk, fv, head;
    Floats mu[7], weight, bias;
    int64_t state_floats = 2 * D + D * N;

    Layer(int threads, int64_t heads, int64_t head_size, DType stored, DType compute)
        : backend(open_backend("cpu", threads)),
          H(heads),
          N(head_size),
          c(*backend, random, H, N, stored, compute),
          r(*backend, random, D, D, stored, compute),
          k(*backend, random, D, D, stored, compute),
          v(*backend, random, D, D, stored, compute),
          w1(*backend, random, D, 12, stored, compute, true),
          a1(*backend, random, D, 7, stored, compute, true),
          v1(*backend, random, D, 16, stored, compute, true),
          g1(*backend, random, D, 33, stored, compute, true),
          o(*backend, random, D, D, stored, compute),
          fk(*backend, random, F, D, stored, compute),
          fv(*backend, random, D, F, stored, compute),
          head(*backend, random, 90, D, stored, compute),
          weight(random.floats(D, 0.3, 1)),
          bias(random.floats(D, 0.3)) {
        for (Floats &m : mu) m = random.floats(D, 0.5, 0.5);
    }

    // x [rows, D] in and out; returns the logits of all rows.
    Floats run(float *x, Sequences &s) {
        const int64_t rows = s.rows();
        const auto make = [&](int64_t n) { return Floats(static_cast<size_t>(rows * n)); };
        Floats yr = make(D), yk = make(D), yv = make(D), zw = make(12), za = make(7), zv = make(16),
               zg = make(33), y = make(D), v_first(static_cast<size_t>(rows * D), 0.25f),
               h = make(F);
        const Product products[] = {{&r.matrix, mu[0].data(), yr.data(), Activation::none},
                                    {&k.matrix, mu[1].data(), yk.data(), Activation::none},
                                    {&v.matrix, mu[2].data(), yv.data(), Activation::none},
                                    {&w1.matrix, mu[3].data(), zw.data(), Activation::tanh},
                                    {&a1.matrix, mu[4].data(), za.data(), Activation::none},
                                    {&v1.matrix, mu[2].data(), zv.data(), Activation::none},
                                    {&g1.matrix, mu[5].data(), zg.data(), Activation::sigmoid}};
        const Batch batch = s.batch();
        const Norm norm{weight.data(), bias.data()};
        const uint64_t barriers = backend->barriers();
        backend->shift_linear({x, norm, 0}, products, batch);
        Wkv7 op = c.op(true);
        op.r = yr.data(), op.k = yk.data(), op.v = yv.data();
        op.zw = zw.data(), op.za = za.data(), op.zv = zv.data(), op.zg = zg.data();
        op.v_first = v_first.data(), op.wkv = 2 * D, op.y = y.data();
        backend->wkv7(op, batch);
        backend->linear_add(x, o.matrix, y.data(), batch);
        const Product ffn[] = {{&fk.matrix, mu[6].data(), h.data(), Activation::relu_squared}};
        backend->shift_linear({x, norm, D}, ffn, batch);
        backend->linear_add(x, fv.matrix, h.data(), batch);
        const uint64_t spent = backend->barriers() - barriers;
        CHECK(rows <= 8 ? spent == 5 : spent <= 9);

        s.logit_rows.resize(static_cast<size_t>(rows));
        for (int32_t i = 0; i < rows; ++i) s.logit_rows[static_cast<size_t>(i)] = i;
        Floats logits(static_cast<size_t>(rows * 90));
        backend->head(logits.data(), head.matrix, norm, x, s.batch());
        return logits;
    }
};

struct Result {
    Floats x, logits, states;
    bool operator==(const Result &other) const {
        return x.size() == other.x.size() && states.size() == other.states.size() &&
               same_bits(x.data(), other.x.data(), static_cast<int64_t>(x.size())) &&
               same_bits(logits.data(), other.logits.data(), static_cast<int64_t>(logits.size())) &&
               same_bits(states.data(), other.states.data(), static_cast<int64_t>(states.size()));
    }
};

// Sequence q starts from a state and inputs of its own, whatever the batch around it.
void start_sequence(Layer &layer, int q, int rows, float *x, float *state) {
    Random random{static_cast<uint64_t>(1000 + q)};
    const Floats s = random.floats(layer.state_floats);
    std::copy(s.begin(), s.end(), state);
    const Floats in = random.floats(rows * layer.D, 2, 0.5);
    std::copy(in.begin(), in.end(), x);
}

Result run_together(Layer &layer, const std::vector<int> &lengths) {
    Sequences s(*layer.backend, lengths, layer.state_floats);
    Result result;
    result.x.resize(static_cast<size_t>(s.rows() * layer.D));
    for (size_t q = 0; q < lengths.size(); ++q)
        start_sequence(layer, static_cast<int>(q), lengths[q],
                       result.x.data() + s.spans[q].first * layer.D, s.states[q].data);
    result.logits = layer.run(result.x.data(), s);
    for (const Buffer &state : s.states)
        result.states.insert(result.states.end(), state.data, state.data + layer.state_floats);
    return result;
}

// Each sequence alone, `chunk` rows at a time.
Result run_apart(Layer &layer, const std::vector<int> &lengths, int chunk) {
    Result result;
    for (size_t q = 0; q < lengths.size(); ++q) {
        Floats x(static_cast<size_t>(lengths[q] * layer.D));
        Floats state(static_cast<size_t>(layer.state_floats));
        start_sequence(layer, static_cast<int>(q), lengths[q], x.data(), state.data());
        for (int row = 0; row < lengths[q]; row += chunk) {
            Sequences s(*layer.backend, {std::min(chunk, lengths[q] - row)}, layer.state_floats);
            std::copy(state.begin(), state.end(), s.states[0].data);
            const Floats logits = layer.run(x.data() + row * layer.D, s);
            result.logits.insert(result.logits.end(), logits.begin(), logits.end());
            state = copy_of(s.states[0].data, layer.state_floats);
        }
        result.x.insert(result.x.end(), x.begin(), x.end());
        result.states.insert(result.states.end(), state.begin(), state.end());
    }
    return result;
}

void test_mixed(Layer &layer, DType stored, DType compute) {
    const std::vector<int> mixed = {1, 17, 1, 1, 8, 30, 2};
    const Result expected = run_apart(layer, mixed, 1);
    CHECK(run_together(layer, mixed) == expected);
    CHECK(run_apart(layer, mixed, 5) == expected);
    CHECK(run_apart(layer, mixed, 16) == expected);
    for (const int threads : {1, 3, 4}) {
        Layer other(threads, layer.H, layer.N, stored, compute);
        CHECK(other.backend->threads() == threads);
        CHECK(run_together(other, mixed) == expected);
        CHECK(run_apart(other, mixed, 1) == expected);
    }
}

void test_identity(DType stored, DType compute) {
    Layer layer(2, 3, 24, stored, compute);
    for (int n = 1; n <= 40; ++n) {
        const std::vector<int> decode(static_cast<size_t>(n), 1);
        CHECK(run_together(layer, decode) == run_apart(layer, decode, 1));
        CHECK(run_together(layer, {n}) == run_apart(layer, {n}, 1));
    }
    test_mixed(layer, stored, compute);
    // The head size of the published models, for which the recurrence may take another path over
    // long spans.
    Layer usual(2, 2, 64, stored, compute);
    CHECK(run_together(usual, {100}) == run_apart(usual, {100}, 1));
    test_mixed(usual, stored, compute);
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_identity(DType::f32, DType::f32);
    test_identity(DType::bf16, DType::bf16);
    test_identity(DType::f16, DType::f16);
    return report();
}
