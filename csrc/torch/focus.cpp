#include "../cpu/focus.h"

#include "../cuda/focus.h"
#include "glue.h"

namespace ck::glue {
namespace {

// run(shape, from, to) on a fresh result.
template <class F>
Tensor moved(const Tensor& x, bool inverse, F&& run) {
  STD_TORCH_CHECK(x.dim() == 4, "focus: [N, C, H, W] expected");
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  STD_TORCH_CHECK(inverse ? c % 4 == 0 : h % 2 == 0 && w % 2 == 0, "focus: sizes that do not divide");
  const bool last = dense_channels_last(x);
  const FocusShape shape = inverse ? FocusShape{n, c / 4, h, w, element_size(x), last, true}
                                   : FocusShape{n, c, h / 2, w / 2, element_size(x), last, false};
  const std::vector<int64_t> size =
      inverse ? std::vector<int64_t>{n, shape.C, 2 * h, 2 * w} : std::vector<int64_t>{n, 4 * c, shape.H, shape.W};
  Tensor y = empty(x, size, x.scalar_type(), last);
  run(shape, ptr(x), mut(y));
  return y;
}

void run_cpu(const FocusShape& s, const void* from, void* to) { cpu::focus({s, from, to, torch_pool()}); }

[[maybe_unused]] Tensor focus_cpu(const Tensor& x) { return moved(x, false, run_cpu); }
[[maybe_unused]] Tensor focus_inverse_cpu(const Tensor& x) { return moved(x, true, run_cpu); }

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
Tensor moved_cuda(const Tensor& x, bool inverse) {
  const CudaCall call(x);
  return moved(x, inverse, [&](const FocusShape& s, const void* from, void* to) {
    check_launch(cuda::focus(s, from, to, call.stream), "focus");
  });
}
Tensor focus_cuda(const Tensor& x) { return moved_cuda(x, false); }
Tensor focus_inverse_cuda(const Tensor& x) { return moved_cuda(x, true); }
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def("focus(Tensor x) -> Tensor");
  m.def("focus_inverse(Tensor x) -> Tensor");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&focus_cpu>(m, "focus");
  cpu_kernel<&focus_inverse_cpu>(m, "focus_inverse");
}
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  cuda_kernel<&focus_cuda>(m, "focus");
  cuda_kernel<&focus_inverse_cuda>(m, "focus_inverse");
}
#endif

}  // namespace ck::glue
