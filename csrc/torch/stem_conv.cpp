#include "../cpu/stem_conv.h"

#include "../cpu/pointwise.h"
#include "glue.h"

namespace ck::glue {
namespace {

// packed: the weight [K, kh, kw, C] by pointwise_pack; kernel, stride: (vertical, horizontal); padding: (left, right, top,
// bottom).
[[maybe_unused]] Tensor stem_conv_cpu(const Tensor& x, const Tensor& packed, int64_t channels,
                                      const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                                      const std::vector<int64_t>& padding, int64_t act, double slope) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && is_dense_nhwc(x) && channels > 0 &&
                      kernel.size() == 2 && stride.size() == 2 && padding.size() == 4,
                  "stem_conv: a float32 channels_last x and a window expected");
  const int64_t C = x.size(1);
  int64_t size[2];
  for (int i = 0; i < 2; ++i) {
    const int64_t before = padding[2 - 2 * i], after = padding[3 - 2 * i], padded = x.size(2 + i) + before + after;
    STD_TORCH_CHECK(kernel[i] > 0 && kernel[i] < 4096 && stride[i] > 0 && stride[i] < 65536 && before >= 0 &&
                        before < 65536 && after >= 0 && after < 65536 && padded >= kernel[i],
                    "stem_conv: the kernel does not fit into x");
    size[i] = (padded - kernel[i]) / stride[i] + 1;
  }
  const int64_t taps = kernel[0] * kernel[1] * C;
  STD_TORCH_CHECK(packed.dim() == 1 && packed.scalar_type() == ScalarType::Float && packed.is_contiguous() &&
                      packed.size(0) == cpu::pointwise_packed_size(taps, channels) &&
                      cpu::is_packed_for(ptr<float>(packed), cpu::isa(), taps, channels),
                  "stem_conv: weights packed for these sizes expected");
  Tensor y = empty(x, {x.size(0), channels, size[0], size[1]}, ScalarType::Float, true);
  const auto narrow = [](int64_t n) { return static_cast<int>(n); };
  if (y.numel() > 0)
    cpu::stem_conv({ptr<float>(x), ptr<float>(packed), mut<float>(y), x.size(0), C, x.size(2), x.size(3), size[0],
                    size[1], channels, narrow(kernel[0]), narrow(kernel[1]), narrow(stride[0]), narrow(stride[1]),
                    narrow(padding[2]), narrow(padding[0]), act_of(act), slope, torch_pool()});
  return y;
}

}  // namespace

CK_NATIVE_OPS(m) {
  m.def(
      "stem_conv(Tensor x, Tensor packed, int channels, int[] kernel, int[] stride, int[] padding, int act, float "
      "slope) -> Tensor");
}
CK_CPU_IMPL(m) { cpu_step<&stem_conv_cpu>(m, "stem_conv"); }

}  // namespace ck::glue
