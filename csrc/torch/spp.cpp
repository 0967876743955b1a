#include "../cpu/spp.h"

#include "../cuda/spp.h"
#include "glue.h"

namespace ck::glue {
namespace {

SppShape shape_of(const Tensor& x, const std::vector<int64_t>& sizes) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, "spp: [N, C, H, W] expected");
  STD_TORCH_CHECK(!sizes.empty() && sizes.size() <= SppShape::kMost, "spp: too few or too many sizes");
  SppShape s{x.size(0), x.size(1), x.size(2), x.size(3), dense_channels_last(x), static_cast<int>(sizes.size()),
             {},        {}};
  std::array<std::pair<int64_t, int>, SppShape::kMost> ordered;
  for (int k = 0; k < s.count; ++k) {
    STD_TORCH_CHECK(sizes[k] > 0 && sizes[k] % 2 == 1, "spp: odd sizes expected");
    ordered[k] = {std::min(sizes[k] / 2, std::max(s.H, s.W)), k + 1};  // all of the image, if not more
  }
  std::sort(ordered.begin(), ordered.begin() + s.count);
  for (int k = 0; k < s.count; ++k) std::tie(s.radius[k], s.slot[k]) = ordered[k];
  return s;
}

// run(shape, x, y) on a fresh result.
template <class F>
Tensor pooled(const Tensor& x, const std::vector<int64_t>& sizes, F&& run) {
  const SppShape s = shape_of(x, sizes);
  Tensor y = empty(x, {s.N, s.slots() * s.C, s.H, s.W}, x.scalar_type(), s.channels_last);
  run(s, ptr(x), mut(y));
  return y;
}

// run(shape, grad, x, dx)
template <class F>
Tensor gradient(const Tensor& grad, const Tensor& x, const std::vector<int64_t>& sizes, F&& run) {
  const SppShape s = shape_of(x, sizes);
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == s.N && grad.size(1) == s.slots() * s.C && grad.size(2) == s.H &&
                      grad.size(3) == s.W && grad.scalar_type() == x.scalar_type(),
                  "spp_backward: grad must match x and the sizes");
  check_layout(grad, s.channels_last);
  Tensor dx = empty(x, {s.N, s.C, s.H, s.W}, x.scalar_type(), s.channels_last);
  run(s, ptr(grad), ptr(x), mut(dx));
  return dx;
}

[[maybe_unused]] Tensor spp_cpu(const Tensor& x, const std::vector<int64_t>& sizes) {
  return pooled(x, sizes, [&](const SppShape& s, const void* from, void* to) {
    cpu::spp({dtype_of(x), s, from, to, torch_pool()});
  });
}

[[maybe_unused]] Tensor spp_backward_cpu(const Tensor& grad, const Tensor& x, const std::vector<int64_t>& sizes) {
  return gradient(grad, x, sizes, [&](const SppShape& s, const void* g, const void* from, void* to) {
    cpu::spp_backward({dtype_of(x), s, g, from, to, torch_pool()});
  });
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
Tensor spp_cuda(const Tensor& x, const std::vector<int64_t>& sizes) {
  const CudaCall call(x);
  return pooled(x, sizes, [&](const SppShape& s, const void* from, void* to) {
    check_launch(cuda::spp(dtype_of(x), s, from, to, call.stream), "spp");
  });
}

Tensor spp_backward_cuda(const Tensor& grad, const Tensor& x, const std::vector<int64_t>& sizes) {
  const CudaCall call(x);
  return gradient(grad, x, sizes, [&](const SppShape& s, const void* g, const void* from, void* to) {
    check_launch(cuda::spp_backward(dtype_of(x), s, g, from, to, call.stream), "spp_backward");
  });
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def("spp(Tensor x, int[] sizes) -> Tensor");
  m.def("spp_backward(Tensor grad, Tensor x, int[] sizes) -> Tensor");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&spp_cpu>(m, "spp");
  cpu_kernel<&spp_backward_cpu>(m, "spp_backward");
}
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  cuda_kernel<&spp_cuda>(m, "spp");
  cuda_kernel<&spp_backward_cuda>(m, "spp_backward");
}
#endif

}  // namespace ck::glue
