// Depthwise convolution, NHWC.  2e bytes per output at stride 1, 5e at stride 2 (e = bytes per element): memory-bound for
// k = 3, at the knee for k = 5, bound by fp32 FMAs for k = 7.
//
// A thread owns V neighbouring channels (one 4- to 16-byte access) x F column steps and walks down a strip of rows with a
// ring of partial sums (dwconv_tile.cuh), so an input row is loaded once; halo columns hit L1.  The next row is on its way
// while this one is used.  blockDim = (channel vectors, neighbouring columns): a warp reads contiguous channels of
// neighbouring pixels.  V is 4 rather than the 8 halves of a 16-byte access: with 8, filter and ring need 170 registers for
// k = 3; with 4 and twice the columns the bytes in flight per SM are the same, and fewer of them are halo.  k = 5 keeps
// its 25 x 2 weights in registers, k = 7 reads them from shared memory, where 7 columns share each read.
#pragma once
#include "dwconv_tile.cuh"

namespace ck::cuda {

constexpr int kDwConvThreads = 128;

// Column steps per thread.
template <int K, Step D>
constexpr int kNhwcColumns = K == 7 && D == Step::s1                       ? 7
                             : D == Step::up2 || (K == 3 && D == Step::s2) ? 2
                                                                           : 4;

// Merges the moments of all threads of the block that have the same threadIdx.x, channel by channel, and writes one row
// of partials.  sums: [threads][V] in shared memory; every thread of the block comes here.
template <int V>
__device__ inline void write_partials(Moments* sums, const DwConvTask& a, int64_t part, int c, bool first_channels) {
  const int lanes = blockDim.x, rows = blockDim.y, ty = threadIdx.y;
  Moments* mine = sums + (ty * lanes + threadIdx.x) * V;
#pragma unroll
  for (int v = 0; v < V; ++v) mine[v].finish();
  __syncthreads();
  for (int w = 1; w < rows; w *= 2) {
    if (ty % (2 * w) == 0 && ty + w < rows) {
#pragma unroll
      for (int v = 0; v < V; ++v) mine[v].merge(mine[w * lanes * V + v]);
    }
    __syncthreads();
  }
  if (ty != 0) return;
  const int64_t C = a.s.C;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if (c + v >= C) break;
    a.partials[part * C + c + v] = mine[v].mean;
    a.partials[(a.partial_rows + part) * C + c + v] = mine[v].m2;
  }
  if (threadIdx.x == 0 && first_channels) a.partials[2 * a.partial_rows * C + part] = mine->n;
}

// Blocks per SM that the registers must leave room for.
template <int K, int V>
constexpr int kNhwcBlocks = K == 7             ? 2
                            : K == 3 && V == 2 ? 4
                                               : 3;

