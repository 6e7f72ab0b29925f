// The kernels of one instruction set. isa_<name>.cpp defines RWKV_ISA as its name and includes
// this; the table is the only symbol that leaves the object.
#pragma once

#include "cpu/kernels.h"
#include "cpu/logit_row.inl"
#include "cpu/wkv4.inl"
#include "cpu/wkv6.inl"
#include "cpu/wkv7.inl"

namespace {

void function(float *y, const float *x, int64_t n, char f) {
    for (int64_t i = 0; i < n; i += V) {
        const F v = load_upto(x + i, n - i);
        store_upto(y + i,
                   f == 'e'   ? exp(v)
                   : f == 's' ? sigmoid(v)
                   : f == 't' ? tanh(v)
                              : decay(v),
                   n - i);
    }
}

#define RWKV_STRING_OF(x) #x
#define RWKV_STRING(x) RWKV_STRING_OF(x)

const rwkv::cpu::Kernels kTable = {RWKV_STRING(RWKV_ISA),
                                   V,
                                   input,
                                   linear,
                                   wkv4,
                                   wkv6,
                                   wkv7,
                                   layer_norm,
                                   mix,
                                   round_row,
                                   widen,
                                   function,
                                   logits::kPasses};

}  // namespace

#define RWKV_JOIN_OF(a, b) a##b
#define RWKV_JOIN(a, b) RWKV_JOIN_OF(a, b)

extern "C" const rwkv::cpu::Kernels *RWKV_JOIN(rwkv_kernels_, RWKV_ISA)() { return &kTable; }
