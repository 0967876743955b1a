// Inner loops of the depthwise convolution, on zero-padded scratch lines in the accumulate type.  No borders, no tails of
// channels: those are the business of whoever fills the scratch.
#pragma once
#include <cstdint>

#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

// What follows scale and shift and costs nothing extra: clamping covers identity, relu and relu6.
template <class A>
struct Clamp {
  V<A> lo, hi;
};

// ---- channels_last: a pixel of scratch is one vector of channels ---------------------------------------------------------
// T output columns of one row.  rows[i] points at the first tap of input row i; w holds K * K weights and the shift, a
// vector each.  A loaded pixel serves every output that it reaches: T * K multiply-adds for (T - 1) * S + K loads per row.
template <class A, int K, int S, int T>
CK_INLINE void column_tile(const A* const* rows, const A* w, A* out, const Clamp<A>& clamp) {
  constexpr int N = V<A>::N;
  V<A> acc[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) acc[t] = vload(w + K * K * N);
#pragma GCC unroll 7
  for (int i = 0; i < K; ++i) {
    const A* r = rows[i];
    V<A> taps[K];
#pragma GCC unroll 7
    for (int j = 0; j < K; ++j) taps[j] = vload(w + (i * K + j) * N);
#pragma GCC unroll 22
    for (int x = 0; x < (T - 1) * S + K; ++x) {
      const V<A> v = vload(r + x * N);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
        if (x - t * S >= 0 && x - t * S < K) acc[t] = fma(v, taps[x - t * S], acc[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) store(out + t * N, m_min(clamp.hi, m_max(clamp.lo, acc[t])));
}

template <class A, int K, int S, int T>
void column_tiles(int n, const A* const* rows, const A* w, A* out, const Clamp<A>& clamp) {
  if (n == T) return column_tile<A, K, S, T>(rows, w, out, clamp);
  if constexpr (T > 1) column_tiles<A, K, S, T - 1>(n, rows, w, out, clamp);
}

// One output row of `columns` pixels, cut into tiles of nearly equal width.
template <class A, int K, int S>
void row_fixed(const A* const* lines, const A* w, A* out, int64_t columns, const Clamp<A>& clamp) {
  constexpr int T = S == 1 ? 8 : 6, N = V<A>::N;
  const int64_t tiles = (columns + T - 1) / T, narrow = columns / tiles, wider = columns % tiles;
  const A* rows[K];
  int64_t q = 0;
  for (int64_t i = 0; i < tiles; ++i) {
    const int n = static_cast<int>(narrow + (i < wider));
    for (int k = 0; k < K; ++k) rows[k] = lines[k] + q * S * N;
    column_tiles<A, K, S, T>(n, rows, w, out + q * N, clamp);
    q += n;
  }
}

// The same for any kernel, stride and dilation: four columns at a time, taps in a loop.
template <class A>
void row_any(const A* const* lines, const A* w, A* out, int64_t columns, const Clamp<A>& clamp, int kh, int kw, int sw,
             int dw) {
  constexpr int N = V<A>::N, T = 4;
  for (int64_t q = 0; q < columns; q += T) {
    const int n = static_cast<int>(columns - q < T ? columns - q : T);
    V<A> acc[T];
    for (int t = 0; t < T; ++t) acc[t] = vload(w + int64_t(kh) * kw * N);
    for (int i = 0; i < kh; ++i)
      for (int j = 0; j < kw; ++j) {
        const V<A> tap = vload(w + (int64_t(i) * kw + j) * N);
        const A* p = lines[i] + (q * sw + int64_t(j) * dw) * N;
        for (int t = 0; t < n; ++t) acc[t] = fma(vload(p + int64_t(t) * sw * N), tap, acc[t]);
      }
    for (int t = 0; t < n; ++t) store(out + (q + t) * N, m_min(clamp.hi, m_max(clamp.lo, acc[t])));
  }
}

// ---- NCHW: scratch is a plane per stride phase, walked as one long line ----------------------------------------------------
// out[i] = clamp(shift + sum over taps of w[t] * taps[t][i]).  U vectors at a time: a broadcast weight serves U of them.
template <class A, int U>
CK_INLINE void flat_tile(const A* const* taps, const A* w, int count, int64_t i, A shift, A* out,
                         const Clamp<A>& clamp) {
  constexpr int N = V<A>::N;
  V<A> acc[U];
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u) acc[u] = V<A>(shift);
  for (int t = 0; t < count; ++t) {
    const V<A> tap(w[t]);
    const A* p = taps[t] + i;
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) acc[u] = fma(vload(p + u * N), tap, acc[u]);
  }
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u) store(out + i + u * N, m_min(clamp.hi, m_max(clamp.lo, acc[u])));
}

// `length` outputs; reads and writes up to one vector beyond the last, which scratch has room for.
template <class A>
void flat_line(const A* const* taps, const A* w, int count, int64_t length, A shift, A* out, const Clamp<A>& clamp) {
  constexpr int N = V<A>::N;
  int64_t i = 0;
  for (; i + 7 * N < length; i += 8 * N) flat_tile<A, 8>(taps, w, count, i, shift, out, clamp);
  for (; i + 3 * N < length; i += 4 * N) flat_tile<A, 4>(taps, w, count, i, shift, out, clamp);
  for (; i + N < length; i += 2 * N) flat_tile<A, 2>(taps, w, count, i, shift, out, clamp);
  for (; i < length; i += N) flat_tile<A, 1>(taps, w, count, i, shift, out, clamp);
}

}  // namespace
}  // namespace ck::cpu::CK_ISA
