#include "dwconv_backward.cuh"

#include "dwconv_backward.h"

namespace ck::cuda {

cudaError_t dwconv_grad_input(Dtype dtype, const void* grad, const void* weight, void* dx, const DwConvShape& s,
                              cudaStream_t stream) {
  if (s.N * s.C * s.H * s.W == 0) return cudaSuccess;
  if (s.sh == 1 && s.sw == 1) {
    DwConvArgs a = {};
    a.dtype = dtype, a.x = grad, a.weight = weight, a.y = dx, a.flip = true;
    a.shape = {s.N,
               s.C,
               s.P,
               s.Q,
               s.H,
               s.W,
               s.kh,
               s.kw,
               1,
               1,
               s.dh,
               s.dw,
               s.dh * (s.kh - 1) - s.top,
               s.dw * (s.kw - 1) - s.left,
               s.channels_last};
    return dwconv(a, stream);
  }
  return with_cuda_dtype(dtype, [&](auto t) { return launch_grad_input<decltype(t)>(grad, weight, dx, s, stream); });
}

}  // namespace ck::cuda
