// What the depthwise convolution kernels share: which tap joins which input to which output, the accumulators of the
// sliding window, the epilogue, and the merging of batch statistics.
#pragma once
#include "device/activate_all.cuh"
#include "../math/dwconv_shape.h"

namespace ck::cuda {

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
  static constexpr int columns(int steps) { return D == Step::up2 ? steps + kHalf - 1 : (steps - 1) * kIn + K; }
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

  CK_HD void clear() {
#pragma unroll
    for (int r = 0; r < G::kFlight; ++r) clear(r);
  }
  CK_HD void clear(int r) {
#pragma unroll
    for (int o = 0; o < G::kOut; ++o)
#pragma unroll
      for (int t = 0; t < kOutColumns; ++t)
#pragma unroll
        for (int v = 0; v < V; ++v) acc[r][o][t][v] = 0.f;
  }
  CK_HD void advance() {
#pragma unroll
    for (int r = 0; r + 1 < G::kFlight; ++r)
#pragma unroll
      for (int o = 0; o < G::kOut; ++o)
#pragma unroll
        for (int t = 0; t < kOutColumns; ++t)
#pragma unroll
          for (int v = 0; v < V; ++v) acc[r][o][t][v] = acc[r + 1][o][t][v];
    clear(G::kFlight - 1);
  }
  // Adds input row s of step t of a strip of `steps`; outputs outside the strip are left alone.  weight(i, j, w) fills w[V].
  template <class W>
  CK_HD void add(const float (&x)[kColumns][V], int s, int t, int steps, W&& weight) {
#pragma unroll
    for (int r = 0; r < G::kFlight; ++r) {
      if (G::row(r, s, 0) < 0 && G::row(r, s, G::kOut - 1) < 0) continue;
      if (t + r < 0 || t + r >= steps) continue;  // the same for (almost) all threads
#pragma unroll
      for (int o = 0; o < G::kOut; ++o) {
        if (G::row(r, s, o) < 0) continue;
#pragma unroll
        for (int j = 0; j < K; ++j) {
          float w[V];
          weight(G::row(r, s, o), j, w);
#pragma unroll
          for (int c = 0; c < kOutColumns; ++c) {
            if (G::column(c, j) < 0) continue;
#pragma unroll
            for (int v = 0; v < V; ++v) acc[r][o][c][v] += x[G::column(c, j)][v] * w[v];
          }
        }
      }
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
  int steps;           // output steps along H
  int groups;          // threads along W
  int strip, strips;   // output steps a thread walks down; strips per image (NHWC) or tile (NCHW)
  int channel_blocks;  // NHWC
  int planes, tiles;   // NCHW: planes per block, row tiles per plane
  int tile_rows, tile_width;
  int64_t partial_rows;  // G
};

// Fills in a what depends on the launch and says how to launch.
struct Launch {
  int64_t blocks;
  dim3 block;
  size_t shared;
};

}  // namespace ck::cuda
