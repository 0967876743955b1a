// Gradients of the depthwise convolution, for any kernel size, stride, dilation and padding.
//
// x is cut into its sh * sw stride phases: position y is step m of phase a, y + before = m * s + a.  Tap i belongs to phase
// (i * d) % s and leads from step m to output m - (i * d) / s.  So on a zero-padded scratch plane of du, both gradients are
// dense stride-1 loops without a test for borders, whatever the sizes:
//
//   dx_phase[m]   = sum over the taps of that phase of weight[tap] * du[m - offset(tap)]
//   dweight[tap]  = sum_m x_phase(tap)[m] * du[m - offset(tap)]
//
// A task owns one plane (NCHW) or one vector of channels (channels_last) of some rows: it packs du once and takes dx and
// dweight from it.  Per element of du, packing
// costs a load and a store against k * k multiply-adds for each result; scratch stays in the L1 or L2 cache.  Rows share
// their padding where they can (the zeros right of a row are the zeros left of the next), which matters for 7 x 7 maps.
#include "dwconv_backward_steps.h"

#include <algorithm>
#include <vector>

#include "dwconv_backward_steps_loops.h"
#include "scratch.h"
#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kScratch = 64 * 1024;   // bytes of scratch planes per task aimed at
constexpr int64_t kTaskWork = 64 * 1024;  // multiply-adds that make a task worth a thread

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

struct Axis {
  int64_t in, out, before;
  int k, stride, dilation;
  int phase(int i) const { return static_cast<int>(int64_t(i) * dilation % stride); }
  int64_t offset(int i) const { return int64_t(i) * dilation / stride; }
  int64_t reach() const { return offset(k - 1); }
  int64_t first() const { return before / stride; }  // first step that holds input
  int64_t steps() const { return ceil_div(before + in, stride) - first(); }
  // the steps of phase a that hold input, counted from first(): begin, end (not above steps()), and where begin lies
  int64_t begin(int a) const { return std::max<int64_t>(0, ceil_div(before - a, stride) - first()); }
  int64_t end(int a) const {
    return std::max(begin(a), ceil_div(std::max<int64_t>(0, before + in - a), stride) - first());
  }
  int64_t position(int a, int64_t step) const { return (first() + step) * stride + a - before; }
  int taps(int a) const {
    int n = 0;
    for (int i = 0; i < k; ++i) n += phase(i) == a;
    return n;
  }
  // elements from one row of a plane of du to the next
  int64_t pitch() const {
    const int64_t q0 = first() - reach(), q1 = first() + steps();
    return q1 - q0 - std::max<int64_t>(0, std::min(-q0, q1 - out));
  }
};

// How the planes of a tensor of T lie in memory: an element of a scratch plane is kLanes numbers.
template <class T, bool CL>
struct Planes {
  static constexpr int kLanes = CL ? V<T>::N : 1;
  int64_t channels, height, width;
  int64_t groups() const { return ceil_div(channels, kLanes); }  // planes per image
  int lanes(int64_t group) const { return static_cast<int>(std::min<int64_t>(kLanes, channels - group * kLanes)); }
  int64_t at(int64_t n, int64_t group, int64_t y, int64_t x) const {
    return CL ? ((n * height + y) * width + x) * channels + group * kLanes
              : ((n * channels + group) * height + y) * width + x;
  }
};

// count elements, every `step`-th of src (in pixels), to consecutive elements of `dst`; f(vector loaded at i, i, lanes).
template <class T, bool CL, class F>
CK_INLINE void pack(int64_t channels, int64_t step, int64_t count, int lanes, Acc<T>* dst, F&& value) {
  constexpr int N = V<T>::N;
  if constexpr (CL) {
    if (lanes == N)
      for (int64_t i = 0; i < count; ++i) store(dst + i * N, value(i * step * channels, N));
    else
      for (int64_t i = 0; i < count; ++i) store(dst + i * N, value(i * step * channels, lanes));
  } else if (step == 1) {
    int64_t i = 0;
    for (; i + N <= count; i += N) store(dst + i, value(i, N));
    if (i < count) store_n(dst + i, value(i, static_cast<int>(count - i)), static_cast<int>(count - i));
  } else {
    for (int64_t i = 0; i < count; ++i) store_n(dst + i, value(i * step, 1), 1);
  }
}

