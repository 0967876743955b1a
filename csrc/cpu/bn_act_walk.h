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
#include "elements.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kChunk = 4096;              // values of one channel between two additions to a double
constexpr int64_t kGroup = 4096;              // elements that an element-wise pass takes from x at once: L1
constexpr int kBlock = F32::N == 16 ? 4 : 2;  // channel vectors; with two sums each they fit 32 or 16 registers

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

}  // namespace
}  // namespace ck::cpu::CK_ISA
