// 1x1 convolution with a fused prologue (gate) and epilogue: a matrix product whose operands are read where they are.
//
//   channels_last  y [pixels, K] = x [pixels, C] * weights [C, K].  Weights are packed once per call, or once per model
//                  (pointwise_pack), scaled.  A thread takes a range of pixels in chunks that stay in the L2 cache and
//                  walks the panels for each; where pixels are few, it takes a range of panels, so that each core reads
//                  its half of the weights only.
//   NCHW           y [K, pixels] = weights [K, C] * x [C, pixels].  A panel is a few vectors of pixels, copied (and gated,
//                  and widened) into scratch; weights are read where they are, and scaled in the epilogue.
//
// Gated or half-precision rows of x are first multiplied or widened into scratch.
#include "pointwise.h"

#include <algorithm>
#include <type_traits>

#include "gemm_epilogue.h"
#include "scratch.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kTaskWork = 256 * 1024;     // multiply-adds that make a task worth a thread
constexpr int64_t kChunkBytes = 128 * 1024;   // of x and y, walked through panel by panel: stays in the L2 cache
constexpr int64_t kChunkRows = 48, kFew = 4;  // rows of a chunk come in 48s; chunks per thread that are "few pixels"

template <class T>
struct Pointwise {
  using A = Acc<T>;
  using VA = V<T>;
  static constexpr int N = VA::N;
  const PointwiseArgs& a;
  const PointwiseShape& s;
  const Panels<A> panels;  // of channels, or of the pixels of an image in NCHW
  const Epilogue<T> epilogue;
  const bool copies_x;
  const int64_t x_pixel, y_pixel;

  explicit Pointwise(const PointwiseArgs& args)
      : a(args),
        s(args.shape),
        panels(s.channels_last ? s.K : s.HW),
        epilogue(a.y, a.residual, a.act, a.slope),
        copies_x(!std::is_same_v<T, A> || a.gate),
        x_pixel(a.x_pixel ? a.x_pixel : s.C),
        y_pixel(a.y_pixel ? a.y_pixel : s.K) {}

  const T* x() const { return static_cast<const T*>(a.x); }
  const T* gate() const { return static_cast<const T*>(a.gate); }
  const A* packed() const { return static_cast<const A*>(a.packed); }

  // ---- channels_last ------------------------------------------------------------------------------------------------------
  // Pixels [begin, end) and, of panels [first, last), the vectors that are wanted.
  void rows_nhwc(int64_t begin, int64_t end, int64_t first, int64_t last) const {
    const int64_t from = a.first, to = a.last < 0 ? panels.vectors : a.last;
    const int64_t columns = std::min<int64_t>(s.K, 4 * s.C),
                  row_bytes = (s.C + columns) * static_cast<int64_t>(sizeof(A));
    const int64_t most = std::max<int64_t>(1, kChunkBytes / row_bytes / kChunkRows) * kChunkRows;
    const int64_t chunks = up(end - begin, most), chunk = up(end - begin, chunks);
    A* const copy = copies_x ? kept<A>(0, chunk * s.C) : nullptr;
    for (int64_t m = begin; m < end; m += chunk) {
      const int64_t rows = std::min(chunk, end - m);
      if (copies_x) copy_rows(m, rows, copy);
      PanelArgs<A> p{};
      if constexpr (std::is_same_v<T, A>) p.a = copies_x ? copy : x() + m * x_pixel;
      else p.a = copy;
      p.a_row = copies_x ? s.C : x_pixel, p.depth = s.C, p.rows = rows;
      for (int64_t i = first; i < last; ++i) {
        const int64_t panel = panels.begin(i), begin_v = std::max(panel, from),
                      end_v = std::min(panel + panels.size(i), to);
        if (begin_v >= end_v) continue;
        const int64_t c = begin_v * N;
        p.vectors = static_cast<int>(end_v - begin_v), p.b_row = panels.size(i) * N;
        p.column_shift = packed() + kPackedHeader + c;
        p.b = packed() + kPackedHeader + up(s.K, 16) * 16 + panel * N * s.C + (begin_v - panel) * N;
        epilogue.run(p, std::min<int64_t>(p.vectors * N, s.K - c), m * y_pixel + c - from * N, y_pixel);
      }
    }
  }