// Consecutive elements of src to every `step`-th pixel of dst.
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

// Scratch planes for runs of up to `rows` step rows of one (n, channel group).
template <class T, bool CL>
class Task {
  using A = Acc<T>;
  using P = Planes<T, CL>;
  static constexpr int N = V<T>::N, E = P::kLanes;
  static constexpr bool kDirect = CL && N > 1;

 public:
  Task(const DwConvBackwardArgs& a, int64_t rows)
      : a_(a),
        h_(axis_h(a.shape)),
        w_(axis_w(a.shape)),
        in_{a.shape.C, a.shape.H, a.shape.W},
        out_{a.shape.C, a.shape.P, a.shape.Q},
        pitch_(w_.pitch()),
        direct_(kDirect && h_.dilation == 1 && w_.dilation == 1),
        g_size_(round_up(((rows + h_.reach()) * pitch_ + w_.reach()) * E, 16) + kUnroll * N),
        g_(zeros<A>(g_size_)) {
    // taps in the order of their phases, within a phase in that of their offsets
    for (int a = 0; a < h_.stride; ++a)
      for (int b = 0; b < w_.stride; ++b) {
        begin_.push_back(static_cast<int>(tap_.size()));
        for (int i = 0; i < h_.k; ++i)
          for (int j = 0; j < w_.k; ++j)
            if (h_.phase(i) == a && w_.phase(j) == b) {
              tap_.push_back(i * w_.k + j);
              off_.push_back(((h_.reach() - h_.offset(i)) * pitch_ + w_.reach() - w_.offset(j)) * E);
            }
      }
    begin_.push_back(static_cast<int>(tap_.size()));
    for (int b = 0; b < w_.stride; ++b) direct_ = direct_ && (w_.taps(b) == 0 || with_taps_w(w_.taps(b), [](auto) {}));
    if (a.dx) weight_ = zeros<A>(tap_.size() * E);
    if (a.dweight) sums_ = zeros<A>(tap_.size() * N);
  }

  static Axis axis_h(const DwConvShape& s) { return {s.H, s.P, s.top, s.kh, s.sh, s.dh}; }
  static Axis axis_w(const DwConvShape& s) { return {s.W, s.Q, s.left, s.kw, s.sw, s.dw}; }

  void begin(int64_t group) {
    group_ = group;
    lanes_ = out_.lanes(group);
    if (a_.dweight) std::fill(sums_.get(), sums_.get() + tap_.size() * N, A(0));
    if (a_.dx)
      for (size_t t = 0; t < tap_.size(); ++t)
        for (int e = 0; e < lanes_; ++e) {
          V<T> v;
          load_n(v, static_cast<const T*>(a_.weight) + (group * E + e) * h_.k * w_.k + tap_[t], 1);
          store_n(weight_.get() + t * E + e, v, 1);
        }
  }

  // dx of step rows [r0, r1) of image n, counted from the first that holds input; adds their share to the sums.
  void run(int64_t n, int64_t r0, int64_t r1) {
    pack_grad(n, r0, r1);
    for (int a = 0; a < h_.stride; ++a)
      for (int b = 0; b < w_.stride; ++b) {
        const int phase = a * w_.stride + b, taps = begin_[phase + 1] - begin_[phase];
        const int64_t y0 = std::max(h_.begin(a), r0), y1 = std::min(h_.end(a), r1);
        if (y0 >= y1 || w_.begin(b) >= w_.end(b)) continue;
        if constexpr (kDirect)
          if (direct_ && taps > 0) {
            direct(n, a, b, r0, y0, y1, begin_[phase]);
            continue;
          }
        flat(n, a, b, r0, r1, y0, y1, begin_[phase], taps);
      }
  }

