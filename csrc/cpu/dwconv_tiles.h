// Register tiles of the depthwise convolution.  They read x where it lies: borders cost a test per load (channels_last) or
// a mask (NCHW), never a copy, and taps outside the image are not computed at all in channels_last.
#pragma once
#include <cstdint>
#include <type_traits>
#include <utility>

#include "../math/dwconv_shape.h"
#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

// What follows scale and shift and costs nothing extra: clamping covers identity, relu and relu6.
template <class A>
struct Clamp {
  V<A> lo, hi;
  CK_INLINE V<A> operator()(V<A> v) const { return m_min(hi, m_max(lo, v)); }
};

// Outputs computed together, along a row (channels_last) or down a column (NCHW).  8 independent sums fill both FMA pipes
// (4 cycles, 2 a cycle); 7 divides the maps of ImageNet networks (7, 14, 28, 56, 112); 4 and 1 are for what is smaller.
// The last tile ends with the last output and may compute some of the tile before it again.
inline int tile_size(int64_t n) {
  int best = 1;
  int64_t least = INT64_MAX;
  for (const auto& [size, cost] : {std::pair(8, 100), std::pair(7, 103), std::pair(4, 150), std::pair(1, 400)})
    if (const int64_t work = (n + size - 1) / size * size * cost; size <= n && work < least) least = work, best = size;
  return best;
}

// f(K, S) for the kernels that have tiles; false for the others.
template <class T, class F>
bool with_tiled_kernel(const DwConvShape& s, F&& f) {
  if constexpr (V<T>::N == 1) {
    return false;
  } else {
    if (s.kh != s.kw || s.sh != s.sw || s.dh != 1 || s.dw != 1) return false;
    const auto is = [&](auto k, auto stride) {
      const bool hit = s.kh == k() && s.sh == stride();
      if (hit) f(k, stride);
      return hit;
    };
    constexpr std::integral_constant<int, 1> one;
    constexpr std::integral_constant<int, 2> two;
    constexpr std::integral_constant<int, 3> three;
    constexpr std::integral_constant<int, 5> five;
    constexpr std::integral_constant<int, 7> seven;
    return is(three, one) || is(three, two) || is(five, one) || is(five, two) || is(seven, one);
  }
}

template <class F>
CK_INLINE void with_tile(int size, F&& f) {
  switch (size) {
    case 8: return f(std::integral_constant<int, 8>());
    case 7: return f(std::integral_constant<int, 7>());
    case 4: return f(std::integral_constant<int, 4>());
    default: return f(std::integral_constant<int, 1>());
  }
}

// ---- channels_last: a vector is 16 (8, 4) channels of one pixel --------------------------------------------------------

// M neighbouring output pixels, all vectors of a block of channels.
template <class T>
struct ColumnTile {
  const T* x;             // first row of taps inside the image, column `column`
  int64_t row, pixel;     // steps of x
  int rows;               // rows of taps inside the image
  int64_t column, width;  // of x; columns outside [0, width) are skipped
  const Acc<T>* w;        // weights from that row of taps on: a vector per tap
  const Acc<T>* shift;    // one vector
  int64_t w_step;         // from one vector of channels to the next
  Acc<T>* out;
  int64_t out_pixel;
  int vectors;
  int64_t last;  // channel at which the last vector begins: it may overlap the one before
};

