// y = act(scale * weight (x * gate) + shift) + residual of a 1x1 convolution.  fp32, fp16 and bf16; sums in fp32.
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include "../math/activation.h"
#include "../math/dtype.h"
#include "../math/pointwise_shape.h"

namespace ck::cuda {
// What a block computes: 128 x 128 or 64 x 64 outputs (with a gate always the latter); any: what suits the shape.
enum class PointwiseTile { any, small, large };

struct PointwiseArgs {
  Dtype dtype;
  const void* x;
  const void* weight;          // [K, C]
  const float *scale, *shift;  // [K] each, or null: 1 and 0
  const void* gate;            // [N, C], or null
  const void* residual;        // like y, or null
  void* y;
  PointwiseShape shape;
  Act act;
  double slope;
  PointwiseTile tile = PointwiseTile::any;
};
cudaError_t pointwise(const PointwiseArgs& args, cudaStream_t stream);
}  // namespace ck::cuda
#endif
