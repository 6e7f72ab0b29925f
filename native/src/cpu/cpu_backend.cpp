// See cpu_backend.h.
#include "cpu/cpu_backend.h"

#include "cpu/drawing.h"
#include "cpu/pack.h"
#include "cpu/state_memory.h"
#include "weights/gguf_blocks.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace rwkv::cpu {

namespace {

constexpr std::align_val_t kLine{64};

// Up to here every thread prepares the inputs of a product for itself, when it needs them: for 8
// rows of 768 channels that takes a few microseconds, about what a barrier costs. Beyond, a run of
// its own shares that work out.
constexpr int64_t kFewRows = 8;

}  // namespace

void Scratch::Free::operator()(float *p) const { ::operator delete(p, kLine); }

float *Scratch::reserve(int64_t count) {
    if (count > count_) {
        data_.reset();
        count_ = 0;
        const size_t bytes = static_cast<size_t>(count) * sizeof(float);
        data_.reset(static_cast<float *>(::operator new(bytes, kLine)));
        count_ = count;
    }
    return data_.get();
}

CpuBackend::CpuBackend(const Kernels &kernels, int threads)
    : kernels_(kernels), pool_(threads), workers_(static_cast<size_t>(pool_.threads())) {}

Buffer CpuBackend::floats(size_t count) {
    if (count > SIZE_MAX / 8) throw std::bad_alloc();
    const size_t bytes = (std::max<size_t>(count, 1) * sizeof(float) + 63) / 64 * 64;
    const std::shared_ptr<void> owner{::operator new(bytes, kLine),
                                      [](void *p) { ::operator delete(p, kLine); }};
    std::memset(owner.get(), 0, bytes);
    float *const data = static_cast<float *>(owner.get());
    return {data, count, owner};
}

States CpuBackend::states(size_t floats, int32_t slots) { return reserve_states(floats, slots); }

void CpuBackend::use_slots(const States &states, int32_t slots) { use_states(states, slots); }

void CpuBackend::upload(float *to, std::span<const float> from) {
    copy(to, from.data(), from.size());
}

void CpuBackend::download(std::span<float> to, const float *from) {
    std::copy_n(from, to.size(), to.data());
}

// On all threads, each so many floats at a time.
void CpuBackend::copy(float *to, const float *from, size_t count) {
    constexpr size_t kSlice = size_t{1} << 16;
    if (count <= kSlice) {
        std::copy_n(from, count, to);
        return;
    }
    pool_.run(static_cast<int64_t>((count + kSlice - 1) / kSlice), [=](int64_t i, int) {
        const size_t at = static_cast<size_t>(i) * kSlice;
        std::copy_n(from + at, std::min(kSlice, count - at), to + at);
    });
}

Snapshot CpuBackend::save(const float *from, size_t count) {
    const size_t bytes = count * sizeof(float);
    const std::shared_ptr<void> block = snapshots_.take(bytes);
    copy(static_cast<float *>(block.get()), from, count);
    return {block, bytes};
}

void CpuBackend::restore(float *to, const Snapshot &snapshot) {
    copy(to, static_cast<const float *>(snapshot.owner.get()), snapshot.bytes / sizeof(float));
}

void CpuBackend::expect_snapshots(size_t count, size_t bytes) {
    snapshots_.expect(count * sizeof(float), bytes);
}

void CpuBackend::while_packing(std::function<void()> alive) { alive_ = std::move(alive); }

Matrix CpuBackend::matrix(const Tensor &weights, Precision precision, bool transposed) {
    return pack(weights, precision, transposed, arena_, pool_, alive_);
}

Matrix CpuBackend::table(const Tensor &rows) { return pack_table(rows, arena_, pool_, alive_); }

