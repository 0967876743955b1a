// Batch norm and activation.  Bytes per element: 2e for the forward pass (3e with a residual), 3e for its backward; with
// batch statistics x is read twice (and grad too, backward).  In NCHW those second reads hit the cache: one thread takes a
// whole channel through both passes, and a channel (N * H * W elements) mostly fits in L2.
//
// NCHW: a task is a run of planes, or a channel where something is summed over it; parameters are broadcast scalars.
// channels_last: a task is a strip of rows of C channels.  A strip is walked in blocks of kBlock channel vectors, so that
// the block's parameters and sums stay in registers over all rows of the strip.
//
// Sums run in the accumulate type over at most kChunk values of a channel (or the rows of a strip) and continue in double;
// where chunks and strips begin depends on the shape only.
#include "bn_act.h"

#include <algorithm>
#include <vector>

#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kGrain = 16384;             // elements per task: several times the cost of waking a thread
constexpr int64_t kChunk = 4096;              // values of one channel between two additions to a double
constexpr int64_t kGroup = 4096;              // elements that an element-wise pass takes from x at once: L1
constexpr int kBlock = F32::N == 16 ? 4 : 2;  // channel vectors; with two sums each they fit 32 or 16 registers

template <class T> CK_INLINE V<T> get(const T* p, int n) { return n == V<T>::N ? vload(p) : vload_n(p, n); }
template <class T> CK_INLINE void put(T* p, V<T> v, int n) {
  if (n == V<T>::N) store(p, v);
  else store_n(p, v, n);
}

// f(first element, valid lanes) over [begin, end).
template <class T, class F>
CK_INLINE void for_vectors(int64_t begin, int64_t end, F&& f) {
  constexpr int N = V<T>::N;
  int64_t i = begin;
  for (; i + 2 * N <= end; i += 2 * N) f(i, N), f(i + N, N);
  for (; i + N <= end; i += N) f(i, N);
  if (i < end) f(i, static_cast<int>(end - i));
}

template <int K> using Count = std::integral_constant<int, K>;

// f(Count<vectors>, first channel, valid lanes of each vector) over C channels.
template <class T, class F>
CK_INLINE void for_channel_blocks(int64_t C, F&& f) {
  constexpr int N = V<T>::N;
  int64_t c = 0;
  for (; c + kBlock * N <= C; c += kBlock * N) f(Count<kBlock>(), c, N);
  for (; c < C; c += N) f(Count<1>(), c, static_cast<int>(std::min<int64_t>(N, C - c)));
}

// piece(begin, end) over the elements of channel c in NCHW, each within one plane; flush() after every kChunk values.
template <class P, class F>
CK_INLINE void for_channel(const BnShape& s, int64_t c, P&& piece, F&& flush) {
  int64_t room = kChunk;
  for (int64_t n = 0; n < s.N; ++n) {
    const int64_t first = (n * s.C + c) * s.S;
    for (int64_t i = 0; i < s.S;) {
      const int64_t len = std::min(s.S - i, room);
      piece(first + i, first + i + len);
      i += len, room -= len;
      if (room == 0) flush(), room = kChunk;
    }
  }
  if (room < kChunk) flush();
}

int64_t channel_grain(const BnShape& s) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, s.values())); }

// Strips of rows (channels_last): at least 64 rows, so that adding up the strips costs little beside reading them; at most
// 256, the longest chain of additions in working precision (half types lie on a lattice: their roundings do not average out).
struct Strips {
  explicit Strips(const BnShape& s)
      : rows(s.values()),
        step(std::clamp<int64_t>(kGrain / std::max<int64_t>(1, s.C), 64, 256)),
        count((rows + step - 1) / step),
        grain(std::max<int64_t>(1, kGrain / std::max<int64_t>(1, step * s.C))) {}
  int64_t begin(int64_t i) const { return i * step; }
  int64_t end(int64_t i) const { return std::min(rows, (i + 1) * step); }
  int64_t rows, step, count, grain;
};

