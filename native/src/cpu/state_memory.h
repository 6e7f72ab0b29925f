// The memory of a pool of states: one range of addresses in huge pages, since a step with many
// sequences walks through all their states, which are more small pages than the processor knows the
// places of. Called by cpu_backend.cpp.
#pragma once

#include "backend.h"

#include <cstddef>
#include <cstdint>

namespace rwkv::cpu {

// What Backend::states() and Backend::use_slots() promise.
States reserve_states(size_t floats, int32_t slots);
void use_states(const States &states, int32_t slots);

}  // namespace rwkv::cpu