void CpuBackend::table_row(float *to, const Matrix &table, int32_t token) {
    const int64_t from = token * table.in;
    if (table.stored == DType::f32)
        std::copy_n(static_cast<const float *>(table.data) + from, table.in, to);
    else if (in_blocks(table.stored))
        read_blocks(to, static_cast<const std::byte *>(table.data) + bytes_of(table.stored, from),
                    table.stored, table.in);
    else
        kernels_.widen(to, static_cast<const uint16_t *>(table.data) + from, table.in,
                       static_cast<Type>(table.stored));
}

void CpuBackend::embed(float *x, const Matrix &table, const Norm &ln0, const Batch &batch) {
    const int64_t D = table.in, rows = batch.rows();
    const auto embed_row = [&](int64_t row) {
        float *to = x + row * D;
        table_row(to, table, batch.tokens[static_cast<size_t>(row)]);
        if (ln0.weight) kernels_.layer_norm(to, to, ln0.weight, ln0.bias, D, 1e-5f);
    };
    if (rows <= kFewRows) {  // less work than a barrier
        for (int64_t row = 0; row < rows; ++row) embed_row(row);
        return;
    }
    pool_.run((rows + 7) / 8, [&](int64_t task, int) {
        for (int64_t row = task * 8; row < std::min(rows, task * 8 + 8); ++row) embed_row(row);
    });
}

// Cuts work_ into pieces_, large ones first and small ones last, so that the threads end together.
void CpuBackend::plan(int64_t rows) {
    pieces_.clear();
    const double threads = pool_.threads();
    // Nanoseconds that one panel takes, roughly: 25 GB/s, or as many GFLOP/s per thread.
    const auto cost_of = [&](const Work &work) {
        const double operations = static_cast<double>(2 * work.w.in * kPanel * rows);
        const Input form = form_of(work.w);
        const double rate = form == kFloats ? 110 : form == kPairs ? 200 : 280;
        const auto bytes = static_cast<double>(panel_bytes(work.w.stored, work.w.in));
        return std::max(bytes / 25, operations / rate);
    };
    double left = 0;
    int64_t groups = 0;
    for (const Work &work : work_) {
        const int64_t panels = (work.w.out + kPanel - 1) / kPanel;
        left += cost_of(work) * static_cast<double>(panels);
        groups += (panels + 3) / 4;
    }
    int64_t parts = 1;
    while (static_cast<double>(groups * parts) < 4 * threads && rows / parts > 48) parts *= 2;

    for (const Work &work : work_) {
        const double cost = cost_of(work);
        const int64_t panels = (work.w.out + kPanel - 1) / kPanel;
        for (int64_t panel = 0; panel < panels;) {
            const double share = std::max(left / (4 * threads), 4000.0);
            int64_t count = std::max<int64_t>(1, static_cast<int64_t>(share / cost));
            count = std::min((count + 3) / 4 * 4, panels - panel);
            for (int64_t part = 0; part < parts; ++part) {
                const int64_t row = rows * part / parts, end = rows * (part + 1) / parts;
                pieces_.push_back({&work, panel, count, row, end - row});
            }
            panel += count;
            left -= cost * static_cast<double>(count);
        }
    }
}

Input CpuBackend::form_of(const Panels &w) const { return kernels_.input(w.stored, w.compute); }
Input CpuBackend::form_of(const Matrix &w) const { return form_of(panels_of(w)); }
bool CpuBackend::same_input(const Matrix &a, const Matrix &b) const {
    return a.compute == b.compute && form_of(a) == form_of(b);
}

// `next` is the piece that this thread will probably take then, or null.
void CpuBackend::run_piece(const Piece &piece, const Piece *next, const PreparedInput &input,
                           const char *x) {
    const Work &work = *piece.work;
    LinearTask task;
    task.w = work.w;
    task.panel = piece.panel;
    task.panels = piece.panels;
    task.x = x + piece.row * input.stride;
    task.stride_x = input.stride;
    task.rows = piece.rows;
    task.y = work.y + piece.row * work.stride_y;
    task.stride_y = work.stride_y;
    task.act = work.act;
    task.add = work.add;
    task.bias = work.bias;
    task.gate = work.gate ? work.gate + piece.row * work.stride_y : nullptr;
    task.next_bytes = next ? panel_bytes(next->work->w.stored, next->work->w.in) : 0;
    task.next = next ? next->work->w.data + next->panel * task.next_bytes : nullptr;
    kernels_.linear(&task);
}

