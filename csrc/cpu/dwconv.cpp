// Depthwise convolution + scale, shift, activation and residual in one pass over memory: 2e bytes per element at stride 1.
//
// A task copies its input once into zero-padded scratch in the accumulate type, convolves from there into a scratch line,
// and finishes that line (activation, residual, rounding) on its way to y.  All scratch stays in the L1 cache, so the copies
// cost a load and a store each against k * k multiply-adds, and buy: no borders, no channel tails and no conversions in the
// inner loops, and one code path for every layout, type, padding and dilation.
//
//   channels_last  a task owns up to four vectors of channels and a strip of rows.  Scratch is a ring of padded rows of
//                  pixels for each vector; the weights of a vector stay in registers for a whole row (3 x 3).
//   NCHW           a task owns a strip of one plane.  Scratch is one padded plane per stride phase, so that every tap is a
//                  unit-stride line at a fixed offset and the whole strip is one long line: 7 x 7 planes fill vectors too.
//
// Statistics are taken from the unrounded line: mean and sum of squared deviations per line, merged by Chan's formula in an
// order that depends on the shape only, so that the result does not depend on the number of threads.
#include "dwconv.h"

#include <algorithm>
#include <vector>

#include "activation.h"
#include "dwconv_lines.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kTaskWork = 32 * 1024;    // multiply-adds that make a task worth a thread
constexpr int64_t kStripWork = 256 * 1024;  // multiply-adds per strip of rows: enough strips for a thread each
constexpr int64_t kPlane = 24 * 1024;       // scratch elements of an NCHW strip
constexpr int64_t kLine = 2048;             // elements finished at a time
constexpr int64_t kGroup = 4;               // vectors of channels that a channels_last task takes together
constexpr int64_t kRings = 64 * 1024;       // bytes of their rings of rows

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Memory that a thread keeps between calls; grows only.  Contents are whatever was there.
template <class A>
A* scratch(int which, int64_t n) {
  static thread_local std::vector<A> kept[3];
  std::vector<A>& v = kept[which];
  if (static_cast<int64_t>(v.size()) < n) v.resize(n);
  return v.data();
}

template <class A>
struct Moments {  // of one channel, or of one vector of channels lane by lane
  A count = 0;
  V<A> mean{A(0)}, m2{A(0)};
  void merge(A n, V<A> other_mean, V<A> other_m2) {
    const A total = count + n;
    const V<A> delta = other_mean - mean;
    mean = fma(delta, V<A>(n / total), mean);
    m2 = m2 + other_m2 + delta * delta * V<A>(count * n / total);
    count = total;
  }
};

template <class T>
struct Conv {
  using A = Acc<T>;
  using VA = V<T>;
  static constexpr int N = VA::N;
  const DwConvArgs& a;
  const DwConvShape& s;
  const bool stats;
  const bool clamp_is_all;  // identity, relu, relu6: no activation pass
  Clamp<A> clamp;

  Conv(const DwConvArgs& args, bool with_stats)
      : a(args),
        s(args.shape),
        stats(with_stats),
        clamp_is_all(a.act == Act::identity || a.act == Act::relu || a.act == Act::relu6),
        clamp{VA(a.act == Act::relu || a.act == Act::relu6 ? A(0) : -INFINITY),
              VA(a.act == Act::relu6 ? A(6) : INFINITY)} {}

  const T* x() const { return static_cast<const T*>(a.x); }
  const T* residual() const { return static_cast<const T*>(a.residual); }
  T* y() const { return static_cast<T*>(a.y); }
  A scale(int64_t c) const { return a.scale ? static_cast<const A*>(a.scale)[c] : A(1); }
  A shift(int64_t c) const { return a.shift ? static_cast<const A*>(a.shift)[c] : A(0); }
  A weight(int64_t c, int tap) const { return A(to_acc(static_cast<const T*>(a.weight)[c * s.kh * s.kw + tap])); }
  static float to_acc(float v) { return v; }
  static double to_acc(double v) { return v; }
  static float to_acc(Half v) { return to_float(v); }
  static float to_acc(BFloat16 v) { return to_float(v); }

