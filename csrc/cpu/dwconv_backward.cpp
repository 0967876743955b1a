// Gradients of the depthwise convolution, and of the batch norm and activation behind it where args.bn is given.
//
//   NCHW, 3 x 3, 5 x 5 and 7 x 7 without dilation: a task takes a channel of all images through everything.  Sums of the
//     batch norm first, then plane by plane du, dx and dweight.  grad, u and x are read while the channel is in the cache
//     (du never leaves it): per element 4 tensors move at stride 1, against 13 for the steps one by one.
//   channels_last, the same kernels: the same by blocks of channels (dwconv_backward_blocks.cpp).
//   everything else: du as a tensor; dx at stride 1 is the forward kernel with the taps reversed; what remains goes by
//     stride phases (dwconv_backward_steps.cpp).
#include "dwconv_backward.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "bn_act.h"
#include "dwconv.h"
#include "dwconv_backward_blocks.h"
#include "dwconv_backward_steps.h"
#include "dwconv_coefficients.h"
#include "dwconv_grad_tiles.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kTaskWork = 64 * 1024;  // multiply-adds that make a task worth a thread
constexpr int64_t kKept = 64 << 20;
constexpr int64_t kManyChannels = 16;  // from here on there are enough channels for a task each

template <class T, int K, int S>
class ByPlane {
  using A = Acc<T>;
  static constexpr int N = V<T>::N;

 public:
  explicit ByPlane(const DwConvBackwardArgs& a)
      : a_(a), s_(a.shape), plane_{s_.H, s_.W, s_.P, s_.Q, s_.top, s_.left}, bn_(a.bn ? s_.C : 0) {}

  void run() {
    const int64_t work = s_.N * s_.P * s_.Q * K * K * ((a_.dx != nullptr) + (a_.dweight != nullptr));
    parallel(a_.pool, s_.C, std::max<int64_t>(1, kTaskWork / std::max<int64_t>(work, 1)), [&](int64_t b, int64_t e) {
      std::vector<A> du(s_.P * s_.Q), dx(std::is_same_v<T, A> ? 0 : s_.H * s_.W);
      for (int64_t c = b; c < e; ++c) channel(c, du.data(), dx.data());
    });
  }

 private:
  void channel(int64_t c, A* du_scratch, A* dx_scratch) {
    A w[K * K], sums[K * K * N] = {};
    if (a_.dx)
      for (int t = 0; t < K * K; ++t) {  // stride 1 convolves with the reversed taps
        V<T> tap;
        load_n(tap, static_cast<const T*>(a_.weight) + c * K * K + t, 1);
        store_n(w + (S == 1 ? K * K - 1 - t : t), tap, 1);
      }
    if (a_.bn) {
      const BnActGrad& bn = *a_.bn;
      CK_ISA::bn_grad_sums({bn_shape(a_.dtype, s_), a_.grad, bn.u, bn.mean, bn.var, bn.weight, bn.bias, bn.dweight,
                            bn.dbias, bn_.scale, bn_.shift, bn_.slant, bn_.offset, bn.eps, bn.act, bn.slope, c, c + 1,
                            serial_pool()});
    }
    for (int64_t n = 0; n < s_.N; ++n) {
      const int64_t out = (n * s_.C + c) * s_.P * s_.Q, in = (n * s_.C + c) * s_.H * s_.W;
      const A* du = gradient(c, out, du_scratch);
      if (a_.dx) input(du, w, static_cast<T*>(a_.dx) + in, dx_scratch);
      if (a_.dweight) weight_plane<T, K, S>(plane_, du, static_cast<const T*>(a_.x) + in, sums);
    }
    if (a_.dweight)
      for (int t = 0; t < K * K; ++t) static_cast<A*>(a_.dweight)[c * K * K + t] = sum(vload<A>(sums + t * N));
  }

  // The plane of du that begins at element `at` of grad.
  const A* gradient(int64_t c, int64_t at, A* du) const {
    const int64_t size = s_.P * s_.Q;
    const T* grad = static_cast<const T*>(a_.grad) + at;
    const auto fill = [&](auto&& value) {
      int64_t i = 0;
      for (; i + N <= size; i += N) store(du + i, value(vload(grad + i), i, N));
      if (const int rest = static_cast<int>(size - i)) store_n(du + i, value(vload_n(grad + i, rest), i, rest), rest);
    };
    if (a_.bn) {
      const T* u = static_cast<const T*>(a_.bn->u) + at;
      const V<T> mean(static_cast<const A*>(a_.bn->mean)[c]), scale(bn_.scale[c]), shift(bn_.shift[c]);
      const V<T> slant(bn_.slant[c]), offset(bn_.offset[c]), slope(static_cast<A>(a_.bn->slope));
      with_act(a_.bn->act, [&](auto act) {
        fill([&](V<T> g, int64_t i, int n) __attribute__((always_inline)) {
          const V<T> d = (n == N ? vload(u + i) : vload_n(u + i, n)) - mean;
          return fma(g * activate_grad<act()>(fma(d, scale, shift), slope), scale, fma(d, slant, offset));
        });
      });
    } else {
      if constexpr (std::is_same_v<T, A>) return grad;
      fill([](V<T> g, int64_t, int) { return g; });
    }
    return du;
  }

