// Depthwise convolution with a fused epilogue, and with batch statistics.
#pragma once
#include "../math/activation.h"
#include "../math/dtype.h"
#include "../math/dwconv_shape.h"
#include "isa.h"
#include "packed.h"
#include "parallel.h"

namespace ck::cpu {
struct DwConvArgs {
  Dtype dtype;
  const void* x;
  const void* weight;  // [C, kh, kw]
  const void* scale;   // [C] each, float (double for f64); null: 1 and 0
  const void* shift;
  const void* residual;  // like y, or null
  void* y;               // act(scale * u + shift) + residual
  DwConvShape shape;
  Act act;
  double slope;
  void* mean;  // [C] each, of dwconv_stats only: mean and biased variance of u, unrounded, over N, P and Q
  void* var;
  Pool pool;
  // Of channels_last without residual:
  int64_t x_pixel = 0, y_pixel = 0;  // steps from pixel to pixel; 0: C
  const float* packed = nullptr;     // fp32: as dwconv_pack made them, at the first vector wanted; others are not read
};

// Weights and parameters in the order in which the channels_last kernel reads them.
struct DwConvPackArgs {
  const float *weight, *scale, *shift;  // as above
  int64_t C;
  int kh, kw;
  float* packed;  // dwconv_packed_size(C, kh * kw) elements
};
// [header of C and taps][vectors of channels, of which the last one ends with the last channel: [taps and shift][vector]]
inline int64_t dwconv_packed_size(int64_t C, int64_t taps) { return kPackedHeader + (C + 15) / 16 * 16 * (taps + 1); }

// u = dwconv(x), its mean and biased variance, y = act(bn_weight * (u - mean) / sqrt(var + eps) + bn_bias).
struct DwConvTrainArgs {
  Dtype dtype;
  const void *x, *weight;
  const void *bn_weight, *bn_bias;  // [C] each, as scale and shift above; null: 1 and 0
  void *y, *u;
  DwConvShape shape;
  void *mean, *var;
  double eps;
  Act act;
  double slope;
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(dwconv, ck::cpu::DwConvArgs)
CK_CPU_KERNEL(dwconv_pack, ck::cpu::DwConvPackArgs)
CK_CPU_KERNEL(dwconv_stats, ck::cpu::DwConvArgs)
CK_CPU_KERNEL(dwconv_train, ck::cpu::DwConvTrainArgs)
