// Gradients of the depthwise convolution, for any kernel size, stride, dilation and padding.
//
// Both gradients become dense stride-1 loops over zero-padded scratch planes.  x is cut into its sh * sw stride phases: tap
// i of an axis reads phase (i * d) % s at index p + (i * d) / s, so in flat plane indices every tap is one constant offset:
//
//   dweight[tap] = sum_f du[f] * x_phase(tap)[f + offset(tap)]
//   dx_phase[f]  = sum over the taps of that phase of weight[tap] * du[f + offset'(tap)]
//
// NCHW: a plane is one (n, c) plane, a vector holds neighbouring flat indices.  channels_last: an element of the plane is a
// vector of channels.  The loops are the same; only packing differs.  Rows share their padding where they can (the zeros
// right of a row are the zeros left of the next), which matters for 7 x 7 maps.  Packing converts to the accumulate type and
// costs a load and a store per element against k * k multiply-adds; the scratch of one unit stays in the L1 or L2 cache.
#include "dwconv_backward.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int kUnroll = 4;                // vectors per turn of the inner loops; scratch planes have slack for one turn
constexpr int64_t kScratch = 64 * 1024;   // bytes of planes per unit aimed at
constexpr int64_t kTaskWork = 64 * 1024;  // multiply-adds that make a task worth a thread

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

struct Free {
  void operator()(void* p) const { std::free(p); }
};
// n zeros, aligned to a cache line.
template <class A>
std::unique_ptr<A[], Free> zeros(int64_t n) {
  const size_t bytes = static_cast<size_t>(round_up(std::max<int64_t>(n, 1) * static_cast<int64_t>(sizeof(A)), 64));
  void* p = std::aligned_alloc(64, bytes);
  if (!p) throw std::bad_alloc();
  std::memset(p, 0, bytes);
  return std::unique_ptr<A[], Free>(static_cast<A*>(p));
}

// One spatial axis.  Position y of the input is step m of phase a: y + before = m * stride + a.
struct Axis {
  int64_t in, out, before;
  int k, stride, dilation;
  int phase(int i) const { return static_cast<int>(int64_t(i) * dilation % stride); }
  int64_t offset(int i) const { return int64_t(i) * dilation / stride; }
  int64_t reach() const { return offset(k - 1); }
  int64_t first() const { return before / stride; }  // first step that holds input
  int64_t steps() const { return ceil_div(before + in, stride) - first(); }
};

struct Axes {
  Axis h, w;
  explicit Axes(const DwConvShape& s) : h{s.H, s.P, s.top, s.kh, s.sh, s.dh}, w{s.W, s.Q, s.left, s.kw, s.sw, s.dw} {}
  int taps() const { return h.k * w.k; }
};

// How (n, c) planes of T lie in memory: an element of a scratch plane is kLanes accumulators.
template <class T, bool CL>
struct Layout {
  static constexpr int kLanes = CL ? V<T>::N : 1;
  int64_t channels, height, width;
  int64_t groups() const { return ceil_div(channels, kLanes); }  // planes per image
  int lanes(int64_t group) const { return static_cast<int>(std::min<int64_t>(kLanes, channels - group * kLanes)); }
  template <class P> P* row(P* base, int64_t n, int64_t group, int64_t y) const {
    return CL ? base + ((n * height + y) * width) * channels + group * kLanes
              : base + ((n * channels + group) * height + y) * width;
  }
};

// count elements from row `src` on, every `step`-th, to consecutive elements of `dst`.
template <class T, bool CL>
void pack(const T* src, int64_t channels, int64_t step, int64_t count, int lanes, Acc<T>* dst) {
  constexpr int N = V<T>::N;
  if constexpr (CL) {
    const int64_t stride = channels * step;
    if (lanes == N)
      for (int64_t i = 0; i < count; ++i) store(dst + i * N, vload(src + i * stride));
    else
      for (int64_t i = 0; i < count; ++i) store(dst + i * N, vload_n(src + i * stride, lanes));
  } else if (step == 1) {
    int64_t i = 0;
    for (; i + N <= count; i += N) store(dst + i, vload(src + i));
    if (i < count) store_n(dst + i, vload_n(src + i, static_cast<int>(count - i)), static_cast<int>(count - i));
  } else {
    for (int64_t i = 0; i < count; ++i) {
      V<T> v;
      load_n(v, src + i * step, 1);
      store_n(dst + i, v, 1);
    }
  }
}

