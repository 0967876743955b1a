#include "../cpu/pointwise.h"
#include "../cuda/pointwise.h"

#include "glue.h"

namespace ck::glue {
namespace {

using std::optional;

PointwiseShape shape_of(const Tensor& x, int64_t K, const optional<Tensor>& gate) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0 && K > 0,
                  "pointwise: x must be [N, C, H, W]");
  const PointwiseShape s{x.size(0), x.size(1), x.size(2) * x.size(3), K,
                         dense_channels_last(x) || x.size(2) * x.size(3) == 1};
  STD_TORCH_CHECK(!gate || (gate->dim() == 2 && gate->size(0) == s.N && gate->size(1) == s.C &&
                            gate->scalar_type() == x.scalar_type() && gate->is_contiguous()),
                  "pointwise: gate must be [N, C] of x's dtype");
  return s;
}

Tensor output(const Tensor& x, int64_t K, const optional<Tensor>& residual) {
  Tensor y = empty(x, {x.size(0), K, x.size(2), x.size(3)}, x.scalar_type(), is_channels_last(x));
  if (residual) check_same(*residual, y);
  return y;
}

void check_weight(const Tensor& weight) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 1 && weight.size(3) == 1 && weight.is_contiguous(),
                  "pointwise: weight must be [K, C, 1, 1]");
}

// What both devices ask of an unpacked call.
PointwiseShape checked(const Tensor& x, const Tensor& weight, const optional<Tensor>& scale,
                       const optional<Tensor>& shift, const optional<Tensor>& gate) {
  check_weight(weight);
  const PointwiseShape s = shape_of(x, weight.size(0), gate);
  STD_TORCH_CHECK(weight.size(1) == s.C && weight.scalar_type() == x.scalar_type(),
                  "pointwise: x and weight do not match");
  check_vector(scale, x, s.K), check_vector(shift, x, s.K);
  return s;
}

[[maybe_unused]] Tensor pointwise_cpu(const Tensor& x, const Tensor& weight, const optional<Tensor>& scale,
                                      const optional<Tensor>& shift, const optional<Tensor>& gate,
                                      const optional<Tensor>& residual, int64_t act, double slope) {
  const PointwiseShape s = checked(x, weight, scale, shift, gate);
  Tensor y = output(x, s.K, residual);
  cpu::pointwise({dtype_of(x), ptr(x), ptr(weight), ptr(scale), ptr(shift), nullptr, ptr(gate), ptr(residual), mut(y),
                  s, act_of(act), slope, torch_pool()});
  return y;
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
Tensor pointwise_cuda(const Tensor& x, const Tensor& weight, const optional<Tensor>& scale,
                      const optional<Tensor>& shift, const optional<Tensor>& gate, const optional<Tensor>& residual,
                      int64_t act, double slope) {
  const CudaCall call(x);
  const PointwiseShape s = checked(x, weight, scale, shift, gate);
  Tensor y = output(x, s.K, residual);
  check_launch(cuda::pointwise({dtype_of(x), ptr(x), ptr(weight), ptr<float>(scale), ptr<float>(shift), ptr(gate),
                                ptr(residual), mut(y), s, act_of(act), slope},
                               call.stream),
               "pointwise_conv_bn_act");
  return y;
}
#endif

[[maybe_unused]] Tensor pointwise_pack_cpu(const Tensor& weight, const optional<Tensor>& scale,
                                           const optional<Tensor>& shift) {
  check_weight(weight);
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float, "pointwise_pack: float32 expected");
  const int64_t K = weight.size(0), C = weight.size(1);
  check_vector(scale, weight, K), check_vector(shift, weight, K);
  Tensor packed = empty(weight, {cpu::pointwise_packed_size(C, K)}, ScalarType::Float);
  cpu::pointwise_pack({dtype_of(weight), ptr(weight), ptr(scale), ptr(shift), C, K, mut(packed), torch_pool()});
  return packed;
}

[[maybe_unused]] Tensor pointwise_packed_cpu(const Tensor& x, const Tensor& packed, int64_t channels,
                                             const optional<Tensor>& gate, const optional<Tensor>& residual,
                                             int64_t act, double slope) {
  const PointwiseShape s = shape_of(x, channels, gate);
  STD_TORCH_CHECK(s.channels_last && x.scalar_type() == ScalarType::Float && packed.dim() == 1 &&
                      packed.scalar_type() == ScalarType::Float && packed.is_contiguous() &&
                      packed.size(0) == cpu::pointwise_packed_size(s.C, s.K) &&
                      cpu::is_packed_for(ptr<float>(packed), cpu::isa(), s.C, s.K),
                  "pointwise_packed: a float32 channels_last x and weights packed for it expected");
  Tensor y = output(x, s.K, residual);
  cpu::pointwise({Dtype::f32, ptr(x), nullptr, nullptr, nullptr, ptr(packed), ptr(gate), ptr(residual), mut(y), s,
                  act_of(act), slope, torch_pool()});
  return y;
}

}  // namespace

CK_NATIVE_OPS(m) {
  m.def(
      "pointwise(Tensor x, Tensor weight, Tensor? scale, Tensor? shift, Tensor? gate, Tensor? residual, int act, "
      "float slope) -> Tensor");
  m.def("pointwise_pack(Tensor weight, Tensor? scale, Tensor? shift) -> Tensor");
  m.def(
      "pointwise_packed(Tensor x, Tensor packed, int channels, Tensor? gate, Tensor? residual, int act, float slope) "
      "-> "
      "Tensor");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&pointwise_cpu>(m, "pointwise");
  cpu_kernel<&pointwise_pack_cpu>(m, "pointwise_pack");
  cpu_step<&pointwise_packed_cpu>(m, "pointwise_packed");
}
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) { cuda_kernel<&pointwise_cuda>(m, "pointwise"); }
#endif

}  // namespace ck::glue
