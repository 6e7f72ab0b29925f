// See isa.h.
#include "cpu/isa.h"

#include "error.h"

#include <algorithm>
#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

extern "C" {
#if defined(__aarch64__)
const rwkv::cpu::Kernels *rwkv_kernels_neon();
const rwkv::cpu::Kernels *rwkv_kernels_neondot();
const rwkv::cpu::Kernels *rwkv_kernels_neonbf16();
#else
const rwkv::cpu::Kernels *rwkv_kernels_baseline();
#endif
#if defined(__x86_64__)
const rwkv::cpu::Kernels *rwkv_kernels_avx2();
const rwkv::cpu::Kernels *rwkv_kernels_avx2vnni();
const rwkv::cpu::Kernels *rwkv_kernels_avx512();
const rwkv::cpu::Kernels *rwkv_kernels_avx512bf16();
#endif
}

namespace rwkv::cpu {

namespace {

#if defined(__x86_64__)
// Older compilers know no name for it. The registers are those of AVX, for which others answer.
bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

// The same of VNNI in AVX's encoding: leaf 7.1.
bool has_avx_vnni() {
#if defined(RWKV_VNNI_BY_EVEX)
    return __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#else
    unsigned most = 0, a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &most, &b, &c, &d) && most >= 1 &&
           __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
#endif
}
#endif

}  // namespace

std::vector<const Kernels *> usable_kernels() {
    std::vector<const Kernels *> usable;
#if defined(__x86_64__)
    // libgcc's answers include whether the operating system saves the registers (XGETBV).
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    const bool bf16 =
        avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
    if constexpr (RWKV_HAS_AVX512BF16)
        if (bf16) usable.push_back(rwkv_kernels_avx512bf16());
    if constexpr (RWKV_HAS_AVX512)
        if (avx512) usable.push_back(rwkv_kernels_avx512());
    if constexpr (RWKV_HAS_AVX2VNNI)
        if (avx2 && has_avx_vnni()) usable.push_back(rwkv_kernels_avx2vnni());
    if constexpr (RWKV_HAS_AVX2)
        if (avx2) usable.push_back(rwkv_kernels_avx2());
#endif
#if defined(__aarch64__)
    const bool dot = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
    const bool bf16 = dot && (getauxval(AT_HWCAP2) & HWCAP2_BF16);
    if constexpr (RWKV_HAS_NEONBF16)
        if (bf16) usable.push_back(rwkv_kernels_neonbf16());
    if constexpr (RWKV_HAS_NEONDOT)
        if (dot) usable.push_back(rwkv_kernels_neondot());
    usable.push_back(rwkv_kernels_neon());
#else
    usable.push_back(rwkv_kernels_baseline());
#endif
    return usable;
}

const Kernels &chosen_kernels() {
    const std::vector<const Kernels *> usable = usable_kernels();
    const char *forced = std::getenv("RWKV_CPU_ISA");
    if (!forced || !*forced) return *usable.front();
    std::string names;
    for (const Kernels *kernels : usable) {
        if (std::string(forced) == kernels->name) return *kernels;
        if (!names.empty()) names += ", ";
        names += kernels->name;
    }
    const std::string name = forced;
    const char *const names_anywhere[] = {"baseline",   "avx2", "avx2vnni", "avx512",
                                          "avx512bf16", "neon", "neondot",  "neonbf16"};
    const bool known = std::ranges::count(names_anywhere, name) > 0;
    const char *fault = known ? " is not usable on this machine" : " is not a known name";
    throw unsupported("RWKV_CPU_ISA=" + name + fault + "; usable here: " + names);
}

}  // namespace rwkv::cpu

const rwkv::LogitRow &rwkv::chosen_logit_row() { return cpu::chosen_kernels().logit_row; }
