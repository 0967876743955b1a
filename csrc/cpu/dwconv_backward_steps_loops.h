// The inner loops of dwconv_backward_steps.cpp, on scratch planes of du in the accumulate type.
//
// An element of a plane is a number (NCHW) or a vector of channels (channels_last).  In plane indices every filter tap is one
// constant offset.  Two families:
//   *_flat    both sides are planes: any tap offsets, any layout
//   *_direct  channels_last, neighbouring taps (dilation 1): x and dx are walked in place, in a register tile
#pragma once
#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int kUnroll = 4;  // vectors per turn of the flat loops; scratch planes have slack for one turn
constexpr bool kManyRegisters = F32::N == 16;  // 32 vector registers, else 16

template <class T>
CK_INLINE V<T> load_lanes(const T* p, bool full, int lanes) {
  return full ? vload(p) : vload_n(p, lanes);
}
template <class T>
CK_INLINE void store_lanes(T* p, V<T> v, bool full, int lanes) {
  full ? store(p, v) : store_n(p, v, lanes);
}

// ---- flat ------------------------------------------------------------------------------------------------------------

// sums[t] += sum_f x[f] * g[off[t] + f] for kTaps taps; length is a multiple of kUnroll vectors.
template <class T, int kTaps>
void correlate_flat(const Acc<T>* x, const Acc<T>* g, const int64_t* off, int64_t length, Acc<T>* sums) {
  using A = Acc<T>;
  constexpr int N = V<T>::N;
  V<T> acc[kTaps];
#pragma GCC unroll 32
  for (int t = 0; t < kTaps; ++t) acc[t] = V<T>(A(0));
  for (int64_t f = 0; f < length; f += kUnroll * N) {
    V<T> xv[kUnroll];
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) load(xv[u], x + f + u * N);
#pragma GCC unroll 32
    for (int t = 0; t < kTaps; ++t) {
      const A* p = g + off[t] + f;
#pragma GCC unroll 8
      for (int u = 0; u < kUnroll; ++u) acc[t] = fma(xv[u], vload<A>(p + u * N), acc[t]);
    }
  }
#pragma GCC unroll 32
  for (int t = 0; t < kTaps; ++t) store(sums + t * N, vload<A>(sums + t * N) + acc[t]);
}

// The same for any number of taps, as many at a time as there are registers.
template <class T>
void correlate_flat(const Acc<T>* x, const Acc<T>* g, const int64_t* off, int taps, int64_t length, Acc<T>* sums) {
  constexpr int N = V<T>::N, kMost = kManyRegisters && N > 1 ? 25 : 9;
  int t = 0;
  for (; taps - t >= kMost; t += kMost) correlate_flat<T, kMost>(x, g, off + t, length, sums + t * N);
  for (; taps - t >= 9; t += 9) correlate_flat<T, 9>(x, g, off + t, length, sums + t * N);
  for (; taps - t >= 3; t += 3) correlate_flat<T, 3>(x, g, off + t, length, sums + t * N);
  for (; t < taps; ++t) correlate_flat<T, 1>(x, g, off + t, length, sums + t * N);
}

// out[f] = sum_t w[t] * g[off[t] + f]; w holds a vector per tap (kVector) or a number.
template <class T, bool kVector>
void convolve_flat(const Acc<T>* g, const Acc<T>* w, const int64_t* off, int taps, int64_t length, Acc<T>* out) {
  using A = Acc<T>;
  constexpr int N = V<T>::N;
  for (int64_t f = 0; f < length; f += kUnroll * N) {
    V<T> acc[kUnroll];
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) acc[u] = V<T>(A(0));
    for (int t = 0; t < taps; ++t) {
      const V<T> wv = kVector ? vload<A>(w + t * N) : V<T>(w[t]);
      const A* p = g + off[t] + f;
#pragma GCC unroll 8
      for (int u = 0; u < kUnroll; ++u) acc[u] = fma(wv, vload<A>(p + u * N), acc[u]);
    }
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) store(out + f + u * N, acc[u]);
  }
}

