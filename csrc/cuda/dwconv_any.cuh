// Depthwise convolution with any kernel size, stride, dilation, channel count and layout: what dwconv_nhwc.cuh and
// dwconv_nchw.cuh are not made for.  Every output reads its k * k inputs through L1.
#pragma once
#include "dwconv_tile.cuh"

namespace ck::cuda {

constexpr int kAnyOutputs = 4;

// blockDim = (neighbouring channels, or 1 for NCHW; neighbouring pixels); a thread owns one channel and kAnyOutputs outputs.
template <class T>
__global__ void __launch_bounds__(kDwConvThreads) dwconv_any_kernel(const DwConvTask a) {
  CK_DYN_SHARED(sums, Moments);
  const DwConvShape& s = a.s;
  const int c = static_cast<int>(blockIdx.x % a.channel_blocks) * blockDim.x + threadIdx.x;
  const int64_t block_item = blockIdx.x / a.channel_blocks, items = s.N * s.P * s.Q;
  const int64_t col_step = s.channels_last ? s.C : 1, row_step = col_step * s.W;
  const int kk = s.kh * s.kw;
  Moments sum[1];
  for (int k = 0; k < kAnyOutputs; ++k) {
    const int64_t item = (block_item * kAnyOutputs + k) * blockDim.y + threadIdx.y;
    if (c >= s.C || item >= items) break;
    const int64_t n = item / (s.P * s.Q);
    const int p = static_cast<int>(item / s.Q % s.P), q = static_cast<int>(item % s.Q);
    const T* x = static_cast<const T*>(a.x) + (s.channels_last ? n * s.H * s.W * s.C + c : (n * s.C + c) * s.H * s.W);
    const T* weight = static_cast<const T*>(a.weight) + static_cast<int64_t>(c) * kk;
    float u = 0.f;
    for (int i = 0; i < s.kh; ++i) {
      const int64_t row = static_cast<int64_t>(p) * s.sh - s.top + static_cast<int64_t>(i) * s.dh;
      if (row < 0 || row >= s.H) continue;
      for (int j = 0; j < s.kw; ++j) {
        const int64_t col = static_cast<int64_t>(q) * s.sw - s.left + static_cast<int64_t>(j) * s.dw;
        if (col < 0 || col >= s.W) continue;
        const int tap = i * s.kw + j;
        u += to_f(x[row * row_step + col * col_step]) * to_f(weight[a.flip ? kk - 1 - tap : tap]);
      }
    }
    if (a.partials) sum->add(u);
    float z = u * (a.scale ? a.scale[c] : 1.f) + (a.shift ? a.shift[c] : 0.f);
    activate_all<1>(&z, a.act, a.slope);
    const int64_t at = s.channels_last ? item * s.C + c : ((n * s.C + c) * s.P + p) * s.Q + q;
    if (a.residual) z += to_f(static_cast<const T*>(a.residual)[at]);
    static_cast<T*>(a.y)[at] = from_f<T>(z);
  }
  if (a.partials) write_partials(sums, sum, a, block_item, c);
}

inline Launch plan_any(DwConvTask& a) {
  const int most = a.s.channels_last ? 32 : 1;
  a.channel_blocks = static_cast<int>((a.s.C + most - 1) / most);
  const int lanes = static_cast<int>((a.s.C + a.channel_blocks - 1) / a.channel_blocks), rows = kDwConvThreads / lanes;
  const int64_t per_block = int64_t(kAnyOutputs) * rows;
  a.partial_rows = (a.s.N * a.s.P * a.s.Q + per_block - 1) / per_block;
  return {a.partial_rows * a.channel_blocks, dim3(lanes, rows), sizeof(Moments) * lanes * rows};
}

}  // namespace ck::cuda
