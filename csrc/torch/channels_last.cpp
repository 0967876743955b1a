#include "../cpu/channels_last.h"

#include "glue.h"

namespace ck::glue {
namespace {

[[maybe_unused]] Tensor channels_last_cpu(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && x.is_contiguous() && x.size(1) > 1 &&
                      x.size(1) <= cpu::kMostPlanes,
                  "channels_last: a dense float32 NCHW x of two to four channels expected");
  const int64_t N = x.size(0), C = x.size(1), H = x.size(2), W = x.size(3);
  Tensor y = empty(x, {N, C, H, W}, ScalarType::Float, true);
  if (y.numel() > 0) cpu::channels_last({ptr<float>(x), mut<float>(y), N, C, H * W, torch_pool()});
  return y;
}

}  // namespace

CK_NATIVE_OPS(m) { m.def("channels_last(Tensor x) -> Tensor"); }
CK_CPU_IMPL(m) { cpu_kernel<&channels_last_cpu>(m, "channels_last"); }

}  // namespace ck::glue
