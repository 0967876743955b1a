#include "dwconv_grad_weight.h"

#include "dwconv_grad_weight.cuh"

namespace ck::cuda {
namespace {

// Calls f(task, kernel).
template <class F>
cudaError_t plan(const DwConvGradWeightArgs& args, F&& f) {
  return with_cuda_dtype(args.dtype, [&](auto t) {
    GradWeightTask a = {};
    a.grad = args.grad, a.x = args.x, a.s = args.shape;
    return with_grad_weight_kernel<decltype(t)>(a, [&](auto kernel) { return f(a, kernel); });
  });
}

}  // namespace

int64_t dwconv_grad_weight_workspace(const DwConvGradWeightArgs& args) {
  const DwConvShape& s = args.shape;
  int64_t floats = 0;
  if (s.C == 0) return floats;
  plan(args, [&](const GradWeightTask& a, auto) {
    floats = a.chunks == 1 ? 0 : a.chunks * s.C * s.kh * s.kw;
    return cudaSuccess;
  });
  return floats;
}

cudaError_t dwconv_grad_weight(const DwConvGradWeightArgs& args, float* partials, cudaStream_t stream) {
  if (args.shape.C == 0) return cudaSuccess;
  return plan(args, [&](GradWeightTask& a, auto kernel) {
    a.sums = a.chunks == 1 ? args.dweight : partials;
    const int64_t blocks = a.groups * a.chunks, values = a.s.C * a.s.kh * a.s.kw;
    if (blocks > INT32_MAX || values > INT32_MAX) return cudaErrorInvalidValue;
    const cudaError_t error = launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kGradThreads), 0, stream, a);
    if (error != cudaSuccess || a.chunks == 1) return error;
    return launch(dwconv_grad_weight_sum_kernel, dim3(static_cast<unsigned>((values + 31) / 32)), dim3(32, 8), 0,
                  stream, partials, args.dweight, a.chunks, values);
  });
}

}  // namespace ck::cuda
