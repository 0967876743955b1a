// Gradients of the depthwise convolution u = dwconv(x, weight), sizes as in csrc/math/dwconv_shape.h:
//   dx[n, c, y, z]    = sum_ij weight[c, i, j] * du[n, c, p, q]     over the p, q with y = p * sh - top + i * dh, z likewise
//   dweight[c, i, j]  = sum_npq du[n, c, p, q] * x[n, c, p * sh - top + i * dh, q * sw - left + j * dw]
// Any kernel size, stride, dilation and padding.  The result does not depend on the number of threads.
#pragma once
#include "../math/activation.h"
#include "../math/dtype.h"
#include "../math/dwconv_shape.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {

// A batch norm with batch statistics and an activation behind the convolution, whose gradients are taken on the way:
//   y = act(weight_c * (u - mean_c) / sqrt(var_c + eps) + bias_c)
// The vectors have C elements of the accumulate type (float; double if dtype is f64).
struct BnActGrad {
  const void* u;  // [N, C, P, Q]
  const void *mean, *var;
  const void *weight, *bias;  // null: 1, 0
  void *dweight, *dbias;
  double eps;
  Act act;
  double slope;
};

struct DwConvBackwardArgs {
  Dtype dtype;
  DwConvShape shape;
  const void* grad;     // [N, C, P, Q]: du, or with bn dy
  const BnActGrad* bn;  // or null
  const void* x;        // [N, C, H, W]; needed for dweight
  const void* weight;   // [C, 1, kh, kw]; needed for dx
  void* dx;             // [N, C, H, W], or null
  void* dweight;        // [C, 1, kh, kw], float (double if dtype is f64), or null
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(dwconv_backward, ck::cpu::DwConvBackwardArgs)
