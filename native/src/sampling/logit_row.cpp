// See logit_row.h. The passes are in logit_row.inl; what differs between the forms is the vector.
#include "sampling/logit_row.h"

#include "backend.h"

#include <cfloat>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rwkv {

// 128 bits: what every machine has.
namespace narrow {
#define LOGIT_LANES 4
#include "sampling/logit_row.inl"
constexpr LogitRow form{"narrow", maxima, sum_exp, exp_exactly,  weigh,
                        least,    place,  survey,  survey_counts};
#undef LOGIT_LANES
}  // namespace narrow

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
namespace avx2 {
#define LOGIT_LANES 8
#include "sampling/logit_row.inl"
constexpr LogitRow form{"avx2", maxima, sum_exp, exp_exactly,  weigh,
                        least,  place,  survey,  survey_counts};
#undef LOGIT_LANES
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq")
#endif
namespace avx512 {
#define LOGIT_LANES 16
#include "sampling/logit_row.inl"
constexpr LogitRow form{"avx512", maxima, sum_exp, exp_exactly,  weigh,
                        least,    place,  survey,  survey_counts};
#undef LOGIT_LANES
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

std::span<const LogitRow *const> logit_rows() {
#if defined(__x86_64__)
    static constexpr const LogitRow *all[] = {&avx512::form, &avx2::form, &narrow::form};
    static const size_t best =
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") ? 0
        : __builtin_cpu_supports("avx2")                                        ? 1
                                                                                : 2;
    return std::span<const LogitRow *const>(all).subspan(best);
#else
    static constexpr const LogitRow *all[] = {&narrow::form};
    return all;
#endif
}

const LogitRow &chosen_logit_row() {
    const std::string isa = cpu_isa();
    for (const LogitRow *form : logit_rows())
        if (isa.starts_with(form->name)) return *form;  // "avx2" is a part of "avx2vnni"
    return *logit_rows().back();
}

}  // namespace rwkv