void CpuBackend::add_input(Input form, int64_t in, int64_t rows) {
    const int64_t offset = inputs_.empty() ? 0 : inputs_.back().end, stride = row_bytes(form, in);
    inputs_.push_back({offset, stride, offset + rows * stride});
}

// Runs work_ over `rows` rows. fill(area, input, first, last) prepares rows [first, last) of one of
// inputs_; area(input, row) says where. Inputs are filled in order, input 0 always. store(area)
// runs once, when nothing reads the old state any more and all of input 0 is filled.
template <class Fill, class Store>
void CpuBackend::multiply(int64_t rows, Fill fill, Store store) {
    if (rows == 0) return;
    const int inputs = static_cast<int>(inputs_.size());
    const int64_t size = inputs_.back().end / static_cast<int64_t>(sizeof(float));
    const auto area_at = [this](float *base) {
        return [=, this](int input, int64_t row) {
            const PreparedInput &s = inputs_[static_cast<size_t>(input)];
            return reinterpret_cast<char *>(base) + s.offset + row * s.stride;
        };
    };
    plan(rows);
    const int64_t pieces = static_cast<int64_t>(pieces_.size());
    const auto run_in = [&, this](auto area, int64_t i) {
        const Piece &piece = pieces_[static_cast<size_t>(i)];
        const int64_t then = i + pool_.threads();
        const Piece *next = then < pieces ? &pieces_[static_cast<size_t>(then)] : nullptr;
        const int input = piece.work->input;
        run_piece(piece, next, inputs_[static_cast<size_t>(input)], area(input, 0));
    };
    if (rows <= kFewRows) {
        ++serial_;
        for (Worker &worker : workers_) worker.scratch.reserve(size);
        pool_.run(pieces, [&](int64_t i, int thread) {
            Worker &worker = workers_[static_cast<size_t>(thread)];
            const Piece &piece = pieces_[static_cast<size_t>(i)];
            const auto area = area_at(worker.scratch.data());
            if (worker.serial != serial_) {
                fill(area, 0, int64_t{0}, rows);
                worker.serial = serial_;
                worker.ready = 1;
            }
            const int input = piece.work->input;
            if (!(worker.ready >> input & 1)) {
                fill(area, input, int64_t{0}, rows);
                worker.ready |= uint64_t{1} << input;
            }
            run_in(area, i);
        });
        for (Worker &worker : workers_)
            if (worker.serial == serial_) {
                store(area_at(worker.scratch.data()));
                break;
            }
        return;
    }
    const auto area = area_at(shared_.reserve(size));
    pool_.run((rows + kFewRows - 1) / kFewRows, [&](int64_t i, int) {
        const int64_t first = i * kFewRows, last = std::min(rows, first + kFewRows);
        for (int input = 0; input < inputs; ++input) fill(area, input, first, last);
    });
    pool_.run(pieces + 1, [&](int64_t i, int) {
        if (i == 0)
            store(area);
        else
            run_in(area, i - 1);
    });
}

