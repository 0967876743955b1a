// Spatial pyramid pooling: a tile is read once, pooled in the cache from size to size, and each size written to its channels.
//
// Windows are nested, so 5, 9 and 13 cost three times 5, of which rows and columns are taken one after the other: 24 maxima an
// element in place of 275.  A maximum is the same whatever the order, so results are those of the definition.
// The gradient needs where each maximum is.  That is not stored by the forward pass but found again, by the same steps on
// (number, place) pairs (math/order_key.h); then gradients are added up at those places, tile by tile, in scan order.
#include "spp.h"

#include "pool_cascade.h"
#include "streams.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kTaskElements = 4096;  // of x: several times the cost of waking a thread

// Element type -> the integer of its bits and those of infinity.
template <class T> struct BitsOf;
template <> struct BitsOf<float> {
  using type = int32_t;
  static constexpr type infinity = 0x7f800000;
};
template <> struct BitsOf<double> {
  using type = int64_t;
  static constexpr type infinity = 0x7ff0000000000000;
};
template <> struct BitsOf<Half> {
  using type = int16_t;
  static constexpr type infinity = 0x7c00;
};
template <> struct BitsOf<BFloat16> {
  using type = int16_t;
  static constexpr type infinity = 0x7f80;
};
template <class T> using Bits = typename BitsOf<T>::type;

// The tiles of an image and where they lie in tensors.  Elements are moved in runs: a row of a plane in NCHW, the channels of
// a pixel in channels_last.
template <class T>
struct Tiles {
  static constexpr int64_t kLanes = 64 / sizeof(T);  // a cache line of each pixel
  const SppShape& s;
  const int64_t blocks;  // tiles an image

  explicit Tiles(const SppShape& shape)
      : s(shape), blocks(shape.channels_last ? (shape.C + kLanes - 1) / kLanes : shape.C) {}

  int64_t most_lanes() const { return s.channels_last ? std::min(kLanes, s.C) : 1; }

  struct Tile {
    int64_t n, channel, lanes;
  };
  Tile tile(int64_t t) const {
    const int64_t n = t / blocks, block = t % blocks;
    if (!s.channels_last) return {n, block, 1};
    return {n, block * kLanes, std::min(kLanes, s.C - block * kLanes)};
  }

  struct Run {
    int64_t h, column;  // its place in the tile: row, and element of the row
    int64_t x, y;       // where it begins in x and in a slot of y
    int64_t n, room;    // elements; those that may be touched from there, because this tile comes on
  };
  template <class F>
  void for_each_run(const Tile& t, int slot, F&& f) const {
    const int64_t channels = s.slots() * s.C, plane = s.H * s.W;
    if (!s.channels_last) {
      const int64_t x = (t.n * s.C + t.channel) * plane, y = (t.n * channels + slot * s.C + t.channel) * plane;
      for (int64_t h = 0, at = 0; h < s.H; ++h, at += s.W) f(Run{h, 0, x + at, y + at, s.W, plane - at});
      return;
    }
    int64_t x = t.n * plane * s.C + t.channel, y = t.n * plane * channels + slot * s.C + t.channel;
    for (int64_t h = 0; h < s.H; ++h)
      for (int64_t w = 0; w < s.W; ++w, x += s.C, y += channels) f(Run{h, w * t.lanes, x, y, t.lanes, t.lanes});
  }

  int64_t count() const { return s.N * blocks; }
  int64_t grain() const { return std::max<int64_t>(1, kTaskElements / (s.H * s.W * most_lanes())); }
};

// to[i] = f(from[i]) for i < n, rounded up to whole vectors where `room` lets it: what comes after is about to be written.
template <class B, class F>
CK_INLINE void map_run(const B* from, B* to, int64_t n, int64_t room, F&& f) {
  constexpr int kChunk = std::min(16, kVectorBytes / static_cast<int>(sizeof(B)));
  using Vector = typename Lanes<B, kChunk>::type;
  int64_t i = 0;
  for (; i < n && i + kChunk <= room; i += kChunk) {
    Vector v;
    std::memcpy(&v, from + i, sizeof v);
    v = f(v);
    std::memcpy(to + i, &v, sizeof v);
  }
  for (; i < n; ++i) to[i] = f(from[i]);
}

// Element type to accumulator or back.
template <class A, class B>
CK_INLINE void copy_converted(const A* from, B* to, int64_t n) {
  constexpr int N = V<A>::N;
  int64_t i = 0;
  for (; i + N <= n; i += N) store(to + i, vload(from + i));
  if (i < n) store_n(to + i, vload_n(from + i, static_cast<int>(n - i)), static_cast<int>(n - i));
}

