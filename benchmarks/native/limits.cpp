// What this machine can do at most, by as many threads as the engine uses: bytes read per second,
// fp32 multiply-adds, and the dot products of bf16 (vdpbf16ps) and int8 (vpdpbusd) where the CPU
// has them. benchmarks/limits.py compiles and runs it right before and after every measurement,
// since a shared machine gives a different answer every minute.
//
//   limits THREADS [MIB]
//     -> {"isa": "avx512", "threads": 2, "read": [GB/s ...], "fma": [GFLOP/s ...],
//         "bf16": [GFLOP/s ...], "int8": [GOP/s ...]}      (empty: the CPU has no such instruction)
#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include <sched.h>
#include <sys/mman.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;

constexpr int rounds = 9;
constexpr size_t huge_page = 2 << 20;
// Independent multiply-adds: at least latency (4) times units (2). Each starts from another value:
// equal ones would be computed once.
constexpr int chains = 12;
constexpr int64_t steps_of_round = 4'000'000;

// A loop of independent multiply-adds; lanes is how many one instruction does.
struct Arithmetic {
    float (*run)(int64_t steps) = nullptr;  // null: the CPU has no such instruction
    int lanes = 0;
};

struct Kernels {
    const char *isa;
    float (*read)(const float *data, size_t count);  // count is a multiple of 128
    Arithmetic fma, bf16, int8;
};

using Vector = float __attribute__((vector_size(16)));

float read_baseline(const float *data, size_t count) {
    Vector sum[4] = {};
    for (size_t i = 0; i < count; i += 16)
        for (size_t j = 0; j < 4; ++j)
            sum[j] += *reinterpret_cast<const Vector *>(data + i + 4 * j);
    const Vector all = sum[0] + sum[1] + sum[2] + sum[3];
    return all[0] + all[1] + all[2] + all[3];
}

float fma_baseline(int64_t steps) {
    Vector sum[chains];
    for (int j = 0; j < chains; ++j) sum[j] = Vector{} + 0.01f * static_cast<float>(j);
    const Vector factor = {0.999f, 0.999f, 0.999f, 0.999f};
    for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
        for (int j = 0; j < chains; ++j) sum[j] = sum[j] * factor + factor;
    float all = 0;
    for (const Vector &v : sum) all += v[0];
    return all;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) float read_avx2(const float *data, size_t count) {
    __m256 sum[4] = {};
    for (size_t i = 0; i < count; i += 32)
        for (size_t j = 0; j < 4; ++j)
            sum[j] = _mm256_add_ps(sum[j], _mm256_load_ps(data + i + 8 * j));
    float lanes[8];
    _mm256_storeu_ps(lanes, _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]),
                                          _mm256_add_ps(sum[2], sum[3])));
    return lanes[0] + lanes[7];
}

__attribute__((target("avx2,fma"))) float fma_avx2(int64_t steps) {
    __m256 sum[chains];
    for (int j = 0; j < chains; ++j) sum[j] = _mm256_set1_ps(0.01f * static_cast<float>(j));
    const __m256 factor = _mm256_set1_ps(0.999f);
    for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
        for (int j = 0; j < chains; ++j) sum[j] = _mm256_fmadd_ps(sum[j], factor, factor);
    for (int j = 1; j < chains; ++j) sum[0] = _mm256_add_ps(sum[0], sum[j]);
    return _mm256_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f"))) float read_avx512(const float *data, size_t count) {
    __m512 sum[4] = {};
    for (size_t i = 0; i < count; i += 64)
        for (size_t j = 0; j < 4; ++j)
            sum[j] = _mm512_add_ps(sum[j], _mm512_load_ps(data + i + 16 * j));
    float lanes[16];
    _mm512_storeu_ps(lanes, _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]),
                                          _mm512_add_ps(sum[2], sum[3])));
    return lanes[0] + lanes[15];
}

__attribute__((target("avx512f"))) float fma_avx512(int64_t steps) {
    __m512 sum[chains];
    for (int j = 0; j < chains; ++j) sum[j] = _mm512_set1_ps(0.01f * static_cast<float>(j));
    const __m512 factor = _mm512_set1_ps(0.999f);
    for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
        for (int j = 0; j < chains; ++j) sum[j] = _mm512_fmadd_ps(sum[j], factor, factor);
    for (int j = 1; j < chains; ++j) sum[0] = _mm512_add_ps(sum[0], sum[j]);
    return _mm512_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f,avx512bf16"))) float bf16_avx512(int64_t steps) {
    __m512 sum[chains];
    for (int j = 0; j < chains; ++j) sum[j] = _mm512_set1_ps(0.01f * static_cast<float>(j));
    // Not zero: some cores are quicker then. 0x3c80 is 1/64 in bf16.
    const __m512bh factor = (__m512bh)_mm512_set1_epi16(0x3c80);
    for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
        for (int j = 0; j < chains; ++j) sum[j] = _mm512_dpbf16_ps(sum[j], factor, factor);
    for (int j = 1; j < chains; ++j) sum[0] = _mm512_add_ps(sum[0], sum[j]);
    return _mm512_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f,avx512vnni"))) float int8_avx512(int64_t steps) {
    __m512i sum[chains];
    for (int j = 0; j < chains; ++j) sum[j] = _mm512_set1_epi32(j);
    const __m512i factor = _mm512_set1_epi8(3);
    for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
        for (int j = 0; j < chains; ++j) sum[j] = _mm512_dpbusd_epi32(sum[j], factor, factor);
    for (int j = 1; j < chains; ++j) sum[0] = _mm512_xor_si512(sum[0], sum[j]);
    return static_cast<float>(_mm512_cvtsi512_si32(sum[0]));
}
#endif

