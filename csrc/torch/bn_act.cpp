#include "../cpu/bn_act.h"

#include "../cuda/bn_act.h"
#include "glue.h"

namespace ck::glue {
namespace {

using std::optional;
using Two = std::tuple<Tensor, Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;

BnShape shape_of(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() >= 2, "bn_act: x must be [N, C, ...]");
  int64_t spatial = 1;
  for (int64_t i = 2; i < x.dim(); ++i) spatial *= x.size(i);
  return {dtype_of(x), x.size(0), x.size(1), spatial, dense_channels_last(x) || spatial == 1};
}

Tensor empty_as(const Tensor& x) {
  std::vector<int64_t> size(x.dim());
  for (int64_t i = 0; i < x.dim(); ++i) size[i] = x.size(i);
  return empty(x, size, x.scalar_type(), is_channels_last(x));
}

Tensor per_channel(const Tensor& x) { return empty(x, {x.size(1)}, acc_type(x)); }

// Per-channel parameters: Tensor or optional<Tensor>.
template <class... T>
void check_channels(const Tensor& x, const T&... parameters) {
  STD_TORCH_CHECK(x.dim() >= 2, "bn_act: x must be [N, C, ...]");
  (check_vector(parameters, x, x.size(1)), ...);
}

void check_residual(const Tensor& x, const optional<Tensor>& residual) {
  if (residual) check_same(*residual, x);
}

// An empty batch, or two values per channel and more.
void check_statistics(const Tensor& x, double eps) {
  check_eps(eps);
  STD_TORCH_CHECK(x.size(1) == 0 || x.numel() != x.size(1), "bn_act_train: more than one value per channel is needed");
}

[[maybe_unused]] Tensor bn_act_cpu(const Tensor& x, const Tensor& scale, const Tensor& shift,
                                   const optional<Tensor>& residual, int64_t act, double slope) {
  check_channels(x, scale, shift), check_residual(x, residual);
  Tensor y = empty_as(x);
  cpu::bn_act_forward(
      {shape_of(x), ptr(x), ptr(scale), ptr(shift), ptr(residual), mut(y), act_of(act), slope, torch_pool()});
  return y;
}

[[maybe_unused]] Three bn_act_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& scale,
                                           const Tensor& shift, int64_t act, double slope) {
  check_same(grad, x), check_channels(x, scale, shift);
  Tensor dx = empty_as(x), dscale = per_channel(x), dshift = per_channel(x);
  cpu::bn_act_backward({shape_of(x), ptr(grad), ptr(x), ptr(scale), ptr(shift), mut(dx), mut(dscale), mut(dshift),
                        act_of(act), slope, torch_pool()});
  return {dx, dscale, dshift};
}

[[maybe_unused]] Two channel_stats_cpu(const Tensor& x) {
  Tensor mean = per_channel(x), var = per_channel(x);
  cpu::channel_stats({shape_of(x), ptr(x), mut(mean), mut(var), torch_pool()});
  return {mean, var};
}

[[maybe_unused]] Three bn_act_train_cpu(const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias,
                                        const optional<Tensor>& residual, double eps, int64_t act, double slope) {
  check_channels(x, weight, bias), check_residual(x, residual), check_statistics(x, eps);
  Tensor y = empty_as(x), mean = per_channel(x), var = per_channel(x);
  cpu::bn_act_train_forward({shape_of(x), ptr(x), ptr(weight), ptr(bias), ptr(residual), mut(y), mut(mean), mut(var),
                             eps, act_of(act), slope, torch_pool()});
  return {y, mean, var};
}

