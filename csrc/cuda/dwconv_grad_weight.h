// Gradient of the depthwise convolution towards its filter.  fp32, fp16 and bf16; fp32 accumulation and result.
//   dweight[c, i, j] = sum_npq grad[n, c, p, q] * x[n, c, p * sh - top + i * dh, q * sw - left + j * dw]
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include "../math/dtype.h"
#include "../math/dwconv_shape.h"

namespace ck::cuda {

struct DwConvGradWeightArgs {
  Dtype dtype;       // of grad and x
  const void* grad;  // [N, C, P, Q]
  const void* x;     // [N, C, H, W], in grad's layout
  float* dweight;    // [C, 1, kh, kw]
  DwConvShape shape;
};

// `partials` holds dwconv_grad_weight_workspace() floats.  Deterministic.
int64_t dwconv_grad_weight_workspace(const DwConvGradWeightArgs& args);
cudaError_t dwconv_grad_weight(const DwConvGradWeightArgs& args, float* partials, cudaStream_t stream);

}  // namespace ck::cuda
#endif
