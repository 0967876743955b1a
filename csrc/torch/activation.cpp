#include "../cpu/activation.h"

#include "../cuda/activation.h"
#include "glue.h"

namespace ck::glue {
namespace {

// x's elements are one block of memory, in whatever order of the dimensions.
void check_no_gaps(const Tensor& x) {
  if (x.is_contiguous() || is_channels_last(x)) return;
  int64_t block = 1;
  for (int64_t found = 0; found < x.dim(); ++found) {  // the dimension whose steps are as long as the block so far
    int64_t d = 0;
    while (d < x.dim() && (x.size(d) == 1 || x.stride(d) != block)) ++d;
    if (d == x.dim()) break;
    block *= x.size(d);
  }
  STD_TORCH_CHECK(block == x.numel(), "activation: x must have no gaps or overlaps");
}

void check(const Tensor& x, const Tensor* grad) {
  check_no_gaps(x);
  if (grad) check_same(*grad, x);
}

cpu::ActivationArgs args(const Tensor& x, const Tensor* grad, Tensor& out, int64_t act, double slope) {
  check(x, grad);
  return {dtype_of(x), ptr(x), grad ? ptr(*grad) : nullptr, mut(out), x.numel(), act_of(act), slope, {}};
}

[[maybe_unused]] Tensor activation_cpu(const Tensor& x, int64_t act, double slope) {
  Tensor y = uninitialised_like(x);
  auto a = args(x, nullptr, y, act, slope);
  a.pool = torch_pool();
  cpu::activation_forward(a);
  return y;
}

[[maybe_unused]] Tensor activation_backward_cpu(const Tensor& grad, const Tensor& x, int64_t act, double slope) {
  Tensor dx = uninitialised_like(x);
  auto a = args(x, &grad, dx, act, slope);
  a.pool = torch_pool();
  cpu::activation_backward(a);
  return dx;
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
Tensor activation_cuda(const Tensor& x, int64_t act, double slope) {
  check(x, nullptr);
  Tensor y = uninitialised_like(x);
  const CudaCall call(x);
  check_launch(cuda::activation_forward(dtype_of(x), ptr(x), mut(y), x.numel(), act_of(act), slope, call.stream),
               "activation");
  return y;
}

Tensor activation_backward_cuda(const Tensor& grad, const Tensor& x, int64_t act, double slope) {
  check(x, &grad);
  Tensor dx = uninitialised_like(x);
  const CudaCall call(x);
  check_launch(
      cuda::activation_backward(dtype_of(x), ptr(grad), ptr(x), mut(dx), x.numel(), act_of(act), slope, call.stream),
      "activation_backward");
  return dx;
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def("activation(Tensor x, int act, float slope) -> Tensor");
  m.def("activation_backward(Tensor grad, Tensor x, int act, float slope) -> Tensor");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&activation_cpu>(m, "activation");
  cpu_kernel<&activation_backward_cpu>(m, "activation_backward");
}
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  cuda_kernel<&activation_cuda>(m, "activation");
  cuda_kernel<&activation_backward_cuda>(m, "activation_backward");
}
#endif

}  // namespace ck::glue
