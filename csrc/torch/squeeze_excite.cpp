#include "../cpu/squeeze_excite.h"

#include "../cuda/squeeze_excite.h"
#include "glue.h"

namespace ck::glue {
namespace {

using MaybeTensor = std::optional<Tensor>;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

SqueezeExciteShape shape_of(const Tensor& x, const Tensor& w1, const MaybeTensor& b1, const Tensor& w2,
                            const MaybeTensor& b2, int64_t act, double slope, int64_t gate) {
  STD_TORCH_CHECK(x.dim() == 4 && (w1.dim() == 2 || w1.dim() == 4), "squeeze_excite: [N, C, H, W] and [R, C] expected");
  const int64_t C = x.size(1), R = w1.size(0);
  STD_TORCH_CHECK(C > 0 && R > 0 && x.size(2) > 0 && x.size(3) > 0, "squeeze_excite: nothing to squeeze");
  const auto layer = [](const Tensor& w, int64_t rows, int64_t columns) {
    return (w.dim() == 2 || w.dim() == 4) && w.size(0) == rows && w.size(1) == columns && w.numel() == rows * columns &&
           w.is_contiguous();
  };
  const auto vector = [](const MaybeTensor& b, int64_t n) {
    return !b || (b->dim() == 1 && b->size(0) == n && b->is_contiguous());
  };
  STD_TORCH_CHECK(layer(w1, R, C) && layer(w2, C, R) && vector(b1, R) && vector(b2, C),
                  "squeeze_excite: sizes of the layers do not match x");
  const auto type = x.scalar_type();
  STD_TORCH_CHECK(w1.scalar_type() == type && w2.scalar_type() == type && (!b1 || b1->scalar_type() == type) &&
                      (!b2 || b2->scalar_type() == type),
                  "squeeze_excite: one dtype expected");
  const Act g = act_of(gate);
  STD_TORCH_CHECK(g == Act::sigmoid || g == Act::hard_sigmoid, "squeeze_excite: unknown gate");
  return {x.size(0), C, x.size(2) * x.size(3), R, dense_channels_last(x), act_of(act), g, slope};
}

std::vector<int64_t> sizes(const Tensor& t) {
  std::vector<int64_t> s;
  for (int64_t i = 0; i < t.dim(); ++i) s.push_back(t.size(i));
  return s;
}

Tensor like(const Tensor& t) { return empty(t, sizes(t), t.scalar_type(), is_channels_last(t)); }

Gradients new_gradients(const Tensor& x, const Tensor& w1, const Tensor& w2) {
  return {like(x), like(w1), empty(x, {w1.size(0)}, x.scalar_type()), like(w2), empty(x, {x.size(1)}, x.scalar_type())};
}

[[maybe_unused]] Tensor squeeze_excite_cpu(const Tensor& x, const Tensor& w1, const MaybeTensor& b1, const Tensor& w2,
                                           const MaybeTensor& b2, int64_t act, double slope, int64_t gate) {
  Tensor y = like(x);
  cpu::squeeze_excite_forward({dtype_of(x), shape_of(x, w1, b1, w2, b2, act, slope, gate), ptr(x), ptr(w1), ptr(b1),
                               ptr(w2), ptr(b2), mut(y), torch_pool()});
  return y;
}

[[maybe_unused]] Gradients squeeze_excite_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& w1,
                                                       const MaybeTensor& b1, const Tensor& w2, const MaybeTensor& b2,
                                                       int64_t act, double slope, int64_t gate) {
  check_same(grad, x);
  Gradients out = new_gradients(x, w1, w2);
  auto& [dx, dw1, db1, dw2, db2] = out;
  cpu::squeeze_excite_backward({dtype_of(x), shape_of(x, w1, b1, w2, b2, act, slope, gate), ptr(grad), ptr(x), ptr(w1),
                                ptr(b1), ptr(w2), ptr(b2), mut(dx), mut(dw1), mut(db1), mut(dw2), mut(db2),
                                torch_pool()});
  return out;
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
Tensor squeeze_excite_cuda(const Tensor& x, const Tensor& w1, const MaybeTensor& b1, const Tensor& w2,
                           const MaybeTensor& b2, int64_t act, double slope, int64_t gate) {
  const CudaCall call(x);
  const auto shape = shape_of(x, w1, b1, w2, b2, act, slope, gate);
  Tensor y = like(x);
  Tensor workspace = empty(x, {cuda::squeeze_excite_workspace(shape, false)}, ScalarType::Float);
  check_launch(cuda::squeeze_excite_forward(dtype_of(x), shape, ptr(x), ptr(w1), ptr(b1), ptr(w2), ptr(b2), mut(y),
                                            mut<float>(workspace), call.stream),
               "squeeze_excite");
  return y;
}

Gradients squeeze_excite_backward_cuda(const Tensor& grad, const Tensor& x, const Tensor& w1, const MaybeTensor& b1,
                                       const Tensor& w2, const MaybeTensor& b2, int64_t act, double slope,
                                       int64_t gate) {
  check_same(grad, x);
  const CudaCall call(x);
  const auto shape = shape_of(x, w1, b1, w2, b2, act, slope, gate);
  Gradients out = new_gradients(x, w1, w2);
  auto& [dx, dw1, db1, dw2, db2] = out;
  Tensor workspace = empty(x, {cuda::squeeze_excite_workspace(shape, true)}, ScalarType::Float);
  check_launch(
      cuda::squeeze_excite_backward(dtype_of(x), shape, ptr(grad), ptr(x), ptr(w1), ptr(b1), ptr(w2), ptr(b2), mut(dx),
                                    mut(dw1), mut(db1), mut(dw2), mut(db2), mut<float>(workspace), call.stream),
      "squeeze_excite_backward");
  return out;
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def(
      "squeeze_excite(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, int act, float slope, int gate) -> "
      "Tensor");
  m.def(
      "squeeze_excite_backward(Tensor grad, Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, int act, "
      "float slope, int gate) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&squeeze_excite_cpu>(m, "squeeze_excite");
  cpu_kernel<&squeeze_excite_backward_cpu>(m, "squeeze_excite_backward");
}
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  cuda_kernel<&squeeze_excite_cuda>(m, "squeeze_excite");
  cuda_kernel<&squeeze_excite_backward_cuda>(m, "squeeze_excite_backward");
}
#endif

}  // namespace ck::glue
