// Element-wise activations.  Bytes per element: 2e forward, 3e backward; the arithmetic (Mish: one exp and one
// reciprocal per lane) stays below the cost of those bytes once the data leaves the L2 cache.
#include "activation.h"

#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kGrain = 16384;  // elements per task: 64 KiB of fp32, several times the cost of waking a thread

// f(vector of inputs at i, valid lanes) stores its own result; two vectors a turn keep both FMA pipes busy.
template <class T, class F>
CK_INLINE void for_vectors(int64_t begin, int64_t end, F&& f) {
  constexpr int N = V<T>::N;
  int64_t i = begin;
  for (; i + 2 * N <= end; i += 2 * N) f(i, N), f(i + N, N);
  for (; i + N <= end; i += N) f(i, N);
  if (i < end) f(i, static_cast<int>(end - i));
}

}  // namespace

void activation_forward(const ActivationArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    const T* x = static_cast<const T*>(a.x);
    T* y = static_cast<T*>(a.out);
    const V<T> slope(static_cast<Acc<T>>(a.slope));
    with_act(a.act, [&](auto act) {
      parallel(a.pool, a.n, kGrain, [&](int64_t b, int64_t e) {
        for_vectors<T>(b, e, [&](int64_t i, int n) __attribute__((always_inline)) {
          if (n == V<T>::N) store(y + i, activate<act()>(vload(x + i), slope));
          else store_n(y + i, activate<act()>(vload_n(x + i, n), slope), n);
        });
      });
    });
  });
}

void activation_backward(const ActivationArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    const T* x = static_cast<const T*>(a.x);
    const T* dy = static_cast<const T*>(a.grad);
    T* dx = static_cast<T*>(a.out);
    const V<T> slope(static_cast<Acc<T>>(a.slope));
    with_act(a.act, [&](auto act) {
      parallel(a.pool, a.n, kGrain, [&](int64_t b, int64_t e) {
        for_vectors<T>(b, e, [&](int64_t i, int n) __attribute__((always_inline)) {
          if (n == V<T>::N) store(dx + i, vload(dy + i) * activate_grad<act()>(vload(x + i), slope));
          else store_n(dx + i, vload_n(dy + i, n) * activate_grad<act()>(vload_n(x + i, n), slope), n);
        });
      });
    });
  });
}

}  // namespace ck::cpu::CK_ISA
