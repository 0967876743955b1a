// A task takes a block of channels through a run of strips of rows: du of a strip goes to scratch, where dx and dweight find
// it in the L1 cache.  du never is a tensor: per element, grad, u and x are read and dx is written, after one more pass over
// grad and u for the sums of the batch norm.
//
// Blocks, strips and runs depend on the sizes only, so sums do not depend on the threads.
#include "dwconv_backward_blocks.h"

#include <vector>

#include "bn_act.h"
#include "dwconv_coefficients.h"
#include "dwconv_grad_rows.h"
#include "scratch.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kTaskWork = 64 * 1024;  // multiply-adds that make a task worth a thread
constexpr int64_t kTasks = 16;            // enough for the threads, few enough to add up their sums
// Pixels of x that a strip spans.  A vector of them lies in lines of the L1 cache that are C apart: where C is a multiple of a
// large power of two they share a few sets, and longer strips lose them before the next row reads them again.
constexpr int64_t kStripPixels = 28;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T, int K, int S>
class ByBlock {
  using A = Acc<T>;
  static constexpr int N = V<T>::N, kTaps = K * K, kReach = (K - 1) / S;
  static constexpr int64_t kVectors = K == 3 ? 16 : K == 5 ? 8 : 4;  // of a block: their sums are about 10 KiB

 public:
  explicit ByBlock(const DwConvBackwardArgs& a)
      : a_(a),
        s_(a.shape),
        vectors_(ceil_div(s_.C, N)),
        rows_(std::clamp<int64_t>(kStripPixels / (S * s_.W), 1, s_.P)),
        strips_(ceil_div(s_.P, rows_)),
        units_(s_.N * strips_),
        pitch_((kReach + std::max(s_.Q, (s_.left + s_.W - 1) / S + 1)) * N),
        bn_(a.bn ? s_.C : 0) {
    // A last vector that overlaps its neighbour is in the same block as that.
    blocks_ = std::clamp<int64_t>(ceil_div(vectors_, kVectors), 1, s_.C % N ? vectors_ / 2 : vectors_);
    runs_ = std::clamp<int64_t>(kTasks / blocks_, 1, units_);
  }

  void run() {
    if (a_.bn) {
      const BnActGrad& bn = *a_.bn;
      CK_ISA::bn_grad_sums({bn_shape(a_.dtype, s_), a_.grad, bn.u, bn.mean, bn.var, bn.weight, bn.bias, bn.dweight,
                            bn.dbias, bn_.scale, bn_.shift, bn_.slant, bn_.offset, bn.eps, bn.act, bn.slope, 0, s_.C,
                            a_.pool});
    }
    const int64_t size = s_.C * kTaps, work = units_ * rows_ * s_.Q * vectors_ * N * kTaps / (blocks_ * runs_);
    std::vector<A> partial(a_.dweight && runs_ > 1 ? runs_ * size : 0);
    A* const dweight = static_cast<A*>(a_.dweight);
    parallel(a_.pool, blocks_ * runs_, std::max<int64_t>(1, kTaskWork / work), [&](int64_t begin, int64_t end) {
      Task task(*this);
      for (int64_t i = begin; i < end; ++i)
        task.run(i / runs_, i % runs_, runs_ > 1 ? partial.data() + i % runs_ * size : dweight);
    });
    if (!a_.dweight || runs_ == 1) return;
    for (int64_t i = 0; i < size; ++i) {
      A total = 0;
      for (int64_t r = 0; r < runs_; ++r) total += partial[r * size + i];
      dweight[i] = total;
    }
  }

 private:
  int64_t first_vector(int64_t block) const { return vectors_ * block / blocks_; }
  int64_t most_vectors() const { return ceil_div(vectors_, blocks_); }
  // The last vector ends with the last channel: what it shares with its neighbour is computed twice, alike.
  int64_t channel(int64_t v) const { return std::min(v * N, s_.C - N); }

  struct Task {
    explicit Task(const ByBlock& all)
        : all_(all),
          a_(all.a_),
          s_(all.s_),
          ring_(all.rows_ + kReach),
          du_(zeros<A>(all.most_vectors() * ring_ * all.pitch_)),
          weight_(zeros<A>(all.most_vectors() * kTaps * N)),
          sums_(zeros<A>(all.most_vectors() * kTaps * N)) {}

    void run(int64_t block, int64_t run, A* dweight) {
      const int64_t first = all_.first_vector(block), last = all_.first_vector(block + 1);
      std::fill(sums_.get(), sums_.get() + (last - first) * kTaps * N, A(0));
      if (a_.dx)
        for (int64_t v = first; v < last; ++v)
          for (int t = 0; t < kTaps; ++t) {
            V<T> tap;
            load_step(tap, static_cast<const T*>(a_.weight) + all_.channel(v) * kTaps + t, kTaps);
            store(weight_.get() + ((v - first) * kTaps + t) * N, tap);
          }
      const int64_t begin = all_.units_ * run / all_.runs_, end = all_.units_ * (run + 1) / all_.runs_;
      for (int64_t unit = begin; unit < end; ++unit)
        for (int64_t v = first; v < last; ++v)
          strip(v, v - first, unit / all_.strips_, unit % all_.strips_, unit == begin);
      if (!a_.dweight) return;
      for (int64_t v = first; v < last; ++v)
        for (int t = 0; t < kTaps; ++t)
          for (int l = 0; l < N; ++l)
            dweight[(all_.channel(v) + l) * kTaps + t] = sums_.get()[((v - first) * kTaps + t) * N + l];
    }

