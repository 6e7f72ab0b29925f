// The kernels for neondot: see kernels.inl. Compiled with that instruction set's flags, so it may
// include nothing else.
#define RWKV_ISA neondot
#include "cpu/kernels.inl"
