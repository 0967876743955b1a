#include "weighted_fusion.cuh"

#include "weighted_fusion.h"

namespace ck::cuda {
namespace {

// Blocks whose threads own `vectors` 16-byte vectors each; one at least, for a tail.
int64_t blocks_of(const FusionShape& s, int vectors) {
  const int64_t lanes = s.dtype == Dtype::f32 ? 4 : 8, per_block = lanes * vectors * kFusionThreads;
  return (s.numel + per_block - 1) / per_block;
}

template <class T>
FusionMaps<T> maps_of(const FusionShape& s, const void* const* x, void* const* dx, const float* weights, double eps,
                      double slope) {
  FusionMaps<T> m{{}, {}, weights, static_cast<float>(eps), static_cast<float>(slope), s.maps};
  for (int k = 0; k < s.maps; ++k) {
    m.x[k] = static_cast<const T*>(x[k]);
    if (dx) m.dx[k] = static_cast<T*>(dx[k]);
  }
  return m;
}

// f(T(), activation as a compile-time constant)
template <class F>
cudaError_t with_fusion_types(const FusionShape& s, Act act, F&& f) {
  if (s.maps < 2 || s.maps > kMostMaps) return cudaErrorInvalidValue;
  return with_cuda_dtype(s.dtype, [&](auto t) { return with_act(act, [&](auto a) { return f(t, a); }); });
}

}  // namespace

cudaError_t weighted_fusion_forward(const FusionShape& s, const void* const* x, const float* weights, void* y,
                                    double eps, Act act, double slope, cudaStream_t stream) {
  if (s.numel == 0) return cudaSuccess;
  return with_fusion_types(s, act, [&](auto t, auto a) {
    using T = decltype(t);
    return launch(weighted_fusion_kernel<T, a()>, dim3(static_cast<unsigned>(blocks_of(s, 1))), dim3(kFusionThreads), 0,
                  stream, maps_of<T>(s, x, nullptr, weights, eps, slope), static_cast<T*>(y), s.numel);
  });
}

int64_t weighted_fusion_workspace(const FusionShape& s) { return blocks_of(s, kFusionVectors) * kMostMaps; }

cudaError_t weighted_fusion_backward(const FusionShape& s, const void* grad, const void* const* x, const float* weights,
                                     void* const* dx, float* dweights, float* workspace, double eps, Act act,
                                     double slope, cudaStream_t stream) {
  const int64_t blocks = blocks_of(s, kFusionVectors);
  if (blocks > 0) {
    const cudaError_t e = with_fusion_types(s, act, [&](auto t, auto a) {
      using T = decltype(t);
      return launch(weighted_fusion_backward_kernel<T, a()>, dim3(static_cast<unsigned>(blocks)), dim3(kFusionThreads),
                    0, stream, maps_of<T>(s, x, dx, weights, eps, slope), static_cast<const T*>(grad), workspace,
                    s.numel);
    });
    if (e != cudaSuccess) return e;
  }
  return launch(weighted_fusion_weights_kernel<>, dim3(1), dim3(kFusionThreads), 0, stream, workspace, weights,
                dweights, blocks, s.maps, static_cast<float>(eps));
}

}  // namespace ck::cuda
