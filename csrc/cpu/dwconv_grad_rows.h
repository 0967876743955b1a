// Gradients of a depthwise convolution with a K x K kernel at stride S without dilation, channels_last: register tiles for
// one vector of channels.  x and dx lie where they are.  du lies in a few rows of scratch in the accumulate type, with
// zeros beside them, so that only reading x and writing dx know of borders.
#pragma once
#include "dwconv_tiles.h"

namespace ck::cpu::CK_ISA {
namespace {

// The most recent rows of du: row p in place p % ring, its column q at (reach + q) vectors.
template <class A>
struct GradRows {
  A* memory;
  int64_t pitch, ring;
  int reach;
  A* row(int64_t p) const { return memory + p % ring * pitch + reach * V<A>::N; }
};

// ---- dx ------------------------------------------------------------------------------------------------------------------
// Position y of dx is y + top = S * m + a: it meets the taps a, a + S, ..., the d-th of them with du's row m - d.  Columns
// likewise: a tile takes M neighbouring m of a row with all S phases, so that a vector of du serves all K taps of a row.

template <class T>
struct InputRow {
  const Acc<T>* du[7];     // row m - d of du, column 0
  int begin, end;          // the d of rows inside du
  const Acc<T>* w;         // a vector per tap, from tap row a on
  T* dx;                   // column 0
  int64_t pixel, left, W;  // step of dx, its padding and columns
};

template <class T, int K, int S, int M, bool kEdge>
CK_INLINE void input_tile(const InputRow<T>& a, int64_t m0) {
  using A = Acc<T>;
  constexpr int N = V<T>::N, kReach = (K - 1) / S;
  V<T> acc[M * S];
#pragma GCC unroll 16
  for (int i = 0; i < M * S; ++i) acc[i] = V<T>(A(0));
  for (int d = a.begin; d < a.end; ++d) {
    const A *du = a.du[d] + (m0 - kReach) * N, *w = a.w + d * S * K * N;
    V<T> taps[K];
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) taps[j] = vload<A>(w + j * N);
#pragma GCC unroll 16
    for (int c = 0; c < M + kReach; ++c) {
      const V<T> v = vload<A>(du + c * N);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
        for (int b = 0; b < S; ++b)
          if (const int j = (m + kReach - c) * S + b; m + kReach >= c && j < K)
            acc[m * S + b] = fma(v, taps[j], acc[m * S + b]);
    }
  }
  const int64_t z = m0 * S - a.left;
  T* to = a.dx + z * a.pixel;
#pragma GCC unroll 16
  for (int i = 0; i < M * S; ++i)
    if (!kEdge || static_cast<uint64_t>(z + i) < static_cast<uint64_t>(a.W)) store(to + i * a.pixel, acc[i]);
}

template <class T, int K, int S>
void input_row(const InputRow<T>& a) {
  const int64_t first = a.left / S, end = (a.left + a.W - 1) / S + 1;
  const int best = tile_size(end - first);
  const int size = S == 2 && V<T>::N < 16 && best > 4 ? 4 : best;  // S sums per column: with 16 registers, 4 columns
  with_tile(size, [&](auto tile) {
    constexpr int M = tile();
    if constexpr (S == 1 || V<T>::N == 16 || M <= 4)
      for (int64_t m = first; m < end; m += M) {
        if (m > end - M) m = end - M;
        const int64_t z = m * S - a.left;
        if (std::is_same_v<T, float> && z >= 0 && z + M * S <= a.W) input_tile<T, K, S, M, false>(a, m);
        else input_tile<T, K, S, M, true>(a, m);
      }
  });
}

// ---- dweight -------------------------------------------------------------------------------------------------------------

template <class T>
struct WeightRows {
  const T* x;  // an image
  int64_t pixel, H, W, Q, top, left;
  GradRows<Acc<T>> du;
};

// acc[i][j] += sum over M neighbouring pixels of row p of du, from q on: M * K multiply-adds for (M - 1) * S + K loads of x.
template <class T, int K, int S, int kFirst, int kI, int M, bool kEdge>
CK_INLINE void weight_tile(const WeightRows<T>& a, int64_t p, const Acc<T>* row, int64_t q, V<T> (&acc)[kI][K]) {
  const int64_t column = q * S - a.left;
  V<T> du[M];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) du[m] = vload<Acc<T>>(row + (q + m) * V<T>::N);
#pragma GCC unroll 8
  for (int i = 0; i < kI; ++i) {
    const int64_t h = p * S - a.top + kFirst + i;
    if (h < 0 || h >= a.H) continue;
    const T* x = a.x + (h * a.W + column) * a.pixel;
#pragma GCC unroll 16
    for (int c = 0; c < (M - 1) * S + K; ++c) {
      if (kEdge && static_cast<uint64_t>(column + c) >= static_cast<uint64_t>(a.W)) continue;
      const V<T> v = vload<T>(x + c * a.pixel);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m)
        if (c - m * S >= 0 && c - m * S < K) acc[i][c - m * S] = fma(v, du[m], acc[i][c - m * S]);
    }
  }
}

// sums[(i * K + j) * N ...] += sum over rows [p0, p1) of du of du[p][q] * x[p * S - top + i][q * S - left + j].
template <class T, int K, int S, int kFirst = 0>
void weight_rows(const WeightRows<T>& a, int64_t p0, int64_t p1, Acc<T>* sums) {
  constexpr int N = V<T>::N, kMost = N == 16 ? (K == 7 ? 3 : K) : (K == 3 ? 3 : K == 5 ? 2 : 1);
  constexpr int kI = K - kFirst < kMost ? K - kFirst : kMost;
  V<T> acc[kI][K];
#pragma GCC unroll 8
  for (int i = 0; i < kI; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) acc[i][j] = vload<Acc<T>>(sums + ((kFirst + i) * K + j) * N);
  for (int64_t p = p0; p < p1; ++p) {
    const Acc<T>* row = a.du.row(p);
    int64_t q = 0;
    for (; q + 4 <= a.Q; q += 4) {
      const int64_t column = q * S - a.left;
      if (std::is_same_v<T, float> && column >= 0 && column + 3 * S + K <= a.W)
        weight_tile<T, K, S, kFirst, kI, 4, false>(a, p, row, q, acc);
      else weight_tile<T, K, S, kFirst, kI, 4, true>(a, p, row, q, acc);
    }
    if (a.Q - q >= 2) weight_tile<T, K, S, kFirst, kI, 2, true>(a, p, row, q, acc), q += 2;
    if (q < a.Q) weight_tile<T, K, S, kFirst, kI, 1, true>(a, p, row, q, acc);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kI; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) store(sums + ((kFirst + i) * K + j) * N, acc[i][j]);
  if constexpr (kFirst + kI < K) weight_rows<T, K, S, kFirst + kI>(a, p0, p1, sums);
}

}  // namespace
}  // namespace ck::cpu::CK_ISA