// The inverse of pack.
template <class T, bool CL>
void unpack(const Acc<T>* src, T* dst, int64_t channels, int64_t step, int64_t count, int lanes) {
  constexpr int N = V<T>::N;
  using A = Acc<T>;
  if constexpr (CL) {
    const int64_t stride = channels * step;
    if (lanes == N)
      for (int64_t i = 0; i < count; ++i) store(dst + i * stride, vload<A>(src + i * N));
    else
      for (int64_t i = 0; i < count; ++i) store_n(dst + i * stride, vload<A>(src + i * N), lanes);
  } else if (step == 1) {
    int64_t i = 0;
    for (; i + N <= count; i += N) store(dst + i, vload<A>(src + i));
    if (i < count) store_n(dst + i, vload_n<A>(src + i, static_cast<int>(count - i)), static_cast<int>(count - i));
  } else {
    for (int64_t i = 0; i < count; ++i) store_n(dst + i * step, vload_n<A>(src + i, 1), 1);
  }
}

// ---- dweight -------------------------------------------------------------------------------------------------------------

// sums[t] += sum_f g[f] * x[off[t] + f] for kTaps taps; length is a multiple of kUnroll vectors.
template <class T, int kTaps>
void correlate(const Acc<T>* g, const Acc<T>* x, const int64_t* off, int64_t length, Acc<T>* sums) {
  using A = Acc<T>;
  constexpr int N = V<T>::N;
  V<T> acc[kTaps];
#pragma GCC unroll 32
  for (int t = 0; t < kTaps; ++t) acc[t] = V<T>(A(0));
  for (int64_t f = 0; f < length; f += kUnroll * N) {
    V<T> gv[kUnroll];
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) load(gv[u], g + f + u * N);
#pragma GCC unroll 32
    for (int t = 0; t < kTaps; ++t) {
      const A* p = x + off[t] + f;
#pragma GCC unroll 8
      for (int u = 0; u < kUnroll; ++u) acc[t] = fma(gv[u], vload<A>(p + u * N), acc[t]);
    }
  }
#pragma GCC unroll 32
  for (int t = 0; t < kTaps; ++t) store(sums + t * N, vload<A>(sums + t * N) + acc[t]);
}

// The same for any number of taps, as many at a time as there are registers.
template <class T>
void correlate_all(const Acc<T>* g, const Acc<T>* x, const int64_t* off, int taps, int64_t length, Acc<T>* sums) {
  constexpr int N = V<T>::N, kMost = N == 16 ? 25 : 9;
  int t = 0;
  for (; taps - t >= kMost; t += kMost) correlate<T, kMost>(g, x, off + t, length, sums + t * N);
  for (; taps - t >= 9; t += 9) correlate<T, 9>(g, x, off + t, length, sums + t * N);
  for (; taps - t >= 3; t += 3) correlate<T, 3>(g, x, off + t, length, sums + t * N);
  for (; t < taps; ++t) correlate<T, 1>(g, x, off + t, length, sums + t * N);
}

// Scratch planes for a run of output rows of one (n, channel group), and the sums over them.
template <class T, bool CL>
class WeightSums {
  using A = Acc<T>;
  static constexpr int N = V<T>::N, E = Layout<T, CL>::kLanes;

 public:
  WeightSums(const DwConvShape& s, int64_t rows)
      : ax_(s),
        in_{s.C, s.H, s.W},
        out_{s.C, s.P, s.Q},
        pitch_(pitch(ax_.w)),
        x_rows_(rows + ax_.h.reach()),
        g_size_(round_up(rows * pitch_ * E, kUnroll * N)),
        x_size_(round_up((x_rows_ * pitch_ + ax_.w.reach()) * E, 16) + kUnroll * N),
        g_(zeros<A>(g_size_)),
        x_(zeros<A>(x_size_ * ax_.h.stride * ax_.w.stride)) {
    for (int i = 0; i < ax_.h.k; ++i)
      for (int j = 0; j < ax_.w.k; ++j)
        off_.push_back((ax_.h.phase(i) * ax_.w.stride + ax_.w.phase(j)) * x_size_ +
                       (ax_.h.offset(i) * pitch_ + ax_.w.offset(j)) * E);
  }

  // Elements from one row of a plane to the next: the padding right of a row is the padding left of the next if it fits.
  static int64_t pitch(const Axis& w) {
    const int64_t all = w.out + w.reach();
    const int64_t tight = std::max(w.out, std::min(all, ceil_div(w.before + w.in, w.stride)));
    return all - tight <= w.first() ? tight : all;
  }

