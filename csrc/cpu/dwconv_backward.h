// Gradients of the depthwise convolution u = dwconv(x, weight), sizes as in csrc/math/dwconv_shape.h:
//   dx[n, c, y, z]    = sum_ij weight[c, i, j] * du[n, c, p, q]     over the p, q with y = p * sh - top + i * dh, z likewise
//   dweight[c, i, j]  = sum_npq du[n, c, p, q] * x[n, c, p * sh - top + i * dh, q * sw - left + j * dw]
// Any kernel size, stride, dilation and padding.  The result does not depend on the number of threads.
#pragma once
#include "../math/dtype.h"
#include "../math/dwconv_shape.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct DwConvBackwardArgs {
  Dtype dtype;
  DwConvShape shape;
  const void* grad;    // du [N, C, P, Q]
  const void* x;       // [N, C, H, W]; dwconv_grad_weight only
  const void* weight;  // [C, 1, kh, kw]; dwconv_grad_input only
  void* out;           // dx, of `dtype`; or dweight [C, 1, kh, kw], float (double if dtype is f64)
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(dwconv_grad_input, ck::cpu::DwConvBackwardArgs)
CK_CPU_KERNEL(dwconv_grad_weight, ck::cpu::DwConvBackwardArgs)