  void activate_line(A* line, int64_t n) const {
    if (clamp_is_all) return;
    const Dtype d = sizeof(A) == 8 ? Dtype::f64 : Dtype::f32;
    activation_forward({d, line, nullptr, line, n, a.act, a.slope, serial_pool()});
  }

  // ---- channels_last ------------------------------------------------------------------------------------------------------
  int64_t strip_rows() const {  // depends on the shape only
    const int64_t per_row = s.Q * N * s.kh * s.kw;
    return std::min(s.P, std::max<int64_t>(ceil_div(kStripWork, std::max<int64_t>(per_row, 1)), 2 * s.kh));
  }

  void pack(int64_t c, int lanes, A* w) const {
    const int taps = s.kh * s.kw;
    for (int l = 0; l < N; ++l) {
      const A f = l < lanes ? scale(c + l) : A(0);
      for (int t = 0; t < taps; ++t) w[t * N + l] = l < lanes ? f * weight(c + l, t) : A(0);
      w[taps * N + l] = l < lanes ? shift(c + l) : A(0);
    }
  }

  int64_t padded_width() const { return std::max((s.Q - 1) * s.sw + int64_t(s.kw - 1) * s.dw + 1, s.left + s.W); }
  int ring() const { return (s.kh - 1) * s.dh + 1; }

  // Vectors of channels that a task takes together: up to four, so that a pixel is a few cache lines in a row, and no
  // more than leave the rings of rows in the L1 cache.
  int64_t group() const {
    const int64_t bytes = (ring() + 1) * padded_width() * N * static_cast<int64_t>(sizeof(A));
    return std::clamp<int64_t>(kRings / bytes, 1, kGroup);
  }

  // Rows [p0, p1) of image n, `vectors` vectors of channels from c on; the last one has `lanes` channels.
  void strip_nhwc(int64_t n, int64_t p0, int64_t p1, int64_t c, int vectors, int lanes, const A* w,
                  Moments<A>* moments) const {
    const int64_t width = padded_width(), rows = ring(), Q = s.Q, C = s.C;
    const int64_t ring_size = rows * width * N, taps = (int64_t(s.kh) * s.kw + 1) * N;
    A* rings = scratch<A>(0, vectors * ring_size + width * N);
    const A* zero = rings + vectors * ring_size;
    std::fill(rings, rings + vectors * ring_size + width * N, A(0));
    const int64_t block = std::max<int64_t>(1, kLine / std::max<int64_t>(Q * N, 1));  // output rows finished together
    const int64_t line_size = block * Q * N;
    A* line = scratch<A>(1, vectors * line_size);
    std::vector<const A*> lines(s.kh);
    int64_t next = std::max<int64_t>(0, p0 * s.sh - s.top);  // first input row not yet in the rings
    for (int64_t p = p0; p < p1; p += block) {
      const int64_t many = std::min(block, p1 - p);
      for (int64_t b = 0; b < many; ++b) {
        const int64_t h0 = (p + b) * s.sh - s.top, h1 = std::min(h0 + rows, s.H);
        for (next = std::max(next, std::max<int64_t>(h0, 0)); next < h1; ++next)
          copy_row_nhwc(x() + ((n * s.H + next) * s.W) * C + c, vectors, lanes,
                        rings + ((next % rows) * width + s.left) * N, ring_size);
        for (int g = 0; g < vectors; ++g) {
          for (int i = 0; i < s.kh; ++i) {
            const int64_t h = h0 + int64_t(i) * s.dh;
            lines[i] = h < 0 || h >= s.H ? zero : rings + g * ring_size + (h % rows) * width * N;
          }
          convolve_row(lines.data(), w + g * taps, line + g * line_size + b * Q * N);
        }
      }
      for (int g = 0; g < vectors; ++g) {
        if (moments) add_lanes(line + g * line_size, many * Q, moments[g]);
        activate_line(line + g * line_size, many * Q * N);
      }
      finish_nhwc(line, line_size, vectors, lanes, ((n * s.P + p) * Q) * C + c, many * Q);
    }
  }

