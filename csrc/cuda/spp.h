// Spatial pyramid pooling and its gradient (math/spp_shape.h).
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include "../math/dtype.h"
#include "../math/spp_shape.h"

namespace ck::cuda {
cudaError_t spp(Dtype d, const SppShape& shape, const void* x, void* y, cudaStream_t s);
// grad: as y.  dx: as x, every window's gradient at its maximum, added up in fp32 in scan order.
cudaError_t spp_backward(Dtype d, const SppShape& shape, const void* grad, const void* x, void* dx, cudaStream_t s);
}  // namespace ck::cuda
#endif
