// Sizes of a depthwise convolution, shared by the CPU and the CUDA kernels.
#pragma once
#include <cstdint>

#include "bn_shape.h"

namespace ck {

// x: [N, C, H, W], weight: [C, 1, kh, kw], u: [N, C, P, Q]; all dense, x and u both NCHW or both NHWC (channels_last).
//   u[n, c, p, q] = sum_ij weight[c, i, j] * x[n, c, p * sh - top + i * dh, q * sw - left + j * dw]     (0 outside x)
struct DwConvShape {
  int64_t N, C, H, W;  // input
  int64_t P, Q;        // output rows and columns
  int kh, kw, sh, sw, dh, dw;
  int top, left;  // padding before the first row and column; what follows the last is implied by P and Q
  bool channels_last;
};

// u, as the batch-norm kernels take it.
inline BnShape bn_shape(Dtype dtype, const DwConvShape& s) {
  return {dtype, s.N, s.C, s.P * s.Q, s.channels_last || s.P * s.Q == 1};
}

}  // namespace ck
