// A layer of a few images: weights are read where they are, once.
#pragma once
#include <cstdint>

#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

// f(i, valid lanes) over n elements.
template <class T, class F>
CK_INLINE void for_vectors(int64_t n, F&& f) {
  constexpr int N = V<T>::N;
  int64_t i = 0;
  for (; i + N <= n; i += N) f(i, N);
  if (i < n) f(i, static_cast<int>(n - i));
}
template <class T>
CK_INLINE V<T> at(const T* p, int lanes) {
  return lanes == V<T>::N ? vload(p) : vload_n(p, lanes);
}
template <class T>
CK_INLINE void put(T* p, V<T> v, int lanes) {
  if (lanes == V<T>::N) store(p, v);
  else store_n(p, v, lanes);
}

// out[image, row] = bias[row] + sum_k w[row, k] * in[image, k] for ROWS rows and IMAGES images: each loaded vector of
// weights and of inputs is used IMAGES and ROWS times.
template <class T, int ROWS, int IMAGES>
CK_INLINE void dense_tile(const T* w, const T* bias, const Acc<T>* in, int64_t K, Acc<T>* out, int64_t out_stride) {
  using A = Acc<T>;
  V<T> acc[ROWS][IMAGES];
  for (auto& row : acc)
    for (auto& v : row) v = V<T>(0.f);
  for_vectors<T>(K, [&](int64_t k, int lanes) __attribute__((always_inline)) {
    V<T> vs[IMAGES];
    for (int i = 0; i < IMAGES; ++i) vs[i] = at<A>(in + i * K + k, lanes);
    for (int r = 0; r < ROWS; ++r) {
      const V<T> vw = at(w + r * K + k, lanes);
      for (int i = 0; i < IMAGES; ++i) acc[r][i] = fma(vw, vs[i], acc[r][i]);
    }
  });
  for (int r = 0; r < ROWS; ++r) {
    A b = 0;
    if (bias) b = sum(vload_n(bias + r, 1));
    for (int i = 0; i < IMAGES; ++i) out[i * out_stride + r] = sum(acc[r][i]) + b;
  }
}

#if defined(__AVX512F__)
inline constexpr int kDenseImages = 4;
#else
inline constexpr int kDenseImages = 3;  // with four rows 12 sums, and 16 registers
#endif

// Some rows of all images.
template <class T, int ROWS, int IMAGES = kDenseImages>
CK_INLINE void dense_rows(const T* w, const T* bias, const Acc<T>* in, int64_t K, int64_t N, Acc<T>* out,
                          int64_t out_stride) {
  for (; N >= IMAGES; N -= IMAGES, in += IMAGES * K, out += IMAGES * out_stride)
    dense_tile<T, ROWS, IMAGES>(w, bias, in, K, out, out_stride);
  if constexpr (IMAGES > 1) dense_rows<T, ROWS, IMAGES - 1>(w, bias, in, K, N, out, out_stride);
}

// Rows [begin, end) of out[N, rows] = in[N, K] * w[rows, K]^T + bias.  A few rows meet all images before the next: weights
// come from memory once.
template <class T>
void dense(const T* w, const T* bias, const Acc<T>* in, int64_t begin, int64_t end, int64_t K, int64_t N, Acc<T>* out,
           int64_t rows) {
  int64_t r = begin;
  for (; r + 4 <= end; r += 4) dense_rows<T, 4>(w + r * K, bias ? bias + r : nullptr, in, K, N, out + r, rows);
  for (; r < end; ++r) dense_rows<T, 1>(w + r * K, bias ? bias + r : nullptr, in, K, N, out + r, rows);
}

}  // namespace
}  // namespace ck::cpu::CK_ISA
