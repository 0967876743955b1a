#include "../cpu/dwconv_backward.h"

#include "../cuda/bn_act.h"
#include "../cuda/dwconv_backward.h"
#include "../cuda/dwconv_grad_weight.h"
#include "glue.h"

namespace ck::glue {
namespace {

using IntList = std::vector<int64_t>;

using Two = std::tuple<Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// grad: [N, C, P, Q]; window: stride (2), padding (left, right, top, bottom), dilation (2).
DwConvShape shape_of(const Tensor& grad, const Tensor& x, const Tensor& weight, const IntList& window) {
  STD_TORCH_CHECK(grad.dim() == 4 && x.dim() == 4 && x.size(0) == grad.size(0) && x.size(1) == grad.size(1) &&
                      x.scalar_type() == grad.scalar_type(),
                  "dwconv_backward: grad and x do not match");
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) == grad.size(1) && weight.size(1) == 1 &&
                      weight.is_contiguous() && weight.scalar_type() == grad.scalar_type(),
                  "dwconv_backward: grad and weight do not match");
  STD_TORCH_CHECK(window.size() == 8, "dwconv_backward: bad arguments");
  const int64_t *stride = window.data(), *padding = stride + 2, *dilation = padding + 4;
  DwConvShape s{grad.size(0),
                grad.size(1),
                x.size(2),
                x.size(3),
                grad.size(2),
                grad.size(3),
                static_cast<int>(weight.size(2)),
                static_cast<int>(weight.size(3)),
                static_cast<int>(stride[0]),
                static_cast<int>(stride[1]),
                static_cast<int>(dilation[0]),
                static_cast<int>(dilation[1]),
                static_cast<int>(padding[2]),
                static_cast<int>(padding[0]),
                is_channels_last(grad)};
  STD_TORCH_CHECK(s.kh > 0 && s.kw > 0 && s.sh > 0 && s.sw > 0 && s.dh > 0 && s.dw > 0 && padding[0] >= 0 &&
                      padding[1] >= 0 && padding[2] >= 0 && padding[3] >= 0,
                  "dwconv_backward: bad arguments");
  STD_TORCH_CHECK((s.H + padding[2] + padding[3] - s.dh * (s.kh - 1) - 1) / s.sh + 1 == s.P &&
                      (s.W + padding[0] + padding[1] - s.dw * (s.kw - 1) - 1) / s.sw + 1 == s.Q,
                  "dwconv_backward: grad does not have the size of the output");
  // One of the two may be of both layouts at once: a single channel, or 1 x 1.
  const bool free = s.channels_last ? x.is_contiguous() : grad.is_contiguous();
  STD_TORCH_CHECK(is_channels_last(x) == s.channels_last || (free && (s.C == 1 || s.H * s.W == 1 || s.P * s.Q == 1)),
                  "dwconv_backward: grad and x must have one layout");
  s.channels_last |= dense_channels_last(x);
  STD_TORCH_CHECK(s.channels_last || grad.is_contiguous(), "dwconv_backward: a dense gradient expected");
  return s;
}

void check_batch_norm(const Tensor& grad, const Tensor& x, const DwConvShape& s, const Tensor& u, const Tensor& mean,
                      const Tensor& var, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                      double eps) {
  check_same(u, grad);
  check_vector(mean, x, s.C), check_vector(var, x, s.C), check_vector(weight, x, s.C), check_vector(bias, x, s.C);
  check_eps(eps);
}

Tensor input_like(const Tensor& x, const DwConvShape& s) {
  return empty(x, {s.N, s.C, s.H, s.W}, x.scalar_type(), s.channels_last);
}
Tensor weight_like(const Tensor& x, const DwConvShape& s) { return empty(x, {s.C, 1, s.kh, s.kw}, acc_type(x)); }
Tensor vector_like(const Tensor& x, const DwConvShape& s) { return empty(x, {s.C}, acc_type(x)); }

[[maybe_unused]] Two dwconv_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& weight, IntList window) {
  const DwConvShape s = shape_of(grad, x, weight, window);
  Tensor dx = input_like(x, s), dw = weight_like(x, s);
  cpu::dwconv_backward({dtype_of(x), s, ptr(grad), nullptr, ptr(x), ptr(weight), mut(dx), mut(dw), torch_pool()});
  return {dx, dw};
}