void CpuBackend::shift_linear(const Shift &shift, std::span<const Product> products,
                              const Batch &batch) {
    const int64_t rows = batch.rows();
    if (products.empty() || rows == 0) return;
    const int64_t D = products.front().w->in;
    // Input 0 holds xn, and after that of all rows what precedes each kFewRows of them, which
    // another thread prepares; every distinct (mu, delta, compute, form) gets an input of its own.
    std::vector<const Product *> &mixes = mixes_;
    mixes.assign(1, nullptr);
    work_.clear();
    inputs_.clear();
    add_input(kFloats, D, rows + rows / kFewRows + 1);
    for (const Product &p : products) {
        size_t input = 1;
        while (input < mixes.size() &&
               (mixes[input]->mu != p.mu || mixes[input]->delta != p.delta ||
                !same_input(*mixes[input]->w, *p.w)))
            ++input;
        if (input == mixes.size()) {
            mixes.push_back(&p);
            add_input(form_of(*p.w), D, rows);
        }
        work_.push_back({panels_of(*p.w), static_cast<int>(input), p.y, p.w->out,
                         static_cast<Act>(p.act), false});
    }
    prev_.assign(static_cast<size_t>(rows), nullptr);
    for (const Span &span : batch.spans)
        if (span.rows > 0) prev_[static_cast<size_t>(span.first)] = batch.state(span) + shift.shift;

    const auto xn = [](auto area, int64_t row) { return reinterpret_cast<float *>(area(0, row)); };
    const auto normalise = [&](float *to, int64_t row) {
        kernels_.layer_norm(to, shift.x + row * D, shift.norm.weight, shift.norm.bias, D, 1e-5f);
    };
    const auto before = [&](auto area, int64_t first) { return xn(area, rows + first / kFewRows); };
    const auto fill = [&](auto area, int input, int64_t first, int64_t last) {
        if (input == 0) {
            for (int64_t row = first; row < last; ++row) normalise(xn(area, row), row);
            if (!prev_[static_cast<size_t>(first)]) normalise(before(area, first), first - 1);
            return;
        }
        const Product &p = *mixes[static_cast<size_t>(input)];
        for (int64_t row = first; row < last; ++row) {
            const float *prev = prev_[static_cast<size_t>(row)];
            if (!prev) prev = row == first ? before(area, first) : xn(area, row - 1);
            kernels_.mix(area(input, row), xn(area, row), prev, p.mu,
                         p.delta ? p.delta + row * D : nullptr, D, static_cast<Type>(p.w->compute),
                         form_of(*p.w));
        }
    };
    const auto store = [&](auto area) {
        if (shift.keep) return;
        for (const Span &span : batch.spans)
            if (span.rows > 0)
                std::memcpy(batch.state(span) + shift.shift, xn(area, span.first + span.rows - 1),
                            static_cast<size_t>(D) * sizeof(float));
    };
    multiply(rows, fill, store);
}

void CpuBackend::linear(std::span<const Projection> projections, const Batch &batch) {
    if (projections.empty()) return;
    const int64_t rows = batch.rows();
    projections_.clear();
    work_.clear();
    inputs_.clear();
    for (const Projection &p : projections) {
        size_t input = 0;
        while (input < projections_.size() &&
               (projections_[input]->x != p.x || !same_input(*projections_[input]->w, *p.w)))
            ++input;
        if (input == projections_.size()) {
            projections_.push_back(&p);
            add_input(form_of(*p.w), p.w->in, rows);
        }
        work_.push_back({panels_of(*p.w), static_cast<int>(input), p.y, p.w->out,
                         static_cast<Act>(p.act), false, p.gate, p.bias});
    }
    const auto fill = [&](auto area, int input, int64_t first, int64_t last) {
        const Projection &p = *projections_[static_cast<size_t>(input)];
        for (int64_t row = first; row < last; ++row)
            kernels_.round(area(input, row), p.x + row * p.w->in, p.w->in,
                           static_cast<Type>(p.w->compute), form_of(*p.w));
    };
    multiply(rows, fill, [](auto) {});
}

// Cuts the rows into groups of whole spans, so that `tasks` tasks per group keep all threads busy,
// and no more: a group's rows share one reading of the low-rank weights.
void CpuBackend::group_spans(const Batch &batch, int64_t tasks) {
    const int64_t rows = batch.rows(), spans = static_cast<int64_t>(batch.spans.size());
    const int64_t wanted = std::clamp<int64_t>((4 * threads() + tasks - 1) / tasks, 1, spans);
    const int64_t target = (rows + wanted - 1) / wanted;
    groups_.assign(1, 0);
    for (const Span &span : batch.spans) {
        const int64_t end = span.first + span.rows;
        if (end - groups_.back() >= target && end < rows) groups_.push_back(end);
    }
    groups_.push_back(rows);
}

