// Inverted residual in strips of rows: the expanded map, six times as wide as x, exists for a strip at a time, in memory that
// the thread keeps.  So it stays in the L2 cache, and no fresh pages are touched (at 112 x 112 and batch 8 those took twice
// the time of the arithmetic).
//
// A thread walks down its range of output rows.  Rows of the expanded map that the next strip needs as well are moved to the
// front of the buffer; only where two threads meet inside an image are rows computed twice.
// With fewer images than threads and small maps, where that would count, a thread takes a range of channels through
// expansion and depthwise convolution instead, and only the projection reads what another core wrote.
// A squeeze-and-excitation needs the whole depthwise map before the projection: that one map of the image is kept, and the
// gates are multiplied on the projection's way in.
// Every value is the sum that pointwise and dwconv compute, so results depend neither on strips nor on threads.
#include "inverted_residual.h"

#include <algorithm>
#include <cstring>

#include "dwconv.h"
#include "pointwise.h"
#include "scratch.h"
#include "simd.h"
#include "squeeze_excite.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int N = V<float>::N;
constexpr int64_t kStripFloats = 128 * 1024;  // of the expanded map and what the depthwise convolution makes of it
constexpr int64_t kFewRows = 14;              // of output: up to here threads share an image by channels
constexpr int64_t kTaskWork = 256 * 1024;     // multiply-adds that make a task worth a thread

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Channels are shared by whole vectors; what is left over goes with the last.
int64_t shares(int64_t channels) { return std::max<int64_t>(1, channels / N); }
struct Channels {
  int64_t begin, count;
  int64_t first, last;  // the same in vectors
  Channels(int64_t from, int64_t to, int64_t all)
      : begin(from * N),
        count((to == shares(all) ? all : to * N) - begin),
        first(from),
        last(from + ceil_div(count, N)) {}
  explicit Channels(int64_t all) : Channels(0, shares(all), all) {}
};

// y: channels of a and b by turns.
void interleave(const float* a, int64_t a_pixel, const float* b, int64_t pixels, int64_t channels, float* y,
                int64_t y_pixel) {
  for (int64_t i = 0; i < pixels; ++i, a += a_pixel, b += channels, y += y_pixel) {
    int64_t c = 0;
    for (; c + N <= channels; c += N) {
      V<float> v = vload(a + c), w = vload(b + c);
      merge_pairs(v, w);
      store(y + 2 * c, v);
      store(y + 2 * c + N, w);
    }
    if (const int n = static_cast<int>(channels - c)) {
      V<float> v = vload_n(a + c, n), w = vload_n(b + c, n);
      merge_pairs(v, w);
      store_n(y + 2 * c, v, std::min(N, 2 * n));
      if (2 * n > N) store_n(y + 2 * c + N, w, 2 * n - N);
    }
  }
}

// The buffers that a thread keeps.
enum Buffer { kExpanded, kDepthwise, kProjected, kLeft, kEven, kOdd };

struct Block {
  const InvertedResidualArgs& a;
  const DwConvShape& s;
  const Pool& pool;

  int64_t row_out() const { return s.Q * s.C; }
  int64_t reach() const { return int64_t(s.dh) * (s.kh - 1) + 1; }  // rows that one output row reads

  // How many of `rows` output rows are computed at a time: the same for every strip but the last.
  int64_t strip(int64_t rows, int64_t channels) const {
    const int64_t row_in = s.W * channels, per_row = s.sh * row_in + s.Q * channels;
    const int64_t most = std::max<int64_t>(1, (kStripFloats - reach() * row_in) / per_row);
    return ceil_div(rows, ceil_div(rows, most));
  }

