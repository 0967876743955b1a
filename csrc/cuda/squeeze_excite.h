// y = x * gate(w2 act(w1 mean(x) + b1) + b2), and all gradients of it.  fp32, fp16 and bf16; sums and layers in fp32.
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include "../math/dtype.h"
#include "../math/squeeze_excite_shape.h"

namespace ck::cuda {
// Floats of workspace that a call needs.
int64_t squeeze_excite_workspace(const SqueezeExciteShape& shape, bool backward);
cudaError_t squeeze_excite_forward(Dtype dtype, const SqueezeExciteShape& shape, const void* x, const void* w1,
                                   const void* b1, const void* w2, const void* b2, void* y, float* workspace,
                                   cudaStream_t stream);
cudaError_t squeeze_excite_backward(Dtype dtype, const SqueezeExciteShape& shape, const void* grad, const void* x,
                                    const void* w1, const void* b1, const void* w2, const void* b2, void* dx, void* dw1,
                                    void* db1, void* dw2, void* db2, float* workspace, cudaStream_t stream);
}  // namespace ck::cuda
#endif