Kernels widest() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        Kernels found = {"avx512", read_avx512, {fma_avx512, 16}, {}, {}};
        if (__builtin_cpu_supports("avx512bf16")) found.bf16 = {bf16_avx512, 32};
        if (__builtin_cpu_supports("avx512vnni")) found.int8 = {int8_avx512, 64};
        return found;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return {"avx2", read_avx2, {fma_avx2, 8}, {}, {}};
#endif
    return {"baseline", read_baseline, {fma_baseline, 4}, {}, {}};
}

// Puts the calling thread on a core of its own. On a busy machine the scheduler may leave all threads
// on the core of the one that started them until a round is over, and half of the machine would be
// measured.
void take_core(int index) {
    cpu_set_t allowed, mine;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    const int cores = CPU_COUNT(&allowed);
    int left = index % cores;
    for (int core = 0; core < CPU_SETSIZE; ++core) {
        if (!CPU_ISSET(core, &allowed) || left-- > 0) continue;
        CPU_ZERO(&mine);
        CPU_SET(core, &mine);
        sched_setaffinity(0, sizeof mine, &mine);
        return;
    }
}

// Seconds from the first thread's start to the last one's end. The threads look at the clock
// themselves: the one that started them may be woken much later.
double timed(int threads, const std::function<void(int)> &work) {
    std::barrier<> ready(threads);
    std::vector<Clock::time_point> starts(static_cast<size_t>(threads)), ends(starts);
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; ++t)
        pool.emplace_back([&, t] {
            take_core(t);
            ready.arrive_and_wait();
            starts[static_cast<size_t>(t)] = Clock::now();
            work(t);
            ends[static_cast<size_t>(t)] = Clock::now();
        });
    for (std::thread &thread : pool) thread.join();
    const auto start = *std::min_element(starts.begin(), starts.end());
    const auto end = *std::max_element(ends.begin(), ends.end());
    return std::chrono::duration<double>(end - start).count();
}

void print(const char *name, const std::vector<double> &values) {
    std::printf("\"%s\": [", name);
    for (size_t i = 0; i < values.size(); ++i) std::printf("%s%.3f", i ? ", " : "", values[i]);
    std::printf("]");
}

}  // namespace

int main(int argc, char **argv) {
    const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
    const size_t mib = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 512;
    if (threads < 1 || mib < 1) {
        std::fprintf(stderr, "usage: limits THREADS [MIB]\n");
        return 2;
    }
    const Kernels kernels = widest();
    // Whole huge pages: with small ones the address translation would be measured, too.
    const size_t pages = mib * 1024 * 1024 / huge_page / static_cast<size_t>(threads);
    const size_t each = std::max<size_t>(1, pages) * huge_page / sizeof(float);
    std::vector<float *> slices(static_cast<size_t>(threads));
    std::vector<float> sinks(static_cast<size_t>(threads));
    // Every thread touches its own slice first, so that its pages lie near it.
    timed(threads, [&](int t) {
        float *slice = static_cast<float *>(std::aligned_alloc(huge_page, each * sizeof(float)));
        madvise(slice, each * sizeof(float), MADV_HUGEPAGE);
        for (size_t i = 0; i < each; ++i) slice[i] = 1.0f;
        slices[static_cast<size_t>(t)] = slice;
    });
    std::vector<double> read;
    for (int i = 0; i < rounds; ++i) {
        const double seconds = timed(threads, [&](int t) {
            const size_t n = static_cast<size_t>(t);
            sinks[n] += kernels.read(slices[n], each);
        });
        read.push_back(static_cast<double>(each * sizeof(float)) * threads / seconds / 1e9);
    }
    // 10^9 operations per second, two for each multiply-add.
    const auto rates = [&](const Arithmetic &arithmetic) {
        std::vector<double> found;
        for (int i = 0; arithmetic.run && i < rounds; ++i) {
            const double seconds = timed(threads, [&](int t) {
                sinks[static_cast<size_t>(t)] += arithmetic.run(steps_of_round);
            });
            const double each_step = 2.0 * arithmetic.lanes * chains;
            found.push_back(each_step * steps_of_round * threads / seconds / 1e9);
        }
        return found;
    };
    std::printf("{\"isa\": \"%s\", \"threads\": %d, ", kernels.isa, threads);
    print("read", read);
    std::printf(", ");
    print("fma", rates(kernels.fma));
    std::printf(", ");
    print("bf16", rates(kernels.bf16));
    std::printf(", ");
    print("int8", rates(kernels.int8));
    // The sums are used, so that no loop above can be left out.
    double sink = 0;
    for (float s : sinks) sink += s;
    std::printf(", \"sink\": %.3g}\n", sink);
    for (float *slice : slices) std::free(slice);
    return 0;
}