  // Output rows [p0, p1) of the depthwise map of image n, `step` at a time, for some channels.  to(p): where row p goes, in
  // pixels of s.C floats; done(p, end): rows [p, end) are there.
  template <class To, class Done>
  void depthwise(int64_t n, int64_t p0, int64_t p1, int64_t step, const Channels& c, To&& to, Done&& done) const {
    const int64_t row = s.W * c.count;  // of the expanded map
    float* const expanded = a.expand ? kept<float>(kExpanded, ((step - 1) * s.sh + reach()) * row) : nullptr;
    const float* const x = a.x + n * s.H * s.W * a.x_pixel;
    int64_t first = 0, last = 0;  // rows of the expanded map in the buffer
    for (int64_t p = p0; p < p1; p += step) {
      const int64_t end = std::min(p + step, p1), top = p * s.sh - s.top;
      const int64_t h0 = std::clamp<int64_t>(top, 0, s.H),
                    h1 = std::clamp<int64_t>(top + (end - 1 - p) * s.sh + reach(), h0, s.H);
      if (a.expand) {
        const int64_t have = std::max<int64_t>(0, last - h0), from = h0 + have;
        if (have) std::memmove(expanded, expanded + (h0 - first) * row, have * row * sizeof(float));
        if (h1 > from) {
          PointwiseArgs e{};
          e.x = x + from * s.W * a.x_pixel, e.packed = a.expand, e.y = expanded + have * row;
          e.shape = {1, a.C, (h1 - from) * s.W, s.C, true};
          e.act = a.act, e.slope = a.slope, e.pool = serial_pool();
          e.x_pixel = a.x_pixel, e.y_pixel = c.count, e.first = c.first, e.last = c.last;
          CK_ISA::pointwise(e);
        }
        first = h0, last = std::max(h1, from);
      }
      DwConvArgs d{};
      d.x = a.expand ? expanded : x + h0 * s.W * a.x_pixel + c.begin, d.x_pixel = a.expand ? c.count : a.x_pixel;
      d.packed = a.depthwise + kPackedHeader + c.first * N * (s.kh * s.kw + 1);
      d.y = to(p) + c.begin, d.y_pixel = s.C;
      d.shape = s, d.shape.N = 1, d.shape.C = c.count, d.shape.H = h1 - h0, d.shape.P = end - p;
      d.shape.top = static_cast<int>(h0 - top);
      d.act = a.depthwise_act, d.slope = a.slope, d.pool = serial_pool();
      CK_ISA::dwconv(d);
      done(p, end);
    }
  }

  // The projection of output rows [p0, p1) of image n.
  void project(const float* rows, const float* gate, int64_t n, int64_t p0, int64_t p1, const Pool& threads) const {
    const int64_t at = (n * s.P + p0) * s.Q, pixels = (p1 - p0) * s.Q;
    PointwiseArgs p{};
    p.x = rows, p.packed = a.project, p.gate = gate, p.shape = {1, s.C, pixels, a.K, true};
    p.act = a.project_act, p.slope = a.slope, p.pool = threads;
    if (!a.beside) {
      p.y = a.y + at * a.K, p.residual = a.residual ? a.x + at * a.C : nullptr;
      return CK_ISA::pointwise(p);
    }
    p.pool = serial_pool();
    parallel(threads, shares(a.K), ceil_div(kTaskWork, pixels * s.C * N), [&](int64_t begin, int64_t end) {
      const Channels c(begin, end, a.K);
      PointwiseArgs own = p;
      float* const y = kept<float>(kProjected, pixels * c.count);
      own.y = y, own.y_pixel = c.count, own.first = c.first, own.last = c.last;
      CK_ISA::pointwise(own);
      interleave(a.beside + at * a.beside_pixel + c.begin, a.beside_pixel, y, pixels, c.count,
                 a.y + at * 2 * a.K + 2 * c.begin, 2 * a.K);
    });
  }

  // What follows the depthwise map of image n.
  void after(const float* map, float* gates, int64_t n, const Pool& threads) const {
    if (a.w1)
      CK_ISA::squeeze_excite_forward({Dtype::f32, a.squeeze, map, a.w1, a.b1, a.w2, a.b2, nullptr, threads, gates});
    project(map, a.w1 ? gates : nullptr, n, 0, s.P, threads);
  }

  // Output rows [p0, p1) of image n; the depthwise map is gone after each strip.
  void rows(int64_t n, int64_t p0, int64_t p1) const {
    const int64_t step = strip(p1 - p0, s.C);
    float* const map = kept<float>(kDepthwise, step * row_out());
    depthwise(
        n, p0, p1, step, Channels(s.C), [&](int64_t) { return map; },
        [&](int64_t p, int64_t end) { project(map, nullptr, n, p, end, serial_pool()); });
  }

