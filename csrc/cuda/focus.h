// Focus and its inverse (math/focus_shape.h).  Elements of 2 or 4 bytes.
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include "../math/focus_shape.h"

namespace ck::cuda {
// Tensors are 16-byte aligned.
cudaError_t focus(const FocusShape& shape, const void* from, void* to, cudaStream_t s);
}  // namespace ck::cuda
#endif
