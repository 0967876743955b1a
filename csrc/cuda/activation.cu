#include "activation.cuh"

#include "activation.h"

namespace ck::cuda {

cudaError_t activation_forward(Dtype dtype, const void* x, void* y, int64_t n, Act act, double slope, cudaStream_t s) {
  return launch_activation<false>(dtype, x, nullptr, y, n, act, slope, s);
}

cudaError_t activation_backward(Dtype dtype, const void* dy, const void* x, void* dx, int64_t n, Act act, double slope,
                                cudaStream_t s) {
  return launch_activation<true>(dtype, x, dy, dx, n, act, slope, s);
}

}  // namespace ck::cuda
