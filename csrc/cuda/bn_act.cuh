// Batch norm and activation kernels, all of them bound by memory.  Bytes per element: apply 2e (3e with a residual), sums
// 2e, dx 3e, sums and dx together (given scale and shift) 3e, statistics e.
//
// Two ways through the tensor, 256 threads each:
//   planes (NCHW)          Element-wise kernels walk the tensor flat, kFlatVectors 16-byte vectors per thread, whatever S
//                          is; a vector that crosses into the next plane changes parameters on the way.  Kernels with sums
//                          give a block one channel and kValues of its values.
//   rows (channels_last)   A block owns TX 16-byte channel vectors (up to 512 contiguous bytes, so that a warp's accesses are
//                          whole lines) times TY * kRowsPerThread rows; a thread keeps its vector's parameters and sums
//                          in registers over its rows.  W = 1 is the same with single channels, for C no multiple of W;
//                          W = 2 with pairs, for apply.
// Blocks leave partial sums in the workspace, [channel][part]; one warp per channel then joins them in a fixed order.
#pragma once
#include "../math/bn_shape.h"
#include "device/ck_cuda.cuh"

namespace ck::cuda {

constexpr int kBnThreads = 256;  // launch bounds promise 2 blocks per SM, else ptxas spills to reach 4
constexpr int kFlatVectors = 2;
constexpr int kValues = 8192;       // 32 per thread: enough loads to hide the latency, enough blocks to fill the device
constexpr int kRowsPerThread = 16;  // at most: the parameters' loads and the block's reduction are spread over these

// What a kernel knows of a channel: v = (x - mean) * scale + shift.  Null pointers mean 0, 1, 1, 0; var: no division.
struct BnParams {
  const float *mean, *var, *weight, *bias;
  float eps;
};
struct BnAffine {
  float mean, scale, shift;
  CK_HD float operator()(float x) const { return (x - mean) * scale + shift; }
};
CK_HD BnAffine bn_affine(const BnParams& p, int64_t c) {
  const float w = p.weight ? p.weight[c] : 1.f;
  return {p.mean ? p.mean[c] : 0.f, p.var ? w / sqrtf(p.var[c] + p.eps) : w, p.bias ? p.bias[c] : 0.f};
}

// apply: out = act(v) (+ other)                          other: residual or null
// batch: out = scale * g + slant * (x - mean) + offset   other: grad; g = grad * act'(v); slant, offset from the sums
// sums:  sum g, sum g * (x - mean)                       other: grad
// fixed: the sums, and out = scale * g
// stats: sum (x - K), sum (x - K)^2, K a value of the channel
enum class BnPass { apply, batch, sums, fixed, stats };
CK_HD constexpr bool has_sums(BnPass p) { return p == BnPass::sums || p == BnPass::fixed || p == BnPass::stats; }
CK_HD constexpr bool has_output(BnPass p) { return p == BnPass::apply || p == BnPass::batch || p == BnPass::fixed; }
CK_HD constexpr bool has_grad(BnPass p) { return p == BnPass::batch || p == BnPass::sums || p == BnPass::fixed; }

// Rows whose loads are on their way together, in channels_last.
template <BnPass P>
constexpr int kRowsAtOnce = has_grad(P) ? 2 : 4;

template <class T>
struct BnData {
  const T *x, *other;
  T* out;
  BnParams params;
  const float *slant, *offset;  // [C], for BnPass::batch
  float slope;
};

// A channel's parameters and sums in registers.
struct BnChannel {
  BnAffine affine;  // mean is K for BnPass::stats
  float slant, offset, s0, s1;
};
template <BnPass P, class T>
CK_HD BnChannel bn_channel(const BnData<T>& d, int64_t c) {
  BnChannel r{};
  if constexpr (P != BnPass::stats) r.affine = bn_affine(d.params, c);
  if constexpr (P == BnPass::batch) r.slant = d.slant[c], r.offset = d.offset[c];
  return r;
}

// One element: x and other in, the output back, the sums kept.
template <Act A, BnPass P>
CK_HD float bn_element(float x, float other, BnChannel& c, float slope) {
  const float d = x - c.affine.mean;
  if constexpr (P == BnPass::stats) {
    c.s0 += d, c.s1 += d * d;
    return 0.f;
  } else if constexpr (P == BnPass::apply) {
    return activate<A>(d * c.affine.scale + c.affine.shift, slope) + other;
  } else {
    const float g = other * activate_grad<A>(d * c.affine.scale + c.affine.shift, slope);
    if constexpr (has_sums(P)) c.s0 += g, c.s1 += g * d;
    return P == BnPass::batch ? g * c.affine.scale + (d * c.slant + c.offset) : g * c.affine.scale;
  }
}

// ---- element-wise, NCHW ------------------------------------------------------------------------------------------------
// Vector i is elements i * N ...; their channel is (element / S) % C.
template <class T, Act A, BnPass P>
__global__ void __launch_bounds__(kBnThreads, 2) bn_flat_kernel(BnData<T> d, int64_t n, int64_t S, int64_t C) {
  static_assert(!has_sums(P), "element-wise passes only");
  constexpr int N = 16 / sizeof(T);
  using Vector = Vec<T, N>;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kBnThreads * kFlatVectors) + threadIdx.x;
  Vector xs[kFlatVectors], os[kFlatVectors];
#pragma unroll
  for (int j = 0; j < kFlatVectors; ++j) {
    const int64_t i = (first + j * kBnThreads) * N;
    if (i + N <= n) {
      xs[j] = *reinterpret_cast<const Vector*>(d.x + i);
      if (d.other) os[j] = *reinterpret_cast<const Vector*>(d.other + i);
    } else {  // the tensor's end
#pragma unroll
      for (int k = 0; k < N; ++k) {
        xs[j].v[k] = i + k < n ? d.x[i + k] : from_f<T>(0.f);
        os[j].v[k] = d.other && i + k < n ? d.other[i + k] : from_f<T>(0.f);
      }
    }
  }
  const bool narrow = n <= INT32_MAX - S;  // 64-bit divisions take a hundred instructions each
#pragma unroll
  for (int j = 0; j < kFlatVectors; ++j) {
    const int64_t i = (first + j * kBnThreads) * N;
    if (i >= n) continue;
    int64_t left, c;  // elements left in the plane, and its channel
    if (narrow) {
      const uint32_t at = static_cast<uint32_t>(i), size = static_cast<uint32_t>(S), plane = at / size;
      left = (plane + 1) * size - at, c = plane % static_cast<uint32_t>(C);
    } else {
      const int64_t plane = i / S;
      left = (plane + 1) * S - i, c = plane % C;
    }
    BnChannel channel = bn_channel<P>(d, c);
    Vector r;
    const auto element = [&](int k) {
      r.v[k] = from_f<T>(bn_element<A, P>(to_f(xs[j].v[k]), d.other ? to_f(os[j].v[k]) : 0.f, channel, d.slope));
    };
    if (left >= N) {
#pragma unroll
      for (int k = 0; k < N; ++k) element(k);
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        if (left == 0) {
          c = c + 1 == C ? 0 : c + 1;
          left = S;
          channel = bn_channel<P>(d, c);
        }
        --left;
        element(k);
      }
    }
    if (i + N <= n) {
      *reinterpret_cast<Vector*>(d.out + i) = r;
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        if (i + k < n) d.out[i + k] = r.v[k];
      }
    }
  }
}