  // sums [taps][N] += products of output rows [p0, p1).
  void add(const T* grad, const T* x, int64_t n, int64_t group, int64_t p0, int64_t p1, A* sums) {
    const int lanes = out_.lanes(group);
    for (int64_t p = p0; p < p1; ++p)
      pack<T, CL>(out_.row(grad, n, group, p), out_.channels, 1, ax_.w.out, lanes, g_.get() + (p - p0) * pitch_ * E);
    const int64_t g_end = (p1 - p0) * pitch_ * E, length = round_up(g_end, kUnroll * N);
    std::fill(g_.get() + g_end, g_.get() + length, A(0));
    const int64_t rows = p1 - p0 + ax_.h.reach(), columns = std::min(pitch_, ax_.w.out + ax_.w.reach());
    for (int a = 0; a < ax_.h.stride; ++a)
      for (int b = 0; b < ax_.w.stride; ++b) {
        A* plane = x_.get() + (a * ax_.w.stride + b) * x_size_;
        const int64_t l0 = std::max<int64_t>(0, ceil_div(ax_.w.before - b, ax_.w.stride));
        const int64_t l1 = std::min(columns, ceil_div(ax_.w.before + ax_.w.in - b, ax_.w.stride));
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t y = (p0 + r) * ax_.h.stride + a - ax_.h.before;
          A* row = plane + r * pitch_ * E;
          if (y < 0 || y >= ax_.h.in) {
            std::fill(row, row + pitch_ * E, A(0));
          } else if (l0 < l1) {
            const int64_t z = l0 * ax_.w.stride + b - ax_.w.before;
            pack<T, CL>(in_.row(x, n, group, y) + z * (CL ? in_.channels : 1), in_.channels, ax_.w.stride, l1 - l0,
                        lanes, row + l0 * E);
          }
        }
        // What an earlier, longer unit left behind must not meet the zeros of du: it might be infinite.
        std::fill(plane + rows * pitch_ * E, plane + x_size_, A(0));
      }
    correlate_all<T>(g_.get(), x_.get(), off_.data(), ax_.taps(), length, sums);
  }

 private:
  Axes ax_;
  Layout<T, CL> in_, out_;
  int64_t pitch_, x_rows_, g_size_, x_size_;
  std::unique_ptr<A[], Free> g_, x_;
  std::vector<int64_t> off_;
};

template <class T, bool CL>
void grad_weight(const DwConvBackwardArgs& a) {
  using A = Acc<T>;
  constexpr int N = V<T>::N, E = Layout<T, CL>::kLanes;
  const DwConvShape& s = a.shape;
  const Axes ax(s);
  const int taps = ax.taps();
  A* out = static_cast<A*>(a.out);
  if (s.N * s.P * s.Q == 0) return std::fill(out, out + s.C * taps, A(0));
  const int64_t pitch = WeightSums<T, CL>::pitch(ax.w) * E * int64_t(sizeof(A));
  const int64_t rows =
      std::clamp<int64_t>(kScratch / (pitch * (1 + s.sh * s.sw)) - ax.h.reach(), std::min<int64_t>(s.P, 4), s.P);
  const int64_t chunks = ceil_div(s.P, rows), units = s.N * chunks;  // a unit: `rows` output rows of one image
  const int64_t groups = Layout<T, CL>{s.C, s.H, s.W}.groups();
  // Units are dealt to a number of strips that depends on sizes only, so that sums never depend on the threads.
  const int64_t strips =
      std::min(units, std::clamp<int64_t>(s.N * s.P * s.Q / 512, 1, std::max<int64_t>(1, 32 / groups)));
  const int64_t padded = groups * E;
  std::unique_ptr<A[], Free> partial = zeros<A>(strips * padded * taps);  // [strip][group][tap][E]
  const int64_t work = ceil_div(s.N * s.P * s.Q, strips) * E * taps;
  parallel(a.pool, strips * groups, ceil_div(kTaskWork, work), [&](int64_t begin, int64_t end) {
    WeightSums<T, CL> sums(s, rows);
    std::unique_ptr<A[], Free> total = zeros<A>(taps * N);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t strip = task / groups, group = task % groups;
      std::fill(total.get(), total.get() + taps * N, A(0));
      for (int64_t u = units * strip / strips; u < units * (strip + 1) / strips; ++u) {
        const int64_t p0 = u % chunks * rows;
        sums.add(static_cast<const T*>(a.grad), static_cast<const T*>(a.x), u / chunks, group, p0,
                 std::min(p0 + rows, s.P), total.get());
      }
      A* to = partial.get() + task * taps * E;
      for (int t = 0; t < taps; ++t) {
        if constexpr (CL) store(to + t * N, vload<A>(total.get() + t * N));
        else to[t] = sum(vload<A>(total.get() + t * N));
      }
    }
  });
  for (int64_t c = 0; c < s.C; ++c)
    for (int t = 0; t < taps; ++t) {
      A v = 0;
      for (int64_t i = 0; i < strips; ++i) v += partial[((i * groups + c / E) * taps + t) * E + c % E];
      out[c * taps + t] = v;
    }
}

