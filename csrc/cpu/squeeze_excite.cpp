// Squeeze-and-excitation.  x is read twice and y written once (3e bytes per element); the second reading comes from cache
// where an image (or the batch) fits it.  With at least as many images as threads a thread takes whole images and nobody
// waits; with fewer, or with layers whose weights outweigh the images, each step is spread over all threads.
// Every sum has a fixed order, so the result does not depend on the number of threads.
#include "squeeze_excite.h"

#include <algorithm>
#include <memory>

#include "dense.h"
#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kTaskElements = 16384;   // per task: several times the cost of waking a thread
constexpr int64_t kStripElements = 32768;  // of a channels_last image, summed into one partial result

int64_t grain(int64_t elements_per_item) {
  return std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, elements_per_item));
}

template <class T>
T rounded(Acc<T> v) {
  return from_float<T>(static_cast<float>(v));
}
template <>
double rounded<double>(double v) {
  return v;
}

// ---- sums over pixels ------------------------------------------------------------------------------------------------

// NCHW: sum of x and, with DOT, of dy * x over the n pixels of a plane.
template <class T, bool DOT>
CK_INLINE void sum_plane(const T* x, const T* dy, int64_t n, Acc<T>* sx, Acc<T>* sd) {
  constexpr int N = V<T>::N;
  V<T> s[4] = {0.f, 0.f, 0.f, 0.f}, d[4] = {0.f, 0.f, 0.f, 0.f};
  int64_t i = 0;
  for (; i + 4 * N <= n; i += 4 * N) {
    for (int k = 0; k < 4; ++k) {
      const V<T> v = vload(x + i + k * N);
      s[k] = s[k] + v;
      if constexpr (DOT) d[k] = fma(vload(dy + i + k * N), v, d[k]);
    }
  }
  for (int k = 0; i < n; i += N, k = (k + 1) % 4) {
    const int lanes = static_cast<int>(std::min<int64_t>(N, n - i));
    const V<T> v = at(x + i, lanes);
    s[k] = s[k] + v;
    if constexpr (DOT) d[k] = fma(at(dy + i, lanes), v, d[k]);
  }
  *sx = sum((s[0] + s[1]) + (s[2] + s[3]));
  if constexpr (DOT) *sd = sum((d[0] + d[1]) + (d[2] + d[3]));
}

// channels_last: sums over n pixels of C channels, written to (FIRST) or added to sx and sd; four pixels a turn, so that a
// sum is loaded and stored once for four values.
template <class T, bool DOT, int PIXELS>
CK_INLINE void sum_rows(const T* x, const T* dy, int64_t C, bool first, Acc<T>* sx, Acc<T>* sd) {
  for_vectors<T>(C, [&](int64_t c, int lanes) __attribute__((always_inline)) {
    using A = Acc<T>;
    V<T> s(0.f), d(0.f);
    for (int k = 0; k < PIXELS; ++k) {
      const V<T> v = at(x + k * C + c, lanes);
      s = s + v;
      if constexpr (DOT) d = fma(at(dy + k * C + c, lanes), v, d);
    }
    put<A>(sx + c, first ? s : s + at<A>(sx + c, lanes), lanes);
    if constexpr (DOT) put<A>(sd + c, first ? d : d + at<A>(sd + c, lanes), lanes);
  });
}
template <class T, bool DOT>
void sum_pixels(const T* x, const T* dy, int64_t n, int64_t C, Acc<T>* sx, Acc<T>* sd) {
  int64_t p = 0;
  for (; p + 4 <= n; p += 4) sum_rows<T, DOT, 4>(x + p * C, DOT ? dy + p * C : nullptr, C, p == 0, sx, sd);
  for (; p < n; ++p) sum_rows<T, DOT, 1>(x + p * C, DOT ? dy + p * C : nullptr, C, p == 0, sx, sd);
}

// ---- the two layers --------------------------------------------------------------------------------------------------

// Columns [begin, end) of out[N, columns] = in[N, rows] * w[rows, columns].
template <class T>
void dense_transposed(const T* w, const Acc<T>* in, int64_t rows, int64_t columns, int64_t begin, int64_t end,
                      int64_t N, Acc<T>* out) {
  using A = Acc<T>;
  for (int64_t n = 0; n < N; ++n) {
    for_vectors<T>(end - begin, [&](int64_t k, int lanes) __attribute__((always_inline)) {
      V<T> acc[2] = {0.f, 0.f};
      for (int64_t r = 0; r < rows; ++r)
        acc[r & 1] = fma(V<T>(in[n * rows + r]), at(w + r * columns + begin + k, lanes), acc[r & 1]);
      put<A>(out + n * columns + begin + k, acc[0] + acc[1], lanes);
    });
  }
}

