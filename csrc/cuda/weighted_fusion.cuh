// Weighted fusion of n maps: memory-bound, (n + 1)e bytes per element forward and (2n + 1)e backward.
//
// Every thread computes the shares from the weights, a few numbers that all warps find in the cache.  Forward a thread owns
// one 16-byte vector of every map, n loads in flight; backward kFusionVectors of them one after the other, so that the sums
// over a block, for the weights' gradient, are few.  No atomics: thread, warp, block, and one block for the blocks' sums.
#pragma once
#include "../math/weighted_fusion.h"
#include "device/ck_cuda.cuh"

namespace ck::cuda {

constexpr int kFusionThreads = 256;
constexpr int kFusionVectors = 4;

template <class T>
struct FusionMaps {
  const T* x[kMostMaps];
  T* dx[kMostMaps];
  const float* weights;
  float eps, slope;
  int count;
};

// The maps' elements [i * N, i * N + N), in fp32.
template <int N, class T>
struct FusionLoads {
  Vec<T, N> v[kMostMaps];
  CK_HD FusionLoads(const FusionMaps<T>& m, int64_t i) {
#pragma unroll
    for (int k = 0; k < kMostMaps; ++k)
      if (k < m.count) v[k] = reinterpret_cast<const Vec<T, N>*>(m.x[k])[i];
  }
  CK_HD float weighted(const FusionMaps<T>& m, const FusionWeights<float>& w, int lane) const {
    float p = 0.f;
#pragma unroll
    for (int k = 0; k < kMostMaps; ++k)
      if (k < m.count) p += w.share[k] * to_f(v[k].v[lane]);
    return p;
  }
};

template <int N, Act A, class T>
CK_HD void fuse(const FusionMaps<T>& m, const FusionWeights<float>& w, T* y, int64_t i) {
  const FusionLoads<N, T> maps(m, i);
  Vec<T, N> r;
#pragma unroll
  for (int lane = 0; lane < N; ++lane) r.v[lane] = from_f<T>(activate<A>(maps.weighted(m, w, lane), m.slope));
  reinterpret_cast<Vec<T, N>*>(y)[i] = r;
}

template <class T, Act A>
__global__ void __launch_bounds__(kFusionThreads, 2)
    weighted_fusion_kernel(FusionMaps<T> m, T* __restrict__ y, int64_t n) {
  constexpr int N = 16 / sizeof(T);
  const FusionWeights<float> w(m.weights, m.count, m.eps);
  const int64_t vectors = n / N, i = static_cast<int64_t>(blockIdx.x) * kFusionThreads + threadIdx.x;
  if (i < vectors) fuse<N, A>(m, w, y, i);
  const int64_t tail = vectors * N + threadIdx.x;  // fewer than N elements
  if (blockIdx.x == gridDim.x - 1 && tail < n) fuse<1, A>(m, w, y, tail);
}

template <int N, Act A, class T>
CK_HD void fuse_backward(const FusionMaps<T>& m, const FusionWeights<float>& w, const T* grad, int64_t i, float* dots) {
  const FusionLoads<N, T> maps(m, i);
  const auto gs = reinterpret_cast<const Vec<T, N>*>(grad)[i];
  float g[N];
#pragma unroll
  for (int lane = 0; lane < N; ++lane)
    g[lane] = to_f(gs.v[lane]) * activate_grad<A>(maps.weighted(m, w, lane), m.slope);
#pragma unroll
  for (int k = 0; k < kMostMaps; ++k) {
    if (k < m.count) {
      Vec<T, N> r;
#pragma unroll
      for (int lane = 0; lane < N; ++lane) {
        r.v[lane] = from_f<T>(w.share[k] * g[lane]);
        dots[k] += g[lane] * to_f(maps.v[k].v[lane]);
      }
      reinterpret_cast<Vec<T, N>*>(m.dx[k])[i] = r;
    }
  }
}

// parts[block][map] = the block's sum of g * x.
template <class T, Act A>
__global__ void __launch_bounds__(kFusionThreads, 2)
    weighted_fusion_backward_kernel(FusionMaps<T> m, const T* __restrict__ grad, float* __restrict__ parts, int64_t n) {
  constexpr int N = 16 / sizeof(T);
  CK_SHARED(sums, float[kFusionThreads / 32][kMostMaps]);
  const FusionWeights<float> w(m.weights, m.count, m.eps);
  const int64_t vectors = n / N;
  float dots[kMostMaps] = {};
  for (int j = 0; j < kFusionVectors; ++j) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * kFusionVectors + j) * kFusionThreads + threadIdx.x;
    if (i < vectors) fuse_backward<N, A>(m, w, grad, i, dots);
  }
  const int64_t tail = vectors * N + threadIdx.x;  // fewer than N elements
  if (blockIdx.x == gridDim.x - 1 && tail < n) fuse_backward<1, A>(m, w, grad, tail, dots);
#pragma unroll
  for (int k = 0; k < kMostMaps; ++k) {
#pragma unroll
    for (int o = 16; o > 0; o /= 2) dots[k] += __shfl_xor_sync(0xffffffffu, dots[k], o);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32][k] = dots[k];
  }
  __syncthreads();
  if (threadIdx.x < kMostMaps) {
    float total = 0.f;
#pragma unroll
    for (int warp = 0; warp < kFusionThreads / 32; ++warp) total += sums[warp][threadIdx.x];
    parts[static_cast<int64_t>(blockIdx.x) * kMostMaps + threadIdx.x] = total;
  }
}

// One block: the sums of all blocks, and dweights from them.
template <int kUnused = 0>
__global__ void __launch_bounds__(kFusionThreads)
    weighted_fusion_weights_kernel(const float* __restrict__ parts, const float* __restrict__ weights,
                                   float* __restrict__ dweights, int64_t blocks, int maps, float eps) {
  CK_SHARED(sums, float[kFusionThreads]);
  float s = 0.f;  // of map threadIdx.x % kMostMaps
  for (int64_t i = threadIdx.x; i < blocks * kMostMaps; i += kFusionThreads) s += parts[i];
  sums[threadIdx.x] = s;
  __syncthreads();
  if (threadIdx.x == 0) {
    float dots[kMostMaps] = {};
    for (int i = 0; i < kFusionThreads; i += kMostMaps) {
#pragma unroll
      for (int k = 0; k < kMostMaps; ++k) dots[k] += sums[i + k];
    }
    FusionWeights<float>(weights, maps, eps).gradient(weights, dots, maps, dweights);
  }
}

}  // namespace ck::cuda
