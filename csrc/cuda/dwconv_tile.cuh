// What the depthwise convolution kernels share: which tap joins which input to which output, the accumulators of the
// sliding window, the epilogue, and the merging of batch statistics.
#pragma once
#include "device/activate_all.cuh"
#include "../math/dwconv_shape.h"

namespace ck::cuda {

constexpr int kDwConvThreads = 128;  // of a block, at most

// How input rows and columns advance against output rows and columns: 1:1, 2:1, or 1:2 (the gradient of stride 2).
enum class Step { s1, s2, up2 };

// A K x K filter sliding in steps.  A step consumes kIn input rows and finishes kOut output rows; kFlight steps' outputs
// are in flight at once.  Of those, r = 0 is being finished and r = kFlight - 1 has just begun.
template <int K, Step D>
struct Taps {
  static constexpr int kHalf = (K + 1) / 2;
  static constexpr int kIn = D == Step::s2 ? 2 : 1;
  static constexpr int kOut = D == Step::up2 ? 2 : 1;
  static constexpr int kFlight = D == Step::s1 ? K : kHalf;

  // The filter row between input row s of this step and output row o of the outputs r in flight; -1 if there is none.
  CK_HD static constexpr int row(int r, int s, int o) {
    const int i = D == Step::s1 ? K - 1 - r : D == Step::s2 ? 2 * (kFlight - 1 - r) + s : 2 * r + o;
    return i < K ? i : -1;
  }
  // Input columns that `steps` column steps need, and the one that tap j joins to output column t; -1 if there is none.
  CK_HD static constexpr int columns(int steps) { return D == Step::up2 ? steps + kHalf - 1 : (steps - 1) * kIn + K; }
  CK_HD static constexpr int column(int t, int j) {
    return D == Step::up2 ? (t % 2 == j % 2 ? t / 2 - j / 2 + kHalf - 1 : -1) : t * kIn + j;
  }
};

// The ring of partial sums of one thread: F column steps, V channels.  Each input row is loaded once and added at once to
// every output it touches, so that no input is kept; moving the ring on costs nothing, because the first product of a row
// reads acc[r + 1] and writes acc[r].
template <int K, Step D, int F, int V>
struct Window {
  using G = Taps<K, D>;
  static constexpr int kColumns = G::columns(F), kOutColumns = F * G::kOut;
  float acc[G::kFlight][G::kOut][kOutColumns][V];

  CK_HD void fill(const float (&init)[V]) {
#pragma unroll
    for (int r = 0; r < G::kFlight; ++r) advance(init);
  }
  // On to the next step: the first outputs are done with, others begin, at init.
  CK_HD void advance(const float (&init)[V]) {
#pragma unroll
    for (int r = 0; r < G::kFlight; ++r)
#pragma unroll
      for (int o = 0; o < G::kOut; ++o)
#pragma unroll
        for (int t = 0; t < kOutColumns; ++t)
#pragma unroll
          for (int v = 0; v < V; ++v) acc[r][o][t][v] = r + 1 < G::kFlight ? acc[r + 1][o][t][v] : init[v];
  }
  // Adds input row s of a step.  load(j, x) fills x[V] with its column j, weight(i, j, w) fills w[V].  COLUMNWISE: each
  // column is loaded when its turn comes, for weights in registers; else each weight is.
  template <bool COLUMNWISE, class L, class W>
  CK_HD void add(L&& load, int s, W&& weight) {
    if constexpr (COLUMNWISE) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        float x[V];
        load(j, x);
#pragma unroll
        for (int c = 0; c < kOutColumns; ++c)
#pragma unroll
          for (int tap = 0; tap < K; ++tap)
            if (G::column(c, tap) == j) add(x, c, tap, s, weight);
      }
    } else {
      float x[kColumns][V];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) load(j, x[j]);
#pragma unroll
      for (int tap = 0; tap < K; ++tap)
#pragma unroll
        for (int c = 0; c < kOutColumns; ++c)
          if (G::column(c, tap) >= 0) add(x[G::column(c, tap)], c, tap, s, weight);
    }
  }

 private:
  // The products of one input column that reach output column c by filter column `tap`.
  template <class W>
  CK_HD void add(const float (&x)[V], int c, int tap, int s, W&& weight) {
#pragma unroll
    for (int r = 0; r < G::kFlight; ++r)
#pragma unroll
      for (int o = 0; o < G::kOut; ++o) {
        if (G::row(r, s, o) < 0) continue;
        float w[V];
        weight(G::row(r, s, o), tap, w);
#pragma unroll
        for (int v = 0; v < V; ++v) acc[r][o][c][v] += x[v] * w[v];
      }
  }
};

