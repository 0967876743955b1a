// The second stage of the batch statistics that the convolution kernels leave in partials.
#pragma once
#include "dwconv_tile.cuh"

namespace ck::cuda {

// mean and biased variance from G partial moments per channel, always merged in the same order.  blockDim = (32 channels, 8).
__global__ void __launch_bounds__(256) dwconv_stats_kernel(const float* __restrict__ partials, float* __restrict__ mean,
                                                           float* __restrict__ var, int64_t G, int64_t C) {
  CK_SHARED(parts, Moments[8][32]);
  const int tx = threadIdx.x, ty = threadIdx.y;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * 32 + tx;
  Moments m;
  if (c < C) {
    for (int64_t g = ty; g < G; g += 8) {
      Moments b;
      b.n = partials[2 * G * C + g], b.mean = partials[g * C + c], b.m2 = partials[(G + g) * C + c];
      m.merge(b);
    }
  }
  parts[ty][tx] = m;
  __syncthreads();
  if (ty == 0 && c < C) {
    for (int i = 1; i < 8; ++i) m.merge(parts[i][tx]);
    mean[c] = m.mean;
    var[c] = m.m2 / m.n;
  }
}

}  // namespace ck::cuda
