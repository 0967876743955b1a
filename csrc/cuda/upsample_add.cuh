// x enlarged by its nearest pixels, plus y: memory-bound, 2.25e bytes per element of y forward where x is a quarter of it,
// 1.25e backward.
//
// A thread owns K neighbouring elements in memory, 16 bytes where rows (NCHW) or pixels (channels_last) consist of whole
// vectors, else one.  What neighbours read of x again is in the cache.  I: an index type that holds the number of elements;
// divisions of 32 bits cost a fifth of those of 64.
#pragma once
#include "../math/nearest.h"
#include "device/ck_cuda.cuh"

namespace ck::cuda {

constexpr int kUpsampleThreads = 256;

// Where an owner's elements are: `run` vectors of K in a row of a plane or in a pixel.
template <class I>
struct UpsamplePlace {
  I inner;     // vector within the run
  int column;  // channels_last only
  int row;
  I outer;  // plane, or image
  CK_HD UpsamplePlace(I t, I run, I columns, I rows) {
    const I rest = t / run, above = rest / columns;
    inner = t - rest * run;
    column = static_cast<int>(rest - above * columns);
    outer = above / rows;
    row = static_cast<int>(above - outer * rows);
  }
};

// In NCHW columns are the run itself, of which each element has its own source.
template <class T, int K, bool LAST, class I>
__global__ void __launch_bounds__(kUpsampleThreads)
    upsample_add_kernel(UpsampleShape s, const T* __restrict__ x, const T* __restrict__ y, T* __restrict__ out) {
  using Vector = Vec<T, K>;
  const I t = static_cast<I>(blockIdx.x) * kUpsampleThreads + threadIdx.x;
  const I run = static_cast<I>(LAST ? s.C : s.columns.to) / K, columns = LAST ? static_cast<I>(s.columns.to) : 1;
  if (t >= static_cast<I>(LAST ? s.N : s.N * s.C) * static_cast<I>(s.rows.to) * columns * run) return;
  const UpsamplePlace<I> p(t, run, columns, static_cast<I>(s.rows.to));
  const I row = (p.outer * static_cast<I>(s.rows.from) + s.rows.source(p.row)) * static_cast<I>(s.columns.from);
  const Vector other = reinterpret_cast<const Vector*>(y)[t];
  Vector v, r;
  if constexpr (LAST) {
    v = reinterpret_cast<const Vector*>(x)[(row + s.columns.source(p.column)) * run + p.inner];
  } else {
#pragma unroll
    for (int k = 0; k < K; ++k) v.v[k] = x[row + s.columns.source(static_cast<int>(p.inner) * K + k)];
  }
#pragma unroll
  for (int k = 0; k < K; ++k) r.v[k] = from_f<T>(to_f(v.v[k]) + to_f(other.v[k]));
  reinterpret_cast<Vector*>(out)[t] = r;
}

// K = 1 in NCHW: the pixels that show a pixel are neighbours, which the threads beside this one read with it.
template <class T, int K, bool LAST, class I>
__global__ void __launch_bounds__(kUpsampleThreads)
    upsample_add_backward_kernel(UpsampleShape s, const T* __restrict__ grad, T* __restrict__ dx) {
  static_assert(LAST || K == 1, "columns of one plane are added up");
  using Vector = Vec<T, K>;
  const I t = static_cast<I>(blockIdx.x) * kUpsampleThreads + threadIdx.x;
  const I run = LAST ? static_cast<I>(s.C) / K : 1, columns = static_cast<I>(s.columns.from);
  if (t >= static_cast<I>(LAST ? s.N : s.N * s.C) * static_cast<I>(s.rows.from) * columns * run) return;
  const UpsamplePlace<I> p(t, run, columns, static_cast<I>(s.rows.from));
  const int top = s.rows.first(p.row), bottom = s.rows.first(p.row + 1);
  const int left = s.columns.first(p.column), right = s.columns.first(p.column + 1);
  float sum[K] = {};
  for (int i = top; i < bottom; ++i) {
    const I row = (p.outer * static_cast<I>(s.rows.to) + i) * static_cast<I>(s.columns.to);
    for (int j = left; j < right; ++j) {
      const Vector g = reinterpret_cast<const Vector*>(grad)[(row + j) * run + p.inner];
#pragma unroll
      for (int k = 0; k < K; ++k) sum[k] += to_f(g.v[k]);
    }
  }
  Vector r;
#pragma unroll
  for (int k = 0; k < K; ++k) r.v[k] = from_f<T>(sum[k]);
  reinterpret_cast<Vector*>(dx)[t] = r;
}

// f(uint32_t()) where that holds every index, else f(uint64_t()).
template <class F>
cudaError_t with_upsample_index(const UpsampleShape& s, F&& f) {
  const int64_t most = s.large() > s.small() ? s.large() : s.small();
  return most < int64_t(1) << 31 ? f(uint32_t()) : f(uint64_t());
}

inline dim3 upsample_grid(int64_t threads) {
  return dim3(static_cast<unsigned>((threads + kUpsampleThreads - 1) / kUpsampleThreads));
}

template <class T, int K, bool LAST>
cudaError_t launch_upsample_add(const UpsampleShape& s, const void* x, const void* y, void* out, cudaStream_t stream) {
  return with_upsample_index(s, [&](auto index) {
    return launch(upsample_add_kernel<T, K, LAST, decltype(index)>, upsample_grid(s.large() / K),
                  dim3(kUpsampleThreads), 0, stream, s, static_cast<const T*>(x), static_cast<const T*>(y),
                  static_cast<T*>(out));
  });
}

template <class T, int K, bool LAST>
cudaError_t launch_upsample_add_backward(const UpsampleShape& s, const void* grad, void* dx, cudaStream_t stream) {
  return with_upsample_index(s, [&](auto index) {
    return launch(upsample_add_backward_kernel<T, K, LAST, decltype(index)>, upsample_grid(s.small() / K),
                  dim3(kUpsampleThreads), 0, stream, s, static_cast<const T*>(grad), static_cast<T*>(dx));
  });
}

}  // namespace ck::cuda