// v = (x - mean) * scale + shift: the difference first, so that a mean far from zero costs no accuracy.
template <class A>
struct Affine {
  const A *mean, *scale, *shift;  // mean may be null: zero
};
template <class W>
struct AffineVec {
  W mean, scale, shift;
  CK_INLINE W operator()(W x) const { return fma(x - mean, scale, shift); }
};
template <class T>
CK_INLINE AffineVec<V<T>> broadcast(const Affine<Acc<T>>& a, int64_t c) {
  return {V<T>(a.mean ? a.mean[c] : Acc<T>(0)), V<T>(a.scale[c]), V<T>(a.shift[c])};
}
template <class T>
CK_INLINE AffineVec<V<T>> channels(const Affine<Acc<T>>& a, int64_t c, int n) {
  return {a.mean ? get(a.mean + c, n) : V<T>(Acc<T>(0)), get(a.scale + c, n), get(a.shift + c, n)};
}

// ---- y = act(v) (+ residual) -------------------------------------------------------------------------------------------

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
      for_channel_blocks<T>(C, [&](auto vectors, int64_t c, int n) __attribute__((always_inline)) {
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

// ---- mean and variance -------------------------------------------------------------------------------------------------
// Each chunk or strip sums x - K and (x - K)^2, K being the mean of its first few values: near its own mean, however far
// that is from zero.  Chan's formula joins the parts in double.

struct Moments {
  double n = 0, mean = 0, m2 = 0;
  CK_INLINE void add(double part_n, double part_mean, double part_m2) {
    const double total = n + part_n, delta = part_mean - mean, w = part_n / total;
    mean += delta * w;
    m2 += part_m2 + delta * delta * n * w;
    n = total;
  }
  double var() const { return n > 0 ? std::max(0.0, m2 / n) : 0.0; }
};

template <class T>
Moments channel_moments(const BnShape& s, const T* x, int64_t c) {
  Moments all;
  V<T> shift(Acc<T>(0)), s1[2] = {shift, shift}, s2[2] = {shift, shift};
  Acc<T> k = 0;
  double n = 0;
  for_channel(
      s, c,
      [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
        if (n == 0) {
          const int first = static_cast<int>(std::min<int64_t>(V<T>::N, end - begin));
          k = sum(vload_n(x + begin, first)) / static_cast<Acc<T>>(first);
          shift = V<T>(k);
        }
        n += static_cast<double>(end - begin);
        int turn = 0;
        for_vectors<T>(begin, end, [&](int64_t i, int lanes) __attribute__((always_inline)) {
          const V<T> d = lanes == V<T>::N ? vload(x + i) - shift : keep_n(vload_n(x + i, lanes) - shift, lanes);
          s1[turn] = s1[turn] + d;
          s2[turn] = fma(d, d, s2[turn]);
          turn ^= 1;
        });
      },
      [&]() __attribute__((always_inline)) {
        const double sum1 = sum(s1[0] + s1[1]), sum2 = sum(s2[0] + s2[1]);
        all.add(n, k + sum1 / n, sum2 - sum1 * sum1 / n);
        s1[0] = s1[1] = s2[0] = s2[1] = V<T>(Acc<T>(0));
        n = 0;
      });
  return all;
}

template <class T>
void row_moments(const BnShape& s, const T* x, Acc<T>* mean, Acc<T>* var, const Pool& pool) {
  using A = Acc<T>;
  constexpr int N = V<T>::N;
  const Strips strips(s);
  const int64_t C = s.C;
  std::vector<A> parts(strips.count * 2 * C);  // [strip][mean, m2][C]
  parallel(pool, strips.count, strips.grain, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const int64_t begin = strips.begin(i), end = strips.end(i);
      const A count = static_cast<A>(end - begin);
      A* part = parts.data() + i * 2 * C;
      for_channel_blocks<T>(C, [&](auto vectors, int64_t c, int n) __attribute__((always_inline)) {
        const int64_t first = std::min<int64_t>(8, end - begin);
        V<T> shift[vectors()], s1[vectors()], s2[vectors()];
        for (int k = 0; k < vectors(); ++k) {
          shift[k] = s1[k] = s2[k] = V<T>(A(0));
          for (int64_t r = begin; r < begin + first; ++r) shift[k] = shift[k] + get(x + r * C + c + k * N, n);
          shift[k] = shift[k] * V<T>(A(1) / static_cast<A>(first));
        }
        for (int64_t r = begin; r < end; ++r) {
          for (int k = 0; k < vectors(); ++k) {
            const V<T> d = get(x + r * C + c + k * N, n) - shift[k];
            s1[k] = s1[k] + d;
            s2[k] = fma(d, d, s2[k]);
          }
        }
        for (int k = 0; k < vectors(); ++k) {
          const V<T> m = s1[k] * V<T>(A(1) / count);
          put(part + c + k * N, shift[k] + m, n);
          put(part + C + c + k * N, s2[k] - s1[k] * m, n);
        }
      });
    }
  });
  std::vector<double> m(C), m2(C);
  double total = 0;
  for (int64_t i = 0; i < strips.count; ++i) {
    const double n = static_cast<double>(strips.end(i) - strips.begin(i)), w = n / (total + n);
    const A* part = parts.data() + i * 2 * C;
    for (int64_t c = 0; c < C; ++c) {
      const double delta = part[c] - m[c];
      m[c] += delta * w;
      m2[c] += part[C + c] + delta * delta * total * w;
    }
    total += n;
  }
  for (int64_t c = 0; c < C; ++c) {
    mean[c] = static_cast<A>(m[c]);
    var[c] = static_cast<A>(total > 0 ? std::max(0.0, m2[c] / total) : 0.0);
  }
}

