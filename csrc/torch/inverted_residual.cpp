#include "../cpu/inverted_residual.h"

#include "../cpu/pointwise.h"
#include "dwconv_window.h"
#include "glue.h"

namespace ck::glue {
namespace {

// What pointwise_pack made for this instruction set and these sizes.
[[maybe_unused]] void check_packed(const Tensor& packed, int64_t C, int64_t K) {
  STD_TORCH_CHECK(packed.dim() == 1 && packed.scalar_type() == ScalarType::Float && packed.is_contiguous() &&
                      packed.size(0) == cpu::pointwise_packed_size(C, K) &&
                      cpu::is_packed_for(ptr<float>(packed), cpu::isa(), C, K),
                  "inverted_residual: weights packed for these sizes expected");
}

[[maybe_unused]] bool is_layer(const Tensor& w, int64_t rows, int64_t columns) {
  return w.dim() >= 2 && w.size(0) == rows && w.size(1) == columns && w.numel() == rows * columns &&
         w.is_contiguous() && w.scalar_type() == ScalarType::Float;
}

[[maybe_unused]] Tensor inverted_residual_cpu(const Tensor& x, const std::optional<Tensor>& expand,
                                              const Tensor& weight, const Tensor& scale, const Tensor& shift,
                                              const Tensor& project, int64_t channels,
                                              const std::vector<int64_t>& window, int64_t act, double slope,
                                              bool residual, const std::optional<Tensor>& w1,
                                              const std::optional<Tensor>& b1, const std::optional<Tensor>& w2,
                                              const std::optional<Tensor>& b2, int64_t squeeze_act,
                                              double squeeze_slope, int64_t gate) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && is_dense_nhwc(x) && channels > 0 &&
                      weight.scalar_type() == ScalarType::Float,
                  "inverted_residual: a float32 channels_last x expected");
  const DwConvShape s = dwconv_shape(x, weight, window, true);
  // Every row of output must see a row of x.
  STD_TORCH_CHECK(std::max(window[4], window[5]) <= s.dh * (s.kh - 1), "inverted_residual: too much padding");
  const int64_t C = x.size(1);
  STD_TORCH_CHECK(expand || s.C == C, "inverted_residual: x and weight do not match");
  if (expand) check_packed(*expand, C, s.C);
  check_packed(project, s.C, channels);
  check_vector(scale, x, s.C), check_vector(shift, x, s.C);
  STD_TORCH_CHECK(!residual || (channels == C && s.P == s.H && s.Q == s.W), "inverted_residual: nothing to add x to");
  SqueezeExciteShape squeeze{};
  if (w1) {
    const int64_t R = w1->size(0);
    squeeze = {1, s.C, s.P * s.Q, R, true, act_of(squeeze_act), act_of(gate), squeeze_slope};
    STD_TORCH_CHECK(w2 && R > 0 && is_layer(*w1, R, s.C) && is_layer(*w2, s.C, R) &&
                        (squeeze.gate == Act::sigmoid || squeeze.gate == Act::hard_sigmoid),
                    "inverted_residual: layers of the squeeze-and-excitation do not match");
    check_vector(b1, x, R), check_vector(b2, x, s.C);
  }
  Tensor y = empty(x, {s.N, channels, s.P, s.Q}, ScalarType::Float, true);
  cpu::inverted_residual({ptr<float>(x), ptr<float>(expand), ptr<float>(weight), ptr<float>(scale), ptr<float>(shift),
                          ptr<float>(project), mut<float>(y), s, C, channels, residual, act_of(act), slope,
                          torch_pool(), ptr<float>(w1), ptr<float>(b1), ptr<float>(w2), ptr<float>(b2), squeeze});
  return y;
}

}  // namespace

CK_NATIVE_OPS(m) {
  m.def(
      "inverted_residual(Tensor x, Tensor? expand, Tensor weight, Tensor scale, Tensor shift, Tensor project, int "
      "channels, int[] window, int act, float slope, bool residual, Tensor? w1, Tensor? b1, Tensor? w2, Tensor? b2, "
      "int squeeze_act, float squeeze_slope, int gate) -> Tensor");
}
CK_CPU_IMPL(m) { cpu_kernel<&inverted_residual_cpu>(m, "inverted_residual"); }

}  // namespace ck::glue
