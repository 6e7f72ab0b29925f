// The kernels for neon: see kernels.inl. Compiled with that instruction set's flags, so it may
// include nothing else.
#define RWKV_ISA neon
#include "cpu/kernels.inl"
