#include "../cpu/inverted_residual.h"

#include "../cpu/dwconv.h"
#include "../cpu/pointwise.h"
#include "dwconv_window.h"
#include "glue.h"

namespace ck::glue {
namespace {

// What pointwise_pack or dwconv_pack made for this instruction set and these sizes.
[[maybe_unused]] void check_packed(const Tensor& packed, int64_t size0, int64_t size1, int64_t elements) {
  STD_TORCH_CHECK(packed.dim() == 1 && packed.scalar_type() == ScalarType::Float && packed.is_contiguous() &&
                      packed.size(0) == elements && cpu::is_packed_for(ptr<float>(packed), cpu::isa(), size0, size1),
                  "inverted_residual: weights packed for these sizes expected");
}

[[maybe_unused]] bool is_layer(const Tensor& w, int64_t rows, int64_t columns) {
  return w.dim() >= 2 && w.size(0) == rows && w.size(1) == columns && w.numel() == rows * columns &&
         w.is_contiguous() && w.scalar_type() == ScalarType::Float;
}

// Three activations: after the expansion, the depthwise convolution and the projection.
using Acts = std::vector<int64_t>;

struct Extent {
  int64_t N, C, H, W;
};

// A block on C of the channels of a map like `in`, whose pointers x and y are still to come; x: any tensor of the call.
[[maybe_unused]] cpu::InvertedResidualArgs block_of(const Tensor& x, const Extent& in, int64_t C,
                                                    const std::optional<Tensor>& expand, const Tensor& weight,
                                                    const Tensor& depthwise, const Tensor& project, int64_t channels,
                                                    const std::vector<int64_t>& window, const Acts& acts,
                                                    double slope) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && is_dense_nhwc(x) && channels > 0 && acts.size() == 3,
                  "inverted_residual: a float32 channels_last x expected");
  const DwConvShape s = dwconv_shape(in.N, in.H, in.W, weight, window, true);
  // Every row of output must see a row of x.
  STD_TORCH_CHECK(std::max(window[4], window[5]) <= s.dh * (s.kh - 1), "inverted_residual: too much padding");
  STD_TORCH_CHECK(expand || s.C == C, "inverted_residual: x and weight do not match");
  const int64_t taps = int64_t(s.kh) * s.kw;
  if (expand) check_packed(*expand, C, s.C, cpu::pointwise_packed_size(C, s.C));
  check_packed(depthwise, s.C, taps, cpu::dwconv_packed_size(s.C, taps));
  check_packed(project, s.C, channels, cpu::pointwise_packed_size(s.C, channels));
  cpu::InvertedResidualArgs a{};
  a.x_pixel = in.C, a.expand = ptr<float>(expand), a.depthwise = ptr<float>(depthwise);
  a.project = ptr<float>(project), a.shape = s, a.C = C, a.K = channels;
  a.act = act_of(acts[0]), a.depthwise_act = act_of(acts[1]), a.project_act = act_of(acts[2]), a.slope = slope;
  a.pool = torch_pool();
  return a;
}

[[maybe_unused]] Tensor inverted_residual_cpu(const Tensor& x, const std::optional<Tensor>& expand,
                                              const Tensor& weight, const Tensor& depthwise, const Tensor& project,
                                              int64_t channels, const std::vector<int64_t>& window, const Acts& acts,
                                              double slope, bool residual, const std::optional<Tensor>& w1,
                                              const std::optional<Tensor>& b1, const std::optional<Tensor>& w2,
                                              const std::optional<Tensor>& b2, int64_t squeeze_act,
                                              double squeeze_slope, int64_t gate) {
  STD_TORCH_CHECK(x.dim() == 4, "inverted_residual: an x of four dimensions expected");
  const int64_t C = x.size(1);
  cpu::InvertedResidualArgs a = block_of(x, {x.size(0), C, x.size(2), x.size(3)}, C, expand, weight, depthwise, project,
                                         channels, window, acts, slope);
  const DwConvShape& s = a.shape;
  a.x = ptr<float>(x);
  STD_TORCH_CHECK(!residual || (channels == C && s.P == s.H && s.Q == s.W), "inverted_residual: nothing to add x to");
  a.residual = residual;
  if (w1) {
    const int64_t R = w1->size(0);
    a.squeeze = {1, s.C, s.P * s.Q, R, true, act_of(squeeze_act), act_of(gate), squeeze_slope};
    STD_TORCH_CHECK(w2 && R > 0 && is_layer(*w1, R, s.C) && is_layer(*w2, s.C, R) &&
                        (a.squeeze.gate == Act::sigmoid || a.squeeze.gate == Act::hard_sigmoid),
                    "inverted_residual: layers of the squeeze-and-excitation do not match");
    check_vector(b1, x, R), check_vector(b2, x, s.C);
    a.w1 = ptr<float>(w1), a.b1 = ptr<float>(b1), a.w2 = ptr<float>(w2), a.b2 = ptr<float>(b2);
  }
  Tensor y = empty(x, {s.N, channels, s.P, s.Q}, ScalarType::Float, true);
  a.y = mut<float>(y);
  cpu::inverted_residual(a);
  return y;
}