// Batch statistics of one channel.  While values are added these are sums shifted by the first value: as accurate as
// Welford's update, without its division.  After finish() they are count, mean and sum of squared deviations.
struct Moments {
  float n = 0.f, mean = 0.f, s1 = 0.f, m2 = 0.f;
  CK_HD void add(float u) {
    if (n == 0.f) mean = u;
    const float d = u - mean;
    n += 1.f, s1 += d, m2 += d * d;
  }
  CK_HD void finish() {
    if (n == 0.f) return;
    const float d = s1 / n;
    m2 = m_max(0.f, m2 - s1 * d);
    mean += d;
  }
  // Chan, Golub & LeVeque 1979: no cancellation however large the mean.
  CK_HD void merge(const Moments& b) {
    if (b.n == 0.f) return;
    const float total = n + b.n, d = b.mean - mean, part = b.n / total;
    mean += d * part;
    m2 += b.m2 + d * d * n * part;
    n = total;
  }
};

// Everything a kernel is told.  Output step e consumes input rows e * kIn + s + in_row, finishes e * kOut + o + out_row.
struct DwConvTask {
  const void* x;
  const void* weight;
  const void* residual;
  void* y;
  const float* scale;
  const float* shift;
  float* partials;  // statistics: mean [G][C], m2 [G][C], n [G]; null without
  DwConvShape s;
  Act act;
  float slope;
  bool flip;
  int in_row, in_col, out_row, out_col;
  int steps;                             // output steps along H
  int strip, strips;                     // NCHW: output steps a thread walks down; strips per tile
  int tiles;                             // blocks side by side: of columns (NHWC) or rows (NCHW)
  int channel_blocks;                    // NHWC
  unsigned all_steps;                    // NHWC: of all images and tiles
  int pitch, chunk;                      // NHWC: bytes from pixel to pixel in shared memory, of one copy
  int groups, planes;                    // NCHW: threads along W; planes per block
  int tile_rows, tile_begin, tile_size;  // NCHW: input rows of a block; its place in shared memory, in elements
  int64_t partial_rows;                  // G
};

// Merges the moments of all threads of the block that have the same threadIdx.x, channel by channel, and writes one row
// of partials.  sums: [threads][V] in shared memory; every thread of the block comes here.
template <int V>
__device__ inline void write_partials(Moments* sums, const Moments (&own)[V], const DwConvTask& a, int64_t part,
                                      int c) {
  const int lanes = blockDim.x, rows = blockDim.y, ty = threadIdx.y;
  Moments* mine = sums + (ty * lanes + threadIdx.x) * V;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    mine[v] = own[v];
    mine[v].finish();
  }
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
  if (c == 0) a.partials[2 * a.partial_rows * C + part] = mine->n;
}

// How to launch a kernel; blocks = 0: it is not made for these arguments.
struct Launch {
  int64_t blocks;
  dim3 block;
  size_t shared;
};

inline cudaError_t launch_planned(void (*kernel)(DwConvTask), const Launch& l, const DwConvTask& a,
                                  cudaStream_t stream) {
  if (l.blocks > INT32_MAX) return cudaErrorInvalidValue;
  if (l.shared > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(l.shared));
    if (error != cudaSuccess) return error;
  }
  return launch(kernel, dim3(static_cast<unsigned>(l.blocks)), l.block, l.shared, stream, a);
}

}  // namespace ck::cuda