   private:
    // Vector v, the k-th of its block, of image n: rows of du, the rows of dx that need no row beyond them, dweight.
    void strip(int64_t v, int64_t k, int64_t n, int64_t strip, bool fresh) {
      const int64_t p0 = strip * all_.rows_, p1 = std::min(s_.P, p0 + all_.rows_), c = all_.channel(v);
      const GradRows<A> du{du_.get() + k * ring_ * all_.pitch_, all_.pitch_, ring_, kReach};
      gradient(c, n, fresh ? std::max<int64_t>(0, p0 - kReach) : p0, p1, du);
      if (a_.dx) {
        const int64_t y0 = p0 == 0 ? 0 : std::clamp<int64_t>(p0 * S - s_.top, 0, s_.H);
        const int64_t y1 = p1 == s_.P ? s_.H : std::clamp<int64_t>(p1 * S - s_.top, 0, s_.H);
        for (int64_t y = y0; y < y1; ++y) input(c, n, y, weight_.get() + k * kTaps * N, du);
      }
      if (a_.dweight) {
        const T* x = static_cast<const T*>(a_.x) + n * s_.H * s_.W * s_.C + c;
        weight_rows<T, K, S>(WeightRows<T>{x, s_.C, s_.H, s_.W, s_.Q, s_.top, s_.left, du}, p0, p1,
                             sums_.get() + k * kTaps * N);
      }
    }

    void gradient(int64_t c, int64_t n, int64_t p0, int64_t p1, const GradRows<A>& du) const {
      const int64_t image = n * s_.P * s_.Q * s_.C + c;
      const auto fill = [&](auto&& value) {
        for (int64_t p = p0; p < p1; ++p) {
          A* to = du.row(p);
          int64_t at = image + p * s_.Q * s_.C;
          for (int64_t q = 0; q < s_.Q; ++q, at += s_.C) store(to + q * N, value(at));
        }
      };
      const T* grad = static_cast<const T*>(a_.grad);
      if (!a_.bn) return fill([&](int64_t at) { return vload(grad + at); });
      const T* u = static_cast<const T*>(a_.bn->u);
      const Coefficients<A>& bn = all_.bn_;
      const V<T> mean = vload(static_cast<const A*>(a_.bn->mean) + c), slope(static_cast<A>(a_.bn->slope));
      const V<T> scale = vload(bn.scale + c), shift = vload(bn.shift + c);
      const V<T> slant = vload(bn.slant + c), offset = vload(bn.offset + c);
      with_act(a_.bn->act, [&](auto act) {
        fill([&](int64_t at) __attribute__((always_inline)) {
          const V<T> d = vload(u + at) - mean;
          const V<T> g = vload(grad + at) * activate_grad<act()>(fma(d, scale, shift), slope);
          return fma(g, scale, fma(d, slant, offset));
        });
      });
    }

    void input(int64_t c, int64_t n, int64_t y, const A* w, const GradRows<A>& du) const {
      const int64_t m = (y + s_.top) / S, phase = (y + s_.top) % S;
      InputRow<T> row;
      row.begin = static_cast<int>(std::clamp<int64_t>(m - s_.P + 1, 0, K));
      row.end = static_cast<int>(std::min<int64_t>((K - phase + S - 1) / S, m + 1));
      for (int d = row.begin; d < row.end; ++d) row.du[d] = du.row(m - d);
      row.w = w + phase * K * N;
      row.dx = static_cast<T*>(a_.dx) + (n * s_.H + y) * s_.W * s_.C + c;
      row.pixel = s_.C, row.left = s_.left, row.W = s_.W;
      input_row<T, K, S>(row);
    }

    const ByBlock& all_;
    const DwConvBackwardArgs& a_;
    const DwConvShape& s_;
    const int64_t ring_;
    const Scratch<A> du_, weight_, sums_;
  };

  const DwConvBackwardArgs& a_;
  const DwConvShape& s_;
  const int64_t vectors_, rows_, strips_, units_, pitch_;
  int64_t blocks_, runs_;
  Coefficients<A> bn_;
};

}  // namespace

bool dwconv_backward_blocks(const DwConvBackwardArgs& a) {
  bool done = false;
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    const DwConvShape& s = a.shape;
    if (!s.channels_last || s.C < V<T>::N || s.N * s.P * s.Q == 0) return;
    done = with_tiled_kernel<T>(s, [&](auto k, auto stride) { ByBlock<T, k(), stride()>(a).run(); });
  });
  return done;
}

}  // namespace ck::cpu::CK_ISA
