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

// du as what a batch norm and an activation behind the convolution hand back, computed while it is read:
//   du = a_c * (grad * act'(scale_c * u + shift_c)) + b_c * u + d_c
// The vectors have C elements of the accumulate type (float; double if dtype is f64).
struct BnActGrad {
  const void* u;  // [N, C, P, Q]
  const void *scale, *shift, *a, *b, *d;
  Act act;
  double slope;
};

struct DwConvBackwardArgs {
  Dtype dtype;
  DwConvShape shape;
  const void* grad;     // [N, C, P, Q]: du, or the gradient that bn turns into du
  const BnActGrad* bn;  // null: grad is du
  const void* x;        // [N, C, H, W]; needed for dweight
  const void* weight;   // [C, 1, kh, kw]; needed for dx
  void* dx;             // [N, C, H, W], or null
  void* dweight;        // [C, 1, kh, kw], float (double if dtype is f64), or null
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(dwconv_backward, ck::cpu::DwConvBackwardArgs)