// ---- partial sums -------------------------------------------------------------------------------------------------------
// A part is {sum g, sum g * d}, or {values, mean, sum of squared differences from it} for statistics.
template <BnPass P> constexpr int kPart = P == BnPass::stats ? 3 : 2;

template <BnPass P>
CK_HD void store_part(float* part, float values, float k, float s0, float s1) {
  if constexpr (P == BnPass::stats) {
    const float m = values > 0.f ? s0 / values : 0.f;
    part[0] = values, part[1] = k + m, part[2] = s1 - s0 * m;
  } else {
    part[0] = s0, part[1] = s1;
  }
}

// ---- sums, NCHW: block = channel c, part p ------------------------------------------------------------------------------
// A plane starts anywhere, so it is covered by `slots` aligned 16-byte vectors; those that reach outside it are read
// element by element.  Slots of all N planes are numbered n * slots + s and dealt to parts in runs of slots_per_part.
template <class T, Act A, BnPass P>
__global__ void __launch_bounds__(kBnThreads, 2)
    bn_plane_sums_kernel(BnData<T> d, float* __restrict__ parts, int64_t N, int64_t C, int64_t S, int64_t slots,
                         int64_t slots_per_part, int parts_per_channel) {
  constexpr int W = 16 / sizeof(T);
  using Vector = Vec<T, W>;
  const int64_t c = blockIdx.x % C, p = blockIdx.x / C;
  const int64_t begin = p * slots_per_part;
  const int64_t end = begin + slots_per_part < N * slots ? begin + slots_per_part : N * slots;
  BnChannel channel = bn_channel<P>(d, c);
  if constexpr (P == BnPass::stats) channel.affine.mean = to_f(d.x[(begin / slots * C + c) * S]);
  float values = 0.f;
  for (int64_t q = begin + threadIdx.x; q < end; q += kBnThreads) {
    const int64_t n = q / slots;
    const int64_t plane = (n * C + c) * S;
    const int64_t i = (plane / W + (q - n * slots)) * W;
    if (i >= plane && i + W <= plane + S) {
      const Vector x = *reinterpret_cast<const Vector*>(d.x + i);
      Vector other, r;
      if constexpr (has_grad(P)) other = *reinterpret_cast<const Vector*>(d.other + i);
#pragma unroll
      for (int k = 0; k < W; ++k) {
        r.v[k] = from_f<T>(bn_element<A, P>(to_f(x.v[k]), has_grad(P) ? to_f(other.v[k]) : 0.f, channel, d.slope));
      }
      if constexpr (has_output(P)) *reinterpret_cast<Vector*>(d.out + i) = r;
      values += W;
    } else {
#pragma unroll
      for (int k = 0; k < W; ++k) {
        if (i + k >= plane && i + k < plane + S) {
          const float o = has_grad(P) ? to_f(d.other[i + k]) : 0.f;
          const float r = bn_element<A, P>(to_f(d.x[i + k]), o, channel, d.slope);
          if constexpr (has_output(P)) d.out[i + k] = from_f<T>(r);
          values += 1.f;
        }
      }
    }
  }
  CK_SHARED(shared, float[3][kBnThreads / 32]);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    channel.s0 += __shfl_xor_sync(0xffffffffu, channel.s0, offset);
    channel.s1 += __shfl_xor_sync(0xffffffffu, channel.s1, offset);
    values += __shfl_xor_sync(0xffffffffu, values, offset);
  }
  if (threadIdx.x % 32 == 0) {
    shared[0][threadIdx.x / 32] = channel.s0;
    shared[1][threadIdx.x / 32] = channel.s1;
    shared[2][threadIdx.x / 32] = values;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float s0 = 0.f, s1 = 0.f, v = 0.f;
    for (int w = 0; w < kBnThreads / 32; ++w) s0 += shared[0][w], s1 += shared[1][w], v += shared[2][w];
    store_part<P>(parts + (c * parts_per_channel + p) * kPart<P>, v, channel.affine.mean, s0, s1);
  }
}

