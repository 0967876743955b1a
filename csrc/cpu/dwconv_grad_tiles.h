// Gradients of a depthwise convolution with a K x K kernel at stride S without dilation, NCHW.  As in dwconv_tiles.h, borders
// are masks, and x lies where it is; a plane of du comes in the accumulate type.
#pragma once
#include "dwconv_tiles.h"

namespace ck::cpu::CK_ISA {
namespace {

struct Plane {  // sizes and padding as in math/dwconv_shape.h
  int64_t H, W, P, Q, top, left;
};

// dx at stride 1: the convolution of du with the flipped kernel `w`.
template <class A, int K>
void input_plane_dense(const Plane& s, const A* du, const A* w, A* dx) {
  constexpr int N = V<A>::N;
  const Clamp<A> none{V<A>(A(-INFINITY)), V<A>(A(INFINITY))};
  with_tile(tile_size(s.H), [&](auto size) {
    for (int64_t z = 0; z < s.W; z += N) {
      const int64_t column = z + s.left - (K - 1);
      const RowMasks<A, K, 1> masks(column, s.Q);
      const int lanes = static_cast<int>(s.W - z < N ? s.W - z : N);
      for (int64_t y = 0; y < s.H; y += size()) {
        if (y > s.H - size()) y = s.H - size();
        const int64_t p = y + s.top - (K - 1);
        row_tile<A, K, 1, size()>(du + p * s.Q + column, p, s.P, s.Q, masks, w, A(0), dx + y * s.W + z, s.W, lanes,
                                  none);
      }
    }
  });
}

// dx at stride 2: even and odd columns of the padded row are sums over the even and the odd taps; merged on their way out.
template <class T, int K>
void input_plane_strided(const Plane& s, const Acc<T>* du, const Acc<T>* w, T* dx) {
  using A = Acc<T>;
  constexpr int N = V<T>::N, kShifts = (K + 1) / 2;
  for (int64_t n = s.left / 2; 2 * n < s.left + s.W; n += N) {
    typename V<T>::Lanes valid[kShifts];
    for (int d = 0; d < kShifts; ++d) valid[d] = V<T>::lanes(d - n, s.Q + d - n);
    const int64_t z = 2 * n - s.left;
    const auto low = V<T>::lanes(-z, s.W - z), high = V<T>::lanes(-z - N, s.W - z - N);
    for (int64_t y = 0; y < s.H; ++y) {
      const int odd = static_cast<int>((y + s.top) % 2);
      const int64_t m = (y + s.top) / 2;
      V<T> even_columns(A(0)), odd_columns(A(0));
      for (int i = odd; i < K; i += 2) {
        const int64_t p = m - i / 2;
        if (p < 0 || p >= s.P) continue;
        const A* from = du + p * s.Q + n;
#pragma GCC unroll 4
        for (int d = 0; d < kShifts; ++d) {
          const V<T> v = vload_m<A>(from - d, valid[d]);
          even_columns = fma(v, V<T>(w[i * K + 2 * d]), even_columns);
          if (2 * d + 1 < K) odd_columns = fma(v, V<T>(w[i * K + 2 * d + 1]), odd_columns);
        }
      }
      merge_pairs(even_columns, odd_columns);
      store_m(dx + y * s.W + z, even_columns, low);
      store_m(dx + y * s.W + z + N, odd_columns, high);
    }
  }
}

// sums[(i * K + j) * N ...] += sum over p, q of du[p][q] * x[p * S - top + i][q * S - left + j], lane by lane, for the kI
// rows of taps from kFirst on.  A row of x meets kI rows of du, which stay in registers: K loads for K * kI multiply-adds.
template <class T, int K, int S, int kFirst, int kI>
void weight_plane(const Plane& s, const Acc<T>* du, const T* x, Acc<T>* sums) {
  using A = Acc<T>;
  constexpr int N = V<T>::N, kRows = (kI + S - 1) / S;
  for (int64_t q = 0; q < s.Q; q += N) {
    const int64_t column = q * S - s.left;
    const RowMasks<T, K, S> masks(column, s.W);
    const auto live = V<T>::lanes(0, s.Q - q);
    V<T> acc[kI][K], rows[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kI; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < K; ++j) acc[i][j] = vload<A>(sums + ((kFirst + i) * K + j) * N);
#pragma GCC unroll 8
    for (int k = 0; k < kRows; ++k) rows[k] = V<T>(A(0));
    for (int64_t p = 0; p < s.P + kRows - 1; ++p) {
#pragma GCC unroll 8
      for (int k = kRows - 1; k > 0; --k) rows[k] = rows[k - 1];
      rows[0] = p < s.P ? vload_m<A>(du + p * s.Q + q, live) : V<T>(A(0));
#pragma GCC unroll 2
      for (int a = 0; a < S; ++a) {
        const int64_t h = p * S + kFirst + a - s.top;
        if (h < 0 || h >= s.H) continue;
        const T* from = x + h * s.W + column;
        const auto use = [&](V<T> v, int j) __attribute__((always_inline)) {
#pragma GCC unroll 8
          for (int i = a; i < kI; i += S) acc[i][j] = fma(v, rows[(i - a) / S], acc[i][j]);
        };
        if constexpr (S == 1) {
#pragma GCC unroll 8
          for (int j = 0; j < K; ++j) use(vload_m<T>(from + j, masks.of[j]), j);
        } else {
#pragma GCC unroll 8
          for (int j = 0; j < K; j += 2) {
            V<T> even = vload_m<T>(from + j, masks.of[j]), odd = vload_m<T>(from + j + N, masks.of[j + 1]);
            split_pairs(even, odd);
            use(even, j);
            if (j + 1 < K) use(odd, j + 1);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kI; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < K; ++j) store(sums + ((kFirst + i) * K + j) * N, acc[i][j]);
  }
}

// All taps, as many rows of them at a time as there are registers for (stride 2 takes them together: its rows alternate).
template <class T, int K, int S, int kFirst = 0>
void weight_plane(const Plane& s, const Acc<T>* du, const T* x, Acc<T>* sums) {
  constexpr int kMost = S == 2 ? K : V<T>::N == 16 ? (K == 7 ? 4 : K) : K == 3 ? 3 : K == 5 ? 2 : 1;
  constexpr int kI = K - kFirst < kMost ? K - kFirst : kMost;
  weight_plane<T, K, S, kFirst, kI>(s, du, x, sums);
  if constexpr (kFirst + kI < K) weight_plane<T, K, S, kFirst + kI>(s, du, x, sums);
}

}  // namespace
}  // namespace ck::cpu::CK_ISA
