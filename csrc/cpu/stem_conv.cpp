// A row of y is a matrix product.  What a pixel of it reads of a row of x, kw pixels of C channels, is one run of memory, and
// the next pixel's run begins sw * C further: so x itself is the operand, without im2col.  Rows beyond the image are runs
// left out; pixels whose runs reach beyond its sides are copied, with zeros.
#include "stem_conv.h"

#include <algorithm>
#include <cstring>

#include "gemm_epilogue.h"
#include "pointwise.h"
#include "scratch.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int N = V<float>::N;
constexpr int64_t kTaskWork = 256 * 1024;  // multiply-adds that make a task worth a thread

struct StemConv {
  const StemConvArgs& a;
  const Panels<float> panels;
  const Epilogue<float> epilogue;
  const int64_t taps, run;      // of a pixel, and of these in a row of x
  const int64_t inside, right;  // the first pixel that reads nothing left of the image, the first that does right of it

  explicit StemConv(const StemConvArgs& args)
      : a(args),
        panels(a.K),
        epilogue(a.y, nullptr, a.act, a.slope),
        taps(a.kh * a.kw * a.C),
        run(a.kw * a.C),
        inside(std::min(a.Q, up(a.left, a.sw))),
        right(a.W + a.left < a.kw ? inside : std::clamp<int64_t>((a.W + a.left - a.kw) / a.sw + 1, inside, a.Q)) {}

  // Pixels of y from `at` on; rows of x are in p.
  void product(PanelArgs<float> p, int64_t at) const {
    const float* const shift = a.packed + kPackedHeader;
    p.depth = run;
    for (int64_t i = 0; p.rows > 0 && i < panels.count; ++i) {
      const int64_t c = panels.begin(i) * N;
      p.vectors = panels.size(i), p.b_row = p.vectors * N;
      p.column_shift = shift + c, p.b = shift + up(a.K, 16) * 16 + c * taps;
      epilogue.run(p, std::min<int64_t>(p.vectors * N, a.K - c), at * a.K + c, a.K);
    }
  }

  // Pixels [q0, q1) of a row by copies of what they read.  x: row 0 of the image; p.run_a: its rows.
  void at_a_side(const float* x, PanelArgs<float> p, int64_t q0, int64_t q1, int64_t at) const {
    const int64_t size = p.runs * run;
    float* const copy = kept<float>(0, (q1 - q0) * size);
    int64_t* const offsets = kept<int64_t>(0, p.runs);
    for (int r = 0; r < p.runs; ++r) offsets[r] = r * run;
    for (int64_t q = q0; q < q1; ++q)
      for (int r = 0; r < p.runs; ++r) {
        float* const to = copy + (q - q0) * size + r * run;
        const int64_t w = q * a.sw - a.left, begin = std::max<int64_t>(w, 0), end = std::min(w + a.kw, a.W);
        std::fill_n(to, run, 0.f);
        if (begin < end)
          std::memcpy(to + (begin - w) * a.C, x + p.run_a[r] + begin * a.C, (end - begin) * a.C * sizeof(float));
      }
    p.a = copy, p.a_row = size, p.rows = q1 - q0, p.run_a = offsets;
    product(p, at + q0);
  }

  void row(int64_t n, int64_t p, int64_t* x_rows, int64_t* tap_rows) const {
    const float* const x = a.x + n * a.H * a.W * a.C;
    const int64_t at = (n * a.P + p) * a.Q, h = p * a.sh - a.top;
    PanelArgs<float> args{};
    args.runs = 0, args.run_a = x_rows, args.run_b = tap_rows;
    for (int i = 0; i < a.kh; ++i)
      if (h + i >= 0 && h + i < a.H) {
        x_rows[args.runs] = (h + i) * a.W * a.C, tap_rows[args.runs] = i * run;
        ++args.runs;
      }
    if (inside > 0) at_a_side(x, args, 0, inside, at);
    args.a = x + (inside * a.sw - a.left) * a.C, args.a_row = a.sw * a.C, args.rows = right - inside;
    product(args, at + inside);
    if (right < a.Q) at_a_side(x, args, right, a.Q, at);
  }

  void run_all() const {
    parallel(a.pool, a.N * a.P, up(kTaskWork, std::max<int64_t>(1, a.Q * taps * a.K)), [&](int64_t begin, int64_t end) {
      int64_t *const x_rows = kept<int64_t>(1, a.kh), *const tap_rows = kept<int64_t>(2, a.kh);
      for (int64_t r = begin; r < end; ++r) row(r / a.P, r % a.P, x_rows, tap_rows);
    });
  }
};

}  // namespace

void stem_conv(const StemConvArgs& a) { StemConv(a).run_all(); }

}  // namespace ck::cpu::CK_ISA
