// The kernels for avx512: see kernels.inl. Compiled with that instruction set's flags, so it may include
// nothing else.
#define RWKV_ISA avx512
#include "cpu/kernels.inl"