  // [C][taps] of this group, from the sums
  void end(A* dweight) const {
    for (size_t t = 0; t < tap_.size(); ++t) {
      const A* s = sums_.get() + t * N;
      if constexpr (CL)
        for (int e = 0; e < lanes_; ++e) dweight[(group_ * E + e) * tap_.size() + tap_[t]] = s[e];
      else dweight[group_ * tap_.size() + tap_[t]] = sum(vload<A>(s));
    }
  }

 private:
  // Row r of the plane is du's row first + r0 - reach + r, with zeros around.
  void pack_grad(int64_t n, int64_t r0, int64_t r1) {
    const int64_t rows = r1 - r0 + h_.reach(), p0 = h_.first() + r0 - h_.reach(), q0 = w_.first() - w_.reach();
    const int64_t c0 = std::max<int64_t>(0, -q0), c1 = std::min(w_.out - q0, pitch_);
    for (int64_t r = 0; r < rows; ++r) {
      A* row = g_.get() + r * pitch_ * E;
      if (p0 + r < 0 || p0 + r >= h_.out) std::fill(row, row + pitch_ * E, A(0));
      else if (c0 < c1) pack_grad_row(out_.at(n, group_, p0 + r, q0 + c0), c1 - c0, row + c0 * E);
    }
    // Beyond the last row: padding of that row, and what meets zeros of x and so must not be infinite.
    std::fill(g_.get() + rows * pitch_ * E, g_.get() + g_size_, A(0));
  }

  void pack_grad_row(int64_t at, int64_t count, A* dst) const {
    const T* grad = static_cast<const T*>(a_.grad) + at;
    pack<T, CL>(out_.channels, 1, count, lanes_, dst, [&](int64_t i, int lanes) __attribute__((always_inline)) {
      return load_lanes(grad + i, lanes == N, lanes);
    });
  }

  // Phase (a, b), step rows [y0, y1): through planes of x and dx with the pitch of du's.
  void flat(int64_t n, int a, int b, int64_t r0, int64_t r1, int64_t y0, int64_t y1, int first, int taps) {
    const int64_t length = round_up((r1 - r0) * pitch_ * E, kUnroll * N);
    const int64_t l0 = w_.begin(b), l1 = w_.end(b), z = w_.position(b, l0), step = w_.stride;
    if (!plane_) plane_ = zeros<A>(g_size_);
    A* plane = plane_.get();
    if (a_.dx) {
      convolve_flat<T, CL>(g_.get(), weight_.get() + first * E, off_.data() + first, taps, length, plane);
      for (int64_t r = y0; r < y1; ++r)
        unpack<T, CL>(plane + ((r - r0) * pitch_ + l0) * E,
                      static_cast<T*>(a_.dx) + in_.at(n, group_, h_.position(a, r), z), in_.channels, step, l1 - l0,
                      lanes_);
    }
    if (a_.dweight && taps > 0) {
      std::fill(plane, plane + ((y0 - r0) * pitch_ + l0) * E, A(0));
      for (int64_t r = y0; r < y1; ++r) {
        A* row = plane + (r - r0) * pitch_ * E;
        const T* x = static_cast<const T*>(a_.x) + in_.at(n, group_, h_.position(a, r), z);
        pack<T, CL>(in_.channels, step, l1 - l0, lanes_, row + l0 * E,
                    [&](int64_t i, int lanes)
                        __attribute__((always_inline)) { return load_lanes(x + i, lanes == N, lanes); });
        std::fill(row + l1 * E, r + 1 < y1 ? row + (pitch_ + l0) * E : plane + length, A(0));
      }
      correlate_flat<T>(plane, g_.get(), off_.data() + first, taps, length, sums_.get() + first * N);
    }
  }

