// The second factor of a low-rank pair for the channels of one head. Included by kernels.inl only.
#pragma once

#include "cpu/linear.inl"
#include "cpu/norm.inl"

namespace {

using rwkv::cpu::Panels;
using rwkv::cpu::row_bytes;

// out[row][..] = W z for the panels that hold the head's channels; returns the first of them in row
// 0.
const float *low_rank(float *out, int64_t stride_out, float *scratch, const Panels &w,
                      const float *z, int64_t rows, int64_t channel, int64_t n) {
    const Input form = input(w.stored, w.compute);
    const int64_t stride = row_bytes(form, w.in), panel = channel / kPanel;
    char *rounded = reinterpret_cast<char *>(scratch);
    for (int64_t m = 0; m < rows; ++m)
        round_row(rounded + m * stride, z + m * w.in, w.in, w.compute, form);
    LinearTask task = {};
    task.w = w;
    task.panel = panel;
    task.panels = (channel + n + kPanel - 1) / kPanel - panel;
    task.x = rounded;
    task.stride_x = stride;
    task.rows = rows;
    task.y = out - panel * kPanel;
    task.stride_y = stride_out;
    linear(&task);
    return out + (channel - panel * kPanel);
}

}  // namespace
