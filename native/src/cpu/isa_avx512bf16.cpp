// The kernels for avx512bf16: AVX-512 with dot products of bf16 pairs and of bytes. See
// kernels.inl. Compiled with that instruction set's flags, so it may include nothing else.
#define RWKV_ISA avx512bf16
// GCC 12 warns inside its own AVX-512 headers (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "cpu/kernels.inl"
