#include "../cpu/winograd.h"

#include "glue.h"

namespace ck::glue {
namespace {

using std::optional;

// padding: (left, right, top, bottom).
[[maybe_unused]] Tensor winograd_cpu(const Tensor& x, const Tensor& packed, int64_t channels,
                                     const std::vector<int64_t>& padding, const optional<Tensor>& shortcut,
                                     const optional<Tensor>& residual, int64_t act, double slope) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && is_dense_nhwc(x) && padding.size() == 4 &&
                      x.size(1) > 0 && channels > 0 && x.size(1) % cpu::kWinogradChannels == 0 &&
                      channels % cpu::kWinogradChannels == 0,
                  "winograd: a float32 channels_last x and multiples of 16 channels expected");
  const int64_t C = x.size(1), H = x.size(2), W = x.size(3);
  for (const int64_t p : padding) STD_TORCH_CHECK(p >= 0 && p <= 2, "winograd: paddings of 0, 1 or 2 expected");
  const int64_t P = H + padding[2] + padding[3] - 2, Q = W + padding[0] + padding[1] - 2;
  STD_TORCH_CHECK(P > 0 && Q > 0, "winograd: the kernel does not fit into x");
  STD_TORCH_CHECK(packed.dim() == 1 && packed.scalar_type() == ScalarType::Float && packed.is_contiguous() &&
                      packed.size(0) == cpu::winograd_packed_size(C, channels) &&
                      cpu::is_packed_for(ptr<float>(packed), cpu::isa(), C, channels),
                  "winograd: weights packed for these sizes expected");
  Tensor y = empty(x, {x.size(0), channels, P, Q}, ScalarType::Float, true);
  for (const auto* added : {&shortcut, &residual})
    if (*added) check_same(**added, y);
  if (y.numel() > 0)
    cpu::winograd({ptr<float>(x), ptr<float>(packed), ptr<float>(shortcut), ptr<float>(residual), mut<float>(y),
                   x.size(0), C, H, W, P, Q, channels, static_cast<int>(padding[2]), static_cast<int>(padding[0]),
                   act_of(act), slope, torch_pool()});
  return y;
}

}  // namespace

CK_NATIVE_OPS(m) {
  m.def(
      "winograd(Tensor x, Tensor packed, int channels, int[] padding, Tensor? shortcut, Tensor? residual, int act, "
      "float slope) -> Tensor");
}
CK_CPU_IMPL(m) { cpu_step<&winograd_cpu>(m, "winograd"); }

}  // namespace ck::glue
