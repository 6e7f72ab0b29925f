// The kernels for baseline: see kernels.inl. Compiled with that instruction set's flags, so it may
// include nothing else.
#define RWKV_ISA baseline
#include "cpu/kernels.inl"
