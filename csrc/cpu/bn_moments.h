// Mean and variance of the channels of x = [N, C, S].
//
// Each chunk or strip sums x - K and (x - K)^2, K being the mean of its first few values: near its own mean, however far
// that is from zero.  Chan's formula joins the parts in double.
#pragma once
#include <vector>

#include "bn_act_walk.h"

namespace ck::cpu::CK_ISA {
namespace {

struct Moments {
  double n = 0, mean = 0, m2 = 0;
  CK_INLINE void add(double part_n, double part_mean, double part_m2) {
    const double total = n + part_n, delta = part_mean - mean, w = part_n / total;
    mean += delta * w;
    m2 += part_m2 + delta * delta * n * w;
    n = total;
  }
  double var() const { return n > 0 ? std::max(0.0, m2 / n) : 0.0; }
};

template <class T>
Moments channel_moments(const BnShape& s, const T* x, int64_t c) {
  Moments all;
  V<T> shift(Acc<T>(0)), s1[2] = {shift, shift}, s2[2] = {shift, shift};
  Acc<T> k = 0;
  double n = 0;
  for_channel(
      s, c,
      [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
        if (n == 0) {
          const int first = static_cast<int>(std::min<int64_t>(V<T>::N, end - begin));
          k = sum(vload_n(x + begin, first)) / static_cast<Acc<T>>(first);
          shift = V<T>(k);
        }
        n += static_cast<double>(end - begin);
        int turn = 0;
        for_vectors<T>(begin, end, [&](int64_t i, int lanes) __attribute__((always_inline)) {
          const V<T> d = lanes == V<T>::N ? vload(x + i) - shift : keep_n(vload_n(x + i, lanes) - shift, lanes);
          s1[turn] = s1[turn] + d;
          s2[turn] = fma(d, d, s2[turn]);
          turn ^= 1;
        });
      },
      [&]() __attribute__((always_inline)) {
        const double sum1 = sum(s1[0] + s1[1]), sum2 = sum(s2[0] + s2[1]);
        all.add(n, k + sum1 / n, sum2 - sum1 * sum1 / n);
        s1[0] = s1[1] = s2[0] = s2[1] = V<T>(Acc<T>(0));
        n = 0;
      });
  return all;
}

template <class T>
void row_moments(const BnShape& s, const T* x, Acc<T>* mean, Acc<T>* var, const Pool& pool) {
  using A = Acc<T>;
  constexpr int N = V<T>::N;
  const Strips strips(s);
  const int64_t C = s.C;
  std::vector<A> parts(strips.count * 2 * C);  // [strip][mean, m2][C]
  parallel(pool, strips.count, strips.grain, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const int64_t begin = strips.begin(i), end = strips.end(i);
      const A count = static_cast<A>(end - begin);
      A* part = parts.data() + i * 2 * C;
      for_channel_blocks<T>(0, C, [&](auto vectors, int64_t c, int n) __attribute__((always_inline)) {
        const int64_t first = std::min<int64_t>(8, end - begin);
        V<T> shift[vectors()], s1[vectors()], s2[vectors()];
        for (int k = 0; k < vectors(); ++k) {
          shift[k] = s1[k] = s2[k] = V<T>(A(0));
          for (int64_t r = begin; r < begin + first; ++r) shift[k] = shift[k] + get(x + r * C + c + k * N, n);
          shift[k] = shift[k] * V<T>(A(1) / static_cast<A>(first));
        }
        for (int64_t r = begin; r < end; ++r) {
          for (int k = 0; k < vectors(); ++k) {
            const V<T> d = get(x + r * C + c + k * N, n) - shift[k];
            s1[k] = s1[k] + d;
            s2[k] = fma(d, d, s2[k]);
          }
        }
        for (int k = 0; k < vectors(); ++k) {
          const V<T> m = s1[k] * V<T>(A(1) / count);
          put(part + c + k * N, shift[k] + m, n);
          put(part + C + c + k * N, s2[k] - s1[k] * m, n);
        }
      });
    }
  });
  std::vector<double> m(C), m2(C);
  double total = 0;
  for (int64_t i = 0; i < strips.count; ++i) {
    const double n = static_cast<double>(strips.end(i) - strips.begin(i)), w = n / (total + n);
    const A* part = parts.data() + i * 2 * C;
    for (int64_t c = 0; c < C; ++c) {
      const double delta = part[c] - m[c];
      m[c] += delta * w;
      m2[c] += part[C + c] + delta * delta * total * w;
    }
    total += n;
  }
  for (int64_t c = 0; c < C; ++c) {
    mean[c] = static_cast<A>(m[c]);
    var[c] = static_cast<A>(total > 0 ? std::max(0.0, m2[c] / total) : 0.0);
  }
}

}  // namespace
}  // namespace ck::cpu::CK_ISA