// ---- channels_last, every pass -----------------------------------------------------------------------------------------
// blockIdx.x = row part * column blocks + column block; threadIdx.x = row * TX + vector.
template <class T, int W, Act A, BnPass P>
__global__ void __launch_bounds__(kBnThreads, 2)
    bn_rows_kernel(BnData<T> d, float* __restrict__ parts, int64_t rows, int64_t C, int tx, int column_blocks,
                   int rows_per_thread, int parts_per_channel) {
  using Vector = Vec<T, W>;
  constexpr int AT_ONCE = kRowsAtOnce<P>;
  const int ty = kBnThreads / tx;
  const int64_t part = blockIdx.x / column_blocks, column = blockIdx.x % column_blocks;
  const int tile_column = threadIdx.x % tx, tile_row = threadIdx.x / tx;
  const int64_t c = (column * tx + tile_column) * W;
  const int64_t begin = part * (ty * rows_per_thread);
  const int64_t end = begin + ty * rows_per_thread < rows ? begin + ty * rows_per_thread : rows;
  BnChannel channels[W];
  if (c < C) {
#pragma unroll
    for (int k = 0; k < W; ++k) {
      channels[k] = bn_channel<P>(d, c + k);
      if constexpr (P == BnPass::stats) channels[k].affine.mean = to_f(d.x[begin * C + c + k]);
    }
    const bool with_other = has_grad(P) || (P == BnPass::apply && d.other);
    for (int64_t r0 = begin + tile_row; r0 < end; r0 += AT_ONCE * ty) {
      Vector x[AT_ONCE], other[AT_ONCE];
#pragma unroll
      for (int b = 0; b < AT_ONCE; ++b) {
        if (r0 + b * ty >= end) continue;
        const int64_t i = (r0 + b * ty) * C + c;
        x[b] = *reinterpret_cast<const Vector*>(d.x + i);
        if (with_other) other[b] = *reinterpret_cast<const Vector*>(d.other + i);
      }
#pragma unroll
      for (int b = 0; b < AT_ONCE; ++b) {
        if (r0 + b * ty >= end) continue;
        Vector out;
#pragma unroll
        for (int k = 0; k < W; ++k) {
          const float o = with_other ? to_f(other[b].v[k]) : 0.f;
          out.v[k] = from_f<T>(bn_element<A, P>(to_f(x[b].v[k]), o, channels[k], d.slope));
        }
        if constexpr (has_output(P)) *reinterpret_cast<Vector*>(d.out + (r0 + b * ty) * C + c) = out;
      }
    }
  }
  if constexpr (has_sums(P)) {
    CK_SHARED(shared, float[2][kBnThreads * W]);  // [sum][row][channel of the tile]: the rows are added up in order
#pragma unroll
    for (int k = 0; k < W; ++k) {
      shared[0][threadIdx.x * W + k] = c < C ? channels[k].s0 : 0.f;
      shared[1][threadIdx.x * W + k] = c < C ? channels[k].s1 : 0.f;
    }
    __syncthreads();
    const int width = tx * W;
    for (int t = threadIdx.x; t < width; t += kBnThreads) {
      const int64_t channel = column * width + t;
      if (channel < C) {
        float s0 = 0.f, s1 = 0.f;
        for (int r = 0; r < ty; ++r) s0 += shared[0][r * width + t], s1 += shared[1][r * width + t];
        const float k = P == BnPass::stats ? to_f(d.x[begin * C + channel]) : 0.f;
        store_part<P>(parts + (channel * parts_per_channel + part) * kPart<P>, static_cast<float>(end - begin), k, s0,
                      s1);
      }
    }
  }
}

