// Gradients of the depthwise convolution.  fp32, fp16 and bf16; fp32 accumulation.
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include "../math/dtype.h"
#include "../math/dwconv_shape.h"

namespace ck::cuda {
// dx [N, C, H, W] of grad [N, C, P, Q]; shape is the forward convolution's, both tensors in its layout.
cudaError_t dwconv_grad_input(Dtype dtype, const void* grad, const void* weight, void* dx, const DwConvShape& shape,
                              cudaStream_t stream);
}  // namespace ck::cuda
#endif
