// Gradients of batch norm and activation.  Bytes per element: 3e; with batch statistics x and grad are read twice, and in NCHW
// the second read hits the cache, as in bn_act.cpp.
//
// With d = x - mean and g = grad * act'(v):
//   sums      s0 = sum g, s1 = sum g * d
//   fixed     dx = scale * g, and the sums                                     (scale and shift given)
//   batch     dx = scale * g + slant * d + offset                              (the sums known, through mean and var)
#include <vector>

#include "bn_act.h"
#include "bn_act_walk.h"

namespace ck::cpu::CK_ISA {
namespace {

enum class Pass { sums, fixed, batch };

template <class A>
struct GradAffine : Affine<A> {
  const A *slant, *offset;  // for Pass::batch
};
template <class W>
struct GradVec {
  AffineVec<W> affine;
  W slant, offset;
};
template <class T, Pass P>
CK_INLINE GradVec<V<T>> broadcast(const GradAffine<Acc<T>>& a, int64_t c) {
  const V<T> zero(Acc<T>(0));
  return {broadcast<T>(a, c), P == Pass::batch ? V<T>(a.slant[c]) : zero, P == Pass::batch ? V<T>(a.offset[c]) : zero};
}
template <class T, Pass P>
CK_INLINE GradVec<V<T>> channels(const GradAffine<Acc<T>>& a, int64_t c, int n) {
  const V<T> zero(Acc<T>(0));
  return {channels<T>(a, c, n), P == Pass::batch ? get(a.slant + c, n) : zero,
          P == Pass::batch ? get(a.offset + c, n) : zero};
}

template <class T, Act A, Pass P>
CK_INLINE void grad_vector(const T* grad, const T* x, T* dx, int64_t i, int n, const GradVec<V<T>>& a, V<T> slope,
                           V<T>& s0, V<T>& s1) {
  const V<T> d = get(x + i, n) - a.affine.mean;
  const V<T> g = get(grad + i, n) * activate_grad<A>(fma(d, a.affine.scale, a.affine.shift), slope);
  if constexpr (P != Pass::batch) s0 = s0 + g, s1 = fma(g, d, s1);
  if constexpr (P == Pass::fixed) put(dx + i, g * a.affine.scale, n);
  if constexpr (P == Pass::batch) put(dx + i, fma(g, a.affine.scale, fma(d, a.slant, a.offset)), n);
}

template <class A>
struct Sums {
  A s0, s1;
};

template <class T, Act A, Pass P>
Sums<double> grad_channel(const BnShape& s, const T* grad, const T* x, T* dx, int64_t c, const GradAffine<Acc<T>>& a,
                          V<T> slope) {
  const V<T> zero(Acc<T>(0));
  const GradVec<V<T>> vec = broadcast<T, P>(a, c);
  V<T> s0 = zero, s1 = zero;
  Sums<double> all{0, 0};
  for_channel(
      s, c,
      [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
        for_vectors<T>(begin, end, [&](int64_t i, int n) __attribute__((always_inline)) {
          grad_vector<T, A, P>(grad, x, dx, i, n, vec, slope, s0, s1);
        });
      },
      [&]() __attribute__((always_inline)) {
        if constexpr (P != Pass::batch) all.s0 += sum(s0), all.s1 += sum(s1), s0 = s1 = zero;
      });
  return all;
}

// Of channels [first, last); returns their sums.
template <class T, Act A, Pass P>
std::vector<Sums<double>> grad_rows(const BnShape& s, int64_t first, int64_t last, const T* grad, const T* x, T* dx,
                                    const GradAffine<Acc<T>>& a, V<T> slope, const Pool& pool) {
  constexpr int N = V<T>::N;
  const Strips strips(s);
  const int64_t C = s.C, width = last - first;
  std::vector<Acc<T>> parts(P == Pass::batch ? 0 : strips.count * 2 * width);  // [strip][s0, s1][channel]
  parallel(pool, strips.count, strips.grain, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      for_channel_blocks<T>(first, last, [&](auto vectors, int64_t c, int n) __attribute__((always_inline)) {
        GradVec<V<T>> vec[vectors()];
        V<T> s0[vectors()], s1[vectors()];
        for (int k = 0; k < vectors(); ++k) {
          vec[k] = channels<T, P>(a, c + k * N, n);
          s0[k] = s1[k] = V<T>(Acc<T>(0));
        }
        for (int64_t r = strips.begin(i); r < strips.end(i); ++r)
          for (int k = 0; k < vectors(); ++k)
            grad_vector<T, A, P>(grad, x, dx, r * C + c + k * N, n, vec[k], slope, s0[k], s1[k]);
        if constexpr (P != Pass::batch) {
          for (int k = 0; k < vectors(); ++k) {
            Acc<T>* part = parts.data() + i * 2 * width + c - first + k * N;
            put(part, s0[k], n);
            put(part + width, s1[k], n);
          }
        }
      });
    }
  });
  if constexpr (P == Pass::batch) return {};
  std::vector<Sums<double>> all(width, {0, 0});
  for (int64_t i = 0; i < strips.count; ++i) {
    const Acc<T>* part = parts.data() + i * 2 * width;
    for (int64_t c = 0; c < width; ++c) all[c].s0 += part[c], all[c].s1 += part[width + c];
  }
  return all;
}

}  // namespace

