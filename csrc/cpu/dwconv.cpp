// Depthwise convolution + scale, shift, activation and residual in one pass over memory: 2e bytes per element at stride 1.
//
// Register tiles (dwconv_tiles.h) read x in place; scale is folded into the weights, shift is what the sums begin with.
//
//   channels_last  a task owns a block of channels, as many as have their weights in the L1 cache, and a strip of rows of an
//                  image.  Of each row it takes a tile of columns and walks the block's channels, which are neighbours in
//                  memory.  Tasks of a block follow each other, so that a thread packs its weights once for all images.
//   NCHW           a task owns a plane (a strip of rows where planes are few) and walks it in columns of vectors.
//
// fp32 goes straight to y where no activation beyond clamping follows.  Elsewhere a strip's sums go to a line of scratch in
// the accumulate type, which activation, residual and rounding turn into y while it is in the cache.
//
// Statistics are taken from the unrounded sums: mean and sum of squared deviations per strip, merged by Chan's formula in an
// order that depends on the shape only, so that the result does not depend on the number of threads.
#include "dwconv.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "bn_act.h"
#include "dwconv_tiles.h"
#include "finish.h"
#include "scratch.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kTaskWork = 128 * 1024;   // multiply-adds that make a task worth a thread
constexpr int64_t kStripWork = 64 * 1024;   // multiply-adds per strip of rows aimed at
constexpr int64_t kBlockBytes = 14 * 1024;  // of packed weights: leaves the L1 cache to the rows of x
constexpr int64_t kManyPlanes = 16;         // from here on, NCHW planes are not cut into strips
constexpr int64_t kWaiting = 2048;          // sums of small NCHW planes activated together, while in the L1 cache

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Mean and sum of squared deviations of `count` values, lane by lane (N = 1: of one channel).
template <class A, int N>
struct Moments {
  A count = 0, mean[N] = {}, m2[N] = {};
  void merge(const Moments& b) {
    const A total = count + b.count;
    if (total == 0) return;
    for (int l = 0; l < N; ++l) {
      const A delta = b.mean[l] - mean[l];
      mean[l] += delta * (b.count / total);
      m2[l] += b.m2[l] + delta * delta * (count * b.count / total);
    }
    count = total;
  }
};

// The taps of one axis that fall inside the image for an output whose first tap reads position `at`.
struct Inside {
  int begin, end;
  Inside(int64_t at, int64_t size, int k, int dilation)
      : begin(static_cast<int>(std::min<int64_t>(k, at < 0 ? ceil_div(-at, dilation) : 0))),
        end(static_cast<int>(std::clamp<int64_t>(ceil_div(size - at, dilation), begin, k))) {}
};

template <class T>
struct Conv {
  using A = Acc<T>;
  using VA = V<T>;
  static constexpr int N = VA::N;
  const DwConvArgs& a;
  const DwConvShape& s;
  const bool stats, clamp_is_all, direct;
  const int taps;
  const int64_t x_pixel, y_pixel;
  const Clamp<A> clamp;

  Conv(const DwConvArgs& args, bool with_stats)
      : a(args),
        s(args.shape),
        stats(with_stats),
        clamp_is_all(a.act == Act::identity || a.act == Act::relu || a.act == Act::relu6),
        direct(std::is_same_v<T, A> && clamp_is_all && !a.residual),
        taps(s.kh * s.kw),
        x_pixel(a.x_pixel ? a.x_pixel : s.C),
        y_pixel(a.y_pixel ? a.y_pixel : s.C),
        clamp{VA(a.act == Act::relu || a.act == Act::relu6 ? A(0) : -INFINITY),
              VA(a.act == Act::relu6 ? A(6) : INFINITY)} {}