  void input(const A* du, const A* w, T* dx, A* scratch) const {
    if constexpr (S == 2) {
      input_plane_strided<T, K>(plane_, du, w, dx);
    } else if constexpr (std::is_same_v<T, A>) {
      input_plane_dense<A, K>(plane_, du, w, dx);
    } else {
      input_plane_dense<A, K>(plane_, du, w, scratch);
      const int64_t size = s_.H * s_.W;
      int64_t i = 0;
      for (; i + N <= size; i += N) store(dx + i, vload<A>(scratch + i));
      if (const int rest = static_cast<int>(size - i)) store_n(dx + i, vload_n<A>(scratch + i, rest), rest);
    }
  }

  const DwConvBackwardArgs& a_;
  const DwConvShape& s_;
  const Plane plane_;
  Coefficients<A> bn_;
};

template <class T>
bool by_plane(const DwConvBackwardArgs& a) {
  const DwConvShape& s = a.shape;
  if (s.channels_last || s.C < kManyChannels || s.N * s.P * s.Q == 0) return false;
  return with_tiled_kernel<T>(s, [&](auto k, auto stride) { ByPlane<T, k(), stride()>(a).run(); });
}

// dx at stride 1 through the forward kernel; false if that would need padding of less than nothing.
template <class T>
bool input_dense(const DwConvBackwardArgs& a) {
  const DwConvShape& s = a.shape;
  const int top = s.dh * (s.kh - 1) - s.top, left = s.dw * (s.kw - 1) - s.left;
  if (s.sh != 1 || s.sw != 1 || top < 0 || left < 0) return false;
  const int64_t taps = int64_t(s.kh) * s.kw;
  std::vector<T> reversed(s.C * taps);
  const T* w = static_cast<const T*>(a.weight);
  for (int64_t c = 0; c < s.C; ++c) std::reverse_copy(w + c * taps, w + (c + 1) * taps, reversed.begin() + c * taps);
  DwConvShape back = s;
  std::swap(back.H, back.P), std::swap(back.W, back.Q);
  back.top = top, back.left = left;
  CK_ISA::dwconv({a.dtype, a.grad, reversed.data(), nullptr, nullptr, nullptr, a.dx, back, Act::identity, 0.0, nullptr,
                  nullptr, a.pool});
  return true;
}

// n numbers: up to kKept bytes of memory stay with the thread, because fresh pages cost more than writing them; more than
// that lives in `large`.
template <class T>
T* kept(int64_t n, std::unique_ptr<T[]>& large) {
  static thread_local std::unique_ptr<T[]> memory;
  static thread_local int64_t size = 0;
  if (n * static_cast<int64_t>(sizeof(T)) > kKept) {
    large.reset(new T[n]);
    return large.get();
  }
  if (size < n) memory.reset(new T[n]), size = n;
  return memory.get();
}

template <class T>
void by_tensor(DwConvBackwardArgs a) {
  const DwConvShape& s = a.shape;
  std::unique_ptr<T[]> large;
  if (a.bn) {
    const BnActGrad& bn = *a.bn;
    T* du = kept<T>(s.N * s.C * s.P * s.Q, large);
    CK_ISA::bn_act_train_backward({bn_shape(a.dtype, s), a.grad, bn.u, bn.mean, bn.var, bn.weight, bn.bias, du,
                                   bn.dweight, bn.dbias, bn.eps, bn.act, bn.slope, a.pool});
    a.grad = du, a.bn = nullptr;
  }
  if (a.dx && input_dense<T>(a)) a.dx = nullptr;
  if (a.dx || a.dweight) dwconv_backward_steps(a);
}

}  // namespace

void dwconv_backward(const DwConvBackwardArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    if (!by_plane<decltype(t)>(a) && !dwconv_backward_blocks(a)) by_tensor<decltype(t)>(a);
  });
}

}  // namespace ck::cpu::CK_ISA