template <class T>
void spp(const SppArgs& a) {
  using B = Bits<T>;
  using Run = typename Tiles<T>::Run;
  const SppShape& s = a.shape;
  const Tiles<T> tiles(s);
  const B* const x = static_cast<const B*>(a.x);
  B* const y = static_cast<B*>(a.y);
  parallel(a.pool, tiles.count(), tiles.grain(), [&](int64_t begin, int64_t end) {
    PoolCascade<B> pooled(s.H, s.W, tiles.most_lanes(), Order<B>::kLeast);
    for (int64_t i = begin; i < end; ++i) {
      const auto t = tiles.tile(i);
      pooled.begin(t.lanes);
      tiles.for_each_run(t, 0, [&](const Run& r) {
        map_run(x + r.x, y + r.y, r.n, r.room, [](auto bits) __attribute__((always_inline)) { return bits; });
        map_run(x + r.x, pooled.row(r.h) + r.column, r.n, r.room,
                [](auto bits) __attribute__((always_inline)) { return Order<B>::key(bits, BitsOf<T>::infinity); });
      });
      pooled.close();
      int64_t radius = 0;
      for (int k = 0; k < s.count; ++k) {
        pooled.widen(s.radius[k] - radius);
        radius = s.radius[k];
        tiles.for_each_run(t, s.slot[k], [&](const Run& r) {
          map_run(pooled.row(r.h) + r.column, y + r.y, r.n, r.room,
                  [](auto key) __attribute__((always_inline)) { return Order<B>::bits(key); });
        });
      }
    }
  });
}

CK_INLINE double widened(double v) { return v; }
template <class T> CK_INLINE float widened(T v) { return to_float(v); }

// W: an integer for pairs of B and a place in a tile.
template <class T, class W>
void spp_backward(const SppBackwardArgs& a) {
  using B = Bits<T>;
  using P = Placed<W, B>;
  using Run = typename Tiles<T>::Run;
  const SppShape& s = a.shape;
  const Tiles<T> tiles(s);
  const B* const x = static_cast<const B*>(a.x);
  const T* const grad = static_cast<const T*>(a.grad);
  T* const dx = static_cast<T*>(a.dx);
  const int64_t row = s.W * tiles.most_lanes();
  parallel(a.pool, tiles.count(), tiles.grain(), [&](int64_t begin, int64_t end) {
    PoolCascade<W> pooled(s.H, s.W, tiles.most_lanes(), P::kLeast);
    const Scratch<Acc<T>> sums = uninitialised<Acc<T>>(s.H * row);
    for (int64_t i = begin; i < end; ++i) {
      const auto t = tiles.tile(i);
      const auto place = [&](const Run& r) { return r.h * s.W * t.lanes + r.column; };
      pooled.begin(t.lanes);
      tiles.for_each_run(t, 0, [&](const Run& r) {
        const int64_t first = place(r);
        const B* const from = x + r.x;
        W* const to = pooled.row(r.h) + r.column;
        for (int64_t e = 0; e < r.n; ++e) to[e] = P::pair(Order<B>::key(from[e], BitsOf<T>::infinity), first + e);
        copy_converted(grad + r.y, sums.get() + first, r.n);
      });
      pooled.close();
      int64_t radius = 0;
      for (int k = 0; k < s.count; ++k) {
        pooled.widen(s.radius[k] - radius);
        radius = s.radius[k];
        tiles.for_each_run(t, s.slot[k], [&](const Run& r) {
          const W* const pairs = pooled.row(r.h) + r.column;
          for (int64_t e = 0; e < r.n; ++e) sums[P::place(pairs[e])] += widened(grad[r.y + e]);
        });
      }
      tiles.for_each_run(t, 0, [&](const Run& r) { copy_converted(sums.get() + place(r), dx + r.x, r.n); });
    }
  });
}

}  // namespace

void spp(const SppArgs& a) {
  if (a.shape.elements() == 0) return;
  with_dtype(a.dtype, [&](auto t) { spp<decltype(t)>(a); });
}

void spp_backward(const SppBackwardArgs& a) {
  const SppShape& s = a.shape;
  if (s.elements() == 0) return;
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    if constexpr (sizeof(T) == 2) {
      if (s.H * s.W * Tiles<T>(s).most_lanes() <= 65536) return spp_backward<T, int32_t>(a);
      return spp_backward<T, int64_t>(a);
    } else if constexpr (sizeof(T) == 4) {
      return spp_backward<T, int64_t>(a);
    } else {
      return spp_backward<T, __int128>(a);
    }
  });
}

}  // namespace ck::cpu::CK_ISA