  // Image n by one thread, with its whole depthwise map.
  void image(int64_t n) const {
    float* const map = kept<float>(kDepthwise, s.P * row_out() + s.C);
    part(n, 0, s.P, Channels(s.C), map);
    after(map, map + s.P * row_out(), n, serial_pool());
  }

  // Image n by all threads.
  void shared_image(int64_t n) const {
    float* const map = kept<float>(kDepthwise, s.P * row_out() + s.C);
    if (s.P <= kFewRows && channels_for_all()) {
      const int64_t work = (a.expand ? s.H * s.W * a.C : s.P * s.Q * s.kh * s.kw) * N;
      parallel(pool, shares(s.C), ceil_div(kTaskWork, work),
               [&](int64_t begin, int64_t end) { part(n, 0, s.P, Channels(begin, end, s.C), map); });
    } else {
      parallel(pool, s.P, ceil_div(kTaskWork, row_work()),
               [&](int64_t begin, int64_t end) { part(n, begin, end, Channels(s.C), map); });
    }
    after(map, map + s.P * row_out(), n, pool);
  }

  // A part of the depthwise map of image n.
  void part(int64_t n, int64_t p0, int64_t p1, const Channels& c, float* map) const {
    depthwise(
        n, p0, p1, strip(p1 - p0, c.count), c, [&](int64_t p) { return map + p * row_out(); }, [](int64_t, int64_t) {});
  }

  // Whether a share of the channels is a fair share of the work: the busiest thread has at most a quarter more.
  bool channels_for_all() const { return ceil_div(shares(s.C), pool.threads) * pool.threads * 4 <= shares(s.C) * 5; }

  int64_t row_work() const { return s.Q * s.C * (a.C * s.sh * s.sw + s.kh * s.kw + a.K); }

  void run() const {
    if (s.N < pool.threads && (a.w1 || (s.P <= kFewRows && channels_for_all()))) {
      for (int64_t n = 0; n < s.N; ++n) shared_image(n);
    } else if (a.w1) {
      parallel(pool, s.N, 1, [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) image(n);
      });
    } else {
      parallel(pool, s.N * s.P, ceil_div(kTaskWork, row_work()), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end;) {
          const int64_t n = r / s.P, p = r % s.P, stop = std::min(s.P, p + end - r);
          rows(n, p, stop);
          r += stop - p;
        }
      });
    }
  }
};

}  // namespace

void inverted_residual(const InvertedResidualArgs& a) {
  const DwConvShape& s = a.shape;
  if (a.y && s.N * s.P * s.Q > 0) Block{a, s, a.pool}.run();
}

// A thread takes an image through all units, whose maps then stay in its cache; where that would leave threads idle, all of
// them share every unit.
void shuffle_stage(const ShuffleStageArgs& a) {
  const int64_t images = a.units[0].shape.N;
  const auto run = [&](int64_t n, int64_t count, const Pool& pool) {
    const float* x = a.x;
    for (int i = 0; i < a.count; ++i) {
      InvertedResidualArgs unit = a.units[i];
      DwConvShape& s = unit.shape;
      const int64_t in = s.H * s.W * unit.x_pixel, out = s.P * s.Q * 2 * unit.K;
      if (i == 0) x += n * in;
      s.N = count, unit.pool = pool;
      unit.y = i + 1 == a.count ? a.y + n * out : kept<float>(i % 2 ? kOdd : kEven, count * out);
      if (unit.left) {
        InvertedResidualArgs left = *unit.left;
        left.shape.N = count, left.pool = pool, left.x = unit.x = x;
        unit.beside = left.y = kept<float>(kLeft, count * out / 2), unit.beside_pixel = unit.K;
        CK_ISA::inverted_residual(left);
      } else {
        unit.beside = x, unit.beside_pixel = unit.x_pixel, unit.x = x + unit.C;
      }
      CK_ISA::inverted_residual(unit);
      x = unit.y;
    }
  };
  if (images % a.pool.threads && images < 4 * a.pool.threads) return run(0, images, a.pool);
  parallel(a.pool, images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) run(n, 1, serial_pool());
  });
}

}  // namespace ck::cpu::CK_ISA