[[maybe_unused]] Three bn_act_train_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& mean,
                                                 const Tensor& var, const optional<Tensor>& weight,
                                                 const optional<Tensor>& bias, double eps, int64_t act, double slope) {
  check_same(grad, x), check_channels(x, mean, var, weight, bias), check_eps(eps);
  Tensor dx = empty_as(x), dweight = per_channel(x), dbias = per_channel(x);
  cpu::bn_act_train_backward({shape_of(x), ptr(grad), ptr(x), ptr(mean), ptr(var), ptr(weight), ptr(bias), mut(dx),
                              mut(dweight), mut(dbias), eps, act_of(act), slope, torch_pool()});
  return {dx, dweight, dbias};
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
Tensor workspace(const Tensor& x) { return empty(x, {cuda::bn_act_workspace(shape_of(x))}, ScalarType::Float); }

Tensor bn_act_cuda(const Tensor& x, const Tensor& scale, const Tensor& shift, const optional<Tensor>& residual,
                   int64_t act, double slope) {
  check_channels(x, scale, shift), check_residual(x, residual);
  Tensor y = empty_as(x);
  const CudaCall call(x);
  check_launch(cuda::bn_act_forward(shape_of(x), ptr(x), ptr<float>(scale), ptr<float>(shift), ptr(residual), mut(y),
                                    act_of(act), slope, call.stream),
               "bn_act");
  return y;
}

Three bn_act_backward_cuda(const Tensor& grad, const Tensor& x, const Tensor& scale, const Tensor& shift, int64_t act,
                           double slope) {
  check_same(grad, x), check_channels(x, scale, shift);
  Tensor dx = empty_as(x), dscale = per_channel(x), dshift = per_channel(x), parts = workspace(x);
  const CudaCall call(x);
  check_launch(
      cuda::bn_act_backward(shape_of(x), ptr(grad), ptr(x), ptr<float>(scale), ptr<float>(shift), mut(dx),
                            mut<float>(dscale), mut<float>(dshift), mut<float>(parts), act_of(act), slope, call.stream),
      "bn_act_backward");
  return {dx, dscale, dshift};
}

Two channel_stats_cuda(const Tensor& x) {
  Tensor mean = per_channel(x), var = per_channel(x), parts = workspace(x);
  const CudaCall call(x);
  check_launch(
      cuda::channel_stats(shape_of(x), ptr(x), mut<float>(mean), mut<float>(var), mut<float>(parts), call.stream),
      "channel_stats");
  return {mean, var};
}

Three bn_act_train_cuda(const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias,
                        const optional<Tensor>& residual, double eps, int64_t act, double slope) {
  check_channels(x, weight, bias), check_residual(x, residual), check_statistics(x, eps);
  Tensor y = empty_as(x), mean = per_channel(x), var = per_channel(x), parts = workspace(x);
  const CudaCall call(x);
  check_launch(cuda::bn_act_train_forward(shape_of(x), ptr(x), ptr<float>(weight), ptr<float>(bias), ptr(residual),
                                          mut(y), mut<float>(mean), mut<float>(var), mut<float>(parts), eps,
                                          act_of(act), slope, call.stream),
               "bn_act_train");
  return {y, mean, var};
}

Three bn_act_train_backward_cuda(const Tensor& grad, const Tensor& x, const Tensor& mean, const Tensor& var,
                                 const optional<Tensor>& weight, const optional<Tensor>& bias, double eps, int64_t act,
                                 double slope) {
  check_same(grad, x), check_channels(x, mean, var, weight, bias), check_eps(eps);
  Tensor dx = empty_as(x), dweight = per_channel(x), dbias = per_channel(x), parts = workspace(x);
  const CudaCall call(x);
  check_launch(cuda::bn_act_train_backward(shape_of(x), ptr(grad), ptr(x), ptr<float>(mean), ptr<float>(var),
                                           ptr<float>(weight), ptr<float>(bias), mut(dx), mut<float>(dweight),
                                           mut<float>(dbias), mut<float>(parts), eps, act_of(act), slope, call.stream),
               "bn_act_train_backward");
  return {dx, dweight, dbias};
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def("bn_act(Tensor x, Tensor scale, Tensor shift, Tensor? residual, int act, float slope) -> Tensor");
  m.def(
      "bn_act_backward(Tensor grad, Tensor x, Tensor scale, Tensor shift, int act, float slope) -> (Tensor, Tensor, "
      "Tensor)");
  m.def("channel_stats(Tensor x) -> (Tensor, Tensor)");
  m.def(
      "bn_act_train(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, float eps, int act, float slope)"
      " -> (Tensor, Tensor, Tensor)");
  m.def(
      "bn_act_train_backward(Tensor grad, Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, float eps, "
      "int act,"
      " float slope) -> (Tensor, Tensor, Tensor)");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&bn_act_cpu>(m, "bn_act");
  cpu_kernel<&bn_act_backward_cpu>(m, "bn_act_backward");
  cpu_kernel<&channel_stats_cpu>(m, "channel_stats");
  cpu_kernel<&bn_act_train_cpu>(m, "bn_act_train");
  cpu_kernel<&bn_act_train_backward_cpu>(m, "bn_act_train_backward");
}
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  cuda_kernel<&bn_act_cuda>(m, "bn_act");
  cuda_kernel<&bn_act_backward_cuda>(m, "bn_act_backward");
  cuda_kernel<&channel_stats_cuda>(m, "channel_stats");
  cuda_kernel<&bn_act_train_cuda>(m, "bn_act_train");
  cuda_kernel<&bn_act_train_backward_cuda>(m, "bn_act_train_backward");
}
#endif

}  // namespace ck::glue
