// y plus x at y's size; and the gradient of x (math/nearest.h).
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include "../math/nearest.h"

namespace ck::cuda {
// Tensors are 16-byte aligned.
cudaError_t upsample_add_forward(const UpsampleShape& shape, const void* x, const void* y, void* out, cudaStream_t s);
cudaError_t upsample_add_backward(const UpsampleShape& shape, const void* grad, void* dx, cudaStream_t s);
}  // namespace ck::cuda
#endif