void CpuBackend::wkv4(const Wkv4 &op, const Batch &batch) {
    constexpr int64_t kChannels = 256;  // of one task: about 2 us per row
    const int64_t rows = batch.rows(), A = op.width;
    if (rows == 0) return;
    const size_t n = static_cast<size_t>(rows);
    row_states_.assign(3 * n, nullptr);
    for (const Span &span : batch.spans) {
        const auto at = row_states_.begin() + span.first;
        std::fill_n(at, span.rows, batch.state(span) + op.aa);
        std::fill_n(at + rows, span.rows, batch.state(span) + op.bb);
        std::fill_n(at + 2 * rows, span.rows, batch.state(span) + op.pp);
    }
    const int64_t chunks = (A + kChannels - 1) / kChannels;
    group_spans(batch, chunks);
    const int64_t groups = static_cast<int64_t>(groups_.size()) - 1;
    pool_.run(chunks * groups, [&](int64_t i, int) {
        const int64_t channel = i / groups * kChannels;
        const int64_t first = groups_[static_cast<size_t>(i % groups)], at = first * A + channel;
        Wkv4Task task;
        task.channel = channel;
        task.channels = std::min(kChannels, A - channel);
        task.width = A;
        task.rows = groups_[static_cast<size_t>(i % groups + 1)] - first;
        task.r = op.r + at, task.k = op.k + at, task.v = op.v + at, task.y = op.y + at;
        task.decay = op.decay + channel, task.first = op.first + channel;
        task.aa = row_states_.data() + first;
        task.bb = task.aa + rows, task.pp = task.bb + rows;
        kernels_.wkv4(&task);
    });
}

void CpuBackend::wkv6(const Wkv6 &op, const Batch &batch) {
    const int64_t rows = batch.rows(), H = op.heads, N = op.head_size, A = H * N;
    if (rows == 0) return;
    row_states_.assign(static_cast<size_t>(rows), nullptr);
    for (const Span &span : batch.spans)
        std::fill_n(row_states_.begin() + span.first, span.rows, batch.state(span) + op.wkv);
    group_spans(batch, H);
    const int64_t groups = static_cast<int64_t>(groups_.size()) - 1;
    for (Worker &worker : workers_) worker.scratch.reserve(wkv6_scratch(N, op.w2 ? op.w2->in : 0));
    pool_.run(H * groups, [&](int64_t i, int thread) {
        const int64_t h = i / groups, channel = h * N;
        const int64_t first = groups_[static_cast<size_t>(i % groups)], at = first * A + channel;
        Wkv6Task task;
        task.head = h;
        task.head_size = N;
        task.width = A;
        task.rows = groups_[static_cast<size_t>(i % groups + 1)] - first;
        task.r = op.r + at, task.k = op.k + at, task.v = op.v + at, task.y = op.y + at;
        task.g = op.g ? op.g + at : nullptr;
        task.w2 = op.w2 ? panels_of(*op.w2) : Panels{};
        task.zw = op.w2 ? op.zw + first * op.w2->in : nullptr;
        task.decay = op.decay + channel, task.bonus = op.bonus + channel;
        task.ln_weight = op.ln_x.weight + channel, task.ln_bias = op.ln_x.bias + channel;
        task.state = row_states_.data() + first;
        task.kept = static_cast<Type>(op.kept);
        task.scratch = workers_[static_cast<size_t>(thread)].scratch.data();
        kernels_.wkv6(&task);
    });
}

