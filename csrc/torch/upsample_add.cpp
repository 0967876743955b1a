#include "../cpu/upsample_add.h"

#include "../cuda/upsample_add.h"
#include "glue.h"

namespace ck::glue {
namespace {

// Sizes from `small` to `large`, which has the layout.
UpsampleShape shape_of(const Tensor& large, int64_t height, int64_t width) {
  STD_TORCH_CHECK(large.dim() == 4, "upsample_add: [N, C, H, W] expected");
  const int64_t sizes[] = {height, width, large.size(2), large.size(3)};
  for (const int64_t size : sizes)
    STD_TORCH_CHECK(size >= 1 && size <= INT32_MAX, "upsample_add: heights and widths of at least 1 expected");
  return {dtype_of(large),         large.size(0),          large.size(1),
          {height, large.size(2)}, {width, large.size(3)}, dense_channels_last(large)};
}

// run(shape, x, y, out) on a fresh result.
template <class F>
Tensor added(const Tensor& x, const Tensor& y, F&& run) {
  STD_TORCH_CHECK(x.dim() == 4, "upsample_add: [N, C, H, W] expected");
  const UpsampleShape s = shape_of(y, x.size(2), x.size(3));
  STD_TORCH_CHECK(x.size(0) == s.N && x.size(1) == s.C && x.scalar_type() == y.scalar_type(),
                  "upsample_add: two tensors of one dtype, batch and number of channels expected");
  check_layout(x, s.channels_last);
  Tensor out = empty(y, {s.N, s.C, s.rows.to, s.columns.to}, y.scalar_type(), s.channels_last);
  run(s, ptr(x), ptr(y), mut(out));
  return out;
}

// run(shape, grad, dx) on a fresh result.
template <class F>
Tensor shrunk(const Tensor& grad, int64_t height, int64_t width, F&& run) {
  const UpsampleShape s = shape_of(grad, height, width);
  Tensor dx = empty(grad, {s.N, s.C, height, width}, grad.scalar_type(), s.channels_last);
  run(s, ptr(grad), mut(dx));
  return dx;
}

[[maybe_unused]] Tensor upsample_add_cpu(const Tensor& x, const Tensor& y) {
  return added(x, y, [](const UpsampleShape& s, const void* small, const void* large, void* out) {
    cpu::upsample_add_forward({s, small, large, out, torch_pool()});
  });
}

[[maybe_unused]] Tensor upsample_add_backward_cpu(const Tensor& grad, int64_t height, int64_t width) {
  return shrunk(grad, height, width, [](const UpsampleShape& s, const void* large, void* dx) {
    cpu::upsample_add_backward({s, large, dx, torch_pool()});
  });
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
Tensor upsample_add_cuda(const Tensor& x, const Tensor& y) {
  const CudaCall call(y);
  return added(x, y, [&](const UpsampleShape& s, const void* small, const void* large, void* out) {
    check_launch(cuda::upsample_add_forward(s, small, large, out, call.stream), "upsample_add");
  });
}

Tensor upsample_add_backward_cuda(const Tensor& grad, int64_t height, int64_t width) {
  const CudaCall call(grad);
  return shrunk(grad, height, width, [&](const UpsampleShape& s, const void* large, void* dx) {
    check_launch(cuda::upsample_add_backward(s, large, dx, call.stream), "upsample_add_backward");
  });
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def("upsample_add(Tensor x, Tensor y) -> Tensor");
  m.def("upsample_add_backward(Tensor grad, int height, int width) -> Tensor");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&upsample_add_cpu>(m, "upsample_add");
  cpu_kernel<&upsample_add_backward_cpu>(m, "upsample_add_backward");
}
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  cuda_kernel<&upsample_add_cuda>(m, "upsample_add");
  cuda_kernel<&upsample_add_backward_cuda>(m, "upsample_add_backward");
}
#endif

}  // namespace ck::glue
