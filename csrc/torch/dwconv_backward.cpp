#include "../cpu/dwconv_backward.h"

#include "../cuda/dwconv_backward.h"
#include "../cuda/dwconv_grad_weight.h"
#include "glue.h"

namespace ck::glue {
namespace {

using IntList = std::vector<int64_t>;

// grad: [N, C, P, Q]; height, width: of x; window: stride (2), padding (left, right, top, bottom), dilation (2).
DwConvShape shape_of(const Tensor& grad, int64_t height, int64_t width, int64_t kh, int64_t kw, const IntList& window) {
  STD_TORCH_CHECK(grad.dim() == 4 && window.size() == 8 && kh > 0 && kw > 0, "dwconv_backward: bad arguments");
  const int64_t *stride = window.data(), *padding = stride + 2, *dilation = padding + 4;
  const DwConvShape s{grad.size(0),
                      grad.size(1),
                      height,
                      width,
                      grad.size(2),
                      grad.size(3),
                      static_cast<int>(kh),
                      static_cast<int>(kw),
                      static_cast<int>(stride[0]),
                      static_cast<int>(stride[1]),
                      static_cast<int>(dilation[0]),
                      static_cast<int>(dilation[1]),
                      static_cast<int>(padding[2]),
                      static_cast<int>(padding[0]),
                      is_channels_last(grad)};
  STD_TORCH_CHECK(s.sh > 0 && s.sw > 0 && s.dh > 0 && s.dw > 0 && padding[0] >= 0 && padding[1] >= 0 &&
                      padding[2] >= 0 && padding[3] >= 0,
                  "dwconv_backward: bad arguments");
  STD_TORCH_CHECK((s.H + padding[2] + padding[3] - s.dh * (kh - 1) - 1) / s.sh + 1 == s.P &&
                      (s.W + padding[0] + padding[1] - s.dw * (kw - 1) - 1) / s.sw + 1 == s.Q,
                  "dwconv_backward: grad does not have the size of the output");
  return s;
}

DwConvShape input_shape(const Tensor& grad, const Tensor& weight, const IntList& input_size, const IntList& window) {
  STD_TORCH_CHECK(input_size.size() == 2 && grad.dim() == 4 && weight.dim() == 4 && weight.size(0) == grad.size(1) &&
                      weight.size(1) == 1 && weight.is_contiguous() && weight.scalar_type() == grad.scalar_type(),
                  "dwconv_grad_input: grad and weight do not match");
  return shape_of(grad, input_size[0], input_size[1], weight.size(2), weight.size(3), window);
}

DwConvShape weight_shape(const Tensor& grad, const Tensor& x, const IntList& kernel_size, const IntList& window) {
  STD_TORCH_CHECK(x.dim() == 4 && kernel_size.size() == 2 && x.size(0) == grad.size(0) && x.size(1) == grad.size(1) &&
                      x.scalar_type() == grad.scalar_type(),
                  "dwconv_grad_weight: grad and x do not match");
  DwConvShape s = shape_of(grad, x.size(2), x.size(3), kernel_size[0], kernel_size[1], window);
  // One of the two may be of both layouts at once: a single channel, or 1 x 1.
  const bool free = s.channels_last ? x.is_contiguous() : grad.is_contiguous();
  STD_TORCH_CHECK(is_channels_last(x) == s.channels_last || (free && (s.C == 1 || s.H * s.W == 1 || s.P * s.Q == 1)),
                  "dwconv_grad_weight: grad and x must have one layout");
  s.channels_last |= is_channels_last(x);
  return s;
}

[[maybe_unused]] Tensor dwconv_grad_input_cpu(const Tensor& grad, const Tensor& weight, IntList input_size,
                                              IntList window) {
  const DwConvShape s = input_shape(grad, weight, input_size, window);
  Tensor dx = empty(grad, {s.N, s.C, s.H, s.W}, grad.scalar_type(), s.channels_last);
  cpu::dwconv_backward({dtype_of(grad), s, ptr(grad), nullptr, nullptr, ptr(weight), mut(dx), nullptr, torch_pool()});
  return dx;
}

[[maybe_unused]] Tensor dwconv_grad_weight_cpu(const Tensor& grad, const Tensor& x, IntList kernel_size,
                                               IntList window) {
  const DwConvShape s = weight_shape(grad, x, kernel_size, window);
  Tensor dw = empty(x, {s.C, 1, s.kh, s.kw}, acc_type(x));
  cpu::dwconv_backward({dtype_of(x), s, ptr(grad), nullptr, ptr(x), nullptr, nullptr, mut(dw), torch_pool()});
  return dw;
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
Tensor dwconv_grad_input_cuda(const Tensor& grad, const Tensor& weight, IntList input_size, IntList window) {
  const DwConvShape s = input_shape(grad, weight, input_size, window);
  Tensor dx = empty(grad, {s.N, s.C, s.H, s.W}, grad.scalar_type(), s.channels_last);
  const CudaCall call(grad);
  check_launch(cuda::dwconv_grad_input(dtype_of(grad), ptr(grad), ptr(weight), mut(dx), s, call.stream),
               "dwconv_grad_input");
  return dx;
}

Tensor dwconv_grad_weight_cuda(const Tensor& grad, const Tensor& x, IntList kernel_size, IntList window) {
  const DwConvShape s = weight_shape(grad, x, kernel_size, window);
  Tensor dw = empty(x, {s.C, 1, s.kh, s.kw}, ScalarType::Float);
  const CudaCall call(x);
  const cuda::DwConvGradWeightArgs a{dtype_of(x), ptr(grad), ptr(x), mut<float>(dw), s};
  Tensor partials = empty(x, {cuda::dwconv_grad_weight_workspace(a)}, ScalarType::Float);
  check_launch(cuda::dwconv_grad_weight(a, mut<float>(partials), call.stream), "dwconv_grad_weight");
  return dw;
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def("dwconv_grad_input(Tensor grad, Tensor weight, int[] input_size, int[] window) -> Tensor");
  m.def("dwconv_grad_weight(Tensor grad, Tensor x, int[] kernel_size, int[] window) -> Tensor");
}
CK_CPU_IMPL(m) {
  m.impl("dwconv_grad_input", TORCH_BOX(&dwconv_grad_input_cpu));
  m.impl("dwconv_grad_weight", TORCH_BOX(&dwconv_grad_weight_cpu));
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  m.impl("dwconv_grad_input", TORCH_BOX(&dwconv_grad_input_cuda));
  m.impl("dwconv_grad_weight", TORCH_BOX(&dwconv_grad_weight_cuda));
}
#endif

}  // namespace ck::glue
