// Channel shuffle kernels: memory-bound, 2e bytes per element.
#pragma once
#include "../math/channel_shuffle_shape.h"
#include "device/ck_cuda.cuh"

namespace ck::cuda {

constexpr int kShuffleThreads = 256;
constexpr int kShuffleSharedBytes = 24 * 1024;  // of pixels per block in NHWC: two blocks' worth and more fit on an SM

struct ShuffleParams {
  ShuffleShape shape;
  const void* in[2];
  void* out[2];
};

// The division and remainder of an index that is known to fit 32 bits cost a fifth of those of a 64-bit one.
template <class I>
CK_HD void divide(I a, int64_t b, I& quotient, I& remainder) {
  quotient = a / static_cast<I>(b);
  remainder = a - quotient * static_cast<I>(b);
}

// NCHW: planes go to new places.  A thread owns 16 consecutive bytes of an output, stored at once.  It loads them as units
// of type U, the largest of 2 to 16 bytes that divides a plane, so that a unit never crosses planes: one 16-byte load for
// 28x28 in any type, four of 4 bytes for 7x7 fp32.  Neighbouring threads read neighbouring units, so that cache lines are
// fetched once whatever the unit.  grid.y: which output.  I: an index type that holds the number of units.
template <class U, class I>
__global__ void __launch_bounds__(kShuffleThreads) shuffle_planes_kernel(ShuffleParams p) {
  constexpr int K = 16 / sizeof(U);
  const ShuffleShape& s = p.shape;
  const int which = static_cast<int>(blockIdx.y);
  const int64_t C_out = s.out_channels[which], m = s.channels() / s.groups;
  const I plane_units = static_cast<I>(s.HW * s.element_size / static_cast<int64_t>(sizeof(U)));
  const int64_t units = s.N * C_out * plane_units;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kShuffleThreads + threadIdx.x) * K;
  if (first >= units) return;

  I plane, offset, n, o, i, j;
  divide(static_cast<I>(first), plane_units, plane, offset);
  divide(plane, C_out, n, o);
  divide(static_cast<I>(o + which * s.out_channels[0]), s.groups, i, j);
  const auto source = [&]() {  // of the plane (n, o)
    const int64_t c = static_cast<int64_t>(j) * m + i;
    const int second = c >= s.in_channels[0];
    const int64_t from = static_cast<int64_t>(n) * s.in_channels[second] + c - second * s.in_channels[0];
    return static_cast<const U*>(p.in[second]) + from * plane_units;
  };
  const U* from = source();
  Vec<U, K> v;
  const int valid = units - first < K ? static_cast<int>(units - first) : K;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (k < valid) {
      v.v[k] = from[offset];
      if (K > 1 && ++offset == plane_units && k + 1 < valid) {  // on to the next plane
        offset = 0;
        if (++j == static_cast<I>(s.groups)) j = 0, ++i;
        if (++o == static_cast<I>(C_out)) {
          o = 0, ++n;
          divide(static_cast<I>(which * s.out_channels[0]), s.groups, i, j);
        }
        from = source();
      }
    }
  }
  U* to = static_cast<U*>(p.out[which]) + first;
  if (valid == K) {
    *reinterpret_cast<Vec<U, K>*>(to) = v;
  } else {
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (k < valid) to[k] = v.v[k];
  }
}

