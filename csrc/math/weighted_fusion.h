// Fast normalised fusion (Tan et al. 2019, arXiv:1911.09070, section 3.3), what all of its kernels share.
//
//   y = act(sum_i c_i x_i),   c_i = max(w_i, 0) / t,   t = sum_j max(w_j, 0) + eps
//
// With g = grad * act'(.) and D_i = sum over the map of g * x_i:
//   dx_i = c_i * g,   dw_i = (D_i - sum_j c_j D_j) / t where w_i > 0, else 0.
#pragma once
#include <cstdint>

#include "activation.h"  // CK_HD
#include "dtype.h"

namespace ck {

constexpr int kMostMaps = 4;

struct FusionShape {
  Dtype dtype;
  int maps;       // 2 to kMostMaps
  int64_t numel;  // of each
};

// A: float, or double for fp64.  Comparisons are written so that a NaN among the weights makes everything NaN, as in PyTorch.
template <class A>
struct FusionWeights {
  A share[kMostMaps];  // c_i; zeros beyond the last map
  A total;             // t

  CK_HD FusionWeights(const A* w, int maps, A eps) : total(eps) {
    for (int k = 0; k < kMostMaps; ++k) {
      share[k] = k < maps ? m_max(A(0), w[k]) : A(0);
      total += share[k];
    }
    for (int k = 0; k < kMostMaps; ++k) share[k] = share[k] / total;
  }

  // dots: D_i.
  template <class D>
  CK_HD void gradient(const A* w, const D* dots, int maps, A* dw) const {
    D mean(0);
    for (int k = 0; k < kMostMaps; ++k)
      if (k < maps) mean += share[k] * dots[k];
    for (int k = 0; k < kMostMaps; ++k)
      if (k < maps) dw[k] = w[k] <= A(0) ? A(0) : static_cast<A>((dots[k] - mean) / total);
  }
};

}  // namespace ck
