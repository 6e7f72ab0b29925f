// Which kernels to run: the best the machine has, or the one that RWKV_CPU_ISA names. Asked when a
// backend is opened, and by cpu_isa().
#pragma once

#include "cpu/kernels.h"

#include <string>
#include <vector>

namespace rwkv::cpu {

// Best first; the last is what every machine of the architecture has: "neon" on 64-bit ARM,
// elsewhere "baseline". Only what this machine and its operating system can run.
std::vector<const Kernels *> usable_kernels();
// Reads the environment anew. Throws Error RWKV_UNSUPPORTED if RWKV_CPU_ISA is unknown or unusable.
const Kernels &chosen_kernels();

}  // namespace rwkv::cpu