// NHWC: the channels of each pixel are permuted.  A block owns `pixels` pixels.  STAGED: it copies their rows to shared
// memory with 16-byte loads (`pixels` is such that every block's rows start aligned, whatever C) and gathers from there;
// otherwise, for pixels too large for that, from global memory.  A thread assembles 16 bytes of output at a time.
template <class U, bool STAGED>
__global__ void __launch_bounds__(kShuffleThreads) shuffle_pixels_kernel(ShuffleParams p, int pixels) {
  constexpr int K = 16 / sizeof(U);
  const ShuffleShape& s = p.shape;
  const int64_t first_pixel = static_cast<int64_t>(blockIdx.x) * pixels, left = s.N * s.HW - first_pixel;
  const int count = left < pixels ? static_cast<int>(left) : pixels;
  const int C0 = static_cast<int>(s.in_channels[0]), C1 = static_cast<int>(s.in_channels[1]);
  const int groups = static_cast<int>(s.groups), m = (C0 + C1) / groups;

  const U* rows[2];
  [[maybe_unused]] U* next = nullptr;
  if constexpr (STAGED) {
    CK_DYN_SHARED(staged, U);
    next = staged;
  }
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    const int C = t ? C1 : C0;
    const U* from = static_cast<const U*>(p.in[t]) + first_pixel * C;
    rows[t] = from;
    if constexpr (STAGED) {
      const int n = count * C, vectors = n / K;
      for (int v = threadIdx.x; v < vectors; v += kShuffleThreads)
        reinterpret_cast<Vec<U, K>*>(next)[v] = reinterpret_cast<const Vec<U, K>*>(from)[v];
      for (int e = vectors * K + threadIdx.x; e < n; e += kShuffleThreads) next[e] = from[e];
      rows[t] = next;
      next += pixels * C;  // a multiple of 16 bytes
    }
  }
  if constexpr (STAGED) __syncthreads();

  for (int t = 0; t < 2; ++t) {
    const int C_out = static_cast<int>(s.out_channels[t]), base = t ? static_cast<int>(s.out_channels[0]) : 0;
    U* out = static_cast<U*>(p.out[t]) + first_pixel * C_out;
    const int n = count * C_out;
    for (int first = threadIdx.x * K; first < n; first += kShuffleThreads * K) {
      int pixel = first / C_out, o = first - pixel * C_out;
      int i = (o + base) / groups, j = (o + base) - i * groups;
      Vec<U, K> v;
      const int valid = n - first < K ? n - first : K;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (k < valid) {
          const int c = j * m + i;
          v.v[k] = c < C0 ? rows[0][pixel * C0 + c] : rows[1][pixel * C1 + c - C0];
          if (++j == groups) j = 0, ++i;
          if (++o == C_out) o = 0, ++pixel, i = base / groups, j = base - i * groups;
        }
      }
      if (valid == K) {
        *reinterpret_cast<Vec<U, K>*>(out + first) = v;
      } else {
#pragma unroll
        for (int k = 0; k < K; ++k)
          if (k < valid) out[first + k] = v.v[k];
      }
    }
  }
}

template <class U>
cudaError_t launch_shuffle_planes(const ShuffleParams& p, cudaStream_t stream) {
  const ShuffleShape& s = p.shape;
  const int64_t C_out = s.out_channels[0] < s.out_channels[1] ? s.out_channels[1] : s.out_channels[0];
  const int64_t bytes = s.N * C_out * s.HW * s.element_size, per_block = kShuffleThreads * 16;
  const dim3 grid(static_cast<unsigned>((bytes + per_block - 1) / per_block), s.out_channels[1] ? 2 : 1);
  if (bytes < int64_t(1) << 32)  // a unit has at least 2 bytes
    return launch(shuffle_planes_kernel<U, uint32_t>, grid, dim3(kShuffleThreads), 0, stream, p);
  return launch(shuffle_planes_kernel<U, uint64_t>, grid, dim3(kShuffleThreads), 0, stream, p);
}

template <class U>
cudaError_t launch_shuffle_pixels(const ShuffleParams& p, cudaStream_t stream) {
  const ShuffleShape& s = p.shape;
  constexpr int align = 16 / sizeof(U);  // pixels per block in multiples of this keep every row's start aligned
  const int64_t row = s.channels() * static_cast<int64_t>(sizeof(U));
  const bool staged = align * row <= 48 * 1024;
  int64_t pixels = kShuffleSharedBytes / row / align * align;
  if (pixels < align) pixels = align;
  const int64_t blocks = (s.N * s.HW + pixels - 1) / pixels;
  const dim3 grid(static_cast<unsigned>(blocks));
  const size_t shared = staged ? static_cast<size_t>(pixels * row) : 0;
  if (staged)
    return launch(shuffle_pixels_kernel<U, true>, grid, dim3(kShuffleThreads), shared, stream, p,
                  static_cast<int>(pixels));
  return launch(shuffle_pixels_kernel<U, false>, grid, dim3(kShuffleThreads), shared, stream, p,
                static_cast<int>(pixels));
}

}  // namespace ck::cuda
