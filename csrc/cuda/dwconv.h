// Depthwise convolution: fp32, fp16 and bf16, NCHW or NHWC, fp32 accumulation, any kernel size, stride and dilation.
//   y = act(scale_c * u + shift_c) + residual,   u = dwconv(x, weight)
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include "../math/activation.h"
#include "../math/dtype.h"
#include "../math/dwconv_shape.h"

namespace ck::cuda {

struct DwConvArgs {
  Dtype dtype;  // of x, weight, residual and y
  const void* x;
  const void* weight;
  const float* scale;    // [C] or null: 1
  const float* shift;    // [C] or null: 0
  const void* residual;  // like y, or null
  void* y;
  DwConvShape shape;
  Act act = Act::identity;
  float slope = 0.f;
  bool flip = false;  // use the filter rotated by 180 degrees: the gradient of a stride-1 convolution
};
cudaError_t dwconv(const DwConvArgs& args, cudaStream_t stream);

// y = u, with the mean and the biased variance over N, P, Q of the unrounded u; `partials` holds
// dwconv_stats_workspace() floats.  Deterministic.  N * P * Q > 0.
int64_t dwconv_stats_workspace(const DwConvArgs& args);
cudaError_t dwconv_stats(const DwConvArgs& args, float* partials, float* mean, float* var, cudaStream_t stream);

}  // namespace ck::cuda
#endif