// Rows [begin, end) of dw[rows, K] = sum_n d[n, row] * in[n, k] and of db[rows] = sum_n d[n, row].
template <class T>
void weight_gradient(const Acc<T>* d, const Acc<T>* in, int64_t begin, int64_t end, int64_t rows, int64_t K, int64_t N,
                     T* dw, T* db) {
  using A = Acc<T>;
  for (int64_t r = begin; r < end; ++r) {
    for_vectors<T>(K, [&](int64_t k, int lanes) __attribute__((always_inline)) {
      V<T> acc(0.f);
      for (int64_t n = 0; n < N; ++n) acc = fma(V<T>(d[n * rows + r]), at<A>(in + n * K + k, lanes), acc);
      put(dw + r * K + k, acc, lanes);
    });
    A b = 0;
    for (int64_t n = 0; n < N; ++n) b += d[n * rows + r];
    db[r] = rounded<T>(b);
  }
}

// f(V) over v[0..n), in place where `out` is v.
template <class A, class F>
CK_INLINE void map(const A* v, A* out, int64_t n, F&& f) {
  for_vectors<A>(n, [&](int64_t i, int lanes)
                        __attribute__((always_inline)) { put<A>(out + i, f(at(v + i, lanes), i, lanes), lanes); });
}

// ---- scaling -----------------------------------------------------------------------------------------------------------

// out = in * gate (+ shift) for planes (n, c) in [begin, end), or for all channels of the pixels [begin, end).
template <class T, bool SHIFT>
void scale_planes(const T* in, T* out, const Acc<T>* gate, const Acc<T>* shift, int64_t HW, int64_t begin,
                  int64_t end) {
  for (int64_t q = begin; q < end; ++q) {
    const V<T> g(gate[q]), s(SHIFT ? shift[q] : 0);
    for_vectors<T>(HW, [&](int64_t i, int lanes) __attribute__((always_inline)) {
      const V<T> v = at(in + q * HW + i, lanes);
      put(out + q * HW + i, SHIFT ? fma(v, g, s) : v * g, lanes);
    });
  }
}
template <class T, bool SHIFT>
void scale_pixels(const T* in, T* out, const Acc<T>* gate, const Acc<T>* shift, int64_t HW, int64_t C, int64_t begin,
                  int64_t end) {
  using A = Acc<T>;
  for (int64_t p = begin; p < end; ++p) {
    const int64_t image = p / HW * C;
    for_vectors<T>(C, [&](int64_t c, int lanes) __attribute__((always_inline)) {
      const V<T> v = at(in + p * C + c, lanes), g = at<A>(gate + image + c, lanes);
      put(out + p * C + c, SHIFT ? fma(v, g, at<A>(shift + image + c, lanes)) : v * g, lanes);
    });
  }
}

// ---- all of it -----------------------------------------------------------------------------------------------------------

// The steps, each over a range of images; `pool` spreads a step over threads.
template <class T>
struct Block {
  using A = Acc<T>;
  const SqueezeExciteShape& s;
  const T *x, *w1, *b1, *w2, *b2;
  int64_t strips = s.channels_last ? std::max<int64_t>(1, s.HW* s.C / kStripElements) : 1;