  // The same on x and dx in place; the taps of the phase are neighbours.
  void direct(int64_t n, int a, int b, int64_t r0, int64_t y0, int64_t y1, int first) {
    const int64_t at = in_.at(n, group_, h_.position(a, y0), w_.position(b, w_.begin(b)));
    const Pixels pixels{y1 - y0, w_.end(b) - w_.begin(b), h_.stride * in_.width * in_.channels,
                        w_.stride * in_.channels, lanes_};
    const int taps_h = h_.taps(a);
    with_taps_w(w_.taps(b), [&](auto taps_w) {
      // du where the first pixel meets the last tap of the first row of taps
      const A* g = g_.get() + ((y0 - r0 + h_.reach()) * pitch_ + w_.begin(b) + w_.reach() - (taps_w() - 1)) * E;
      if (a_.dx)
        convolve_direct<T, taps_w()>(static_cast<T*>(a_.dx) + at, pixels, taps_h, g, pitch_ * E,
                                     weight_.get() + first * E);
      if (a_.dweight)
        correlate_direct<T, taps_w()>(static_cast<const T*>(a_.x) + at, pixels, taps_h, g, pitch_ * E,
                                      sums_.get() + first * N);
    });
  }

  const DwConvBackwardArgs& a_;
  const Axis h_, w_;
  const P in_, out_;
  const int64_t pitch_;
  bool direct_;
  int64_t g_size_, group_ = 0;
  int lanes_ = E;
  Scratch<A> g_, plane_, weight_, sums_;
  std::vector<int> begin_, tap_;
  std::vector<int64_t> off_;
};

template <class T, bool CL>
void backward(const DwConvBackwardArgs& a) {
  using A = Acc<T>;
  const DwConvShape& s = a.shape;
  const Axis h = Task<T, CL>::axis_h(s), w = Task<T, CL>::axis_w(s);
  const int64_t taps = int64_t(s.kh) * s.kw, size = s.C * taps;
  A* dweight = static_cast<A*>(a.dweight);
  if (s.N * s.C * s.H * s.W == 0) {
    if (dweight) std::fill(dweight, dweight + size, A(0));
    return;
  }
  constexpr int E = Planes<T, CL>::kLanes;
  const int64_t steps = h.steps(), row = w.pitch() * E * static_cast<int64_t>(sizeof(A));
  const int64_t rows = std::clamp<int64_t>(kScratch / row - h.reach(), std::min<int64_t>(steps, 4), steps);
  const int64_t chunks = ceil_div(steps, rows), units = s.N * chunks;  // a unit: up to `rows` step rows of one image
  const int64_t groups = Planes<T, CL>{s.C, s.H, s.W}.groups();
  // dweight is summed over runs of units whose number depends on the sizes only, so sums never depend on the threads.
  const int64_t runs =
      dweight ? std::min(units, std::clamp<int64_t>(s.N * s.P * s.Q / 512, 1, std::max<int64_t>(1, 32 / groups)))
              : units;
  const Scratch<A> partial = dweight && runs > 1 ? zeros<A>(runs * size) : nullptr;  // [run][C][taps]
  const int64_t work = ceil_div(s.N * s.P * s.Q, runs) * E * taps * ((a.dx != nullptr) + (dweight != nullptr));
  parallel(a.pool, runs * groups, ceil_div(kTaskWork, std::max<int64_t>(work, 1)), [&](int64_t begin, int64_t end) {
    Task<T, CL> task(a, rows);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t run = i / groups;
      task.begin(i % groups);
      for (int64_t u = units * run / runs; u < units * (run + 1) / runs; ++u) {
        const int64_t r0 = u % chunks * rows;
        task.run(u / chunks, r0, std::min(r0 + rows, steps));
      }
      if (dweight) task.end(partial ? partial.get() + run * size : dweight);
    }
  });
  if (partial)
    for (int64_t i = 0; i < size; ++i) {
      A v = 0;
      for (int64_t run = 0; run < runs; ++run) v += partial[run * size + i];
      dweight[i] = v;
    }
}

}  // namespace

void dwconv_backward_steps(const DwConvBackwardArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    a.shape.channels_last ? backward<T, true>(a) : backward<T, false>(a);
  });
}

}  // namespace ck::cpu::CK_ISA
