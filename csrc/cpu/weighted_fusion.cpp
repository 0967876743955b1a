// Weighted fusion of n maps.  Bytes per element: (n + 1)e forward, (2n + 1)e backward; composed of PyTorch's operators forward
// is (3n + 1)e with an activation in place, each pass over maps that the one before may have pushed out of the cache.
#include "weighted_fusion.h"

#include <algorithm>
#include <vector>

#include "elements.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kChunk =
    4096;  // elements whose products are added up in the accumulate type before they go to a double

// The maps and what each counts for.  Their number is a run-time one: a branch that always goes the same way, beside loads.
template <class T>
struct Maps {
  Maps(const void* const* maps, const FusionWeights<Acc<T>>& weights, int count) : count(count) {
    for (int k = 0; k < kMostMaps; ++k) x[k] = static_cast<const T*>(maps[k]), share[k] = V<T>(weights.share[k]);
  }
  CK_INLINE V<T> sum(int64_t i, int n) const {
    V<T> p = fma(get(x[1] + i, n), share[1], get(x[0] + i, n) * share[0]);
    if (count > 2) p = fma(get(x[2] + i, n), share[2], p);
    if (count > 3) p = fma(get(x[3] + i, n), share[3], p);
    return p;
  }
  const T* x[kMostMaps];
  V<T> share[kMostMaps];
  int count;
};

}  // namespace

void weighted_fusion_forward(const WeightedFusionArgs& a) {
  with_dtype_and_act(a.shape.dtype, a.act, [&](auto t, auto act) {
    using T = decltype(t);
    using A = Acc<T>;
    const FusionWeights<A> weights(static_cast<const A*>(a.weights), a.shape.maps, static_cast<A>(a.eps));
    const Maps<T> maps(a.x, weights, a.shape.maps);
    const V<T> slope(static_cast<A>(a.slope));
    T* const y = static_cast<T*>(a.y);
    parallel(a.pool, a.shape.numel, kGrain, [&](int64_t b, int64_t e) {
      const Maps<T> here = maps;  // of this function alone, so that the weights stay in registers
      for_vectors<T>(b, e, [&](int64_t i, int n) __attribute__((always_inline)) {
        put(y + i, activate<act()>(here.sum(i, n), slope), n);
      });
    });
  });
}

void weighted_fusion_backward(const WeightedFusionBackwardArgs& a) {
  with_dtype_and_act(a.shape.dtype, a.act, [&](auto t, auto act) {
    using T = decltype(t);
    using A = Acc<T>;
    const A* const w = static_cast<const A*>(a.weights);
    const FusionWeights<A> weights(w, a.shape.maps, static_cast<A>(a.eps));
    const Maps<T> maps(a.x, weights, a.shape.maps);
    const V<T> slope(static_cast<A>(a.slope));
    const T* const grad = static_cast<const T*>(a.grad);
    const int64_t chunks = (a.shape.numel + kChunk - 1) / kChunk;
    std::vector<A> parts(chunks * kMostMaps);
    parallel(a.pool, chunks, kGrain / kChunk, [&](int64_t first, int64_t last) {
      const Maps<T> here = maps;
      for (int64_t chunk = first; chunk < last; ++chunk) {
        V<T> dots[kMostMaps];
        for (auto& dot : dots) dot = V<T>(A(0));
        const int64_t begin = chunk * kChunk, end = std::min(a.shape.numel, begin + kChunk);
        for_vectors<T>(begin, end, [&](int64_t i, int n) __attribute__((always_inline)) {
          const V<T> g = get(grad + i, n) * activate_grad<act()>(here.sum(i, n), slope);
          const auto map = [&](int k) __attribute__((always_inline)) {
            dots[k] = fma(g, get(here.x[k] + i, n), dots[k]);
            put(static_cast<T*>(a.dx[k]) + i, g * here.share[k], n);
          };
          map(0), map(1);
          if (here.count > 2) map(2);
          if (here.count > 3) map(3);
        });
        for (int k = 0; k < here.count; ++k) parts[chunk * kMostMaps + k] = sum(dots[k]);
      }
    });
    double dots[kMostMaps] = {};
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      for (int k = 0; k < a.shape.maps; ++k) dots[k] += parts[chunk * kMostMaps + k];
    weights.gradient(w, dots, a.shape.maps, static_cast<A*>(a.dweights));
  });
}

}  // namespace ck::cpu::CK_ISA
