// Channel shuffle of one or two tensors into one or two (math/channel_shuffle_shape.h).  Elements of 2, 4 or 8 bytes.
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include "../math/channel_shuffle_shape.h"

namespace ck::cuda {
// Tensors are 16-byte aligned.
cudaError_t channel_shuffle(const ShuffleShape& shape, const void* const in[2], void* const out[2], cudaStream_t s);
}  // namespace ck::cuda
#endif