  void copy_row_nhwc(const T* from, int vectors, int lanes, A* to, int64_t ring_size) const {
    const int64_t W = s.W, C = s.C;
    for (int64_t q = 0; q < W; ++q, from += C, to += N) {
      for (int g = 0; g < vectors - 1; ++g) store(to + g * ring_size, vload(from + g * N));
      const int g = vectors - 1;
      store(to + g * ring_size, lanes == N ? vload(from + g * N) : vload_n(from + g * N, lanes));
    }
  }

  void finish_nhwc(const A* line, int64_t line_size, int vectors, int lanes, int64_t at, int64_t pixels) const {
    const int64_t C = s.C;
    T* to = y() + at;
    const T* add = residual() ? residual() + at : nullptr;
    for (int64_t q = 0; q < pixels; ++q, to += C, line += N) {
      for (int g = 0; g < vectors; ++g) {
        const int n = g == vectors - 1 ? lanes : N;
        VA v = vload(line + g * line_size);
        if (add) v = v + (n == N ? vload(add + q * C + g * N) : vload_n(add + q * C + g * N, n));
        if (n == N) store(to + g * N, v);
        else store_n(to + g * N, v, n);
      }
    }
  }

  void convolve_row(const A* const* lines, const A* w, A* out) const {
    if constexpr (std::is_same_v<A, float>) {
      if (s.kh == s.kw && s.sh == s.sw && s.dw == 1 && s.sw <= 2) {
        const bool one = s.sw == 1;
        if (s.kw == 3)
          return one ? row_fixed<A, 3, 1>(lines, w, out, s.Q, clamp) : row_fixed<A, 3, 2>(lines, w, out, s.Q, clamp);
        if (s.kw == 5)
          return one ? row_fixed<A, 5, 1>(lines, w, out, s.Q, clamp) : row_fixed<A, 5, 2>(lines, w, out, s.Q, clamp);
        if (s.kw == 7)
          return one ? row_fixed<A, 7, 1>(lines, w, out, s.Q, clamp) : row_fixed<A, 7, 2>(lines, w, out, s.Q, clamp);
      }
    }
    row_any(lines, w, out, s.Q, clamp, s.kh, s.kw, s.sw, s.dw);
  }

  // Moments of each lane over `pixels` vectors: two passes over a line in the L1 cache.
  void add_lanes(const A* line, int64_t pixels, Moments<A>& m) const {
    VA sum(A(0)), m2(A(0));
    for (int64_t q = 0; q < pixels; ++q) sum = sum + vload(line + q * N);
    const VA mean = sum * VA(A(1) / A(pixels));
    for (int64_t q = 0; q < pixels; ++q) {
      const VA d = vload(line + q * N) - mean;
      m2 = fma(d, d, m2);
    }
    m.merge(A(pixels), mean, m2);
  }

  void run_nhwc() const {
    const int64_t vectors = ceil_div(s.C, N), most = group(), groups = ceil_div(vectors, most);
    const int64_t rows = strip_rows(), strips = ceil_div(s.P, rows), taps = (int64_t(s.kh) * s.kw + 1) * N;
    std::vector<Moments<A>> moments(stats ? s.N * strips * vectors : 0);
    const int64_t work = rows * s.Q * N * s.kh * s.kw * most;
    parallel(a.pool, s.N * strips * groups, ceil_div(kTaskWork, std::max<int64_t>(work, 1)), [&](int64_t b, int64_t e) {
      A* w = scratch<A>(2, most * taps);
      for (int64_t i = b; i < e; ++i) {
        const int64_t v = i % groups * most, strip = i / groups % strips, n = i / groups / strips;
        const int count = static_cast<int>(std::min(most, vectors - v));
        const int lanes = static_cast<int>(std::min<int64_t>(N, s.C - (v + count - 1) * N));
        for (int g = 0; g < count; ++g) pack((v + g) * N, g == count - 1 ? lanes : N, w + g * taps);
        strip_nhwc(n, strip * rows, std::min(s.P, (strip + 1) * rows), v * N, count, lanes, w,
                   stats ? &moments[(n * strips + strip) * vectors + v] : nullptr);
      }
    });
    if (!stats) return;
    for (int64_t v = 0; v < vectors; ++v) {
      Moments<A> all;
      for (int64_t i = v; i < s.N * strips * vectors; i += vectors)
        all.merge(moments[i].count, moments[i].mean, moments[i].m2);
      const int lanes = static_cast<int>(std::min<int64_t>(N, s.C - v * N));
      store_n(static_cast<A*>(a.mean) + v * N, all.mean, lanes);
      store_n(static_cast<A*>(a.var) + v * N, all.m2 * VA(A(1) / all.count), lanes);
    }
  }

