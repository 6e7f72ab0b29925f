// What the fuzz targets share: the claim that ends the process when it is wrong, and a reader that
// turns the bytes of an input into numbers. Included by fuzz_*.cpp; never judges an input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CLAIM(condition)                                                                \
    do {                                                                                \
        if (!(condition)) {                                                             \
            std::fprintf(stderr, "%s:%d: wrong: %s\n", __FILE__, __LINE__, #condition); \
            std::abort();                                                               \
        }                                                                               \
    } while (0)

// Takes numbers from the front; an empty input gives zeros.
class Input {
public:
    Input(const uint8_t *data, size_t size) : data_(data), left_(size) {}

    size_t left() const { return left_; }
    uint8_t byte() {
        if (left_ == 0) return 0;
        --left_;
        return *data_++;
    }
    template <class T>
    T number() {
        uint64_t value = 0;
        for (size_t i = 0; i < sizeof(T); ++i) value |= uint64_t{byte()} << 8 * i;
        return static_cast<T>(value);
    }
    // A length byte and as many bytes, or those that are left.
    std::string text() {
        const size_t n = byte();
        std::string out;
        while (out.size() < n && left_ > 0) out += static_cast<char>(byte());
        return out;
    }
    std::string rest() {
        std::string out(reinterpret_cast<const char *>(data_), left_);
        data_ += left_;
        left_ = 0;
        return out;
    }

private:
    const uint8_t *data_;
    size_t left_;
};
