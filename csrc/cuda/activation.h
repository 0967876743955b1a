// y = act(x) and dx = dy * act'(x) over n contiguous elements.  fp32, fp16 and bf16; fp32 arithmetic.
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include <cstdint>

#include "../math/activation.h"
#include "../math/dtype.h"

namespace ck::cuda {
cudaError_t activation_forward(Dtype dtype, const void* x, void* y, int64_t n, Act act, double slope, cudaStream_t s);
cudaError_t activation_backward(Dtype dtype, const void* dy, const void* x, void* dx, int64_t n, Act act, double slope,
                                cudaStream_t s);
}  // namespace ck::cuda
#endif