// Units of ShuffleNetV2, channels to channels but for the first.  weights: packed expansion, depthwise weight, the same packed,
// packed projection of every unit's right branch, after the last three of its left branch where the first unit has one;
// windows: eight numbers a unit.
[[maybe_unused]] Tensor shuffle_stage_cpu(const Tensor& x, const std::vector<Tensor>& weights, int64_t channels,
                                          const std::vector<int64_t>& windows, const Acts& acts, double slope) {
  const size_t count = windows.size() / 8, rights = 4 * count;
  STD_TORCH_CHECK(x.dim() == 4 && count > 0 && windows.size() % 8 == 0 && channels % 2 == 0 &&
                      (weights.size() == rights || weights.size() == rights + 3),
                  "shuffle_stage: bad arguments");
  const Tensor* w = weights.data();
  const int64_t half = channels / 2;
  std::vector<cpu::InvertedResidualArgs> units;
  units.reserve(count + 1);
  cpu::InvertedResidualArgs left{};
  Extent in{x.size(0), x.size(1), x.size(2), x.size(3)};
  for (size_t i = 0; i < count; ++i) {
    const std::vector<int64_t> window(windows.begin() + 8 * i, windows.begin() + 8 * (i + 1));
    const bool both = i == 0 && weights.size() > rights;
    STD_TORCH_CHECK(both || in.C == channels, "shuffle_stage: x does not match");
    const int64_t C = both ? in.C : half;
    if (both) {
      left = block_of(x, in, C, std::nullopt, w[0], w[1], w[2], half, window, acts, slope);
      w += 3;
    }
    units.push_back(block_of(x, in, C, w[0], w[1], w[2], w[3], half, window, acts, slope));
    const DwConvShape& s = units.back().shape;
    STD_TORCH_CHECK(both ? s.P == left.shape.P && s.Q == left.shape.Q : s.P == s.H && s.Q == s.W,
                    "shuffle_stage: halves of different sizes");
    if (both) units.back().left = &left;
    in = {s.N, channels, s.P, s.Q}, w += 4;
  }
  Tensor y = empty(x, {in.N, channels, in.H, in.W}, ScalarType::Float, true);
  if (y.numel() > 0)
    cpu::shuffle_stage({units.data(), static_cast<int>(count), ptr<float>(x), mut<float>(y), torch_pool()});
  return y;
}

}  // namespace

CK_NATIVE_OPS(m) {
  m.def(
      "inverted_residual(Tensor x, Tensor? expand, Tensor weight, Tensor depthwise, Tensor project, int channels, "
      "int[] window, int[] acts, float slope, bool residual, Tensor? w1, Tensor? b1, Tensor? w2, Tensor? b2, "
      "int squeeze_act, float squeeze_slope, int gate) -> Tensor");
  m.def("shuffle_stage(Tensor x, Tensor[] weights, int channels, int[] windows, int[] acts, float slope) -> Tensor");
}
CK_CPU_IMPL(m) {
  cpu_step<&inverted_residual_cpu>(m, "inverted_residual");
  cpu_step<&shuffle_stage_cpu>(m, "shuffle_stage");
}

}  // namespace ck::glue