// ---- dx ------------------------------------------------------------------------------------------------------------------

// out[f] = sum_t w[t] * g[off[t] + f]; w holds a vector per tap (kVector) or a number.  length: a multiple of kUnroll vectors.
template <class T, bool kVector>
void convolve(const Acc<T>* g, const Acc<T>* w, const int64_t* off, int taps, int64_t length, Acc<T>* out) {
  using A = Acc<T>;
  constexpr int N = V<T>::N;
  for (int64_t f = 0; f < length; f += kUnroll * N) {
    V<T> acc[kUnroll];
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) acc[u] = V<T>(A(0));
    for (int t = 0; t < taps; ++t) {
      const V<T> wv = kVector ? vload<A>(w + t * N) : V<T>(w[t]);
      const A* p = g + off[t] + f;
#pragma GCC unroll 8
      for (int u = 0; u < kUnroll; ++u) acc[u] = fma(wv, vload<A>(p + u * N), acc[u]);
    }
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) store(out + f + u * N, acc[u]);
  }
}

// Scratch planes for a run of step rows of one (n, channel group) of dx.
template <class T, bool CL>
class InputRows {
  using A = Acc<T>;
  static constexpr int N = V<T>::N, E = Layout<T, CL>::kLanes;

 public:
  InputRows(const DwConvShape& s, int64_t rows)
      : ax_(s),
        in_{s.C, s.H, s.W},
        out_{s.C, s.P, s.Q},
        q0_(ax_.w.first() - ax_.w.reach()),
        pitch_(pitch(ax_.w)),
        out_size_(round_up(rows * pitch_ * E, kUnroll * N)),
        g_(zeros<A>(round_up(((rows + ax_.h.reach()) * pitch_ + ax_.w.reach()) * E, 16) + kUnroll * N)),
        dx_(zeros<A>(out_size_)),
        w_(zeros<A>(ax_.taps() * E)) {
    // taps in the order of their phases
    for (int a = 0; a < ax_.h.stride; ++a)
      for (int b = 0; b < ax_.w.stride; ++b) {
        begin_.push_back(static_cast<int>(tap_.size()));
        for (int i = 0; i < ax_.h.k; ++i)
          for (int j = 0; j < ax_.w.k; ++j)
            if (ax_.h.phase(i) == a && ax_.w.phase(j) == b) {
              tap_.push_back(i * ax_.w.k + j);
              off_.push_back(((ax_.h.reach() - ax_.h.offset(i)) * pitch_ + ax_.w.reach() - ax_.w.offset(j)) * E);
            }
      }
    begin_.push_back(static_cast<int>(tap_.size()));
  }

  static int64_t pitch(const Axis& w) {
    const int64_t q0 = w.first() - w.reach(), q1 = w.first() + w.steps();
    return q1 - q0 - std::max<int64_t>(0, std::min(-q0, q1 - w.out));
  }

  void set_weight(const T* weight, int64_t group) {
    if (group == group_) return;
    group_ = group;
    for (size_t t = 0; t < tap_.size(); ++t)
      for (int e = 0; e < out_.lanes(group); ++e) {
        V<T> v;
        load_n(v, weight + (group * E + e) * ax_.taps() + tap_[t], 1);
        store_n(w_.get() + t * E + e, v, 1);
      }
  }