// ---- gradients -----------------------------------------------------------------------------------------------------------
// With d = x - mean and g = grad * act'(v):
//   sums      s0 = sum g, s1 = sum g * d
//   fixed     dx = scale * g, and the sums                                     (scale and shift given)
//   batch     dx = scale * g + slant * d + offset                              (the sums known, through mean and var)

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

template <class T, Act A, Pass P>
std::vector<Sums<double>> grad_rows(const BnShape& s, const T* grad, const T* x, T* dx, const GradAffine<Acc<T>>& a,
                                    V<T> slope, const Pool& pool) {
  constexpr int N = V<T>::N;
  const Strips strips(s);
  const int64_t C = s.C;
  std::vector<Acc<T>> parts(P == Pass::batch ? 0 : strips.count * 2 * C);  // [strip][s0, s1][C]
  parallel(pool, strips.count, strips.grain, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      for_channel_blocks<T>(C, [&](auto vectors, int64_t c, int n) __attribute__((always_inline)) {
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
            put(parts.data() + (i * 2) * C + c + k * N, s0[k], n);
            put(parts.data() + (i * 2 + 1) * C + c + k * N, s1[k], n);
          }
        }
      });
    }
  });
  if constexpr (P == Pass::batch) return {};
  std::vector<Sums<double>> all(C, {0, 0});
  for (int64_t i = 0; i < strips.count; ++i) {
    const Acc<T>* part = parts.data() + i * 2 * C;
    for (int64_t c = 0; c < C; ++c) all[c].s0 += part[c], all[c].s1 += part[C + c];
  }
  return all;
}

// f(T(), activation as a compile-time constant)
template <class F>
void with_dtype_and_act(Dtype dtype, Act act, F&& f) {
  with_dtype(dtype, [&](auto t) { with_act(act, [&](auto a) { f(t, a); }); });
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
      const auto sums = grad_rows<T, act(), Pass::fixed>(a.shape, grad, x, dx, affine, slope, a.pool);
      for (int64_t c = 0; c < a.shape.C; ++c) set(c, sums[c]);
    } else {
      parallel(a.pool, a.shape.C, channel_grain(a.shape), [&](int64_t b, int64_t e) {
        for (int64_t c = b; c < e; ++c)
          set(c, grad_channel<T, act(), Pass::fixed>(a.shape, grad, x, dx, c, affine, slope));
      });
    }
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
      for (int64_t c = 0; c < a.shape.C; ++c) fold(c);
      const auto sums = grad_rows<T, act(), Pass::sums>(a.shape, grad, x, nothing, affine, slope, a.pool);
      for (int64_t c = 0; c < a.shape.C; ++c) set(c, sums[c]);
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
      grad_rows<T, act(), Pass::batch>(a.shape, grad, x, dx, affine, slope, a.pool);
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
