// The kernels for avx2vnni: AVX2 with dot products of bytes (AVX-VNNI). See kernels.inl. Compiled
// with that instruction set's flags, so it may include nothing else. With RWKV_VNNI_BY_EVEX the
// same vectors of 256 bits use AVX-512's encoding of the one instruction that differs: so they are
// tested on machines that have only that.
#define RWKV_ISA avx2vnni
#define RWKV_256_BITS 1
#include "cpu/kernels.inl"
