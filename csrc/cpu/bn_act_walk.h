// How batch norm walks x = [N, C, S], and v = (x - mean) * scale + shift.
//
// NCHW: runs of planes, or a channel at a time; parameters are broadcast scalars.
// channels_last: strips of rows of C channels.  A strip is walked in blocks of kBlock channel vectors, so that the block's
// parameters and sums stay in registers over all rows of the strip.
//
// Sums run in the accumulate type over at most kChunk values of a channel (or the rows of a strip) and continue in double;
// where chunks and strips begin depends on the shape only.
#pragma once
#include <algorithm>

#include "../math/bn_shape.h"
#include "parallel.h"
#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kGrain = 16384;             // elements per task: several times the cost of waking a thread
constexpr int64_t kChunk = 4096;              // values of one channel between two additions to a double
constexpr int64_t kGroup = 4096;              // elements that an element-wise pass takes from x at once: L1
constexpr int kBlock = F32::N == 16 ? 4 : 2;  // channel vectors; with two sums each they fit 32 or 16 registers

template <class T> CK_INLINE V<T> get(const T* p, int n) { return n == V<T>::N ? vload(p) : vload_n(p, n); }
template <class T> CK_INLINE void put(T* p, V<T> v, int n) {
  if (n == V<T>::N) store(p, v);
  else store_n(p, v, n);
}

// f(first element, valid lanes) over [begin, end).
template <class T, class F>
CK_INLINE void for_vectors(int64_t begin, int64_t end, F&& f) {
  constexpr int N = V<T>::N;
  int64_t i = begin;
  for (; i + 2 * N <= end; i += 2 * N) f(i, N), f(i + N, N);
  for (; i + N <= end; i += N) f(i, N);
  if (i < end) f(i, static_cast<int>(end - i));
}

template <int K> using Count = std::integral_constant<int, K>;

// f(Count<vectors>, first channel, valid lanes of each vector) over channels [c, end).
template <class T, class F>
CK_INLINE void for_channel_blocks(int64_t c, int64_t end, F&& f) {
  constexpr int N = V<T>::N;
  for (; c + kBlock * N <= end; c += kBlock * N) f(Count<kBlock>(), c, N);
  for (; c < end; c += N) f(Count<1>(), c, static_cast<int>(std::min<int64_t>(N, end - c)));
}

// piece(begin, end) over the elements of channel c in NCHW, each within one plane; flush() after every kChunk values.
template <class P, class F>
CK_INLINE void for_channel(const BnShape& s, int64_t c, P&& piece, F&& flush) {
  int64_t room = kChunk;
  for (int64_t n = 0; n < s.N; ++n) {
    const int64_t first = (n * s.C + c) * s.S;
    for (int64_t i = 0; i < s.S;) {
      const int64_t len = std::min(s.S - i, room);
      piece(first + i, first + i + len);
      i += len, room -= len;
      if (room == 0) flush(), room = kChunk;
    }
  }
  if (room < kChunk) flush();
}

int64_t channel_grain(const BnShape& s) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, s.values())); }

// Strips of rows (channels_last): at least 64 rows, so that adding up the strips costs little beside reading them; at most
// 256, the longest chain of additions in working precision (half types lie on a lattice: their roundings do not average out).
struct Strips {
  explicit Strips(const BnShape& s)
      : rows(s.values()),
        step(std::clamp<int64_t>(kGrain / std::max<int64_t>(1, s.C), 64, 256)),
        count((rows + step - 1) / step),
        grain(std::max<int64_t>(1, kGrain / std::max<int64_t>(1, step * s.C))) {}
  int64_t begin(int64_t i) const { return i * step; }
  int64_t end(int64_t i) const { return std::min(rows, (i + 1) * step); }
  int64_t rows, step, count, grain;
};

// v = (x - mean) * scale + shift: the difference first, so that a mean far from zero costs no accuracy.
template <class A>
struct Affine {
  const A *mean, *scale, *shift;  // mean may be null: zero
};
template <class W>
struct AffineVec {
  W mean, scale, shift;
  CK_INLINE W operator()(W x) const { return fma(x - mean, scale, shift); }
};
template <class T>
CK_INLINE AffineVec<V<T>> broadcast(const Affine<Acc<T>>& a, int64_t c) {
  return {V<T>(a.mean ? a.mean[c] : Acc<T>(0)), V<T>(a.scale[c]), V<T>(a.shift[c])};
}
template <class T>
CK_INLINE AffineVec<V<T>> channels(const Affine<Acc<T>>& a, int64_t c, int n) {
  return {a.mean ? get(a.mean + c, n) : V<T>(Acc<T>(0)), get(a.scale + c, n), get(a.shift + c, n)};
}

// f(T(), activation as a compile-time constant)
template <class F>
void with_dtype_and_act(Dtype dtype, Act act, F&& f) {
  with_dtype(dtype, [&](auto t) { with_act(act, [&](auto a) { f(t, a); }); });
}

}  // namespace
}  // namespace ck::cpu::CK_ISA
