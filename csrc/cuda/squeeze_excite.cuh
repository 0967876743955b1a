// Squeeze-and-excitation kernels.  Forward, four launches: sums over strips of pixels (reads x), two layers (a few KiB),
// scaling (reads x, writes y): 3e bytes per element.  Backward: the same sums of x and of dy * x in one pass, the layers
// again and transposed, dx: 4e bytes per element.  No atomics: every sum has a fixed order.
//
// The layers are spread over blocks by rows, not run in one block per image: at batch 1 a single SM would need longer for
// the weights of 960x240 than all SMs need for the two passes over x.
#pragma once
#include "../math/squeeze_excite_shape.h"
#include "device/ck_cuda.cuh"

namespace ck::cuda {

constexpr int kSeThreads = 256;
constexpr int kSeImages = 4;  // images per block of a layer: each weight is loaded once for them

// Run-time choice: it costs nothing in the layers, which see N * (C + R) values in all.
inline __host__ __device__ float se_activate(Act a, float x, float slope) {
  switch (a) {
    case Act::relu: return activate<Act::relu>(x, slope);
    case Act::relu6: return activate<Act::relu6>(x, slope);
    case Act::leaky_relu: return activate<Act::leaky_relu>(x, slope);
    case Act::silu: return activate<Act::silu>(x, slope);
    case Act::hard_swish: return activate<Act::hard_swish>(x, slope);
    case Act::mish: return activate<Act::mish>(x, slope);
    case Act::sigmoid: return activate<Act::sigmoid>(x, slope);
    case Act::hard_sigmoid: return activate<Act::hard_sigmoid>(x, slope);
    default: return x;
  }
}
inline __host__ __device__ float se_activate_grad(Act a, float x, float slope) {
  switch (a) {
    case Act::relu: return activate_grad<Act::relu>(x, slope);
    case Act::relu6: return activate_grad<Act::relu6>(x, slope);
    case Act::leaky_relu: return activate_grad<Act::leaky_relu>(x, slope);
    case Act::silu: return activate_grad<Act::silu>(x, slope);
    case Act::hard_swish: return activate_grad<Act::hard_swish>(x, slope);
    case Act::mish: return activate_grad<Act::mish>(x, slope);
    case Act::sigmoid: return activate_grad<Act::sigmoid>(x, slope);
    case Act::hard_sigmoid: return activate_grad<Act::hard_sigmoid>(x, slope);
    default: return 1.f;
  }
}

// ---- sums --------------------------------------------------------------------------------------------------------------

// NCHW: a warp owns a strip of one plane, in 16-byte vectors between an unaligned head and tail (7x7 planes of halves start
// anywhere).  Warps run over strips * planes; sums[strip, plane] = sum of x, and dots likewise of dy * x with DOT.
template <class T, bool DOT>
__global__ void __launch_bounds__(kSeThreads)
    se_sum_planes_kernel(const T* __restrict__ x, const T* __restrict__ dy, float* sums, float* dots, int64_t planes,
                         int64_t HW, int strips) {
  constexpr int N = 16 / sizeof(T);
  using Vector = Vec<T, N>;
  const int lane = threadIdx.x % 32;
  const int64_t job = static_cast<int64_t>(blockIdx.x) * (kSeThreads / 32) + threadIdx.x / 32;
  if (job >= planes * strips) return;  // whole warps; there is no block barrier
  const int64_t plane = job / strips, strip = job % strips;
  const int64_t begin = plane * HW + HW * strip / strips, end = plane * HW + HW * (strip + 1) / strips;
  int64_t first = (begin + N - 1) / N, last = end / N;  // vectors
  if (first > last) first = last = (begin + N - 1) / N;
  float s = 0.f, d = 0.f;
  const auto add = [&](T v, T g) {
    s += to_f(v);
    if constexpr (DOT) d += to_f(v) * to_f(g);
  };
  const int64_t head = first * N < end ? first * N : end;
  for (int64_t i = begin + lane; i < head; i += 32) add(x[i], DOT ? dy[i] : x[i]);
#pragma unroll 2
  for (int64_t i = first + lane; i < last; i += 32) {
    const Vector v = reinterpret_cast<const Vector*>(x)[i];
    const Vector g = DOT ? reinterpret_cast<const Vector*>(dy)[i] : v;
#pragma unroll
    for (int k = 0; k < N; ++k) add(v.v[k], g.v[k]);
  }
  for (int64_t i = (last * N > head ? last * N : head) + lane; i < end; i += 32) add(x[i], DOT ? dy[i] : x[i]);
#pragma unroll
  for (int o = 16; o > 0; o /= 2) {
    s += __shfl_xor_sync(0xffffffffu, s, o);
    if constexpr (DOT) d += __shfl_xor_sync(0xffffffffu, d, o);
  }
  if (lane == 0) {
    sums[strip * planes + plane] = s;
    if constexpr (DOT) dots[strip * planes + plane] = d;
  }
}

// channels_last: a block owns 32 vectors of W channels of one strip of pixels of one image; its 8 warps take every eighth
// pixel, and their sums meet in shared memory.  W = 16 bytes where C allows, else 1.  sums: [strip, image, channel].
template <class T, int W, bool DOT>
__global__ void __launch_bounds__(kSeThreads)
    se_sum_pixels_kernel(const T* __restrict__ x, const T* __restrict__ dy, float* sums, float* dots, int64_t N,
                         int64_t C, int64_t HW, int strips) {
  constexpr int kWarps = kSeThreads / 32;
  using Vector = Vec<T, W>;
  CK_SHARED(parts, float[kWarps][32 * W + 1]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * 32 + lane) * W;
  const int64_t n = blockIdx.x / strips, strip = blockIdx.x % strips;
  const int64_t begin = HW * strip / strips, end = HW * (strip + 1) / strips;
  float s[W] = {}, d[W] = {};
  if (c < C) {
#pragma unroll 2
    for (int64_t p = begin + warp; p < end; p += kWarps) {
      const int64_t i = (n * HW + p) * C + c;
      const Vector v = *reinterpret_cast<const Vector*>(x + i);
      const Vector g = DOT ? *reinterpret_cast<const Vector*>(dy + i) : v;
#pragma unroll
      for (int k = 0; k < W; ++k) {
        s[k] += to_f(v.v[k]);
        if constexpr (DOT) d[k] += to_f(v.v[k]) * to_f(g.v[k]);
      }
    }
  }
  const int64_t tile = static_cast<int64_t>(blockIdx.y) * 32 * W;
#pragma unroll
  for (int which = 0; which < (DOT ? 2 : 1); ++which) {
#pragma unroll
    for (int k = 0; k < W; ++k) parts[warp][lane * W + k] = which ? d[k] : s[k];
    __syncthreads();
    float* out = (which ? dots : sums) + (strip * N + n) * C;
    for (int i = threadIdx.x; i < 32 * W; i += kSeThreads) {
      float total = 0.f;
      for (int w = 0; w < kWarps; ++w) total += parts[w][i];
      if (tile + i < C) out[tile + i] = total;
    }
    __syncthreads();
  }
}

// ---- layers ------------------------------------------------------------------------------------------------------------

// A vector [N, K] in fp32 as a layer reads it: act(scale * sum over strips).
struct SeInput {
  const float* data;  // [strips, N * K]
  int strips;
  float scale;
  Act act;
  float slope;

