#include "../cpu/mean_pixels.h"

#include "glue.h"

namespace ck::glue {
namespace {

[[maybe_unused]] Tensor mean_pixels_cpu(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && is_dense_nhwc(x) && x.size(2) * x.size(3) > 0,
                  "mean_pixels: a channels_last float32 x with pixels expected");
  const int64_t N = x.size(0), C = x.size(1);
  Tensor y = empty(x, {N, C}, ScalarType::Float);
  if (y.numel() > 0) cpu::mean_pixels({ptr<float>(x), mut<float>(y), N, C, x.size(2) * x.size(3), torch_pool()});
  return y;
}

}  // namespace

CK_NATIVE_OPS(m) { m.def("mean_pixels(Tensor x) -> Tensor"); }
CK_CPU_IMPL(m) { cpu_kernel<&mean_pixels_cpu>(m, "mean_pixels"); }

}  // namespace ck::glue