void CpuBackend::wkv7(const Wkv7 &op, const Batch &batch) {
    const int64_t rows = batch.rows(), H = op.heads, N = op.head_size, D = H * N;
    if (rows == 0) return;
    row_states_.assign(static_cast<size_t>(rows), nullptr);
    for (const Span &span : batch.spans)
        std::fill_n(row_states_.begin() + span.first, span.rows, batch.state(span) + op.wkv);
    group_spans(batch, H);
    const int64_t groups = static_cast<int64_t>(groups_.size()) - 1;

    int64_t rank = 0;
    for (const Matrix *w : {op.w2, op.a2, op.v2, op.g2})
        if (w) rank = std::max(rank, w->in);
    for (Worker &worker : workers_) worker.scratch.reserve(wkv7_scratch(N, rank));

    pool_.run(H * groups, [&](int64_t i, int thread) {
        const int64_t h = i / groups, channel = h * N;
        const int64_t first = groups_[static_cast<size_t>(i % groups)];
        const int64_t at = first * D + channel;
        Wkv7Task task;
        task.head = h;
        task.head_size = N;
        task.width = D;
        task.rows = groups_[static_cast<size_t>(i % groups + 1)] - first;
        task.r = op.r + at, task.k = op.k + at, task.v = op.v + at;
        const auto low_rank = [&](const Matrix *w, const float *z, Panels &panels,
                                  const float *&rows_of_z) {
            panels = w ? panels_of(*w) : Panels{};
            rows_of_z = w ? z + first * w->in : nullptr;
        };
        low_rank(op.w2, op.zw, task.w2, task.zw);
        low_rank(op.a2, op.za, task.a2, task.za);
        low_rank(op.v2, op.zv, task.v2, task.zv);
        low_rank(op.g2, op.zg, task.g2, task.zg);
        task.w0 = op.w0 + channel, task.a0 = op.a0 + channel;
        task.v0 = op.v2 ? op.v0 + channel : nullptr;
        task.k_k = op.k_k + channel, task.k_a = op.k_a + channel, task.r_k = op.r_k + channel;
        task.ln_weight = op.ln_x.weight + channel, task.ln_bias = op.ln_x.bias + channel;
        task.v_first = op.v_first + at, task.y = op.y + at;
        task.state = row_states_.data() + first;
        task.kept = static_cast<Type>(op.kept);
        task.scratch = workers_[static_cast<size_t>(thread)].scratch.data();
        kernels_.wkv7(&task);
    });
}

void CpuBackend::linear_add(float *x, const Matrix &w, const float *y, const Batch &batch,
                            const float *gate) {
    const Input form = form_of(w);
    work_.assign(1, {panels_of(w), 0, x, w.out, kNone, true, gate});
    inputs_.clear();
    add_input(form, w.in, batch.rows());
    const auto fill = [&](auto area, int input, int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row)
            kernels_.round(area(input, row), y + row * w.in, w.in, static_cast<Type>(w.compute),
                           form);
    };
    multiply(batch.rows(), fill, [](auto) {});
}

void CpuBackend::head(float *logits, const Matrix &w, const Norm &ln_out, const float *x,
                      const Batch &batch) {
    const Input form = form_of(w);
    const auto rows = static_cast<int64_t>(batch.logit_rows.size());
    work_.assign(1, {panels_of(w), 1, logits, w.out, kNone, false});
    inputs_.clear();
    add_input(kFloats, w.in, rows);
    add_input(form, w.in, rows);
    const auto fill = [&](auto area, int input, int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            float *xn = reinterpret_cast<float *>(area(0, i));
            const int64_t row = batch.logit_rows[static_cast<size_t>(i)];
            if (input == 0)
                kernels_.layer_norm(xn, x + row * w.in, ln_out.weight, ln_out.bias, w.in, 1e-5f);
            else
                kernels_.round(area(input, i), xn, w.in, static_cast<Type>(w.compute), form);
        }
    };
    multiply(rows, fill, [](auto) {});
}

std::unique_ptr<Drawing> CpuBackend::drawing(int32_t seats, size_t vocab) {
    return std::make_unique<CpuDrawing>(pool_, seats, vocab);
}

}  // namespace rwkv::cpu
