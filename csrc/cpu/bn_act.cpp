// Batch norm and activation, forward.  Bytes per element: 2e (3e with a residual); with batch statistics x is read twice.
// In NCHW the second read hits the cache: one thread takes a whole channel through both passes, and a channel (N * H * W
// elements) mostly fits in L2.
#include "bn_act.h"

#include <vector>

#include "bn_moments.h"

namespace ck::cpu::CK_ISA {
namespace {

template <class T, Act A>
CK_INLINE void apply_run(const T* x, const T* residual, T* y, int64_t begin, int64_t end, const AffineVec<V<T>>& affine,
                         V<T> slope) {
  if (residual) {
    for_vectors<T>(begin, end, [&](int64_t i, int n) __attribute__((always_inline)) {
      put(y + i, activate<A>(affine(get(x + i, n)), slope) + get(residual + i, n), n);
    });
  } else {
    for_vectors<T>(begin, end, [&](int64_t i, int n) __attribute__((always_inline)) {
      put(y + i, activate<A>(affine(get(x + i, n)), slope), n);
    });
  }
}

template <class T, Act A>
void apply_planes(const BnShape& s, const T* x, const T* residual, T* y, const Affine<Acc<T>>& a, V<T> slope,
                  const Pool& pool) {
  parallel(pool, s.numel(), kGrain, [&](int64_t b, int64_t e) {
    while (b < e) {
      const int64_t plane = b / s.S, end = std::min(e, (plane + 1) * s.S);
      apply_run<T, A>(x, residual, y, b, end, broadcast<T>(a, plane % s.C), slope);
      b = end;
    }
  });
}

template <class T, Act A>
void apply_rows(const BnShape& s, const T* x, const T* residual, T* y, const Affine<Acc<T>>& a, V<T> slope,
                const Pool& pool) {
  constexpr int N = V<T>::N;
  const int64_t C = s.C, group = std::max<int64_t>(1, kGroup / std::max<int64_t>(1, C));
  parallel(pool, s.values(), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, C)), [&](int64_t b, int64_t e) {
    for (; b < e; b += group) {
      const int64_t end = std::min(e, b + group);
      for_channel_blocks<T>(0, C, [&](auto vectors, int64_t c, int n) __attribute__((always_inline)) {
        AffineVec<V<T>> affine[vectors()];
        for (int k = 0; k < vectors(); ++k) affine[k] = channels<T>(a, c + k * N, n);
        for (int64_t r = b; r < end; ++r) {
          for (int k = 0; k < vectors(); ++k) {
            const int64_t i = r * C + c + k * N;
            V<T> v = activate<A>(affine[k](get(x + i, n)), slope);
            if (residual) v = v + get(residual + i, n);
            put(y + i, v, n);
          }
        }
      });
    }
  });
}

}  // namespace

void bn_act_forward(const BnActArgs& a) {
  if (a.shape.numel() == 0) return;
  with_dtype_and_act(a.shape.dtype, a.act, [&](auto t, auto act) {
    using T = decltype(t);
    using A = Acc<T>;
    const Affine<A> affine{nullptr, static_cast<const A*>(a.scale), static_cast<const A*>(a.shift)};
    const auto apply = a.shape.channels_last ? apply_rows<T, act()> : apply_planes<T, act()>;
    apply(a.shape, static_cast<const T*>(a.x), static_cast<const T*>(a.residual), static_cast<T*>(a.y), affine,
          V<T>(static_cast<A>(a.slope)), a.pool);
  });
}

void channel_stats(const ChannelStatsArgs& a) {
  with_dtype(a.shape.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    const T* x = static_cast<const T*>(a.x);
    A *mean = static_cast<A*>(a.mean), *var = static_cast<A*>(a.var);
    if (a.shape.channels_last) return row_moments(a.shape, x, mean, var, a.pool);
    parallel(a.pool, a.shape.C, channel_grain(a.shape), [&](int64_t b, int64_t e) {
      for (int64_t c = b; c < e; ++c) {
        const Moments m = channel_moments(a.shape, x, c);
        mean[c] = static_cast<A>(m.mean), var[c] = static_cast<A>(m.var());
      }
    });
  });
}

void bn_act_train_forward(const BnActTrainArgs& a) {
  with_dtype_and_act(a.shape.dtype, a.act, [&](auto t, auto act) {
    using T = decltype(t);
    using A = Acc<T>;
    const int64_t C = a.shape.C;
    const T *x = static_cast<const T*>(a.x), *residual = static_cast<const T*>(a.residual);
    T* y = static_cast<T*>(a.y);
    const A *weight = static_cast<const A*>(a.weight), *bias = static_cast<const A*>(a.bias);
    A *mean = static_cast<A*>(a.mean), *var = static_cast<A*>(a.var);
    const V<T> slope(static_cast<A>(a.slope));
    std::vector<A> scale(C), shift(C);
    const Affine<A> affine{mean, scale.data(), shift.data()};
    auto fold = [&](int64_t c) {
      scale[c] = static_cast<A>((weight ? weight[c] : 1.0) / std::sqrt(var[c] + a.eps));
      shift[c] = bias ? bias[c] : A(0);
    };
    if (a.shape.channels_last) {
      row_moments(a.shape, x, mean, var, a.pool);
      for (int64_t c = 0; c < C; ++c) fold(c);
      return apply_rows<T, act()>(a.shape, x, residual, y, affine, slope, a.pool);
    }
    parallel(a.pool, C, channel_grain(a.shape), [&](int64_t b, int64_t e) {
      for (int64_t c = b; c < e; ++c) {
        const Moments m = channel_moments(a.shape, x, c);
        mean[c] = static_cast<A>(m.mean), var[c] = static_cast<A>(m.var());
        fold(c);
        const auto vec = broadcast<T>(affine, c);
        for (int64_t n = 0; n < a.shape.N; ++n) {
          const int64_t begin = (n * C + c) * a.shape.S;
          apply_run<T, act()>(x, residual, y, begin, begin + a.shape.S, vec, slope);
        }
      }
    });
  });
}

}  // namespace ck::cpu::CK_ISA
