#include "dwconv.h"

#include "dwconv.cuh"
#include "dwconv_stats.cuh"

namespace ck::cuda {
namespace {

DwConvTask task_of(const DwConvArgs& args, float* partials) {
  DwConvTask a = {};
  a.x = args.x, a.weight = args.weight, a.residual = args.residual, a.y = args.y;
  a.scale = args.scale, a.shift = args.shift, a.partials = partials;
  a.s = args.shape, a.act = args.act, a.slope = args.slope, a.flip = args.flip;
  return a;
}

cudaError_t dispatch(Dtype dtype, DwConvTask& a, bool plan_only, cudaStream_t stream) {
  if (a.s.N == 0 || a.s.C == 0 || a.s.P <= 0 || a.s.Q <= 0) return cudaSuccess;
  return with_cuda_dtype(dtype, [&](auto t) { return launch_dwconv<decltype(t)>(a, plan_only, stream); });
}

}  // namespace

cudaError_t dwconv(const DwConvArgs& args, cudaStream_t stream) {
  DwConvTask a = task_of(args, nullptr);
  return dispatch(args.dtype, a, false, stream);
}

int64_t dwconv_stats_workspace(const DwConvArgs& args) {
  float not_null;
  DwConvTask a = task_of(args, &not_null);
  dispatch(args.dtype, a, true, nullptr);
  return a.partial_rows * (2 * args.shape.C + 1);
}

cudaError_t dwconv_stats(const DwConvArgs& args, float* partials, float* mean, float* var, cudaStream_t stream) {
  DwConvTask a = task_of(args, partials);
  const cudaError_t error = dispatch(args.dtype, a, false, stream);
  if (error != cudaSuccess || args.shape.C == 0) return error;
  return launch(dwconv_stats_kernel, dim3(static_cast<unsigned>((args.shape.C + 31) / 32)), dim3(32, 8), 0, stream,
                partials, mean, var, a.partial_rows, args.shape.C);
}

}  // namespace ck::cuda