// ---- direct ----------------------------------------------------------------------------------------------------------

// rows x columns pixels of x or dx in place: steps from pixel to pixel and from row to row, in elements; the valid lanes.
struct Pixels {
  int64_t rows, columns, row_step, column_step;
  int lanes;
};

// One tile of kTile columns: element c of a row of g meets column t through tap j = kTapsW - 1 + t - c.
template <class T, int kTapsH, int kTapsW, int kTile, bool kFull>
CK_INLINE void correlate_tile(const T* x, int64_t step, int lanes, const Acc<T>* g, int64_t g_step,
                              V<T> (&acc)[kTapsH][kTapsW]) {
  using A = Acc<T>;
  V<T> xv[kTile];
#pragma GCC unroll 8
  for (int t = 0; t < kTile; ++t) xv[t] = load_lanes(x + t * step, kFull, lanes);
#pragma GCC unroll 8
  for (int i = 0; i < kTapsH; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kTile + kTapsW - 1; ++c) {
      const V<T> v = vload<A>(g - i * g_step + c * V<T>::N);
#pragma GCC unroll 8
      for (int t = 0; t < kTile; ++t)
        if (kTapsW - 1 + t - c >= 0 && kTapsW - 1 + t - c < kTapsW)
          acc[i][kTapsW - 1 + t - c] = fma(xv[t], v, acc[i][kTapsW - 1 + t - c]);
    }
  }
}

// sums[i][j] += sum over pixels (r, l) of x[r][l] * g[r - i][l + kTapsW - 1 - j], for kTapsH x kTapsW neighbouring taps.
template <class T, int kTapsH, int kTapsW, bool kFull>
void correlate_direct(const T* x, const Pixels& p, const Acc<T>* g, int64_t g_step, Acc<T>* sums, int64_t sums_step) {
  using A = Acc<T>;
  constexpr int N = V<T>::N, kTile = 4;
  V<T> acc[kTapsH][kTapsW];
#pragma GCC unroll 8
  for (int i = 0; i < kTapsH; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kTapsW; ++j) acc[i][j] = V<T>(A(0));
  for (int64_t r = 0; r < p.rows; ++r) {
    const T* xp = x + r * p.row_step;
    const A* gp = g + r * g_step;
    int64_t l = 0;
    for (; l + kTile <= p.columns; l += kTile, xp += kTile * p.column_step, gp += kTile * N)
      correlate_tile<T, kTapsH, kTapsW, kTile, kFull>(xp, p.column_step, p.lanes, gp, g_step, acc);
    for (; l < p.columns; ++l, xp += p.column_step, gp += N)
      correlate_tile<T, kTapsH, kTapsW, 1, kFull>(xp, p.column_step, p.lanes, gp, g_step, acc);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTapsH; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kTapsW; ++j) {
      A* s = sums + i * sums_step + j * N;
      store(s, vload<A>(s) + acc[i][j]);
    }
}

// The same for taps_h rows of taps, as many at a time as there are registers.
template <class T, int kTapsW>
void correlate_direct(const T* x, const Pixels& p, int taps_h, const Acc<T>* g, int64_t g_step, Acc<T>* sums) {
  constexpr int kMost = kManyRegisters ? (kTapsW <= 3   ? 4
                                          : kTapsW <= 5 ? 3
                                                        : 2)
                                       : (kTapsW == 1   ? 4
                                          : kTapsW <= 3 ? 3
                                                        : 1);
  constexpr int64_t step = kTapsW * V<T>::N;
  auto some = [&](auto full) {
    constexpr bool kFull = decltype(full)::value;
    for (int i = 0; i < taps_h;) {
      const int blocks = (taps_h - i + kMost - 1) / kMost, rows = (taps_h - i + blocks - 1) / blocks;
      const Acc<T>* gi = g - i * g_step;
      if (rows == 1) correlate_direct<T, 1, kTapsW, kFull>(x, p, gi, g_step, sums + i * step, step);
      if constexpr (kMost >= 2)
        if (rows == 2) correlate_direct<T, 2, kTapsW, kFull>(x, p, gi, g_step, sums + i * step, step);
      if constexpr (kMost >= 3)
        if (rows == 3) correlate_direct<T, 3, kTapsW, kFull>(x, p, gi, g_step, sums + i * step, step);
      if constexpr (kMost >= 4)
        if (rows == 4) correlate_direct<T, 4, kTapsW, kFull>(x, p, gi, g_step, sums + i * step, step);
      i += rows;
    }
  };
  if (p.lanes == V<T>::N) some(std::true_type());
  else some(std::false_type());
}