void bn_act_backward(const BnActBackwardArgs& a) {
  with_dtype_and_act(a.shape.dtype, a.act, [&](auto t, auto act) {
    using T = decltype(t);
    using A = Acc<T>;
    const T *grad = static_cast<const T*>(a.grad), *x = static_cast<const T*>(a.x);
    T* dx = static_cast<T*>(a.dx);
    A *dscale = static_cast<A*>(a.dscale), *dshift = static_cast<A*>(a.dshift);
    const GradAffine<A> affine{
        {nullptr, static_cast<const A*>(a.scale), static_cast<const A*>(a.shift)}, nullptr, nullptr};
    const V<T> slope(static_cast<A>(a.slope));
    auto set = [&](int64_t c, const Sums<double>& s) {
      dshift[c] = static_cast<A>(s.s0), dscale[c] = static_cast<A>(s.s1);
    };
    if (a.shape.channels_last) {
      const auto sums = grad_rows<T, act(), Pass::fixed>(a.shape, 0, a.shape.C, grad, x, dx, affine, slope, a.pool);
      for (int64_t c = 0; c < a.shape.C; ++c) set(c, sums[c]);
    } else {
      parallel(a.pool, a.shape.C, channel_grain(a.shape), [&](int64_t b, int64_t e) {
        for (int64_t c = b; c < e; ++c)
          set(c, grad_channel<T, act(), Pass::fixed>(a.shape, grad, x, dx, c, affine, slope));
      });
    }
  });
}

void bn_grad_sums(const BnGradSumsArgs& a) {
  with_dtype_and_act(a.shape.dtype, a.act, [&](auto t, auto act) {
    using T = decltype(t);
    using A = Acc<T>;
    const T *grad = static_cast<const T*>(a.grad), *x = static_cast<const T*>(a.x);
    const A *mean = static_cast<const A*>(a.mean), *var = static_cast<const A*>(a.var);
    const A *weight = static_cast<const A*>(a.weight), *bias = static_cast<const A*>(a.bias);
    A *scale = static_cast<A*>(a.scale), *shift = static_cast<A*>(a.shift);
    A *slant = static_cast<A*>(a.slant), *offset = static_cast<A*>(a.offset);
    A *dweight = static_cast<A*>(a.dweight), *dbias = static_cast<A*>(a.dbias);
    const V<T> slope(static_cast<A>(a.slope));
    const GradAffine<A> affine{{mean, scale, shift}, nullptr, nullptr};
    auto inverse_std = [&](int64_t c) { return 1.0 / std::sqrt(var[c] + a.eps); };
    auto fold = [&](int64_t c) {
      scale[c] = static_cast<A>((weight ? weight[c] : 1.0) * inverse_std(c));
      shift[c] = bias ? bias[c] : A(0);
    };
    auto set = [&](int64_t c, const Sums<double>& s) {
      const double values = static_cast<double>(std::max<int64_t>(1, a.shape.values())), r = inverse_std(c);
      dbias[c] = static_cast<A>(s.s0), dweight[c] = static_cast<A>(s.s1 * r);
      slant[c] = static_cast<A>(-scale[c] * r * r * s.s1 / values),
      offset[c] = static_cast<A>(-scale[c] * s.s0 / values);
    };
    T* const nothing = nullptr;
    if (a.shape.channels_last) {
      for (int64_t c = a.begin; c < a.end; ++c) fold(c);
      const auto sums =
          grad_rows<T, act(), Pass::sums>(a.shape, a.begin, a.end, grad, x, nothing, affine, slope, a.pool);
      for (int64_t c = a.begin; c < a.end; ++c) set(c, sums[c - a.begin]);
    } else {
      parallel(a.pool, a.end - a.begin, channel_grain(a.shape), [&](int64_t b, int64_t e) {
        for (int64_t c = a.begin + b; c < a.begin + e; ++c) {
          fold(c);
          set(c, grad_channel<T, act(), Pass::sums>(a.shape, grad, x, nothing, c, affine, slope));
        }
      });
    }
  });
}

void bn_act_train_backward(const BnActTrainBackwardArgs& a) {
  with_dtype_and_act(a.shape.dtype, a.act, [&](auto t, auto act) {
    using T = decltype(t);
    using A = Acc<T>;
    const int64_t C = a.shape.C;
    const T *grad = static_cast<const T*>(a.grad), *x = static_cast<const T*>(a.x);
    T* dx = static_cast<T*>(a.dx);
    const V<T> slope(static_cast<A>(a.slope));
    std::vector<A> per_channel(4 * C);
    A *scale = per_channel.data(), *shift = scale + C, *slant = shift + C, *offset = slant + C;
    const GradAffine<A> affine{{static_cast<const A*>(a.mean), scale, shift}, slant, offset};
    BnGradSumsArgs sums{a.shape, grad,  x,      a.mean, a.var, a.weight, a.bias, a.dweight, a.dbias, scale,
                        shift,   slant, offset, a.eps,  a.act, a.slope,  0,      C,         a.pool};
    if (a.shape.channels_last) {
      CK_ISA::bn_grad_sums(sums);
      grad_rows<T, act(), Pass::batch>(a.shape, 0, C, grad, x, dx, affine, slope, a.pool);
      return;
    }
    parallel(a.pool, C, channel_grain(a.shape), [&](int64_t b, int64_t e) {
      for (int64_t c = b; c < e; ++c) {  // the second pass finds the channel in the cache
        BnGradSumsArgs one = sums;
        one.begin = c, one.end = c + 1, one.pool = serial_pool();
        CK_ISA::bn_grad_sums(one);
        grad_channel<T, act(), Pass::batch>(a.shape, grad, x, dx, c, affine, slope);
      }
    });
  });
}

}  // namespace ck::cpu::CK_ISA