  // Rows of x as A, times their image's gate.
  void copy_rows(int64_t m, int64_t rows, A* to) const {
    for (int64_t r = 0; r < rows; ++r, to += s.C) {
      const T* from = x() + (m + r) * x_pixel;
      const T* g = a.gate ? gate() + (m + r) / s.HW * s.C : nullptr;
      gated(from, s.C, to, [&](int64_t c, int n) { return n == N ? vload(g + c) : vload_n(g + c, n); }, g != nullptr);
    }
  }

  template <class Gate>
  static CK_INLINE void gated(const T* from, int64_t count, A* to, Gate&& gate, bool is_gated) {
    int64_t c = 0;
    for (; c + N <= count; c += N) store(to + c, is_gated ? vload(from + c) * gate(c, N) : vload(from + c));
    if (const int n = static_cast<int>(count - c))
      store_n(to + c, is_gated ? vload_n(from + c, n) * gate(c, n) : vload_n(from + c, n), n);
  }

  void run_nhwc() const {
    const int64_t rows = s.N * s.HW, threads = a.pool.threads, work = s.C * s.K;
    // Of the busiest thread, in vectors of sums.
    const int64_t by_rows = up(rows, threads) * panels.vectors;
    const int64_t by_panels = rows * std::min(panels.vectors, up(panels.count, threads) * panels.most());
    if (rows <= kFew * kChunkRows * threads && by_panels * 10 <= by_rows * 11) {
      parallel(a.pool, panels.count, up(kTaskWork, std::max<int64_t>(1, rows * work / panels.count)),
               [&](int64_t b, int64_t e) { rows_nhwc(0, rows, b, e); });
    } else {
      parallel(a.pool, rows, up(kTaskWork, work), [&](int64_t b, int64_t e) { rows_nhwc(b, e, 0, panels.count); });
    }
  }

  // ---- NCHW ---------------------------------------------------------------------------------------------------------------
  void run_nchw() const {
    const Scratch<A> weights = std::is_same_v<T, A> ? nullptr : widened(static_cast<const T*>(a.weight), s.K * s.C);
    const Scratch<A> ones = a.scale ? nullptr : filled(A(1)), none = a.shift ? nullptr : filled(A(0));
    const int64_t units = s.N * panels.count, threads = a.pool.threads;
    const int64_t parts = units % threads && units < 4 * threads ? std::min(threads, s.K) : 1, step = up(s.K, parts);
    const int64_t work = panels.most() * N * s.C * step;
    parallel(a.pool, units * parts, up(kTaskWork, work), [&](int64_t begin, int64_t end) {
      A* const pixels = kept<A>(0, panels.most() * N * s.C);
      int64_t copied = -1;
      for (int64_t u = begin; u < end; ++u) {
        const int64_t n = u / parts / panels.count, i = u / parts % panels.count, k = u % parts * step;
        if (k >= s.K) continue;
        const int64_t at = panels.begin(i) * N, width = std::min<int64_t>(panels.size(i) * N, s.HW - at);
        PanelArgs<A> p{};
        p.vectors = panels.size(i), p.b_row = p.vectors * N;
        if (copied != u / parts) copy_pixels(n, at, width, p.vectors, pixels);
        copied = u / parts;
        if constexpr (std::is_same_v<T, A>) p.a = static_cast<const A*>(a.weight) + k * s.C;
        else p.a = weights.get() + k * s.C;
        p.a_row = p.depth = s.C, p.rows = std::min(step, s.K - k), p.b = pixels;
        p.row_scale = (a.scale ? static_cast<const A*>(a.scale) : ones.get()) + k;
        p.row_shift = (a.shift ? static_cast<const A*>(a.shift) : none.get()) + k;
        epilogue.run(p, width, (n * s.K + k) * s.HW + at, s.HW);
      }
    });
  }