template <class T, int kTapsW, int kTile, bool kFull>
CK_INLINE void convolve_tile(T* dx, int64_t step, int lanes, int taps_h, const Acc<T>* g, int64_t g_step,
                             const Acc<T>* w) {
  using A = Acc<T>;
  constexpr int N = V<T>::N;
  V<T> acc[kTile];
#pragma GCC unroll 8
  for (int t = 0; t < kTile; ++t) acc[t] = V<T>(A(0));
  for (int i = 0; i < taps_h; ++i, g -= g_step, w += kTapsW * N) {
    V<T> wv[kTapsW];
#pragma GCC unroll 8
    for (int j = 0; j < kTapsW; ++j) load(wv[j], w + j * N);
#pragma GCC unroll 16
    for (int c = 0; c < kTile + kTapsW - 1; ++c) {
      const V<T> v = vload<A>(g + c * N);
#pragma GCC unroll 8
      for (int t = 0; t < kTile; ++t)
        if (kTapsW - 1 + t - c >= 0 && kTapsW - 1 + t - c < kTapsW) acc[t] = fma(wv[kTapsW - 1 + t - c], v, acc[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTile; ++t) store_lanes(dx + t * step, acc[t], kFull, lanes);
}

// dx[r][l] = sum_ij w[i][j] * g[r - i][l + kTapsW - 1 - j] for taps_h x kTapsW neighbouring taps.
template <class T, int kTapsW>
void convolve_direct(T* dx, const Pixels& p, int taps_h, const Acc<T>* g, int64_t g_step, const Acc<T>* w) {
  constexpr int N = V<T>::N, kTile = kManyRegisters ? 8 : 4;
  auto all = [&](auto full) {
    constexpr bool kFull = decltype(full)::value;
    for (int64_t r = 0; r < p.rows; ++r) {
      T* d = dx + r * p.row_step;
      const Acc<T>* gp = g + r * g_step;
      int64_t l = 0;
      auto tiles = [&](auto tile) __attribute__((always_inline)) {
        constexpr int k = decltype(tile)::value;
        for (; l + k <= p.columns; l += k, d += k * p.column_step, gp += k * N)
          convolve_tile<T, kTapsW, k, kFull>(d, p.column_step, p.lanes, taps_h, gp, g_step, w);
      };
      tiles(std::integral_constant<int, kTile>());
      if constexpr (kTile > 4) tiles(std::integral_constant<int, 4>());
      tiles(std::integral_constant<int, 2>());
      tiles(std::integral_constant<int, 1>());
    }
  };
  if (p.lanes == N) all(std::true_type());
  else all(std::false_type());
}

// f(integral_constant) for the numbers of neighbouring taps that the direct loops are compiled for; false if not among them.
template <class F>
bool with_taps_w(int taps_w, F&& f) {
  switch (taps_w) {
    case 1: return f(std::integral_constant<int, 1>()), true;
    case 2: return f(std::integral_constant<int, 2>()), true;
    case 3: return f(std::integral_constant<int, 3>()), true;
    case 4: return f(std::integral_constant<int, 4>()), true;
    case 5: return f(std::integral_constant<int, 5>()), true;
    case 7: return f(std::integral_constant<int, 7>()), true;
    default: return false;
  }
}

}  // namespace
}  // namespace ck::cpu::CK_ISA