// A loaded pixel serves every output that it reaches: M * K multiply-adds for (M - 1) * S + K loads per row of taps.
template <class T, int K, int S, int M, bool kEdge>
CK_INLINE void column_tile(const ColumnTile<T>& a, const T* x, const Acc<T>* w, const Acc<T>* shift, Acc<T>* out,
                           const Clamp<Acc<T>>& clamp) {
  using A = Acc<T>;
  constexpr int N = V<T>::N;
  V<T> acc[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) acc[m] = vload<A>(shift);
  for (int i = 0; i < a.rows; ++i, x += a.row, w += K * N) {
    V<T> taps[K];
#pragma GCC unroll 7
    for (int j = 0; j < K; ++j) taps[j] = vload<A>(w + j * N);
#pragma GCC unroll 22
    for (int c = 0; c < (M - 1) * S + K; ++c) {
      if (kEdge && static_cast<uint64_t>(a.column + c) >= static_cast<uint64_t>(a.width)) continue;
      const V<T> v = vload<T>(x + c * a.pixel);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
        if (c - m * S >= 0 && c - m * S < K) acc[m] = fma(v, taps[c - m * S], acc[m]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) store(out + m * a.out_pixel, clamp(acc[m]));
}

template <class T, int K, int S, int M, bool kEdge>
void column_tiles(const ColumnTile<T>& a, const Clamp<Acc<T>>& clamp) {
  const Acc<T>*w = a.w, *shift = a.shift;
  for (int v = 0; v < a.vectors; ++v, w += a.w_step, shift += a.w_step) {
    const int64_t c = v * V<T>::N < a.last ? v * V<T>::N : a.last;
    column_tile<T, K, S, M, kEdge>(a, a.x + c, w, shift, a.out + c, clamp);
  }
}

template <class T, int K, int S>
void column_tiles(int tile, bool edge, const ColumnTile<T>& a, const Clamp<Acc<T>>& clamp) {
  with_tile(tile, [&](auto m) {
    if constexpr (std::is_same_v<T, float>)  // converting loads hide the test: one form is enough for half types
      if (!edge) return column_tiles<T, K, S, m(), false>(a, clamp);
    column_tiles<T, K, S, m(), true>(a, clamp);
  });
}

// One output pixel for any kernel, stride and dilation: G vectors of channels at a time, so that their sums are
// independent.  x: the first tap inside the image; rows x columns taps are, w: the weights from that tap on.
struct AnyPixel {
  int rows, columns, kw;
  int64_t row, column;  // steps of x from tap to tap
  int64_t w_step;
};
template <class T, int G, bool kWhole>
CK_INLINE void any_pixel(const AnyPixel& a, const T* x, const Acc<T>* w, const Acc<T>* shift, int lanes, Acc<T>* out,
                         const Clamp<Acc<T>>& clamp) {
  using A = Acc<T>;
  constexpr int N = V<T>::N;
  V<T> acc[G];
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) acc[g] = vload<A>(shift + g * a.w_step);
  for (int i = 0; i < a.rows; ++i)
    for (int j = 0; j < a.columns; ++j) {
      const T* p = x + i * a.row + j * a.column;
      const A* tap = w + (int64_t(i) * a.kw + j) * N;
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) {
        const V<T> v = kWhole ? vload<T>(p + g * N) : vload_n<T>(p + g * N, lanes);
        acc[g] = fma(v, vload<A>(tap + g * a.w_step), acc[g]);
      }
    }
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) store(out + g * N, clamp(acc[g]));
}

// ---- NCHW: a vector is 16 (8, 4) neighbouring outputs of a row ---------------------------------------------------------

// Masks of the loads of one column of vectors, and where its first tap reads: the same for all rows of a plane.
template <class T, int K, int S>
struct RowMasks {
  static constexpr int kLoads = S == 1 ? K : K + 1;  // stride 2: pairs of vectors, split into even and odd columns
  typename V<T>::Lanes of[kLoads];
  RowMasks(int64_t column, int64_t width) {
    for (int i = 0; i < kLoads; ++i) {
      const int64_t at = column + (S == 1 ? i : i / 2 * 2 + i % 2 * V<T>::N);
      of[i] = V<T>::lanes(-at, width - at);
    }
  }
};

// M output rows, one vector wide.  x: row h of the plane, column `column` of the first tap; w: K * K weights.
// A loaded row serves every output row that it reaches: M * K * K multiply-adds for ((M - 1) * S + K) * K loads.
template <class T, int K, int S, int M>
CK_INLINE void row_tile(const T* x, int64_t h, int64_t height, int64_t width, const RowMasks<T, K, S>& masks,
                        const Acc<T>* w, Acc<T> shift, Acc<T>* out, int64_t out_row, int lanes,
                        const Clamp<Acc<T>>& clamp) {
  V<T> acc[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) acc[m] = V<T>(shift);
#pragma GCC unroll 22
  for (int i = 0; i < (M - 1) * S + K; ++i) {
    if (static_cast<uint64_t>(h + i) >= static_cast<uint64_t>(height)) continue;
    const T* p = x + i * width;
    const auto use = [&](V<T> v, int j) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
        if (i - m * S >= 0 && i - m * S < K) acc[m] = fma(v, V<T>(w[(i - m * S) * K + j]), acc[m]);
    };
    if constexpr (S == 1) {
#pragma GCC unroll 7
      for (int j = 0; j < K; ++j) use(vload_m<T>(p + j, masks.of[j]), j);
    } else {
#pragma GCC unroll 7
      for (int j = 0; j < K; j += 2) {
        V<T> even = vload_m<T>(p + j, masks.of[j]), odd = vload_m<T>(p + j + V<T>::N, masks.of[j + 1]);
        split_pairs(even, odd);
        use(even, j);
        if (j + 1 < K) use(odd, j + 1);
      }
    }
  }
  if (lanes == V<T>::N) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) store(out + m * out_row, clamp(acc[m]));
  } else {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) store_n(out + m * out_row, clamp(acc[m]), lanes);
  }
}

}  // namespace
}  // namespace ck::cpu::CK_ISA