  // ---- NCHW ---------------------------------------------------------------------------------------------------------------
  struct Plane {  // scratch of a strip of `rows` output rows
    int64_t pitch, lines, size, strip;
  };

  Plane plane() const {
    // With stride 1 the zeros after a row are also those before the next one.
    const int64_t right = std::max<int64_t>(0, (s.Q - 1) * s.sw + int64_t(s.kw - 1) * s.dw + 1 - s.left - s.W);
    const int64_t pitch = s.sw == 1 ? std::max(s.W + std::max<int64_t>(s.left, right), s.Q)
                                    : ceil_div(std::max(s.left + s.W + right, s.left + s.W), s.sw);
    const int64_t reach = ceil_div(int64_t(s.kh - 1) * s.dh, s.sh) + 1;
    const int64_t strip =
        std::min(s.P, std::max<int64_t>({kPlane / std::max<int64_t>(pitch * s.sh * s.sw, 1), 2 * reach, 1}));
    const int64_t lines = strip + reach;
    // behind the last line: the last row's right padding, and what whole vectors read beyond the last output
    return {pitch, lines, lines * pitch + s.left + int64_t(s.kw) * s.dw + 9 * N, strip};
  }

  // Input rows for outputs [p0, p1) into the phase planes; every element of the planes is written.
  void copy_plane(const T* from, int64_t p0, int64_t p1, const Plane& pl, A* planes, A* row) const {
    std::fill(planes, planes + pl.size * s.sh * s.sw, A(0));
    const int64_t first = p0 * s.sh - s.top, last = (p1 - 1) * s.sh - s.top + int64_t(s.kh - 1) * s.dh;
    for (int64_t h = std::max<int64_t>(first, 0); h <= std::min(last, s.H - 1); ++h) {
      const int64_t m = h - first;
      A* to = planes + (m % s.sh) * s.sw * pl.size + (m / s.sh) * pl.pitch;
      const T* src = from + h * s.W;
      if (s.sw == 1) {
        convert(src, to + s.left, s.W);
        continue;
      }
      convert(src, row, s.W);
      for (int b = 0; b < s.sw; ++b) {  // column w of x is column left + w of the padded row
        const int64_t j0 = s.left > b ? ceil_div(s.left - b, s.sw) : 0, w0 = j0 * s.sw + b - s.left;
        A* phase = to + b * pl.size + j0;
        const int64_t many = w0 < s.W ? ceil_div(s.W - w0, s.sw) : 0;
        if (s.sw == 2) every_second(row + w0, phase, many);
        else
          for (int64_t j = 0; j < many; ++j) phase[j] = row[w0 + s.sw * j];
      }
    }
  }

  static void convert(const T* from, A* to, int64_t n) {
    int64_t i = 0;
    for (; i + N <= n; i += N) store(to + i, vload(from + i));
    if (i < n) store_n(to + i, vload_n(from + i, static_cast<int>(n - i)), static_cast<int>(n - i));
  }

  // Moments of `rows` rows of Q outputs each, pitch apart.
  void add_rows(const A* line, int64_t rows, int64_t pitch, Moments<A>& m) const {
    const auto total = [&](auto f) {
      A t(0);
      for (int64_t p = 0; p < rows; ++p) {
        VA v(A(0));
        int64_t q = 0;
        for (; q + N <= s.Q; q += N) v = v + f(vload(line + p * pitch + q), N);
        if (q < s.Q) v = v + f(vload_n(line + p * pitch + q, static_cast<int>(s.Q - q)), static_cast<int>(s.Q - q));
        t += sum(v);
      }
      return t;
    };
    const A n = A(rows * s.Q), mean = total([](VA v, int) { return v; }) / n;
    const A m2 = total([&](VA v, int lanes) {
      A valid[N];
      for (int l = 0; l < N; ++l) valid[l] = l < lanes ? A(1) : A(0);
      const VA d = (v - VA(mean)) * vload(valid);
      return d * d;
    });
    m.merge(n, VA(mean), VA(m2));
  }

