#include "../cpu/linear.h"

#include "glue.h"

namespace ck::glue {
namespace {

[[maybe_unused]] Tensor linear_cpu(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 2 && x.scalar_type() == ScalarType::Float && x.is_contiguous() &&
                      weight.scalar_type() == ScalarType::Float && weight.is_contiguous() &&
                      x.size(1) == weight.size(1),
                  "linear: dense float32 [N, C] and [K, C] expected");
  const int64_t N = x.size(0), C = x.size(1), K = weight.size(0);
  check_vector(bias, x, K);
  Tensor y = empty(x, {N, K}, ScalarType::Float);
  if (y.numel() > 0)
    cpu::linear({ptr<float>(x), ptr<float>(weight), ptr<float>(bias), mut<float>(y), N, C, K, torch_pool()});
  return y;
}

}  // namespace

CK_NATIVE_OPS(m) { m.def("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor"); }
CK_CPU_IMPL(m) { cpu_kernel<&linear_cpu>(m, "linear"); }

}  // namespace ck::glue
