// Maps weighted, added up and activated; and the gradients (math/weighted_fusion.h).
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include "../math/weighted_fusion.h"

namespace ck::cuda {

// x: shape.maps pointers.  Tensors are dense in one order and 16-byte aligned; weights [maps].
cudaError_t weighted_fusion_forward(const FusionShape& shape, const void* const* x, const float* weights, void* y,
                                    double eps, Act act, double slope, cudaStream_t s);

// workspace: weighted_fusion_workspace(shape) floats.
int64_t weighted_fusion_workspace(const FusionShape& shape);
cudaError_t weighted_fusion_backward(const FusionShape& shape, const void* grad, const void* const* x,
                                     const float* weights, void* const* dx, float* dweights, float* workspace,
                                     double eps, Act act, double slope, cudaStream_t s);

}  // namespace ck::cuda
#endif