template <class T, int K, Step D, int V>
__global__ void __launch_bounds__(kDwConvThreads, K == 5 && D == Step::up2 ? 2 : kNhwcBlocks<K, V>)
    dwconv_nhwc_kernel(const DwConvTask a) {
  using G = Taps<K, D>;
  constexpr int F = kNhwcColumns<K, D>, KK = K * K;
  using Ring = Window<K, D, F, V>;
  constexpr int COLS = Ring::kColumns, OUT_COLS = Ring::kOutColumns;
  constexpr bool kInRegisters = K < 7;
  using Vector = Vec<T, V>;
  CK_DYN_SHARED(shared, float);

  const int lanes = blockDim.x, width = lanes * V;
  const int tid = threadIdx.y * lanes + threadIdx.x, threads = lanes * blockDim.y;
  const int C = static_cast<int>(a.s.C), H = static_cast<int>(a.s.H), W = static_cast<int>(a.s.W);
  const int P = static_cast<int>(a.s.P), Q = static_cast<int>(a.s.Q);
  const int block_c = static_cast<int>(blockIdx.x % a.channel_blocks) * width;
  const int64_t block_item = blockIdx.x / a.channel_blocks;

  // filter [KK][width], scale, shift [width] as fp32
  float* scale = shared + KK * width;
  float* shift = scale + width;
  Moments* sums = reinterpret_cast<Moments*>(shift + width);
  for (int i = tid; i < KK * width; i += threads) {
    const int c = i / KK, k = i - c * KK;
    const bool in = block_c + c < C;
    shared[(a.flip ? KK - 1 - k : k) * width + c] =
        in ? to_f(static_cast<const T*>(a.weight)[static_cast<int64_t>(block_c + c) * KK + k]) : 0.f;
  }
  for (int i = tid; i < width; i += threads) {
    const bool in = block_c + i < C;
    scale[i] = in && a.scale ? a.scale[block_c + i] : 1.f;
    shift[i] = in && a.shift ? a.shift[block_c + i] : 0.f;
  }
  if (a.partials)
    for (int v = 0; v < V; ++v) sums[tid * V + v] = Moments();
  __syncthreads();

  const int c = block_c + threadIdx.x * V;
  const int64_t item = block_item * blockDim.y + threadIdx.y;
  const int64_t items = a.s.N * a.strips * a.groups;
  if (item < items && c < C) {
    const int group = static_cast<int>(item % a.groups);
    const int first = static_cast<int>(item / a.groups % a.strips) * a.strip;  // first output step
    const int64_t n = item / a.groups / a.strips;
    const float* taps = shared + threadIdx.x * V;
    float in_registers[kInRegisters ? KK : 1][V];
    if constexpr (kInRegisters) {
#pragma unroll
      for (int k = 0; k < KK; ++k)
#pragma unroll
        for (int v = 0; v < V; ++v) in_registers[k][v] = taps[k * width + v];
    }
    auto weight = [&](int i, int j, float (&w)[V]) {
      const Vec<float, V> from_shared =
          kInRegisters ? Vec<float, V>() : *reinterpret_cast<const Vec<float, V>*>(taps + (i * K + j) * width);
#pragma unroll
      for (int v = 0; v < V; ++v)
        w[v] = kInRegisters ? in_registers[kInRegisters ? i * K + j : 0][v] : from_shared.v[v];
    };

    const int col = group * F * G::kIn + a.in_col;  // first input column; bit j of mask: column col + j is inside
    unsigned mask = 0;
#pragma unroll
    for (int j = 0; j < COLS; ++j) mask |= static_cast<unsigned>(col + j >= 0 && col + j < W) << j;
    const bool inside = mask == (1u << COLS) - 1;
    const T* x = static_cast<const T*>(a.x) + n * H * W * C + c;
    Vector next[COLS];
    auto load = [&](int row) {
      if (row < 0 || row >= H) return false;
      const T* p = x + (static_cast<int64_t>(row) * W + col) * C;
      if (inside) {
#pragma unroll
        for (int j = 0; j < COLS; ++j) next[j] = *reinterpret_cast<const Vector*>(p + static_cast<int64_t>(j) * C);
      } else {
#pragma unroll
        for (int j = 0; j < COLS; ++j) {
          if (mask >> j & 1) {
            next[j] = *reinterpret_cast<const Vector*>(p + static_cast<int64_t>(j) * C);
          } else {
#pragma unroll
            for (int v = 0; v < V; ++v) next[j].v[v] = from_f<T>(0.f);
          }
        }
      }
      return true;
    };

    const int out_col = group * F * G::kOut + a.out_col;
    const int columns = min(OUT_COLS, Q - out_col);
    Ring ring;
    ring.clear();
    int row = (first - (G::kFlight - 1)) * G::kIn + a.in_row;
    bool ready = load(row);
    for (int t = 1 - G::kFlight; t < a.strip; ++t) {
      ring.advance();
#pragma unroll
      for (int s = 0; s < G::kIn; ++s) {
        float now[COLS][V];
        const bool there = ready;
#pragma unroll
        for (int j = 0; j < COLS; ++j)
#pragma unroll
          for (int v = 0; v < V; ++v) now[j][v] = to_f(next[j].v[v]);
        ready = load(++row);
        if (there) ring.add(now, s, t, a.strip, weight);
      }
      if (t < 0) continue;

      float (&z)[G::kOut][OUT_COLS][V] = ring.acc[0];
      const int out_row = (first + t) * G::kOut + a.out_row;
      if (a.partials && out_row < P) {  // forward only: one output row, and columns >= 1
#pragma unroll
        for (int v = 0; v < V; ++v) {
          Moments sum = sums[tid * V + v];
#pragma unroll
          for (int j = 0; j < OUT_COLS; ++j)
            if (j < columns) sum.add(z[0][j][v]);
          sums[tid * V + v] = sum;
        }
      }
      const Vec<float, V> sc = *reinterpret_cast<const Vec<float, V>*>(scale + threadIdx.x * V);
      const Vec<float, V> sh = *reinterpret_cast<const Vec<float, V>*>(shift + threadIdx.x * V);
#pragma unroll
      for (int o = 0; o < G::kOut; ++o)
#pragma unroll
        for (int j = 0; j < OUT_COLS; ++j)
#pragma unroll
          for (int v = 0; v < V; ++v) z[o][j][v] = z[o][j][v] * sc.v[v] + sh.v[v];
      activate_all<G::kOut * OUT_COLS * V>(&z[0][0][0], a.act, a.slope);
#pragma unroll
      for (int o = 0; o < G::kOut; ++o) {
        if (out_row + o < 0 || out_row + o >= P) continue;
        const int64_t at = ((n * P + out_row + o) * Q + out_col) * C + c;
#pragma unroll
        for (int j = 0; j < OUT_COLS; ++j) {
          if (j >= columns || (D == Step::up2 && out_col + j < 0)) continue;
          Vector y;
          if (a.residual) {
            const Vector r =
                *reinterpret_cast<const Vector*>(static_cast<const T*>(a.residual) + at + static_cast<int64_t>(j) * C);
#pragma unroll
            for (int v = 0; v < V; ++v) z[o][j][v] += to_f(r.v[v]);
          }
#pragma unroll
          for (int v = 0; v < V; ++v) y.v[v] = from_f<T>(z[o][j][v]);
          *reinterpret_cast<Vector*>(static_cast<T*>(a.y) + at + static_cast<int64_t>(j) * C) = y;
        }
      }
    }
  }
  if (a.partials) write_partials<V>(sums, a, block_item, c, block_c == 0);
}

template <int K, Step D, int V>
inline Launch plan_nhwc(DwConvTask& a, int columns) {
  const int64_t vectors = a.s.C / V;
  a.channel_blocks = static_cast<int>((vectors + 31) / 32);
  const int lanes = static_cast<int>((vectors + a.channel_blocks - 1) / a.channel_blocks),
            rows = kDwConvThreads / lanes;
  a.groups = (columns + kNhwcColumns<K, D> - 1) / kNhwcColumns<K, D>;
  auto blocks = [&] { return (a.s.N * a.strips * a.groups + rows - 1) / rows; };
  // Long strips read less halo; short ones fill 132 SMs.
  a.strips = (a.steps + 31) / 32;
  while (blocks() * a.channel_blocks < 528 && a.steps > 4 * a.strips) ++a.strips;
  a.strip = (a.steps + a.strips - 1) / a.strips;
  a.strips = (a.steps + a.strip - 1) / a.strip;
  a.partial_rows = blocks();
  size_t shared = sizeof(float) * (K * K + 2) * lanes * V;
  if (a.partials) shared += sizeof(Moments) * lanes * rows * V;
  return {blocks() * a.channel_blocks, dim3(lanes, rows), shared};
}

}  // namespace ck::cuda
