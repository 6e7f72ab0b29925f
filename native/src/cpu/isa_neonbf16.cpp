// The kernels for neonbf16: see kernels.inl. Compiled with that instruction set's flags, so it may
// include nothing else.
#define RWKV_ISA neonbf16
#include "cpu/kernels.inl"
