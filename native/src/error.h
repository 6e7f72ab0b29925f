// The one exception of the engine: what api.cpp turns into a status code and a message.
#pragma once

#include <rwkv.h>

#include <stdexcept>
#include <string>

namespace rwkv {

class Error : public std::runtime_error {
public:
    Error(rwkv_status code, const std::string &message)
        : std::runtime_error(message), status(code) {}
    rwkv_status status;
};

inline Error invalid(const std::string &message) { return {RWKV_INVALID, message}; }
inline Error unsupported(const std::string &message) { return {RWKV_UNSUPPORTED, message}; }

}  // namespace rwkv
