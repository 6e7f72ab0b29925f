// The kernels for avx2: see kernels.inl. Compiled with that instruction set's flags, so it may
// include nothing else.
#define RWKV_ISA avx2
#include "cpu/kernels.inl"
