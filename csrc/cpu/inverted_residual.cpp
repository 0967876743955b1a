// Inverted residual in strips of rows: the expanded map, six times as wide as x, exists for a strip at a time, in memory that
// the thread keeps.  So it stays in the L2 cache, and no fresh pages are touched (at 112 x 112 and batch 8 those took twice
// the time of the arithmetic).
//
// A thread walks down its range of output rows.  Rows of the expanded map that the next strip needs as well are moved to the
// front of the buffer; only where two threads meet inside an image are rows computed twice.  With fewer images than
// threads and small maps, where that would count, the three steps are each spread over all threads instead.
// A squeeze-and-excitation needs the whole depthwise map before the projection: then a thread takes whole images, keeps that
// one map of the image, and the gates are multiplied on the projection's way in.
// Every value is the sum that pointwise and dwconv compute, so results depend neither on strips nor on threads.
#include "inverted_residual.h"

#include <algorithm>
#include <cstring>

#include "dwconv.h"
#include "pointwise.h"
#include "scratch.h"
#include "squeeze_excite.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kStripFloats = 128 * 1024;  // of the expanded map and what the depthwise convolution makes of it
constexpr int64_t kFewRows = 14;              // of output: up to here threads share the steps of an image
constexpr int64_t kTaskWork = 256 * 1024;     // multiply-adds that make a task worth a thread

struct Block {
  const InvertedResidualArgs& a;
  const DwConvShape& s;

  int64_t row_in() const { return s.W * s.C; }
  int64_t row_out() const { return s.Q * s.C; }
  int64_t reach() const { return int64_t(s.dh) * (s.kh - 1) + 1; }  // rows that one output row reads

  void matrix(const float* x, const float* packed, const float* gate, const float* residual, float* y, int64_t C,
              int64_t pixels, int64_t K, Act act, const Pool& pool) const {
    CK_ISA::pointwise({Dtype::f32,
                       x,
                       nullptr,
                       nullptr,
                       nullptr,
                       packed,
                       gate,
                       residual,
                       y,
                       {1, C, pixels, K, true},
                       act,
                       a.slope,
                       pool});
  }

  // The projection of output rows [p0, p1) of image n.
  void project(const float* rows, const float* gate, int64_t n, int64_t p0, int64_t p1, const Pool& pool) const {
    const int64_t at = (n * s.P + p0) * s.Q;
    matrix(rows, a.project, gate, a.residual ? a.x + at * a.C : nullptr, a.y + at * a.K, s.C, (p1 - p0) * s.Q, a.K,
           Act::identity, pool);
  }

  // Output rows [p0, p1) of image n.
  void rows(int64_t n, int64_t p0, int64_t p1, const Pool& pool) const {
    const int64_t per_row = s.sh * row_in() + row_out();
    const int64_t most = std::max<int64_t>(1, (kStripFloats - reach() * row_in()) / per_row);
    const int64_t strips = pool.threads > 1 ? 1 : (p1 - p0 + most - 1) / most, step = (p1 - p0 + strips - 1) / strips;
    float* const expanded = a.expand ? kept<float>(0, ((step - 1) * s.sh + reach()) * row_in()) : nullptr;
    float* const between = kept<float>(1, (a.w1 ? (p1 - p0) * row_out() + s.C : step * row_out()));
    const float* const x = a.x + n * s.H * s.W * a.C;
    int64_t first = 0, last = 0;  // rows of the expanded map in the buffer
    for (int64_t p = p0; p < p1; p += step) {
      const int64_t end = std::min(p + step, p1), top = p * s.sh - s.top;
      const int64_t h0 = std::clamp<int64_t>(top, 0, s.H),
                    h1 = std::clamp<int64_t>(top + (end - 1 - p) * s.sh + reach(), h0, s.H);
      const float* in = x + h0 * s.W * a.C;
      if (a.expand) {
        const int64_t have = std::max<int64_t>(0, last - h0);
        if (have) std::memmove(expanded, expanded + (h0 - first) * row_in(), have * row_in() * sizeof(float));
        const int64_t from = h0 + have;
        if (h1 > from)
          matrix(x + from * s.W * a.C, a.expand, nullptr, nullptr, expanded + have * row_in(), a.C, (h1 - from) * s.W,
                 s.C, a.act, pool);
        first = h0, last = std::max(h1, from);
        in = expanded;
      }
      DwConvShape strip = s;
      strip.N = 1, strip.H = h1 - h0, strip.P = end - p, strip.top = static_cast<int>(h0 - top);
      float* const to = between + (a.w1 ? (p - p0) * row_out() : 0);
      CK_ISA::dwconv(
          {Dtype::f32, in, a.weight, a.scale, a.shift, nullptr, to, strip, a.act, a.slope, nullptr, nullptr, pool});
      if (!a.w1) project(to, nullptr, n, p, end, pool);
    }
    if (!a.w1) return;
    float* const gates = between + (p1 - p0) * row_out();
    CK_ISA::squeeze_excite_forward({Dtype::f32, a.squeeze, between, a.w1, a.b1, a.w2, a.b2, nullptr, pool, gates});
    project(between, gates, n, p0, p1, pool);
  }

  void run() const {
    if (s.N < a.pool.threads && (s.P <= kFewRows || a.w1)) {
      for (int64_t n = 0; n < s.N; ++n) rows(n, 0, s.P, a.pool);
      return;
    }
    if (a.w1)
      return parallel(a.pool, s.N, 1, [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) rows(n, 0, s.P, serial_pool());
      });
    const int64_t work = s.Q * s.C * (a.C * s.sh * s.sw + s.kh * s.kw + a.K);
    parallel(a.pool, s.N * s.P, (kTaskWork + work - 1) / work, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end;) {
        const int64_t n = r / s.P, p = r % s.P, stop = std::min(s.P, p + end - r);
        rows(n, p, stop, serial_pool());
        r += stop - p;
      }
    });
  }
};

}  // namespace

void inverted_residual(const InvertedResidualArgs& a) {
  if (a.y && a.depthwise.N * a.depthwise.P * a.depthwise.Q > 0) Block{a, a.depthwise}.run();
}

}  // namespace ck::cpu::CK_ISA