  // Pixels [at, at + width) of image n, [C][whole vectors], times the gate; zeros after the last pixel.
  void copy_pixels(int64_t n, int64_t at, int64_t width, int vectors, A* to) const {
    const int last = static_cast<int>(width - (vectors - 1) * N);
    for (int64_t c = 0; c < s.C; ++c) {
      const T* from = x() + (n * s.C + c) * s.HW + at;
      const VA g(a.gate ? wide(gate()[n * s.C + c]) : A(1));
      for (int j = 0; j < vectors; ++j, to += N) {
        const VA v = j == vectors - 1 && last < N ? vload_n(from + j * N, last) : vload(from + j * N);
        store(to, a.gate ? v * g : v);
      }
    }
  }

  static A wide(T v) {
    if constexpr (std::is_same_v<T, double>) return v;
    else return to_float(v);
  }
  static Scratch<A> widened(const T* from, int64_t count) {
    Scratch<A> to = uninitialised<A>(count);
    gated(from, count, to.get(), [](int64_t, int) { return VA(A(1)); }, false);
    return to;
  }
  Scratch<A> filled(A value) const {
    Scratch<A> to = uninitialised<A>(s.K);
    std::fill_n(to.get(), s.K, value);
    return to;
  }
};

// Columns [c, c + n) of the packed weights: [k][n], scaled; b gathers along the rows of the weight.
template <class T>
void pack_panel(const PointwisePackArgs& a, int64_t begin, int64_t columns, Acc<T>* to) {
  using A = Acc<T>;
  using VA = V<T>;
  constexpr int N = VA::N;
  const T* weight = static_cast<const T*>(a.weight);
  for (int64_t j = 0; j < columns; j += N) {
    const int64_t c = begin + j;
    const int n = static_cast<int>(std::clamp<int64_t>(a.K - c, 0, N));
    const VA f = !a.scale ? VA(A(1))
                 : n == N ? vload(static_cast<const A*>(a.scale) + c)
                          : vload_n(static_cast<const A*>(a.scale) + c, n);
    for (int64_t k = 0; k < a.C; ++k) {
      VA v;
      if (n == N && a.C < (int64_t(1) << 31) / N) {
        load_step(v, weight + c * a.C + k, a.C);
      } else {
        T some[N] = {};
        for (int l = 0; l < n; ++l) some[l] = weight[(c + l) * a.C + k];
        load(v, some);
      }
      store(to + k * columns + j, v * f);
    }
  }
}

template <class T>
void pack(const PointwisePackArgs& a) {
  using A = Acc<T>;
  constexpr int N = V<T>::N;
  const Panels<A> panels(a.K);
  A *header = static_cast<A*>(a.packed), *shift = header + kPackedHeader;
  write_packed_header(header, Isa::CK_ISA, a.C, a.K);
  const int64_t padded = up(a.K, 16) * 16;
  for (int64_t c = 0; c < padded; ++c) shift[c] = a.shift && c < a.K ? static_cast<const A*>(a.shift)[c] : A(0);
  parallel(a.pool, panels.count, up(16 * 1024, std::max<int64_t>(1, a.C * panels.most() * N)),
           [&](int64_t b, int64_t e) {
             for (int64_t i = b; i < e; ++i) {
               const int64_t c = panels.begin(i) * N;
               pack_panel<T>(a, c, panels.size(i) * N, shift + padded + c * a.C);
             }
           });
}

}  // namespace

void pointwise_pack(const PointwisePackArgs& a) {
  with_dtype(a.dtype, [&](auto t) { pack<decltype(t)>(a); });
}

void pointwise(const PointwiseArgs& a) {
  const PointwiseShape& s = a.shape;
  if (s.N * s.HW * s.K == 0) return;
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    if (!s.channels_last) return Pointwise<T>(a).run_nchw();
    if (a.packed) return Pointwise<T>(a).run_nhwc();
    const Scratch<Acc<T>> packed = uninitialised<Acc<T>>(pointwise_packed_size(s.C, s.K));
    CK_ISA::pointwise_pack({a.dtype, a.weight, a.scale, a.shift, s.C, s.K, packed.get(), a.pool});
    PointwiseArgs with = a;
    with.packed = packed.get();
    Pointwise<T>(with).run_nhwc();
  });
}

}  // namespace ck::cpu::CK_ISA
