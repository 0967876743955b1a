#include "../cpu/weighted_fusion.h"

#include "../cuda/weighted_fusion.h"
#include "glue.h"

namespace ck::glue {
namespace {

using std::optional;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// The maps of one call, all of x0's shape, dtype and layout.
struct Maps {
  Maps(const Tensor& x0, const Tensor& x1, const optional<Tensor>& x2, const optional<Tensor>& x3,
       const Tensor& weights, double eps)
      : channels_last(dense_channels_last(x0)),
        shape{dtype_of(x0),
              x3   ? 4
              : x2 ? 3
                   : 2,
              x0.numel()} {
    STD_TORCH_CHECK(x0.dim() == 4 && (x2 || !x3), "weighted_fusion: two to four maps [N, C, H, W] expected");
    check_same(x1, x0);
    if (x2) check_same(*x2, x0);
    if (x3) check_same(*x3, x0);
    check_vector(weights, x0, shape.maps);
    check_eps(eps);
    const void* const all[kMostMaps] = {ptr(x0), ptr(x1), ptr(x2), ptr(x3)};
    std::copy(all, all + kMostMaps, x);
  }
  Tensor empty_map(const Tensor& x0) const {
    return empty(x0, {x0.size(0), x0.size(1), x0.size(2), x0.size(3)}, x0.scalar_type(), channels_last);
  }
  // Of each map and of the weights; where there is no map, of no elements.
  Gradients empty_gradients(const Tensor& x0, const Tensor& weights) const {
    const auto map = [&](int k) { return k < shape.maps ? empty_map(x0) : empty(x0, {0}, x0.scalar_type()); };
    return {map(0), map(1), map(2), map(3), empty(x0, {weights.size(0)}, weights.scalar_type())};
  }

  bool channels_last;
  FusionShape shape;
  const void* x[kMostMaps];
};

[[maybe_unused]] Tensor weighted_fusion_cpu(const Tensor& x0, const Tensor& x1, const optional<Tensor>& x2,
                                            const optional<Tensor>& x3, const Tensor& weights, double eps, int64_t act,
                                            double slope) {
  const Maps m(x0, x1, x2, x3, weights, eps);
  Tensor y = m.empty_map(x0);
  cpu::weighted_fusion_forward(
      {m.shape, {m.x[0], m.x[1], m.x[2], m.x[3]}, ptr(weights), mut(y), eps, act_of(act), slope, torch_pool()});
  return y;
}

[[maybe_unused]] Gradients weighted_fusion_backward_cpu(const Tensor& grad, const Tensor& x0, const Tensor& x1,
                                                        const optional<Tensor>& x2, const optional<Tensor>& x3,
                                                        const Tensor& weights, double eps, int64_t act, double slope) {
  const Maps m(x0, x1, x2, x3, weights, eps);
  check_same(grad, x0);
  Gradients out = m.empty_gradients(x0, weights);
  auto& [d0, d1, d2, d3, dw] = out;
  cpu::weighted_fusion_backward({m.shape,
                                 ptr(grad),
                                 {m.x[0], m.x[1], m.x[2], m.x[3]},
                                 ptr(weights),
                                 {mut(d0), mut(d1), mut(d2), mut(d3)},
                                 mut(dw),
                                 eps,
                                 act_of(act),
                                 slope,
                                 torch_pool()});
  return out;
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
Tensor weighted_fusion_cuda(const Tensor& x0, const Tensor& x1, const optional<Tensor>& x2, const optional<Tensor>& x3,
                            const Tensor& weights, double eps, int64_t act, double slope) {
  const Maps m(x0, x1, x2, x3, weights, eps);
  Tensor y = m.empty_map(x0);
  const CudaCall call(x0);
  check_launch(
      cuda::weighted_fusion_forward(m.shape, m.x, ptr<float>(weights), mut(y), eps, act_of(act), slope, call.stream),
      "weighted_fusion");
  return y;
}

Gradients weighted_fusion_backward_cuda(const Tensor& grad, const Tensor& x0, const Tensor& x1,
                                        const optional<Tensor>& x2, const optional<Tensor>& x3, const Tensor& weights,
                                        double eps, int64_t act, double slope) {
  const Maps m(x0, x1, x2, x3, weights, eps);
  check_same(grad, x0);
  Gradients out = m.empty_gradients(x0, weights);
  auto& [d0, d1, d2, d3, dw] = out;
  void* const dx[kMostMaps] = {mut(d0), mut(d1), mut(d2), mut(d3)};
  Tensor parts = empty(x0, {cuda::weighted_fusion_workspace(m.shape)}, ScalarType::Float);
  const CudaCall call(x0);
  check_launch(cuda::weighted_fusion_backward(m.shape, ptr(grad), m.x, ptr<float>(weights), dx, mut<float>(dw),
                                              mut<float>(parts), eps, act_of(act), slope, call.stream),
               "weighted_fusion_backward");
  return out;
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def(
      "weighted_fusion(Tensor x0, Tensor x1, Tensor? x2, Tensor? x3, Tensor weights, float eps, int act, float slope)"
      " -> Tensor");
  m.def(
      "weighted_fusion_backward(Tensor grad, Tensor x0, Tensor x1, Tensor? x2, Tensor? x3, Tensor weights, float eps,"
      " int act, float slope) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&weighted_fusion_cpu>(m, "weighted_fusion");
  cpu_kernel<&weighted_fusion_backward_cpu>(m, "weighted_fusion_backward");
}
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  cuda_kernel<&weighted_fusion_cuda>(m, "weighted_fusion");
  cuda_kernel<&weighted_fusion_backward_cuda>(m, "weighted_fusion_backward");
}
#endif

}  // namespace ck::glue