  void finish_nchw(const A* line, int64_t pitch, int64_t at, int64_t rows) const {
    const int64_t Q = s.Q;
    T* to = y() + at;
    const T* add = residual() ? residual() + at : nullptr;
    for (int64_t p = 0; p < rows; ++p, line += pitch, to += Q) {
      int64_t q = 0;
      for (; q + N <= Q; q += N) store(to + q, add ? vload(line + q) + vload(add + p * Q + q) : vload(line + q));
      const int n = static_cast<int>(Q - q);
      if (n) store_n(to + q, add ? vload(line + q) + vload_n(add + p * Q + q, n) : vload(line + q), n);
    }
  }

  void run_nchw() const {
    const Plane pl = plane();
    const int taps = s.kh * s.kw;
    const int64_t strips = ceil_div(s.P, pl.strip), tasks = s.N * s.C * strips;
    std::vector<Moments<A>> moments(stats ? tasks : 0);
    const int64_t work = pl.strip * pl.pitch * taps;
    parallel(a.pool, tasks, ceil_div(kTaskWork, std::max<int64_t>(work, 1)), [&](int64_t b, int64_t e) {
      A* planes = scratch<A>(0, pl.size * s.sh * s.sw + s.W + N);
      A* row = planes + pl.size * s.sh * s.sw;
      A* line = scratch<A>(1, pl.strip * pl.pitch + 9 * N);
      A* w = scratch<A>(2, taps);
      std::vector<const A*> lines(taps);
      for (int i = 0; i < s.kh; ++i)
        for (int j = 0; j < s.kw; ++j) {
          const int64_t y = int64_t(i) * s.dh, z = int64_t(j) * s.dw;
          lines[i * s.kw + j] = planes + ((y % s.sh) * s.sw + z % s.sw) * pl.size + (y / s.sh) * pl.pitch + z / s.sw;
        }
      for (int64_t i = b; i < e; ++i) {
        const int64_t strip = i % strips, nc = i / strips, c = nc % s.C;
        const int64_t p0 = strip * pl.strip, p1 = std::min(s.P, p0 + pl.strip), rows = p1 - p0;
        copy_plane(x() + nc * s.H * s.W, p0, p1, pl, planes, row);
        for (int t = 0; t < taps; ++t) w[t] = scale(c) * weight(c, t);
        const int64_t length = (rows - 1) * pl.pitch + s.Q;
        flat_line(lines.data(), w, taps, length, shift(c), line, clamp);
        if (stats) add_rows(line, rows, pl.pitch, moments[i]);
        activate_line(line, length);
        finish_nchw(line, pl.pitch, (nc * s.P + p0) * s.Q, rows);
      }
    });
    if (!stats) return;
    for (int64_t c = 0; c < s.C; ++c) {
      Moments<A> all;
      for (int64_t n = 0; n < s.N; ++n)
        for (int64_t t = 0; t < strips; ++t) {
          const Moments<A>& m = moments[(n * s.C + c) * strips + t];
          all.merge(m.count, m.mean, m.m2);
        }
      store_n(static_cast<A*>(a.mean) + c, all.mean, 1);
      store_n(static_cast<A*>(a.var) + c, all.m2 * VA(A(1) / all.count), 1);
    }
  }

  void run() const {
    if (s.N * s.C * s.P * s.Q == 0) return;
    if (s.channels_last) run_nhwc();
    else run_nchw();
  }
};

}  // namespace

void dwconv(const DwConvArgs& a) {
  with_dtype(a.dtype, [&](auto t) { Conv<decltype(t)>(a, false).run(); });
}

void dwconv_stats(const DwConvArgs& a) {
  with_dtype(a.dtype, [&](auto t) { Conv<decltype(t)>(a, true).run(); });
}

}  // namespace ck::cpu::CK_ISA
