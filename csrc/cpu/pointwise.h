// 1x1 convolution of x * gate with scale, shift, activation and residual.
#pragma once
#include "../math/activation.h"
#include "../math/dtype.h"
#include "../math/pointwise_shape.h"
#include "isa.h"
#include "packed.h"
#include "parallel.h"

namespace ck::cpu {
// Weights and parameters in the order in which the channels_last kernel reads them, in the accumulate type.
struct PointwisePackArgs {
  Dtype dtype;         // of the weight
  const void* weight;  // [K, C]
  const void* scale;   // [K] each, float (double for f64); null: 1 and 0
  const void* shift;
  int64_t C, K;
  void* packed;  // pointwise_packed_size(C, K) elements
  Pool pool;
};
struct PointwiseArgs {
  Dtype dtype;
  const void* x;
  const void *weight, *scale, *shift;  // as above, or null where packed is given
  const void* packed;                  // as made for this instruction set: channels_last only
  const void* gate;                    // [N, C], or null
  const void* residual;                // like y, or null
  void* y;                             // act(scale * weight (x * gate) + shift) + residual
  PointwiseShape shape;
  Act act;
  double slope;
  Pool pool;
  // Of packed weights:
  int64_t x_pixel = 0, y_pixel = 0;  // steps from pixel to pixel of x, and of y and the residual; 0: C and K
  int64_t first = 0, last = -1;      // vectors of y's channels that are wanted (-1: all); y points at the first
};

// [header of C and K][shift, padded][panels of scaled weights, see gemm_tile.h]
inline int64_t pointwise_packed_size(int64_t C, int64_t K) { return kPackedHeader + (K + 15) / 16 * 16 * (C + 1); }
}  // namespace ck::cpu
CK_CPU_KERNEL(pointwise_pack, ck::cpu::PointwisePackArgs)
CK_CPU_KERNEL(pointwise, ck::cpu::PointwiseArgs)
