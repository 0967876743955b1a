#include "pointwise.cuh"

namespace ck::cuda {

cudaError_t pointwise(const PointwiseArgs& args, cudaStream_t stream) {
  const PointwiseShape& s = args.shape;
  if (s.N == 0) return cudaSuccess;
  if (s.C > INT32_MAX || s.K > INT32_MAX) return cudaErrorInvalidValue;
  PointwiseTask a{};
  a.x = args.x, a.weight = args.weight, a.gate = args.gate, a.residual = args.residual, a.y = args.y;
  a.scale = args.scale, a.shift = args.shift;
  a.pixels = s.N * s.HW, a.HW = s.HW, a.C = static_cast<int>(s.C), a.K = static_cast<int>(s.K);
  a.act = args.act, a.slope = static_cast<float>(args.slope);
  return with_cuda_dtype(args.dtype,
                         [&](auto t) { return launch_pointwise<decltype(t)>(a, args.tile, s.channels_last, stream); });
}

}  // namespace ck::cuda