[[maybe_unused]] Four dwconv_train_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                const Tensor& u, const Tensor& mean, const Tensor& var,
                                                std::optional<Tensor> bn_weight, std::optional<Tensor> bn_bias,
                                                double eps, IntList window, int64_t act, double slope) {
  const DwConvShape s = shape_of(grad, x, weight, window);
  check_batch_norm(grad, x, s, u, mean, var, bn_weight, bn_bias, eps);
  Tensor dx = input_like(x, s), dw = weight_like(x, s), dbn_weight = vector_like(x, s), dbn_bias = vector_like(x, s);
  const cpu::BnActGrad bn{ptr(u),          ptr(mean),     ptr(var), ptr(bn_weight), ptr(bn_bias),
                          mut(dbn_weight), mut(dbn_bias), eps,      act_of(act),    slope};
  cpu::dwconv_backward({dtype_of(x), s, ptr(grad), &bn, ptr(x), ptr(weight), mut(dx), mut(dw), torch_pool()});
  return {dx, dw, dbn_weight, dbn_bias};
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
void launch_backward(const Tensor& grad, const Tensor& x, const Tensor& weight, const DwConvShape& s, Tensor& dx,
                     Tensor& dw, cudaStream_t stream) {
  check_launch(cuda::dwconv_grad_input(dtype_of(grad), ptr(grad), ptr(weight), mut(dx), s, stream), "dwconv_backward");
  const cuda::DwConvGradWeightArgs a{dtype_of(x), ptr(grad), ptr(x), mut<float>(dw), s};
  Tensor partials = empty(x, {cuda::dwconv_grad_weight_workspace(a)}, ScalarType::Float);
  check_launch(cuda::dwconv_grad_weight(a, mut<float>(partials), stream), "dwconv_backward");
}

Two dwconv_backward_cuda(const Tensor& grad, const Tensor& x, const Tensor& weight, IntList window) {
  const DwConvShape s = shape_of(grad, x, weight, window);
  Tensor dx = input_like(x, s), dw = weight_like(x, s);
  const CudaCall call(x);
  launch_backward(grad, x, weight, s, dx, dw, call.stream);
  return {dx, dw};
}

Four dwconv_train_backward_cuda(const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& u,
                                const Tensor& mean, const Tensor& var, std::optional<Tensor> bn_weight,
                                std::optional<Tensor> bn_bias, double eps, IntList window, int64_t act, double slope) {
  const DwConvShape s = shape_of(grad, x, weight, window);
  check_batch_norm(grad, x, s, u, mean, var, bn_weight, bn_bias, eps);
  Tensor dx = input_like(x, s), dw = weight_like(x, s), dbn_weight = vector_like(x, s), dbn_bias = vector_like(x, s);
  const BnShape bn = bn_shape(dtype_of(x), s);
  Tensor du = empty(x, {s.N, s.C, s.P, s.Q}, x.scalar_type(), s.channels_last);
  Tensor workspace = empty(x, {cuda::bn_act_workspace(bn)}, ScalarType::Float);
  const CudaCall call(x);
  check_launch(
      cuda::bn_act_train_backward(bn, ptr(grad), ptr(u), ptr<float>(mean), ptr<float>(var), ptr<float>(bn_weight),
                                  ptr<float>(bn_bias), mut(du), mut<float>(dbn_weight), mut<float>(dbn_bias),
                                  mut<float>(workspace), eps, act_of(act), slope, call.stream),
      "dwconv_train_backward");
  launch_backward(du, x, weight, s, dx, dw, call.stream);
  return {dx, dw, dbn_weight, dbn_bias};
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def("dwconv_backward(Tensor grad, Tensor x, Tensor weight, int[] window) -> (Tensor dx, Tensor dweight)");
  m.def(
      "dwconv_train_backward(Tensor grad, Tensor x, Tensor weight, Tensor u, Tensor mean, Tensor var, Tensor? "
      "bn_weight, "
      "Tensor? bn_bias, float eps, int[] window, int act, float slope) -> (Tensor, Tensor, Tensor, Tensor)");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&dwconv_backward_cpu>(m, "dwconv_backward");
  cpu_kernel<&dwconv_train_backward_cpu>(m, "dwconv_train_backward");
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  cuda_kernel<&dwconv_backward_cuda>(m, "dwconv_backward");
  cuda_kernel<&dwconv_train_backward_cuda>(m, "dwconv_train_backward");
}
#endif

}  // namespace ck::glue
