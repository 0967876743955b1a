// Gradient of the depthwise convolution towards its filter, in two stages without atomics: blocks leave partial sums,
// which a second kernel adds in a fixed order.  grad and x come from memory once; the K * K reads of every x hit L1.
//
// A block of the first stage owns `lanes` * V channels and one chunk of the N * P * Q output pixels.  Its threads are
// `lanes` neighbouring channel vectors times 256 / lanes walkers, which take neighbouring pixels, so that a warp reads
// whole lines: lanes = 8 to 32 in NHWC; lanes = V = 1 in NCHW, where the neighbours are the pixels of one channel.  A
// thread holds the sums of R * J taps for its V channels in registers: the whole filter for K = 3, 5 and 7, of which
// V = 4, 2 and 1 channels fit; otherwise 8 taps of one filter row at a time, reading grad and x again for the next.
#pragma once
#include <algorithm>

#include "device/ck_cuda.cuh"
#include "dwconv_grad_weight.h"

namespace ck::cuda {

constexpr int kGradThreads = 256;
constexpr int kGradWarps = kGradThreads / 32;
constexpr int kGradPixels = 8;               // per thread at least, to pay for the block's reduction
constexpr int64_t kGradBlocks = 2048;        // enough to fill any device several times
constexpr int64_t kGradWorkspace = 1 << 20;  // floats

// Where [n, c, row, col] of grad or x is, in elements: one source for both layouts.
struct GradStrides {
  int64_t image, channel, row, col;
};

struct GradWeightTask {
  const void *grad, *x;
  float* sums;  // [chunks][C][kh][kw]
  DwConvShape s;
  GradStrides grad_at, x_at;
  int lanes;                   // a power of two, 32 at most
  int step_n, step_p, step_q;  // 256 / lanes pixels, as digits: walking is additions with carry
  int64_t groups;              // of lanes * V channels
  int64_t chunks, chunk;       // of the pixels, and pixels in each
};

// Adds grad[p, q] * x to the sums of the taps (i0 + i, j0 + j), for the pixels m, m + walkers, ... below end.
template <class T, int V, int R, int J>
__device__ inline void grad_weight_walk(const GradWeightTask& a, int64_t c, int64_t m, int64_t end, int i0, int j0,
                                        float (&sums)[R][J][V]) {
  using Vector = Vec<T, V>;
  const DwConvShape& s = a.s;
  const int P = static_cast<int>(s.P), Q = static_cast<int>(s.Q), H = static_cast<int>(s.H), W = static_cast<int>(s.W);
  const T* grad = static_cast<const T*>(a.grad) + c * a.grad_at.channel;
  const T* x = static_cast<const T*>(a.x) + c * a.x_at.channel;
  int q = static_cast<int>(m % Q), p = static_cast<int>(m / Q % P);
  int64_t n = m / Q / P;
  for (; m < end; m += kGradThreads / a.lanes) {
    const Vector g =
        *reinterpret_cast<const Vector*>(grad + n * a.grad_at.image + p * a.grad_at.row + q * a.grad_at.col);
    const int h0 = p * s.sh - s.top + i0 * s.dh, w0 = q * s.sw - s.left + j0 * s.dw;
    const T* row = x + n * a.x_at.image + h0 * a.x_at.row + w0 * a.x_at.col;
#pragma unroll
    for (int i = 0; i < R; ++i, row += s.dh * a.x_at.row) {
      const int h = h0 + i * s.dh;
      if (h < 0 || h >= H) continue;
      const T* at = row;
#pragma unroll
      for (int j = 0; j < J; ++j, at += s.dw * a.x_at.col) {
        const int w = w0 + j * s.dw;
        if (w < 0 || w >= W || (R == 1 && j0 + j >= s.kw)) continue;
        const Vector v = *reinterpret_cast<const Vector*>(at);
#pragma unroll
        for (int k = 0; k < V; ++k) sums[i][j][k] += to_f(g.v[k]) * to_f(v.v[k]);
      }
    }
    q += a.step_q, p += a.step_p, n += a.step_n;
    if (q >= Q) q -= Q, ++p;
    if (p >= P) p -= P, ++n;
  }
}

template <class T, int V, int R, int J>
__global__ void __launch_bounds__(kGradThreads, 2) dwconv_grad_weight_kernel(const GradWeightTask a) {
  CK_SHARED(parts, float[kGradWarps * J * V * 32]);
  const DwConvShape& s = a.s;
  const int t = threadIdx.x, lanes = a.lanes, row_values = J * V * lanes;
  const int64_t first_channel = blockIdx.x % a.groups * lanes * V, part = blockIdx.x / a.groups;
  const int64_t c = first_channel + t % lanes * V, m = part * a.chunk + t / lanes;
  const int64_t end = min((part + 1) * a.chunk, s.N * s.P * s.Q);
  for (int i0 = 0; i0 < s.kh; i0 += R) {
    for (int j0 = 0; j0 < s.kw; j0 += J) {
      float sums[R][J][V] = {};
      if (c < s.C && m < end) grad_weight_walk<T, V, R, J>(a, c, m, end, i0, j0, sums);
#pragma unroll
      for (int i = 0; i < R; ++i) {  // a filter row at a time: the walkers of each warp, then the warps
#pragma unroll
        for (int j = 0; j < J; ++j) {
#pragma unroll
          for (int k = 0; k < V; ++k) {
            float sum = sums[i][j][k];
            for (int o = 16; o >= lanes; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
            if (t % 32 < lanes) parts[t / 32 * row_values + (j * V + k) * lanes + t % 32] = sum;
          }
        }
        __syncthreads();
        for (int f = t; f < row_values; f += kGradThreads) {
          float sum = 0.f;
#pragma unroll
          for (int warp = 0; warp < kGradWarps; ++warp) sum += parts[warp * row_values + f];
          const int64_t channel = first_channel + f % lanes * V + f / lanes % V;
          const int tap = j0 + f / (lanes * V);
          if (channel < s.C && tap < s.kw) a.sums[((part * s.C + channel) * s.kh + i0 + i) * s.kw + tap] = sum;
        }
        __syncthreads();
      }
    }
  }
}

// out[k] = the sum of partials[g][k] over G, always in the same order.  blockDim = (32 values, 8).
__global__ void __launch_bounds__(256)
    dwconv_grad_weight_sum_kernel(const float* __restrict__ partials, float* __restrict__ out, int64_t G, int64_t n) {
  CK_SHARED(parts, float[8][32]);
  const int tx = threadIdx.x, ty = threadIdx.y;
  const int64_t k = static_cast<int64_t>(blockIdx.x) * 32 + tx;
  float sum = 0.f;
  if (k < n) {
    for (int64_t g = ty; g < G; g += 8) sum += partials[g * n + k];
  }
  parts[ty][tx] = sum;
  __syncthreads();
  if (ty == 0 && k < n) {
    for (int i = 1; i < 8; ++i) sum += parts[i][tx];
    out[k] = sum;
  }
}

// Divides the work; depends on the shape and V alone.
inline void plan_grad_weight(GradWeightTask& a, int V) {
  const DwConvShape& s = a.s;
  auto strides = [&](int64_t height, int64_t width) {
    const int64_t image = s.C * height * width;
    return s.channels_last ? GradStrides{image, 1, width * s.C, s.C} : GradStrides{image, height * width, width, 1};
  };
  a.grad_at = strides(s.P, s.Q), a.x_at = strides(s.H, s.W);
  a.lanes = 1;
  if (s.channels_last) {
    a.lanes = 8;
    while (a.lanes < 32 && a.lanes * V < s.C) a.lanes *= 2;
  }
  a.groups = (s.C + a.lanes * V - 1) / (a.lanes * V);
  const int64_t pixels = s.N * s.P * s.Q, walkers = kGradThreads / a.lanes, least = walkers * kGradPixels;
  if (pixels > 0) {
    a.step_q = static_cast<int>(walkers % s.Q);
    a.step_p = static_cast<int>(walkers / s.Q % s.P);
    a.step_n = static_cast<int>(walkers / s.Q / s.P);
  }
  const int64_t most = std::min(kGradBlocks / a.groups, kGradWorkspace / (s.C * s.kh * s.kw));
  a.chunks = std::max<int64_t>(1, std::min((pixels + least - 1) / least, most));
  a.chunk = (pixels + a.chunks - 1) / a.chunks;
}

// Plans the kernel for these arguments and calls f(kernel).
template <class T, class F>
cudaError_t with_grad_weight_kernel(GradWeightTask& a, F&& f) {
  auto fits = [&](int V) {
    auto aligned = [&](const void* p) { return reinterpret_cast<uintptr_t>(p) % (V * sizeof(T)) == 0; };
    return a.s.channels_last && a.s.C % V == 0 && aligned(a.x) && aligned(a.grad);
  };
  auto plan = [&](int V, auto kernel) {
    plan_grad_weight(a, V);
    return f(kernel);
  };
  const int k = a.s.kh == a.s.kw ? a.s.kh : 0;
  if (k == 3)
    return fits(4) ? plan(4, dwconv_grad_weight_kernel<T, 4, 3, 3>) : plan(1, dwconv_grad_weight_kernel<T, 1, 3, 3>);
  if (k == 5)
    return fits(2) ? plan(2, dwconv_grad_weight_kernel<T, 2, 5, 5>) : plan(1, dwconv_grad_weight_kernel<T, 1, 5, 5>);
  if (k == 7) return plan(1, dwconv_grad_weight_kernel<T, 1, 7, 7>);
  return plan(1, dwconv_grad_weight_kernel<T, 1, 1, 8>);
}

}  // namespace ck::cuda
