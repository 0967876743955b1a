#include "../cuda/dwconv.h"

#include "../cpu/dwconv.h"
#include "../cuda/bn_act.h"

#include "dwconv_window.h"
#include "glue.h"

namespace ck::glue {
namespace {

DwConvShape shape_of(const Tensor& x, const Tensor& weight, const std::vector<int64_t>& window) {
  const int64_t C = x.dim() == 4 ? x.size(1) : 0;
  STD_TORCH_CHECK(C > 0 && weight.dim() == 4 && weight.size(0) == C && weight.scalar_type() == x.scalar_type(),
                  "dwconv: x and weight do not match");
  return dwconv_shape(x, weight, window, dense_channels_last(x));
}

Tensor output(const Tensor& x, const DwConvShape& s) {
  return empty(x, {s.N, s.C, s.P, s.Q}, x.scalar_type(), s.channels_last);
}

void check_statistics(const DwConvShape& s, double eps) {
  check_eps(eps);
  STD_TORCH_CHECK(s.N * s.P * s.Q > 1, "dwconv_train: two values per channel are needed");
}

[[maybe_unused]] Tensor dwconv_pack_cpu(const Tensor& weight, const Tensor& scale, const Tensor& shift) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == 1 && weight.is_contiguous() && weight.numel() > 0 &&
                      weight.size(2) * weight.size(3) < (1 << 20) && weight.scalar_type() == ScalarType::Float,
                  "dwconv_pack: a float32 weight [C, 1, kh, kw] expected");
  const int64_t C = weight.size(0), kh = weight.size(2), kw = weight.size(3);
  check_vector(scale, weight, C), check_vector(shift, weight, C);
  Tensor packed = empty(weight, {cpu::dwconv_packed_size(C, kh * kw)}, ScalarType::Float);
  cpu::dwconv_pack({ptr<float>(weight), ptr<float>(scale), ptr<float>(shift), C, static_cast<int>(kh),
                    static_cast<int>(kw), mut<float>(packed)});
  return packed;
}

[[maybe_unused]] Tensor dwconv_cpu(const Tensor& x, const Tensor& weight, std::optional<Tensor> scale,
                                   std::optional<Tensor> shift, std::optional<Tensor> residual,
                                   std::vector<int64_t> window, int64_t act, double slope) {
  const DwConvShape s = shape_of(x, weight, window);
  check_vector(scale, x, s.C), check_vector(shift, x, s.C);
  Tensor y = output(x, s);
  if (residual) check_same(*residual, y);
  cpu::dwconv({dtype_of(x), ptr(x), ptr(weight), ptr(scale), ptr(shift), ptr(residual), mut(y), s, act_of(act), slope,
               nullptr, nullptr, torch_pool()});
  return y;
}

using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

[[maybe_unused]] Four dwconv_train_cpu(const Tensor& x, const Tensor& weight, std::optional<Tensor> bn_weight,
                                       std::optional<Tensor> bn_bias, double eps, std::vector<int64_t> window,
                                       int64_t act, double slope) {
  const DwConvShape s = shape_of(x, weight, window);
  check_vector(bn_weight, x, s.C), check_vector(bn_bias, x, s.C);
  check_statistics(s, eps);
  Tensor y = output(x, s), u = output(x, s), mean = empty(x, {s.C}, acc_type(x)), var = empty(x, {s.C}, acc_type(x));
  cpu::dwconv_train({dtype_of(x), ptr(x), ptr(weight), ptr(bn_weight), ptr(bn_bias), mut(y), mut(u), s, mut(mean),
                     mut(var), eps, act_of(act), slope, torch_pool()});
  return {y, u, mean, var};
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
Tensor dwconv_cuda(const Tensor& x, const Tensor& weight, std::optional<Tensor> scale, std::optional<Tensor> shift,
                   std::optional<Tensor> residual, std::vector<int64_t> window, int64_t act, double slope) {
  const DwConvShape s = shape_of(x, weight, window);
  check_vector(scale, x, s.C), check_vector(shift, x, s.C);
  Tensor y = output(x, s);
  if (residual) check_same(*residual, y);
  const CudaCall call(x);
  const cuda::DwConvArgs a{dtype_of(x),   ptr(x), ptr(weight), ptr<float>(scale), ptr<float>(shift),
                           ptr(residual), mut(y), s,           act_of(act),       static_cast<float>(slope)};
  check_launch(cuda::dwconv(a, call.stream), "dwconv");
  return y;
}

Four dwconv_train_cuda(const Tensor& x, const Tensor& weight, std::optional<Tensor> bn_weight,
                       std::optional<Tensor> bn_bias, double eps, std::vector<int64_t> window, int64_t act,
                       double slope) {
  const DwConvShape s = shape_of(x, weight, window);
  check_vector(bn_weight, x, s.C), check_vector(bn_bias, x, s.C);
  check_statistics(s, eps);
  Tensor y = output(x, s), u = output(x, s), mean = empty(x, {s.C}, ScalarType::Float);
  Tensor var = empty(x, {s.C}, ScalarType::Float);
  const CudaCall call(x);
  const cuda::DwConvArgs a{dtype_of(x), ptr(x), ptr(weight), nullptr, nullptr, nullptr, mut(u), s};
  Tensor partials = empty(x, {cuda::dwconv_stats_workspace(a)}, ScalarType::Float);
  check_launch(cuda::dwconv_stats(a, mut<float>(partials), mut<float>(mean), mut<float>(var), call.stream),
               "dwconv_train");
  check_launch(
      cuda::bn_act_normalise(bn_shape(dtype_of(x), s), ptr(u), ptr<float>(mean), ptr<float>(var), ptr<float>(bn_weight),
                             ptr<float>(bn_bias), nullptr, mut(y), eps, act_of(act), slope, call.stream),
      "dwconv_train");
  return {y, u, mean, var};
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def("dwconv_pack(Tensor weight, Tensor scale, Tensor shift) -> Tensor");
  m.def(
      "dwconv(Tensor x, Tensor weight, Tensor? scale, Tensor? shift, Tensor? residual, int[] window, int "
      "act, float slope) -> Tensor");
  m.def(
      "dwconv_train(Tensor x, Tensor weight, Tensor? bn_weight, Tensor? bn_bias, float eps, int[] window, int act, "
      "float "
      "slope) -> (Tensor y, Tensor u, Tensor mean, Tensor var)");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&dwconv_pack_cpu>(m, "dwconv_pack");
  cpu_step<&dwconv_cpu>(m, "dwconv");
  cpu_kernel<&dwconv_train_cpu>(m, "dwconv_train");
}
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  cuda_kernel<&dwconv_cuda>(m, "dwconv");
  cuda_kernel<&dwconv_train_cuda>(m, "dwconv_train");
}
#endif

}  // namespace ck::glue
