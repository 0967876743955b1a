#include "bn_act.cuh"

#include "bn_act.h"

namespace ck::cuda {
namespace {

template <class T>
BnData<T> data(const void* x, const void* other, void* out, const BnParams& params, double slope) {
  return {static_cast<const T*>(x), static_cast<const T*>(other), static_cast<T*>(out), params, nullptr, nullptr,
          static_cast<float>(slope)};
}

}  // namespace

int64_t bn_act_workspace(const BnShape& s) {
  return s.numel() ? s.C * (BnTiling(s).parts * int64_t(kPart<BnPass::stats>) + 2) : 0;  // and slant, offset
}

cudaError_t bn_act_forward(const BnShape& s, const void* x, const float* scale, const float* shift,
                           const void* residual, void* y, Act act, double slope, cudaStream_t stream) {
  if (s.numel() == 0) return cudaSuccess;
  return with_bn_types(s.dtype, act, [&](auto t, auto a) {
    const auto d = data<decltype(t)>(x, residual, y, {nullptr, nullptr, scale, shift, 0.f}, slope);
    return bn_pass<decltype(t), a(), BnPass::apply>(s, BnTiling(s, BnPass::apply), d, nullptr, stream);
  });
}

cudaError_t bn_act_backward(const BnShape& s, const void* grad, const void* x, const float* scale, const float* shift,
                            void* dx, float* dscale, float* dshift, float* workspace, Act act, double slope,
                            cudaStream_t stream) {
  const BnTiling tiling(s);
  const BnParams params{nullptr, nullptr, scale, shift, 0.f};
  if (s.numel() != 0) {
    const cudaError_t e = with_bn_types(s.dtype, act, [&](auto t, auto a) {
      const auto d = data<decltype(t)>(x, grad, dx, params, slope);
      return bn_pass<decltype(t), a(), BnPass::fixed>(s, tiling, d, workspace, stream);
    });
    if (e != cudaSuccess) return e;
  }
  if (s.C == 0) return cudaSuccess;
  return launch(bn_grad_kernel<>, dim3(bn_channel_blocks(s.C)), dim3(kBnThreads), 0, stream, workspace, params, dscale,
                dshift, nullptr, nullptr, s.C, s.numel() ? tiling.parts : 0, 1.f);
}

cudaError_t channel_stats(const BnShape& s, const void* x, float* mean, float* var, float* workspace,
                          cudaStream_t stream) {
  const BnTiling tiling(s);
  if (s.numel() != 0) {
    const cudaError_t e = with_cuda_dtype(s.dtype, [&](auto t) {
      const auto d = data<decltype(t)>(x, nullptr, nullptr, {}, 0.0);
      return bn_pass<decltype(t), Act::identity, BnPass::stats>(s, tiling, d, workspace, stream);
    });
    if (e != cudaSuccess) return e;
  }
  if (s.C == 0) return cudaSuccess;
  return launch(bn_stats_kernel<>, dim3(bn_channel_blocks(s.C)), dim3(kBnThreads), 0, stream, workspace, mean, var, s.C,
                s.numel() ? tiling.parts : 0);
}

cudaError_t bn_act_train_forward(const BnShape& s, const void* x, const float* weight, const float* bias,
                                 const void* residual, void* y, float* mean, float* var, float* workspace, double eps,
                                 Act act, double slope, cudaStream_t stream) {
  const cudaError_t e = channel_stats(s, x, mean, var, workspace, stream);
  return e != cudaSuccess ? e : bn_act_normalise(s, x, mean, var, weight, bias, residual, y, eps, act, slope, stream);
}

cudaError_t bn_act_normalise(const BnShape& s, const void* x, const float* mean, const float* var, const float* weight,
                             const float* bias, const void* residual, void* y, double eps, Act act, double slope,
                             cudaStream_t stream) {
  if (s.numel() == 0) return cudaSuccess;
  return with_bn_types(s.dtype, act, [&](auto t, auto a) {
    const auto d = data<decltype(t)>(x, residual, y, {mean, var, weight, bias, static_cast<float>(eps)}, slope);
    return bn_pass<decltype(t), a(), BnPass::apply>(s, BnTiling(s, BnPass::apply), d, nullptr, stream);
  });
}

cudaError_t bn_act_train_backward(const BnShape& s, const void* grad, const void* x, const float* mean,
                                  const float* var, const float* weight, const float* bias, void* dx, float* dweight,
                                  float* dbias, float* workspace, double eps, Act act, double slope,
                                  cudaStream_t stream) {
  const BnTiling tiling(s);
  const BnParams params{mean, var, weight, bias, static_cast<float>(eps)};
  float* parts = s.numel() ? workspace + 2 * s.C : nullptr;
  if (s.numel() == 0) {  // dweight and dbias are zeros
    if (s.C == 0) return cudaSuccess;
    return launch(bn_grad_kernel<>, dim3(bn_channel_blocks(s.C)), dim3(kBnThreads), 0, stream, parts, BnParams{},
                  dweight, dbias, nullptr, nullptr, s.C, 0, 1.f);
  }
  return with_bn_types(s.dtype, act, [&](auto t, auto a) {
    using T = decltype(t);
    auto d = data<T>(x, grad, dx, params, slope);
    d.slant = workspace, d.offset = workspace + s.C;
    cudaError_t e = bn_pass<T, a(), BnPass::sums>(s, tiling, d, parts, stream);
    if (e != cudaSuccess) return e;
    e = launch(bn_grad_kernel<>, dim3(bn_channel_blocks(s.C)), dim3(kBnThreads), 0, stream, parts, params, dweight,
               dbias, workspace, workspace + s.C, s.C, tiling.parts, static_cast<float>(s.values()));
    if (e != cudaSuccess) return e;
    return bn_pass<T, a(), BnPass::batch>(s, tiling, d, nullptr, stream);
  });
}

}  // namespace ck::cuda