  // dx of step rows [r0, r1), counted from the first that holds input.
  void write(const T* grad, T* dx, int64_t n, int64_t group, int64_t r0, int64_t r1) {
    const int lanes = out_.lanes(group);
    const int64_t rows = r1 - r0 + ax_.h.reach();
    const int64_t c0 = std::max<int64_t>(0, -q0_), c1 = std::min(ax_.w.out - q0_, pitch_);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t p = ax_.h.first() + r0 - ax_.h.reach() + r;
      A* row = g_.get() + r * pitch_ * E;
      if (p < 0 || p >= ax_.h.out) {
        std::fill(row, row + pitch_ * E, A(0));
      } else if (c0 < c1) {
        pack<T, CL>(out_.row(grad, n, group, p) + (q0_ + c0) * (CL ? out_.channels : 1), out_.channels, 1, c1 - c0,
                    lanes, row + c0 * E);
      }
    }
    // Beyond the last row a few elements are read into results that nobody keeps, or as padding of the last row: zeros.
    A* end = g_.get() + rows * pitch_ * E;
    std::fill(end, end + ax_.w.reach() * E, A(0));
    const int64_t length = round_up((r1 - r0) * pitch_ * E, kUnroll * N);
    for (int a = 0; a < ax_.h.stride; ++a)
      for (int b = 0; b < ax_.w.stride; ++b) {
        const int t0 = begin_[a * ax_.w.stride + b], t1 = begin_[a * ax_.w.stride + b + 1];
        convolve<T, CL>(g_.get(), w_.get() + t0 * E, off_.data() + t0, t1 - t0, length, dx_.get());
        const int64_t first = ax_.w.first(), l0 = std::max(first, ceil_div(ax_.w.before - b, ax_.w.stride));
        const int64_t l1 = ceil_div(ax_.w.before + ax_.w.in - b, ax_.w.stride);
        const int64_t z = l0 * ax_.w.stride + b - ax_.w.before;
        for (int64_t r = r0; r < r1; ++r) {
          const int64_t y = (ax_.h.first() + r) * ax_.h.stride + a - ax_.h.before;
          if (y < 0 || y >= ax_.h.in || l0 >= l1) continue;
          unpack<T, CL>(dx_.get() + ((r - r0) * pitch_ + l0 - first) * E,
                        in_.row(dx, n, group, y) + z * (CL ? in_.channels : 1), in_.channels, ax_.w.stride, l1 - l0,
                        lanes);
        }
      }
  }

 private:
  Axes ax_;
  Layout<T, CL> in_, out_;
  int64_t q0_, pitch_, out_size_, group_ = -1;
  std::unique_ptr<A[], Free> g_, dx_, w_;
  std::vector<int> begin_, tap_;
  std::vector<int64_t> off_;
};

template <class T, bool CL>
void grad_input(const DwConvBackwardArgs& a) {
  using A = Acc<T>;
  constexpr int E = Layout<T, CL>::kLanes;
  const DwConvShape& s = a.shape;
  const Axes ax(s);
  if (s.N * s.H * s.W == 0) return;
  const int64_t pitch = InputRows<T, CL>::pitch(ax.w) * E * int64_t(sizeof(A)), steps = ax.h.steps();
  const int64_t rows = std::clamp<int64_t>(kScratch / (2 * pitch) - ax.h.reach(), std::min<int64_t>(steps, 4), steps);
  const int64_t chunks = ceil_div(steps, rows), groups = Layout<T, CL>{s.C, s.H, s.W}.groups();
  const int64_t work = s.H * s.W * E * ax.taps() / (chunks * s.sh * s.sw) + 1;
  parallel(a.pool, s.N * chunks * groups, ceil_div(kTaskWork, work), [&](int64_t begin, int64_t end) {
    InputRows<T, CL> scratch(s, rows);
    for (int64_t task = begin; task < end; ++task) {
      // NCHW goes through memory in order.  channels_last: likewise, all channels of some rows before the next rows.
      const int64_t chunk = CL ? task / groups % chunks : task % chunks,
                    group = CL ? task % groups : task / chunks % groups;
      scratch.set_weight(static_cast<const T*>(a.weight), group);
      scratch.write(static_cast<const T*>(a.grad), static_cast<T*>(a.out), task / (groups * chunks), group,
                    chunk * rows, std::min((chunk + 1) * rows, steps));
    }
  });
}

}  // namespace

void dwconv_grad_weight(const DwConvBackwardArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    a.shape.channels_last ? grad_weight<T, true>(a) : grad_weight<T, false>(a);
  });
}

void dwconv_grad_input(const DwConvBackwardArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    a.shape.channels_last ? grad_input<T, true>(a) : grad_input<T, false>(a);
  });
}

}  // namespace ck::cpu::CK_ISA
