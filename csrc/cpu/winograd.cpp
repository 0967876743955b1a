// A tile of 2 x 2 pixels of y takes 16 products a channel instead of 36: its 4 x 4 pixels of x, transformed, times the weights,
// transformed once per model.  Over many tiles these are 16 matrix products [tiles, C] x [C, K].
//
// A task takes a block of tiles: their transforms stay in the L2 cache, then panel by panel of the weights the 16 products
// and, from scratch that is still in the cache, the pixels of y.  Of few tiles, every thread transforms all and takes some
// of the panels: then each reads its part of the weights only, which are 1.8 times as large as the untransformed ones.
//
// Vectors are channels, so that transforms are plain sums of vectors: 32 for 16 of them on the way in, 24 for 4 on the way out.
// Sums are shorter than those of nine taps, which makes up for the rounding of the transforms: the error is no larger.
#include "winograd.h"

#include <algorithm>

#include "gemm_tile.h"
#include "scratch.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int N = V<float>::N;
constexpr int64_t kTaskWork = 256 * 1024;  // products that make a task worth a thread
#if defined(__AVX512F__)
constexpr int64_t kBlockBytes = 768 * 1024;  // of transformed x: beside a panel of weights in the L2 cache
#else
constexpr int64_t kBlockBytes = 256 * 1024;
#endif
constexpr int64_t kFewTiles = 24;  // a thread: fewer, and the panels are shared out instead

// B^T d B, one axis: four vectors in place.
CK_INLINE void into(F32& a, F32& b, F32& c, F32& d) {
  const F32 u = a - c, v = b + c, w = c - b, z = b - d;
  a = u, b = v, c = w, d = z;
}

struct Winograd {
  const WinogradArgs& a;
  const Panels<float> panels;
  const int64_t across, down, tiles;  // of an image; of all

  explicit Winograd(const WinogradArgs& args)
      : a(args), panels(a.K), across(up(a.Q, 2)), down(up(a.P, 2)), tiles(a.N * down * across) {}

  struct Place {
    int64_t n, row, column;  // of the tile's first pixel of y
  };
  Place place(int64_t t) const { return {t / across / down, t / across % down * 2, t % across * 2}; }

  // v[16][count][C] of the tiles from `first` on.
  void transform_x(int64_t first, int64_t count, float* v) const {
    const int64_t plane = count * a.C;
    for (int64_t t = 0; t < count; ++t) {
      const Place at = place(first + t);
      const int64_t h = at.row - a.top, w = at.column - a.left;
      const float* const x = a.x + ((at.n * a.H + h) * a.W + w) * a.C;
      float* const to = v + t * a.C;
      if (h >= 0 && w >= 0 && h + 4 <= a.H && w + 4 <= a.W) {
        for (int64_t c = 0; c < a.C; c += N)
          transform(to + c, plane, [&](int i, int j) { return vload(x + (i * a.W + j) * a.C + c); });
      } else {
        for (int64_t c = 0; c < a.C; c += N)
          transform(to + c, plane, [&](int i, int j) {
            const bool inside = h + i >= 0 && h + i < a.H && w + j >= 0 && w + j < a.W;
            return inside ? vload(x + (i * a.W + j) * a.C + c) : F32(0.f);
          });
      }
    }
  }

  template <class Load>
  static CK_INLINE void transform(float* to, int64_t plane, Load&& load) {
    F32 d[4][4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) d[i][j] = load(i, j);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) into(d[0][j], d[1][j], d[2][j], d[3][j]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      into(d[i][0], d[i][1], d[i][2], d[i][3]);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) store(to + (i * 4 + j) * plane, d[i][j]);
    }
  }

  // Panel i of the tiles whose transforms are in v.
  void panel_of(int64_t i, int64_t first, int64_t count, const float* v, float* sums) const {
    const int64_t c = panels.begin(i) * N, columns = panels.size(i) * N, one = pointwise_packed_size(a.C, a.K);
    PanelArgs<float> p{};
    p.a_row = p.depth = a.C, p.rows = count, p.vectors = panels.size(i), p.b_row = p.c_row = columns;
    p.last = N;  // K is a multiple of N
    p.low = F32(-INFINITY), p.high = F32(INFINITY);
    for (int e = 0; e < 16; ++e) {
      p.a = v + e * count * a.C, p.c = sums + e * count * columns;
      p.b = a.packed + e * one + kPackedHeader + up(a.K, 16) * 16 + c * a.C;
      panel(p);
    }
    with_act(a.act, [&](auto act) {
      for (int64_t t = 0; t < count; ++t) pixels<act()>(first + t, c, columns, sums + t * columns, count * columns);
    });
  }

  // The 2 x 2 pixels of a tile, channels [c, c + width).
  template <Act ACT>
  void pixels(int64_t t, int64_t c, int64_t width, const float* sums, int64_t plane) const {
    const Place at = place(t);
    const float* const shift = a.packed + kPackedHeader;
    const F32 slope(static_cast<float>(a.slope));
    const int rows = static_cast<int>(std::min<int64_t>(2, a.P - at.row)),
              columns = static_cast<int>(std::min<int64_t>(2, a.Q - at.column));
    for (int64_t k = 0; k < width; k += N) {
      F32 s[2][4];  // A^T m
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const float* const m = sums + j * plane + k;
        const F32 m0 = vload(m), m1 = vload(m + 4 * plane), m2 = vload(m + 8 * plane), m3 = vload(m + 12 * plane);
        s[0][j] = m0 + m1 + m2, s[1][j] = m1 - m2 - m3;
      }
      const F32 b = vload(shift + c + k);
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j) {
          const int64_t to = ((at.n * a.P + at.row + i) * a.Q + at.column + j) * a.K + c + k;
          F32 u = (j == 0 ? s[i][0] + s[i][1] + s[i][2] : s[i][1] - s[i][2] - s[i][3]) + b;
          if (a.shortcut) u = u + vload(a.shortcut + to);
          F32 y = activate<ACT>(u, slope);
          if (a.residual) y = y + vload(a.residual + to);
          store(a.y + to, y);
        }
    }
  }

  // Panels [from, to) of tiles [begin, end), block by block.
  void run(int64_t begin, int64_t end, int64_t from, int64_t to) const {
    const int64_t most = std::max<int64_t>(6, kBlockBytes / (16 * a.C * static_cast<int64_t>(sizeof(float))));
    const int64_t blocks = up(end - begin, most), step = up(end - begin, std::max<int64_t>(1, blocks));
    float* const v = kept<float>(0, 16 * step * a.C);
    float* const sums = kept<float>(1, 16 * step * panels.most() * N);
    for (int64_t t = begin; t < end; t += step) {
      const int64_t count = std::min(step, end - t);
      transform_x(t, count, v);
      for (int64_t i = from; i < to; ++i) panel_of(i, t, count, v, sums);
    }
  }

  void run_all() const {
    const int64_t work = 16 * a.C * a.K;
    if (tiles < kFewTiles * a.pool.threads && panels.count >= a.pool.threads) {
      parallel(a.pool, panels.count, up(kTaskWork, std::max<int64_t>(1, tiles * work / panels.count)),
               [&](int64_t b, int64_t e) { run(0, tiles, b, e); });
    } else {
      parallel(a.pool, tiles, up(kTaskWork, work), [&](int64_t b, int64_t e) { run(b, e, 0, panels.count); });
    }
  }
};

}  // namespace

void winograd(const WinogradArgs& a) { Winograd(a).run_all(); }

}  // namespace ck::cpu::CK_ISA
