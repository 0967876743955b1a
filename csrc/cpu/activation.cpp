// Element-wise activations.  Bytes per element: 2e forward, 3e backward; the arithmetic (Mish: one exp and one
// reciprocal per lane) stays below the cost of those bytes once the data leaves the L2 cache.
#include "activation.h"

#include "elements.h"

namespace ck::cpu::CK_ISA {
void activation_forward(const ActivationArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    const T* x = static_cast<const T*>(a.x);
    T* y = static_cast<T*>(a.out);
    const V<T> slope(static_cast<Acc<T>>(a.slope));
    with_act(a.act, [&](auto act) {
      parallel(a.pool, a.n, kGrain, [&](int64_t b, int64_t e) {
        for_vectors<T>(b, e, [&](int64_t i, int n) __attribute__((always_inline)) {
          put(y + i, activate<act()>(get(x + i, n), slope), n);
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
          put(dx + i, get(dy + i, n) * activate_grad<act()>(get(x + i, n), slope), n);
        });
      });
    });
  });
}

}  // namespace ck::cpu::CK_ISA