  const T* x() const { return static_cast<const T*>(a.x); }
  T* y() const { return static_cast<T*>(a.y); }
  A* direct_y() const {  // y as the tiles write it: only where `direct`
    if constexpr (std::is_same_v<T, A>) return y();
    else return nullptr;
  }
  const T* weight() const { return static_cast<const T*>(a.weight); }
  const A* packed() const {
    if constexpr (std::is_same_v<T, float>) return a.packed;
    else return nullptr;
  }
  A scale(int64_t c) const { return a.scale ? static_cast<const A*>(a.scale)[c] : A(1); }
  A shift(int64_t c) const { return a.shift ? static_cast<const A*>(a.shift)[c] : A(0); }

  // Mean and sum of squared deviations of `count` vectors; four chains of additions, because each waits for the one before.
  template <class F>
  static void moments_of(int64_t count, F&& value, VA& mean, VA& m2) {
    const auto total = [&](auto&& f) {
      VA part[4] = {VA(A(0)), VA(A(0)), VA(A(0)), VA(A(0))};
      int64_t i = 0;
      for (; i + 4 <= count; i += 4)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) part[k] = f(value(i + k), part[k]);
      for (; i < count; ++i) part[0] = f(value(i), part[0]);
      return (part[0] + part[1]) + (part[2] + part[3]);
    };
    mean = total([](VA v, VA s) { return s + v; }) * VA(A(1) / A(count));
    m2 = total([&](VA v, VA s) { return fma(v - mean, v - mean, s); });
  }

  // Activation, residual and rounding of `rows` runs of `width` sums, on their way to y.
  void finish(const A* line, int64_t line_row, int64_t rows, int64_t width, int64_t at, int64_t y_row) const {
    finish_rows<T>(clamp_is_all ? Act::identity : a.act, static_cast<A>(a.slope), line, line_row, rows, width, y() + at,
                   a.residual ? static_cast<const T*>(a.residual) + at : nullptr, y_row);
  }

  // ---- channels_last ------------------------------------------------------------------------------------------------------
  int64_t vectors() const { return std::max<int64_t>(1, ceil_div(s.C, N)); }
  // Where vector v begins; the last one ends with the last channel and overlaps its neighbour if need be.
  int64_t channel(int64_t v) const { return std::min(v * N, std::max<int64_t>(0, s.C - N)); }
  int lanes() const { return static_cast<int>(std::min<int64_t>(N, s.C)); }

  // [vector][taps and shift][N], scaled.
  void pack(int64_t v0, int count, A* w) const {
    for (int v = 0; v < count; ++v, w += (taps + 1) * N) {
      const int64_t c = channel(v0 + v);
      const int n = lanes();
      const VA f = a.scale ? vload_n(static_cast<const A*>(a.scale) + c, n) : VA(A(1));
      store(w + taps * N, a.shift ? vload_n(static_cast<const A*>(a.shift) + c, n) : VA(A(0)));
      for (int t = 0; t < taps; ++t) {
        VA tap;
        if (n == N) {
          load_step(tap, weight() + c * taps + t, taps);
        } else {
          T some[N] = {};
          for (int l = 0; l < n; ++l) some[l] = weight()[(c + l) * taps + t];
          load(tap, some);
        }
        store(w + t * N, tap * f);
      }
    }
  }

  struct Block {
    int64_t first;  // vector of channels
    int vectors;
    const A* w;
  };

  // Output row p of image n for the channels of a block; out: pixel 0, first channel of the block.
  void row_nhwc(int64_t n, int64_t p, const Block& b, A* out, int64_t out_pixel) const {
    const int64_t h = p * s.sh - s.top, c = channel(b.first), C = x_pixel;
    const Inside rows(h, s.H, s.kh, s.dh);
    const T* row = x() + ((n * s.H + h + int64_t(rows.begin) * s.dh) * s.W) * C + c;
    const int64_t w_step = int64_t(taps + 1) * N, last = channel(b.first + b.vectors - 1) - c;
    const bool tiled = s.C >= N && with_tiled_kernel<T>(s, [&](auto k, auto stride) {
                         const int m = tile_size(s.Q);
                         for (int64_t q = 0; q < s.Q; q += m) {
                           if (q > s.Q - m) q = s.Q - m;
                           const int64_t column = q * stride() - s.left;
                           const bool edge = column < 0 || column + (m - 1) * stride() + k() > s.W;
                           column_tiles<T, k(), stride()>(m, edge,
                                                          {row + column * C, s.W * C, C, rows.end - rows.begin, column,
                                                           s.W, b.w + rows.begin * k() * N, b.w + taps * N, w_step,
                                                           out + q * out_pixel, out_pixel, b.vectors, last},
                                                          clamp);
                         }
                       });
    if (tiled) return;
    for (int64_t q = 0; q < s.Q; ++q) {
      const int64_t column = q * s.sw - s.left;
      const Inside columns(column, s.W, s.kw, s.dw);
      const AnyPixel pixel{rows.end - rows.begin, columns.end - columns.begin, s.kw, s.dh * s.W * C, s.dw * C, w_step};
      const T* p0 = row + (column + int64_t(columns.begin) * s.dw) * C;
      const A *w = b.w + (int64_t(rows.begin) * s.kw + columns.begin) * N, *bias = b.w + taps * N;
      A* to = out + q * out_pixel;
      if (s.C < N) {
        any_pixel<T, 1, false>(pixel, p0, w, bias, lanes(), to, clamp);
        continue;
      }
      int v = 0;  // four vectors at a time, but not the last one, which may overlap its neighbour
      for (; v + 4 < b.vectors; v += 4)
        any_pixel<T, 4, true>(pixel, p0 + v * N, w + v * w_step, bias + v * w_step, N, to + v * N, clamp);
      for (; v < b.vectors; ++v) {
        const int64_t at = std::min<int64_t>(v * N, last);
        any_pixel<T, 1, true>(pixel, p0 + at, w + v * w_step, bias + v * w_step, N, to + at, clamp);
      }
    }
  }

  void run_nhwc() const {
    const int64_t all = vectors(), per_vector = int64_t(taps + 1) * N * static_cast<int64_t>(sizeof(A));
    const int64_t blocks = ceil_div(all, std::max<int64_t>(1, kBlockBytes / per_vector));
    const int64_t block = ceil_div(all, blocks), row_work = s.Q * block * N * taps;
    const int64_t most = std::clamp<int64_t>(kStripWork / row_work, 1, s.P);
    const int64_t strips = ceil_div(s.P, most), rows = ceil_div(s.P, strips);
    const int64_t per_block = s.N * strips, tasks = blocks * per_block;
    const bool to_y = direct && s.C >= N;
    const A* const given = packed();
    std::vector<Moments<A, N>> moments(stats ? tasks * block : 0);
    parallel(a.pool, tasks, ceil_div(kTaskWork, row_work * rows), [&](int64_t begin, int64_t end) {
      A* const w = given ? nullptr : kept<A>(0, block * (taps + 1) * N);
      Block b{-1, 0, w};
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = std::min(task / per_block * block, all), n = task % per_block / strips;
        const int64_t p0 = task % strips * rows, p1 = std::min(s.P, p0 + rows);
        if (first == all || p0 >= p1) continue;
        if (first != b.first) {
          b.first = first;
          b.vectors = static_cast<int>(std::min(block, all - first));
          if (given) b.w = given + first * (taps + 1) * N;
          else pack(first, b.vectors, w);
        }
        const int64_t c = channel(first), width = channel(first + b.vectors - 1) - c + N, pixels = (p1 - p0) * s.Q;
        const int64_t at = (n * s.P + p0) * s.Q * y_pixel + c, pitch = to_y ? y_pixel : width;
        A* out = to_y ? direct_y() + at : kept<A>(1, pixels * width);
        for (int64_t p = p0; p < p1; ++p) row_nhwc(n, p, b, out + (p - p0) * s.Q * pitch, pitch);
        if (stats)
          for (int v = 0; v < b.vectors; ++v) {
            Moments<A, N>& m = moments[task * block + v];
            const A* from = out + channel(first + v) - c;
            VA mean, m2;
            moments_of(pixels, [&](int64_t i) { return vload(from + i * pitch); }, mean, m2);
            store(m.mean, mean);
            store(m.m2, m2);
            m.count = A(pixels);
          }
        if (!to_y) finish(out, width, pixels, std::min(width, s.C), at, y_pixel);
      }
    });
    if (!stats) return;
    parallel(a.pool, all, std::max<int64_t>(1, 1024 / per_block), [&](int64_t begin, int64_t end) {
      for (int64_t v = begin; v < end; ++v) {
        Moments<A, N> m;
        for (int64_t i = 0; i < per_block; ++i) m.merge(moments[(v / block * per_block + i) * block + v % block]);
        const int n = lanes();
        store_n(static_cast<A*>(a.mean) + channel(v), vload(m.mean), n);
        store_n(static_cast<A*>(a.var) + channel(v), vload(m.m2) * VA(A(1) / m.count), n);
      }
    });
  }

  // ---- NCHW ---------------------------------------------------------------------------------------------------------------
  // Rows [p0, p1) of a plane; w: its taps, scaled.
  void strip_nchw(const T* plane, int64_t p0, int64_t p1, const A* w, A bias, A* out) const {
    const bool tiled = with_tiled_kernel<T>(s, [&](auto k, auto stride) {
      constexpr int K = k(), S = stride();
      const int m = tile_size(p1 - p0);
      with_tile(m, [&](auto size) {
        for (int64_t q = 0; q < s.Q; q += N) {
          const int64_t column = q * S - s.left;
          const RowMasks<T, K, S> masks(column, s.W);
          const int lanes = static_cast<int>(std::min<int64_t>(N, s.Q - q));
          for (int64_t p = p0; p < p1; p += size()) {
            if (p > p1 - size()) p = p1 - size();
            const int64_t h = p * S - s.top;
            row_tile<T, K, S, size()>(plane + h * s.W + column, h, s.H, s.W, masks, w, bias, out + (p - p0) * s.Q + q,
                                      s.Q, lanes, clamp);
          }
        }
      });
    });
    if (!tiled) any_strip_nchw(plane, p0, p1, w, bias, out);
  }

  // Any kernel, stride and dilation: up to four output rows at a time, so that their sums are independent.
  void any_strip_nchw(const T* plane, int64_t p0, int64_t p1, const A* w, A bias, A* out) const {
    constexpr int M = 4;
    for (int64_t q = 0; q < s.Q; q += N)
      for (int64_t p = p0; p < p1; p += M) {
        const int m_end = static_cast<int>(std::min<int64_t>(M, p1 - p));
        VA acc[M];
        for (VA& v : acc) v = VA(bias);
        for (int j = 0; j < s.kw; ++j) {
          const int64_t column = q * s.sw - s.left + int64_t(j) * s.dw;
          const auto valid = VA::lanes(-column, s.W - column);
          for (int i = 0; i < s.kh; ++i)
            for (int m = 0; m < m_end; ++m) {
              const int64_t h = (p + m) * s.sh - s.top + int64_t(i) * s.dh;
              if (h < 0 || h >= s.H) continue;
              const T* from = plane + h * s.W + column;
              acc[m] =
                  fma(s.sw == 1 || N == 1 ? vload_m(from, valid) : strided(from, column), VA(w[i * s.kw + j]), acc[m]);
            }
        }
        for (int m = 0; m < m_end; ++m)
          store_n(out + (p + m - p0) * s.Q + q, clamp(acc[m]), static_cast<int>(std::min<int64_t>(N, s.Q - q)));
      }
  }

  // Every sw-th number from `from` on, which lies in column `column`; zeros outside the row.
  VA strided(const T* from, int64_t column) const {
    T lane[N] = {};
    for (int l = 0; l < N; ++l)
      if (const int64_t at = column + int64_t(l) * s.sw; at >= 0 && at < s.W) lane[l] = from[int64_t(l) * s.sw];
    return vload(lane);
  }

  Moments<A, 1> moments_nchw(const A* u, int64_t n) const {
    const auto total = [&](auto f) {
      VA even(A(0)), odd(A(0));
      int64_t i = 0;
      for (; i + 2 * N <= n; i += 2 * N) even = even + f(vload(u + i)), odd = odd + f(vload(u + i + N));
      for (; i + N <= n; i += N) even = even + f(vload(u + i));
      if (const int rest = static_cast<int>(n - i)) odd = odd + keep_n(f(vload_n(u + i, rest)), rest);
      return sum(even + odd);
    };
    Moments<A, 1> m;
    m.count = A(n);
    m.mean[0] = total([](VA v) { return v; }) / A(n);
    m.m2[0] = total([&](VA v) { return (v - VA(m.mean[0])) * (v - VA(m.mean[0])); });
    return m;
  }

  void run_nchw() const {
    const int64_t planes = s.N * s.C, most = ceil_div(kStripWork, s.Q * taps);
    const int64_t rows = planes >= kManyPlanes ? s.P : std::clamp<int64_t>(most, 1, s.P);
    const int64_t strips = ceil_div(s.P, rows), work = rows * s.Q * taps;
    std::vector<Moments<A, 1>> moments(stats ? planes * strips : 0);
    parallel(a.pool, planes * strips, ceil_div(kTaskWork, work), [&](int64_t begin, int64_t end) {
      const int64_t capacity = std::max(kWaiting, rows * s.Q);
      A* w = kept<A>(0, taps);
      A* line = std::is_same_v<T, A> ? nullptr : kept<A>(1, capacity);
      int64_t waiting = 0;  // the latest sums, neighbours in y, which activation, residual and rounding are still due
      for (int64_t task = begin; task < end; ++task) {
        const int64_t nc = task / strips, c = nc % s.C, p0 = task % strips * rows, p1 = std::min(s.P, p0 + rows);
        const int64_t at = (nc * s.P + p0) * s.Q, size = (p1 - p0) * s.Q;
        for (int t = 0; t < taps; t += N) {
          const int some = std::min(N, taps - t);
          store_n(w + t, vload_n(weight() + c * taps + t, some) * VA(scale(c)), some);
        }
        A* out = std::is_same_v<T, A> ? direct_y() + at : line + waiting;
        strip_nchw(x() + nc * s.H * s.W, p0, p1, w, shift(c), out);
        if (stats) moments[task] = moments_nchw(out, size);
        if (direct) continue;
        waiting += size;
        if (task + 1 < end && waiting + rows * s.Q <= capacity) continue;
        finish(out + size - waiting, 0, 1, waiting, at + size - waiting, 0);
        waiting = 0;
      }
    });
    if (!stats) return;
    for (int64_t c = 0; c < s.C; ++c) {
      Moments<A, 1> m;
      for (int64_t n = 0; n < s.N; ++n)
        for (int64_t t = 0; t < strips; ++t) m.merge(moments[(n * s.C + c) * strips + t]);
      static_cast<A*>(a.mean)[c] = m.mean[0];
      static_cast<A*>(a.var)[c] = m.m2[0] / m.count;
    }
  }

  // A channel of all images at a time, so that normalising finds u in the cache.
  void train_nchw(const DwConvTrainArgs& t) const {
    const int64_t size = s.P * s.Q;
    parallel(a.pool, s.C, ceil_div(kTaskWork, s.N * size * taps), [&](int64_t begin, int64_t end) {
      A* w = kept<A>(0, taps);
      for (int64_t c = begin; c < end; ++c) {
        for (int i = 0; i < taps; ++i) store_n(w + i, vload_n(weight() + c * taps + i, 1), 1);
        Moments<A, 1> m;
        for (int64_t n = 0; n < s.N; ++n) {
          const int64_t nc = n * s.C + c;
          A* out = direct ? direct_y() + nc * size : kept<A>(1, size);
          strip_nchw(x() + nc * s.H * s.W, 0, s.P, w, A(0), out);
          m.merge(moments_nchw(out, size));
          if (!direct) finish(out, 0, 1, size, nc * size, 0);
        }
        const A mean = m.mean[0], var = m.m2[0] / m.count;
        static_cast<A*>(a.mean)[c] = mean, static_cast<A*>(a.var)[c] = var;
        const Affine affine = fold(t, c);
        with_act(t.act, [&](auto act) {
          for (int64_t n = 0; n < s.N; ++n)
            normalise<act()>(y() + (n * s.C + c) * size, static_cast<T*>(t.y) + (n * s.C + c) * size, size, affine,
                             VA(A(t.slope)));
        });
      }
    });
  }

  struct Affine {
    A mean, scale, shift;
  };
  Affine fold(const DwConvTrainArgs& t, int64_t c) const {
    const double weight = t.bn_weight ? static_cast<const A*>(t.bn_weight)[c] : 1.0;
    return {static_cast<const A*>(a.mean)[c],
            static_cast<A>(weight / std::sqrt(static_cast<const A*>(a.var)[c] + t.eps)),
            t.bn_bias ? static_cast<const A*>(t.bn_bias)[c] : A(0)};
  }

  template <Act kAct>
  static void normalise(const T* u, T* y, int64_t n, const Affine& affine, VA slope) {
    const VA mean(affine.mean), scale(affine.scale), shift(affine.shift);
    const auto value = [&](VA v) __attribute__((always_inline)) {
      return activate<kAct>(fma(v - mean, scale, shift), slope);
    };
    int64_t i = 0;
    for (; i + 2 * N <= n; i += 2 * N) {
      const VA v = value(vload(u + i)), w = value(vload(u + i + N));
      store(y + i, v);
      store(y + i + N, w);
    }
    for (; i + N <= n; i += N) store(y + i, value(vload(u + i)));
    if (const int rest = static_cast<int>(n - i)) store_n(y + i, value(vload_n(u + i, rest)), rest);
  }

  void train(const DwConvTrainArgs& t) const {
    if (s.N * s.C * s.P * s.Q == 0) return;
    if (!s.channels_last && s.C >= kManyPlanes) return train_nchw(t);
    run();
    std::vector<A> scale(s.C), shift(s.C);
    for (int64_t c = 0; c < s.C; ++c) {
      const Affine affine = fold(t, c);
      scale[c] = affine.scale, shift[c] = affine.shift - affine.mean * affine.scale;
    }
    CK_ISA::bn_act_forward(
        {bn_shape(t.dtype, s), t.u, scale.data(), shift.data(), nullptr, t.y, t.act, t.slope, t.pool});
  }

  void run() const {
    if (s.N * s.C * s.P * s.Q == 0) return;
    if (s.channels_last) run_nhwc();
    else run_nchw();
  }
};

}  // namespace

void dwconv_pack(const DwConvPackArgs& a) {
  DwConvArgs d{};
  d.weight = a.weight, d.scale = a.scale, d.shift = a.shift;
  d.shape.C = a.C, d.shape.kh = a.kh, d.shape.kw = a.kw;
  const Conv<float> conv(d, false);
  write_packed_header(a.packed, Isa::CK_ISA, a.C, conv.taps);
  conv.pack(0, static_cast<int>(conv.vectors()), a.packed + kPackedHeader);
}

void dwconv(const DwConvArgs& a) {
  with_dtype(a.dtype, [&](auto t) { Conv<decltype(t)>(a, false).run(); });
}

void dwconv_stats(const DwConvArgs& a) {
  with_dtype(a.dtype, [&](auto t) { Conv<decltype(t)>(a, true).run(); });
}

void dwconv_train(const DwConvTrainArgs& a) {
  const DwConvArgs conv{a.dtype, a.x,           a.weight, nullptr, nullptr, nullptr, a.u,
                        a.shape, Act::identity, 0.0,      a.mean,  a.var,   a.pool};
  with_dtype(a.dtype, [&](auto t) { Conv<decltype(t)>(conv, true).train(a); });
}

}  // namespace ck::cpu::CK_ISA
