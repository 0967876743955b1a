// Focus kernels: memory-bound, 2e bytes per element.
#pragma once
#include "../math/focus_shape.h"
#include "device/ck_cuda.cuh"

namespace ck::cuda {

constexpr int kFocusThreads = 256;

// NCHW.  A thread owns 2K neighbouring elements of a row of the image, which are K elements of each of two quarters: two
// vector loads, two vector stores, all of them coalesced.  K divides W, so that vectors are aligned.  I: an index type that
// holds the number of elements; divisions of 32 bits cost a fifth of those of 64.
template <class U, int K, class I, bool INVERSE>
__global__ void __launch_bounds__(kFocusThreads) focus_planes_kernel(FocusShape s, const U* from, U* to) {
  const I vectors = static_cast<I>(s.W / K), quarter_vectors = static_cast<I>(s.C * s.H) * vectors;
  const I t = static_cast<I>(blockIdx.x) * kFocusThreads + threadIdx.x;  // of the image
  if (t >= static_cast<I>(s.N) * 2 * quarter_vectors) return;
  const I row = t / vectors, q = t - row * vectors;  // of the image's rows
  const I n = row / static_cast<I>(2 * s.C * s.H), y = row - n * static_cast<I>(2 * s.C * s.H);
  const I even = (n * 4 + y % 2) * quarter_vectors + y / 2 * vectors + q, odd = even + 2 * quarter_vectors;
  using Vector = Vec<U, K>;
  Vector a = reinterpret_cast<const Vector*>(from)[INVERSE ? even : 2 * t];
  Vector b = reinterpret_cast<const Vector*>(from)[INVERSE ? odd : 2 * t + 1];
  U all[2 * K];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    all[INVERSE ? 2 * k : k] = a.v[k];
    all[INVERSE ? 2 * k + 1 : K + k] = b.v[k];
  }
#pragma unroll
  for (int k = 0; k < K; ++k) {
    a.v[k] = all[INVERSE ? k : 2 * k];
    b.v[k] = all[INVERSE ? K + k : 2 * k + 1];
  }
  reinterpret_cast<Vector*>(to)[INVERSE ? 2 * t : even] = a;
  reinterpret_cast<Vector*>(to)[INVERSE ? 2 * t + 1 : odd] = b;
}

// channels_last.  A thread owns 16 consecutive bytes of the result, stored at once.  It loads them as units of type U, the
// largest of 2 to 16 bytes that divides a pixel, so that a unit never crosses pixels: with 3 channels of fp32, four loads
// of neighbouring words, which other threads of the warp find in the same cache lines.
template <class U, class I, bool INVERSE>
__global__ void __launch_bounds__(kFocusThreads) focus_pixels_kernel(FocusShape s, const U* from, U* to) {
  constexpr int K = 16 / sizeof(U);
  const I item = static_cast<I>(s.C * s.element_size / static_cast<int64_t>(sizeof(U)));
  const I row = static_cast<I>(2 * s.W) * item;  // of the image; one of the quarters is twice as long
  const I units = static_cast<I>(2 * s.N * s.H) * row;
  const I first = (static_cast<I>(blockIdx.x) * kFocusThreads + threadIdx.x) * K;
  if (first >= units) return;
  const int valid = units - first < K ? static_cast<int>(units - first) : K;
  Vec<U, K> v;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (k < valid) {
      const I pair = (first + k) / (2 * row), at = first + k - pair * (2 * row);
      I source;
      if constexpr (INVERSE) {
        const I which = at >= row, pixel = (at - which * row) / item;
        source = (2 * pixel + which) * item + (at - which * row - pixel * item);
      } else {
        const I pixel = at / item;
        source = pixel % 2 * row + pixel / 2 * item + (at - pixel * item);
      }
      v.v[k] = from[pair * (2 * row) + source];
    }
  }
  if (valid == K) {
    *reinterpret_cast<Vec<U, K>*>(to + first) = v;
  } else {
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (k < valid) to[first + k] = v.v[k];
  }
}

inline dim3 focus_grid(int64_t threads) {
  return dim3(static_cast<unsigned>((threads + kFocusThreads - 1) / kFocusThreads));
}

template <class U, int K, bool INVERSE>
cudaError_t launch_focus_planes(const FocusShape& s, const void* from, void* to, cudaStream_t stream) {
  const dim3 grid = focus_grid(s.elements() / (2 * K));
  const auto start = [&](auto kernel) {
    return launch(kernel, grid, dim3(kFocusThreads), 0, stream, s, static_cast<const U*>(from), static_cast<U*>(to));
  };
  if (s.elements() < int64_t(1) << 31) return start(focus_planes_kernel<U, K, uint32_t, INVERSE>);
  return start(focus_planes_kernel<U, K, uint64_t, INVERSE>);
}

template <class U, bool INVERSE>
cudaError_t launch_focus_pixels(const FocusShape& s, const void* from, void* to, cudaStream_t stream) {
  const int64_t bytes = s.elements() * s.element_size;
  const dim3 grid = focus_grid((bytes + 15) / 16);
  const auto start = [&](auto kernel) {
    return launch(kernel, grid, dim3(kFocusThreads), 0, stream, s, static_cast<const U*>(from), static_cast<U*>(to));
  };
  if (bytes < int64_t(1) << 31) return start(focus_pixels_kernel<U, uint32_t, INVERSE>);
  return start(focus_pixels_kernel<U, uint64_t, INVERSE>);
}

}  // namespace ck::cuda
