// The few lines of test support that the native tests share: CHECK prints what failed and counts
// it; a test program ends with `return report();`. A program that is asked for an instruction set
// which this machine lacks ends with 77, which ctest reports as skipped.
#pragma once

#include <rwkv.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

inline int failures = 0;
inline int checks = 0;

#define CHECK(condition)                                                        \
    do {                                                                        \
        ++checks;                                                               \
        if (!(condition)) {                                                     \
            ++failures;                                                         \
            std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                       \
    } while (0)

// |a - b| <= tolerance, with both values in the message.
#define CHECK_NEAR(a, b, tolerance)                                                               \
    do {                                                                                          \
        ++checks;                                                                                 \
        const double a_ = (a), b_ = (b);                                                          \
        if (!(std::fabs(a_ - b_) <= (tolerance))) {                                               \
            ++failures;                                                                           \
            std::printf("%s:%d: %s = %.9g, %s = %.9g, off by %.3g\n", __FILE__, __LINE__, #a, a_, \
                        #b, b_, std::fabs(a_ - b_));                                              \
        }                                                                                         \
    } while (0)

// The expression throws an exception whose message contains `part`.
#define CHECK_THROWS(expression, part)                                                      \
    do {                                                                                    \
        ++checks;                                                                           \
        std::string what_ = "(nothing was thrown)";                                         \
        try {                                                                               \
            (void)(expression);                                                             \
        } catch (const std::exception &error_) {                                            \
            what_ = error_.what();                                                          \
        }                                                                                   \
        if (what_.find(part) == std::string::npos) {                                        \
            ++failures;                                                                     \
            std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #expression, what_.c_str()); \
        }                                                                                   \
    } while (0)

inline void skip_unless_isa_usable() {
    const char *name = nullptr;
    if (rwkv_cpu_isa(&name) == RWKV_UNSUPPORTED) {
        std::printf("skipped: %s\n", rwkv_last_error());
        std::exit(77);
    }
}

inline int report() {
    std::printf("%d checks, %d failures\n", checks, failures);
    return failures == 0 ? 0 : 1;
}
