// Depthwise convolution with a fused epilogue, and with batch statistics.
#pragma once
#include "../math/activation.h"
#include "../math/dtype.h"
#include "../math/dwconv_shape.h"
#include "isa.h"
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
  int64_t x_pixel = 0, y_pixel = 0;  // channels_last, without residual: steps from pixel to pixel; 0: C
};

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
CK_CPU_KERNEL(dwconv_stats, ck::cpu::DwConvArgs)
CK_CPU_KERNEL(dwconv_train, ck::cpu::DwConvTrainArgs)
