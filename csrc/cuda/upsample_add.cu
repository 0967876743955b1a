#include "upsample_add.cuh"

#include "upsample_add.h"

namespace ck::cuda {

cudaError_t upsample_add_forward(const UpsampleShape& s, const void* x, const void* y, void* out, cudaStream_t stream) {
  if (s.large() == 0) return cudaSuccess;
  return with_cuda_dtype(s.dtype, [&](auto t) {
    using T = decltype(t);
    constexpr int K = 16 / sizeof(T);
    if (s.channels_last)
      return s.C % K == 0 ? launch_upsample_add<T, K, true>(s, x, y, out, stream)
                          : launch_upsample_add<T, 1, true>(s, x, y, out, stream);
    return s.columns.to % K == 0 ? launch_upsample_add<T, K, false>(s, x, y, out, stream)
                                 : launch_upsample_add<T, 1, false>(s, x, y, out, stream);
  });
}

cudaError_t upsample_add_backward(const UpsampleShape& s, const void* grad, void* dx, cudaStream_t stream) {
  if (s.small() == 0) return cudaSuccess;
  return with_cuda_dtype(s.dtype, [&](auto t) {
    using T = decltype(t);
    constexpr int K = 16 / sizeof(T);
    if (!s.channels_last) return launch_upsample_add_backward<T, 1, false>(s, grad, dx, stream);
    return s.C % K == 0 ? launch_upsample_add_backward<T, K, true>(s, grad, dx, stream)
                        : launch_upsample_add_backward<T, 1, true>(s, grad, dx, stream);
  });
}

}  // namespace ck::cuda