  // means (and, with DOT, sums of dy * x) of images [n0, n1); partial: 2 * strips * C values per image, if strips > 1
  template <bool DOT>
  void pool_images(const Pool& pool, int64_t n0, int64_t n1, const T* dy, A* mean, A* dot, A* partial) const {
    const A scale = A(1) / static_cast<A>(s.HW);
    if (!s.channels_last) {
      parallel(pool, (n1 - n0) * s.C, grain(s.HW), [&](int64_t b, int64_t e) {
        for (int64_t q = n0 * s.C + b; q < n0 * s.C + e; ++q) {
          A sx, sd;
          sum_plane<T, DOT>(x + q * s.HW, DOT ? dy + q * s.HW : nullptr, s.HW, &sx, &sd);
          mean[q] = sx * scale;
          if constexpr (DOT) dot[q] = sd;
        }
      });
      return;
    }
    const int64_t half = s.N * strips * s.C;
    A* const sums[2] = {strips == 1 ? mean : partial, strips == 1 ? dot : partial + half};
    parallel(pool, (n1 - n0) * strips, grain(s.HW * s.C / strips), [&](int64_t b, int64_t e) {
      for (int64_t t = n0 * strips + b; t < n0 * strips + e; ++t) {
        const int64_t n = t / strips, k = t % strips, p0 = s.HW * k / strips, p1 = s.HW * (k + 1) / strips;
        const int64_t from = (n * s.HW + p0) * s.C;
        sum_pixels<T, DOT>(x + from, DOT ? dy + from : nullptr, p1 - p0, s.C, sums[0] + t * s.C,
                           DOT ? sums[1] + t * s.C : nullptr);
      }
    });
    for (int64_t n = n0; n < n1; ++n) {
      for (int which = 0; which < (DOT ? 2 : 1); ++which) {
        A* out = (which ? dot : mean) + n * s.C;
        const A* in = sums[which] + n * strips * s.C;
        const V<A> factor(which ? A(1) : scale);
        map(in, out, s.C, [&](V<A> v, int64_t c, int lanes) __attribute__((always_inline)) {
          for (int64_t k = 1; k < strips; ++k) v = v + at(in + k * s.C + c, lanes);
          return v * factor;
        });
      }
    }
  }

  // hidden = w1 mean + b1 (before act), h = act(hidden), gate_in = w2 h + b2 (before the gate), of images [n0, n1)
  void layers(const Pool& pool, int64_t n0, int64_t n1, const A* mean, A* hidden, A* h, A* gate_in) const {
    const int64_t N = n1 - n0;
    mean += n0 * s.C, gate_in += n0 * s.C, hidden += n0 * s.R, h += n0 * s.R;
    parallel(pool, s.R, grain(s.C * N), [&](int64_t b, int64_t e) { dense(w1, b1, mean, b, e, s.C, N, hidden, s.R); });
    with_act(s.act, [&](auto act) {
      const V<A> slope(static_cast<A>(s.slope));
      map(hidden, h, N * s.R,
          [&](V<A> v, int64_t, int) __attribute__((always_inline)) { return activate<act()>(v, slope); });
    });
    parallel(pool, s.C, grain(s.R * N), [&](int64_t b, int64_t e) { dense(w2, b2, h, b, e, s.R, N, gate_in, s.C); });
  }

  void gates(int64_t n0, int64_t n1, const A* gate_in, A* gate) const {
    with_gate([&](auto g) {
      map(gate_in + n0 * s.C, gate + n0 * s.C, (n1 - n0) * s.C,
          [&](V<A> v, int64_t, int) __attribute__((always_inline)) { return activate<g()>(v, V<A>(0.f)); });
    });
  }

  template <class F>
  void with_gate(F&& f) const {
    if (s.gate == Act::sigmoid) f(std::integral_constant<Act, Act::sigmoid>());
    else f(std::integral_constant<Act, Act::hard_sigmoid>());
  }

  template <bool SHIFT>
  void scale_images(const Pool& pool, int64_t n0, int64_t n1, const T* in, T* out, const A* gate,
                    const A* shift) const {
    if (s.channels_last) {
      parallel(pool, (n1 - n0) * s.HW, grain(s.C), [&](int64_t b, int64_t e) {
        scale_pixels<T, SHIFT>(in, out, gate, shift, s.HW, s.C, n0 * s.HW + b, n0 * s.HW + e);
      });
    } else {
      parallel(pool, (n1 - n0) * s.C, grain(s.HW), [&](int64_t b, int64_t e) {
        scale_planes<T, SHIFT>(in, out, gate, shift, s.HW, n0 * s.C + b, n0 * s.C + e);
      });
    }
  }

  // f(pool, n0, n1): whole images per thread, or all images in one call whose steps use all threads.
  template <class F>
  void for_images(const Pool& pool, F&& f) const {
    const bool light_layers = 2 * s.R <= s.HW;  // multiplications of an image's layers against its elements
    if (s.N >= pool.threads && s.N % pool.threads == 0 && light_layers)
      parallel(pool, s.N, grain(2 * s.C * s.HW), [&](int64_t b, int64_t e) {
        for (int64_t n = b; n < e; ++n) f(serial_pool(), n, n + 1);
      });
    else f(pool, int64_t(0), s.N);
  }
};

}  // namespace