  __device__ float at(int64_t i, int64_t size) const {
    float v = data[i];
    for (int k = 1; k < strips; ++k) v += data[k * size + i];
    return se_activate(act, v * scale, slope);
  }
};

// out[n, row] = b[row] + sum_k w[row, k] * in[n, k].  A warp owns a row, for kSeImages images; the block's eight rows share
// the inputs, staged in shared memory 512 at a time.
template <class T>
__global__ void __launch_bounds__(kSeThreads)
    se_layer_kernel(const T* __restrict__ w, const T* __restrict__ b, SeInput in, float* out, int64_t N, int64_t K,
                    int64_t rows) {
  constexpr int kChunk = 512;
  CK_SHARED(staged, float[kSeImages][kChunk]);
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kSeThreads / 32) + threadIdx.x / 32;
  const int64_t n0 = static_cast<int64_t>(blockIdx.y) * kSeImages;
  float acc[kSeImages] = {};
  for (int64_t k0 = 0; k0 < K; k0 += kChunk) {
    const int chunk = K - k0 < kChunk ? static_cast<int>(K - k0) : kChunk;
    __syncthreads();
    for (int i = threadIdx.x; i < kSeImages * kChunk; i += kSeThreads) {
      const int image = i / kChunk, k = i % kChunk;
      if (k < chunk) staged[image][k] = n0 + image < N ? in.at((n0 + image) * K + k0 + k, N * K) : 0.f;
    }
    __syncthreads();
    if (row < rows) {
      for (int k = lane; k < chunk; k += 32) {
        const float v = to_f(w[row * K + k0 + k]);
#pragma unroll
        for (int i = 0; i < kSeImages; ++i) acc[i] += v * staged[i][k];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kSeImages; ++i) {
#pragma unroll
    for (int o = 16; o > 0; o /= 2) acc[i] += __shfl_xor_sync(0xffffffffu, acc[i], o);
    if (lane == 0 && row < rows && n0 + i < N) out[(n0 + i) * rows + row] = acc[i] + (b ? to_f(b[row]) : 0.f);
  }
}

// out[n, k] = scale * act'(at[n, k]) * sum_row in[n, row] * w[row, k]   (at = null: without act').  A block owns 32 columns
// of kSeImages images; its 8 warps take every eighth row.
template <class T>
__global__ void __launch_bounds__(kSeThreads)
    se_layer_transposed_kernel(const T* __restrict__ w, const float* __restrict__ in, const float* __restrict__ at,
                               float* out, int64_t N, int64_t K, int64_t rows, float scale, Act act, float slope) {
  constexpr int kWarps = kSeThreads / 32;
  CK_SHARED(parts, float[kSeImages][kWarps][32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t k = static_cast<int64_t>(blockIdx.x) * 32 + lane, n0 = static_cast<int64_t>(blockIdx.y) * kSeImages;
  float acc[kSeImages] = {};
  if (k < K) {
    for (int64_t row = warp; row < rows; row += kWarps) {
      const float v = to_f(w[row * K + k]);
#pragma unroll
      for (int i = 0; i < kSeImages; ++i)
        if (n0 + i < N) acc[i] += v * in[(n0 + i) * rows + row];
    }
  }
#pragma unroll
  for (int i = 0; i < kSeImages; ++i) parts[i][warp][lane] = acc[i];
  __syncthreads();
  if (warp < kSeImages && k < K && n0 + warp < N) {
    float total = 0.f;
    for (int j = 0; j < kWarps; ++j) total += parts[warp][j][lane];
    const int64_t o = (n0 + warp) * K + k;
    out[o] = total * scale * (at ? se_activate_grad(act, at[o], slope) : 1.f);
  }
}

// dgate[i] = (sum over strips of dots) * gate'(gate_in[i]): one thread each.
static __global__ void __launch_bounds__(kSeThreads)
    se_gate_gradient_kernel(SeInput dots, const float* __restrict__ gate_in, float* dgate, int64_t n, Act gate) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSeThreads + threadIdx.x;
  if (i < n) dgate[i] = dots.at(i, n) * se_activate_grad(gate, gate_in[i], 0.f);
}

// dw[row, k] = sum_n d[n, row] * in[n, k] and db[row] = sum_n d[n, row]: one thread per element, all images in order.
template <class T>
__global__ void __launch_bounds__(kSeThreads) se_weight_gradient_kernel(const float* __restrict__ d, SeInput in, T* dw,
                                                                        T* db, int64_t N, int64_t K, int64_t rows) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSeThreads + threadIdx.x;
  if (i >= rows * K) return;
  const int64_t row = i / K, k = i % K;
  float w = 0.f, b = 0.f;
  for (int64_t n = 0; n < N; ++n) {
    const float v = d[n * rows + row];
    w += v * in.at(n * K + k, N * K);
    b += v;
  }
  dw[i] = from_f<T>(w);
  if (k == 0) db[row] = from_f<T>(b);
}

// ---- scaling -----------------------------------------------------------------------------------------------------------

// out = in * gate(gate_in) (+ shift), 2e bytes per element.  A thread owns 16 bytes of the flat tensor; the plane (NCHW) or
// channel (channels_last) of its first element is found by division, the others by counting on.
template <class T, bool SHIFT>
__global__ void __launch_bounds__(kSeThreads)
    se_scale_kernel(const T* __restrict__ in, const float* __restrict__ gate_in, const float* __restrict__ shift,
                    T* out, int64_t total, int64_t C, int64_t HW, bool channels_last, Act gate) {
  constexpr int V = 16 / sizeof(T);
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kSeThreads + threadIdx.x) * V;
  if (first >= total) return;
  const int64_t inner = channels_last ? C : HW;  // the size of the innermost dimension
  int64_t outer, base, limit = inner;
  int64_t offset;
  if (total <= 0xffffffffll) {
    outer = static_cast<uint32_t>(first) / static_cast<uint32_t>(inner);
    offset = first - outer * inner;
    base = channels_last ? static_cast<uint32_t>(outer) / static_cast<uint32_t>(HW) * C : outer;
  } else {
    outer = first / inner;
    offset = first - outer * inner;
    base = channels_last ? outer / HW * C : outer;
  }
  const int valid = total - first < V ? static_cast<int>(total - first) : V;
  Vec<T, V> v;
  if (valid == V) {
    v = *reinterpret_cast<const Vec<T, V>*>(in + first);
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (k < valid) v.v[k] = in[first + k];
  }
  float g = 0.f, s = 0.f;
  bool fresh = true;  // the gate of this element is not that of the one before
#pragma unroll
  for (int k = 0; k < V; ++k) {
    if (k < valid) {
      if (fresh || channels_last) {
        const int64_t i = channels_last ? base + offset : base;
        g = gate == Act::sigmoid ? activate<Act::sigmoid>(gate_in[i], 0.f)
                                 : activate<Act::hard_sigmoid>(gate_in[i], 0.f);
        if constexpr (SHIFT) s = shift[i];
        fresh = false;
      }
      v.v[k] = from_f<T>(to_f(v.v[k]) * g + s);
      if (++offset == limit) {
        offset = 0, ++outer, fresh = true;
        base = channels_last ? outer / HW * C : outer;
      }
    }
  }
  if (valid == V) {
    *reinterpret_cast<Vec<T, V>*>(out + first) = v;
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (k < valid) out[first + k] = v.v[k];
  }
}

// ---- launches ----------------------------------------------------------------------------------------------------------

inline int64_t se_blocks(int64_t n, int64_t per_block) { return (n + per_block - 1) / per_block; }

// Strips of pixels: enough blocks to fill a large GPU (about 528) where there are few images, at least 256 pixels each.
inline int se_strips(const SqueezeExciteShape& s) {
  const int64_t blocks = s.channels_last ? s.N * se_blocks(s.C, 256) : se_blocks(s.N * s.C, kSeThreads / 32);
  int64_t strips = se_blocks(528, blocks > 0 ? blocks : 1);
  if (strips > s.HW / 256) strips = s.HW / 256;
  return strips < 1 ? 1 : static_cast<int>(strips);
}

template <class T, bool DOT>
cudaError_t launch_se_sums(const SqueezeExciteShape& s, const T* x, const T* dy, float* sums, float* dots,
                           cudaStream_t stream) {
  const int strips = se_strips(s);
  if (!s.channels_last) {
    const dim3 grid(static_cast<unsigned>(se_blocks(s.N * s.C * strips, kSeThreads / 32)));
    return launch(se_sum_planes_kernel<T, DOT>, grid, dim3(kSeThreads), 0, stream, x, dy, sums, dots, s.N * s.C, s.HW,
                  strips);
  }
  constexpr int W = 16 / sizeof(T);
  const bool wide = s.C % W == 0;
  const dim3 grid(static_cast<unsigned>(s.N * strips), static_cast<unsigned>(se_blocks(s.C, 32 * (wide ? W : 1))));
  if (wide)
    return launch(se_sum_pixels_kernel<T, W, DOT>, grid, dim3(kSeThreads), 0, stream, x, dy, sums, dots, s.N, s.C, s.HW,
                  strips);
  return launch(se_sum_pixels_kernel<T, 1, DOT>, grid, dim3(kSeThreads), 0, stream, x, dy, sums, dots, s.N, s.C, s.HW,
                strips);
}

// out[N, rows] of a layer.
template <class T>
cudaError_t launch_se_layer(const T* w, const T* b, const SeInput& in, float* out, int64_t N, int64_t K, int64_t rows,
                            cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(se_blocks(rows, kSeThreads / 32)),
                  static_cast<unsigned>(se_blocks(N, kSeImages)));
  return launch(se_layer_kernel<T>, grid, dim3(kSeThreads), 0, stream, w, b, in, out, N, K, rows);
}

template <class T, bool SHIFT>
cudaError_t launch_se_scale(const SqueezeExciteShape& s, const T* in, const float* gate_in, const float* shift, T* out,
                            cudaStream_t stream) {
  const int64_t total = s.N * s.C * s.HW;
  const dim3 grid(static_cast<unsigned>(se_blocks(total, kSeThreads * (16 / static_cast<int64_t>(sizeof(T))))));
  return launch(se_scale_kernel<T, SHIFT>, grid, dim3(kSeThreads), 0, stream, in, gate_in, shift, out, total, s.C, s.HW,
                s.channels_last, s.gate);
}

}  // namespace ck::cuda