// ---- joining the parts: a warp per channel -----------------------------------------------------------------------------

struct BnMoments {
  float n, mean, m2;
};
// Chan, Golub and LeVeque 1979: the moments of two sets together.
CK_HD BnMoments join(BnMoments a, BnMoments b) {
  const float n = a.n + b.n;
  if (n == 0.f) return a;
  const float delta = b.mean - a.mean, w = b.n / n;
  return {n, a.mean + delta * w, a.m2 + b.m2 + delta * delta * a.n * w};
}

template <int kUnused = 0>
__global__ void __launch_bounds__(kBnThreads, 2)
    bn_stats_kernel(const float* __restrict__ parts, float* __restrict__ mean, float* __restrict__ var, int64_t C,
                    int parts_per_channel) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * (kBnThreads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  BnMoments all{0.f, 0.f, 0.f};
  if (c < C) {
    for (int p = lane; p < parts_per_channel; p += 32) {
      const float* part = parts + (c * parts_per_channel + p) * 3;
      all = join(all, {part[0], part[1], part[2]});
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const BnMoments other{__shfl_down_sync(0xffffffffu, all.n, offset), __shfl_down_sync(0xffffffffu, all.mean, offset),
                          __shfl_down_sync(0xffffffffu, all.m2, offset)};
    all = join(all, other);
  }
  if (c < C && lane == 0) {
    mean[c] = all.mean;
    var[c] = all.n > 0.f ? m_max(0.f, all.m2 / all.n) : 0.f;
  }
}

// Sums of the parts.  With params.var, what depends on them for BnPass::batch: dweight = sum g * xhat and
//   dx = scale * (g - dbias / values - xhat * dweight / values),  xhat = (x - mean) / std.
template <int kUnused = 0>
__global__ void __launch_bounds__(kBnThreads, 2)
    bn_grad_kernel(const float* __restrict__ parts, BnParams params, float* __restrict__ dscale,
                   float* __restrict__ dshift, float* __restrict__ slant, float* __restrict__ offset, int64_t C,
                   int parts_per_channel, float values) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * (kBnThreads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  float s0 = 0.f, s1 = 0.f;
  if (c < C) {
    for (int p = lane; p < parts_per_channel; p += 32) {
      const float* part = parts + (c * parts_per_channel + p) * 2;
      s0 += part[0], s1 += part[1];
    }
  }
#pragma unroll
  for (int o = 16; o > 0; o /= 2) {
    s0 += __shfl_down_sync(0xffffffffu, s0, o);
    s1 += __shfl_down_sync(0xffffffffu, s1, o);
  }
  if (c < C && lane == 0) {
    dshift[c] = s0;
    if (params.var) {
      const float r = 1.f / sqrtf(params.var[c] + params.eps), scale = bn_affine(params, c).scale;
      dscale[c] = s1 * r;
      slant[c] = -scale * r * (s1 * r / values);
      offset[c] = -scale * (s0 / values);
    } else {
      dscale[c] = s1;
    }
  }
}

// ---- launches -----------------------------------------------------------------------------------------------------------

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline unsigned bn_channel_blocks(int64_t C) { return static_cast<unsigned>(ceil_div(C, kBnThreads / 32)); }

// How a shape is cut; everything follows from the shape and the device.
struct BnTiling {
  explicit BnTiling(const BnShape& s, BnPass pass = BnPass::sums) {
    const int full = s.dtype == Dtype::f32 ? 4 : 8;
    if (s.channels_last) {
      width = s.C % full == 0 ? full : pass == BnPass::apply && s.C % 2 == 0 ? 2 : 1;
      const int64_t vectors = s.C / width;
      for (tx = 1; tx < 32 && tx < vectors;) tx *= 2;
      column_blocks = static_cast<int>(ceil_div(vectors, tx));
      const auto parts_of = [&](int each) { return ceil_div(s.values(), int64_t(kBnThreads / tx) * each); };
      rows_per_thread = kRowsPerThread;  // fewer, where that leaves multiprocessors idle
      while (rows_per_thread > 1 && parts_of(rows_per_thread) * column_blocks < 4 * multiprocessors())
        rows_per_thread /= 2;
      parts = static_cast<int>(parts_of(rows_per_thread));
    } else {
      slots = (s.S + full - 1) / full + 1;  // an unaligned plane reaches into one vector more
      slots_per_part = kValues / full;
      parts = static_cast<int>(ceil_div(s.N * slots, slots_per_part));
    }
  }
  int width = 0, tx = 1, column_blocks = 0, rows_per_thread = 0, parts = 0;
  int64_t slots = 0, slots_per_part = 0;
};

// Runs pass P over the tensor; with sums, their parts go to `parts`.
template <class T, Act A, BnPass P>
cudaError_t bn_pass(const BnShape& s, const BnTiling& t, const BnData<T>& d, float* parts, cudaStream_t stream) {
  const dim3 block(kBnThreads);
  if (s.channels_last) {
    const dim3 grid(static_cast<unsigned>(int64_t(t.parts) * t.column_blocks));
    constexpr int W = 16 / sizeof(T);
    auto kernel = t.width == W ? bn_rows_kernel<T, W, A, P> : bn_rows_kernel<T, 1, A, P>;
    if constexpr (P == BnPass::apply)
      if (t.width == 2) kernel = bn_rows_kernel<T, 2, A, P>;
    return launch(kernel, grid, block, 0, stream, d, parts, s.values(), s.C, t.tx, t.column_blocks, t.rows_per_thread,
                  t.parts);
  }
  if constexpr (has_sums(P)) {
    const dim3 grid(static_cast<unsigned>(s.C * t.parts));
    return launch(bn_plane_sums_kernel<T, A, P>, grid, block, 0, stream, d, parts, s.N, s.C, s.S, t.slots,
                  t.slots_per_part, t.parts);
  } else {
    const dim3 grid(static_cast<unsigned>(ceil_div(s.numel(), int64_t(kBnThreads) * kFlatVectors * (16 / sizeof(T)))));
    return launch(bn_flat_kernel<T, A, P>, grid, block, 0, stream, d, s.numel(), s.S, s.C);
  }
}

// f(T(), activation as a compile-time constant)
template <class F>
cudaError_t with_bn_types(Dtype dtype, Act act, F&& f) {
  return with_cuda_dtype(dtype, [&](auto t) { return with_act(act, [&](auto a) { return f(t, a); }); });
}

}  // namespace ck::cuda