void squeeze_excite_forward(const SqueezeExciteArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    const SqueezeExciteShape& s = a.shape;
    const auto p = [](const void* q) { return static_cast<const T*>(q); };
    const Block<T> block{s, p(a.x), p(a.w1), p(a.b1), p(a.w2), p(a.b2)};
    const int64_t nc = s.N * s.C, nr = s.N * s.R, extra = block.strips > 1 ? nc * block.strips : 0;
    const std::unique_ptr<A[]> memory(new A[2 * nc + 2 * nr + extra]);
    A *mean = memory.get(), *gate = mean + nc, *hidden = gate + nc, *h = hidden + nr, *partial = h + nr;
    if (a.gates) gate = static_cast<A*>(a.gates);
    block.for_images(a.pool, [&](const Pool& pool, int64_t n0, int64_t n1) {
      block.template pool_images<false>(pool, n0, n1, nullptr, mean, nullptr, partial);
      block.layers(pool, n0, n1, mean, hidden, h, gate);
      block.gates(n0, n1, gate, gate);
      if (a.y) block.template scale_images<false>(pool, n0, n1, block.x, static_cast<T*>(a.y), gate, nullptr);
    });
  });
}

void squeeze_excite_backward(const SqueezeExciteBackwardArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    const SqueezeExciteShape& s = a.shape;
    const auto p = [](const void* q) { return static_cast<const T*>(q); };
    const Block<T> block{s, p(a.x), p(a.w1), p(a.b1), p(a.w2), p(a.b2)};
    const int64_t nc = s.N * s.C, nr = s.N * s.R, extra = block.strips > 1 ? 2 * nc * block.strips : 0;
    const std::unique_ptr<A[]> memory(new A[5 * nc + 3 * nr + extra]);
    A *mean = memory.get(), *dgate = mean + nc, *gate_in = dgate + nc, *gate = gate_in + nc, *dmean = gate + nc;
    A *hidden = dmean + nc, *h = hidden + nr, *dhidden = h + nr, *partial = dhidden + nr;
    const T* dy = p(a.grad);
    block.for_images(a.pool, [&](const Pool& pool, int64_t n0, int64_t n1) {
      const int64_t N = n1 - n0, c0 = n0 * s.C, r0 = n0 * s.R;
      block.template pool_images<true>(pool, n0, n1, dy, mean, dgate, partial);
      block.layers(pool, n0, n1, mean, hidden, h, gate_in);
      block.gates(n0, n1, gate_in, gate);
      block.with_gate([&](auto g) {
        map(dgate + c0, dgate + c0, N * s.C, [&](V<A> v, int64_t i, int lanes) __attribute__((always_inline)) {
          return v * activate_grad<g()>(at(gate_in + c0 + i, lanes), V<A>(0.f));
        });
      });
      parallel(pool, s.R, std::max<int64_t>(64, grain(s.C * N)),
               [&](int64_t b, int64_t e) { dense_transposed(block.w2, dgate + c0, s.C, s.R, b, e, N, dhidden + r0); });
      with_act(s.act, [&](auto act) {
        const V<A> slope(static_cast<A>(s.slope));
        map(dhidden + r0, dhidden + r0, N * s.R, [&](V<A> v, int64_t i, int lanes) __attribute__((always_inline)) {
          return v * activate_grad<act()>(at(hidden + r0 + i, lanes), slope);
        });
      });
      parallel(pool, s.C, std::max<int64_t>(64, grain(s.R * N)),
               [&](int64_t b, int64_t e) { dense_transposed(block.w1, dhidden + r0, s.R, s.C, b, e, N, dmean + c0); });
      const V<A> scale(A(1) / static_cast<A>(s.HW));
      map(dmean + c0, dmean + c0, N * s.C,
          [&](V<A> v, int64_t, int) __attribute__((always_inline)) { return v * scale; });
      block.template scale_images<true>(pool, n0, n1, dy, static_cast<T*>(a.dx), gate, dmean);
    });
    parallel(a.pool, s.R, grain(s.C * s.N), [&](int64_t b, int64_t e) {
      weight_gradient(dhidden, mean, b, e, s.R, s.C, s.N, static_cast<T*>(a.dw1), static_cast<T*>(a.db1));
    });
    parallel(a.pool, s.C, grain(s.R * s.N), [&](int64_t b, int64_t e) {
      weight_gradient(dgate, h, b, e, s.C, s.R, s.N, static_cast<T*>(a.dw2), static_cast<T*>(a.db2));
    });
  });
}

}  // namespace ck::cpu::CK_ISA
