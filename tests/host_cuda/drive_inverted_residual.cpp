#include <vector>

#include "../../csrc/cpu/dwconv.h"
#include "../../csrc/cpu/inverted_residual.h"
#include "../../csrc/cpu/pointwise.h"
#include "../../csrc/cpu/squeeze_excite.h"
#include "drive.h"

using namespace drive;

namespace {

using Floats = Buffer<float>;

struct Sizes {
  int64_t N, H, W, C, hidden, K;
  int kernel, stride;
};

// A block's weights, its call, and the same out of the kernels that the call combines.
struct Block {
  static constexpr int64_t R = 3;
  Sizes z;
  bool expand, squeeze, residual;
  ck::Act act, project_act;
  int64_t P = (z.H - 1) / z.stride + 1, Q = (z.W - 1) / z.stride + 1;
  ck::DwConvShape s{z.N, z.hidden, z.H,          z.W,          P,   Q, z.kernel, z.kernel, z.stride, z.stride,
                    1,   1,        z.kernel / 2, z.kernel / 2, true};
  Floats we{z.hidden * z.C}, wd{z.hidden * z.kernel * z.kernel}, wp{z.K * z.hidden};
  Floats scale{z.hidden}, shift{z.hidden}, bias{z.K}, w1{R * z.hidden}, b1{R}, w2{z.hidden * R}, b2{z.hidden};
  Floats packed_expand{ck::cpu::pointwise_packed_size(z.C, z.hidden)};
  Floats packed_depthwise{ck::cpu::dwconv_packed_size(z.hidden, z.kernel* z.kernel)};
  Floats packed_project{ck::cpu::pointwise_packed_size(z.hidden, z.K)};

  Block(const Sizes& sizes, bool squeezed, bool residual_, ck::Act act_, ck::Act project_act_, unsigned seed)
      : z(sizes),
        expand(z.C != z.hidden || project_act_ != ck::Act::identity),
        squeeze(squeezed),
        residual(residual_),
        act(act_),
        project_act(project_act_) {
    for (Floats* each : {&we, &wd, &wp, &scale, &shift, &bias, &w1, &b1, &w2, &b2}) each->random(++seed);
  }

  void pack() {  // for the instruction set in use
    const auto pool = ck::cpu::serial_pool();
    ck::cpu::pointwise_pack(
        {ck::Dtype::f32, we.data(), nullptr, shift.data(), z.C, z.hidden, packed_expand.data(), pool});
    ck::cpu::dwconv_pack(
        {wd.data(), scale.data(), shift.data(), z.hidden, z.kernel, z.kernel, packed_depthwise.data()});
    ck::cpu::pointwise_pack(
        {ck::Dtype::f32, wp.data(), nullptr, bias.data(), z.hidden, z.K, packed_project.data(), pool});
  }

  ck::SqueezeExciteShape layers(int64_t images) const {
    return {images, z.hidden, P * Q, R, true, ck::Act::relu, ck::Act::sigmoid, 0};
  }

  ck::cpu::InvertedResidualArgs args(ck::cpu::Pool pool) const {
    ck::cpu::InvertedResidualArgs a{};
    a.x_pixel = a.C = z.C, a.K = z.K, a.shape = s, a.residual = residual, a.pool = pool;
    a.expand = expand ? packed_expand.data() : nullptr, a.project = packed_project.data();
    a.depthwise = packed_depthwise.data();
    a.act = act, a.depthwise_act = project_act == ck::Act::identity ? act : ck::Act::identity;
    a.project_act = project_act;
    if (squeeze) a.w1 = w1.data(), a.b1 = b1.data(), a.w2 = w2.data(), a.b2 = b2.data(), a.squeeze = layers(1);
    return a;
  }

  Floats apply(const Floats& x) const {
    const auto a = args(ck::cpu::serial_pool());
    Floats e(z.N * z.H * z.W * z.hidden), d(z.N * P * Q * z.hidden), g(d.n), y(z.N * P * Q * z.K);
    ck::cpu::PointwiseArgs p{};
    p.pool = a.pool;
    if (expand) {
      p.x = x.data(), p.packed = a.expand, p.y = e.data(), p.act = act;
      p.shape = {z.N, z.C, z.H * z.W, z.hidden, true};
      ck::cpu::pointwise(p);
    }
    ck::cpu::dwconv({ck::Dtype::f32, expand ? e.data() : x.data(), wd.data(), scale.data(), shift.data(), nullptr,
                     d.data(), s, a.depthwise_act, 0, nullptr, nullptr, a.pool});
    if (squeeze)
      ck::cpu::squeeze_excite_forward(
          {ck::Dtype::f32, layers(z.N), d.data(), w1.data(), b1.data(), w2.data(), b2.data(), g.data(), a.pool});
    p.x = squeeze ? g.data() : d.data(), p.packed = a.project, p.y = y.data(), p.act = project_act;
    p.residual = residual ? x.data() : nullptr, p.shape = {z.N, z.hidden, P * Q, z.K, true};
    ck::cpu::pointwise(p);
    return y;
  }
};

const Sizes kSizes[] = {
    {2, 7, 9, 5, 19, 5, 3, 1},      // nothing is a multiple of anything
    {1, 1, 1, 3, 6, 4, 3, 2},       // one pixel
    {1, 61, 90, 4, 48, 4, 5, 1},    // several strips
    {3, 44, 90, 8, 64, 12, 3, 2},   //
    {2, 12, 11, 16, 16, 24, 7, 1},  // no expansion
    {1, 14, 14, 24, 96, 24, 5, 1},  // shared by channels
};

void run(const Sizes& z, bool squeeze, ck::cpu::Pool pool) {
  Block block(z, squeeze, z.C == z.K && z.stride == 1, ck::Act::relu6, ck::Act::identity, 1);
  Floats x(z.N * z.H * z.W * z.C);
  x.random(99);
  for_each_isa([&] {
    block.pack();
    const Floats want = block.apply(x);
    Floats y(want.n);
    auto a = block.args(pool);
    a.x = x.data(), a.y = y.data();
    ck::cpu::inverted_residual(a);
    expect_close("block", y, want, squeeze ? 1e-6 : 0.0);
  });
}

// ---- ShuffleNetV2 ----------------------------------------------------------------------------------------------------

Floats by_turns(const Floats& a, const Floats& b) {
  Floats y(2 * a.n);
  for (int64_t i = 0; i < a.n; ++i) y[2 * i] = a.data()[i], y[2 * i + 1] = b.data()[i];
  return y;
}

Floats half_of(const Floats& x, int64_t channels, int64_t half, int which) {
  Floats y(x.n / 2);
  for (int64_t i = 0; i < y.n; ++i) y[i] = x.data()[i / half * channels + which * half + i % half];
  return y;
}

struct Stage {
  int64_t N, H, W, in, half;  // in: channels of x; the first unit halves H and W unless it is 2 * half
  int units;
};

const Stage kStages[] = {
    {1, 9, 7, 5, 19, 3},     // odd halves
    {2, 14, 14, 24, 58, 4},  // ShuffleNetV2's first stage
    {3, 6, 5, 32, 16, 2},    // without a strided unit; more images than threads
    {9, 3, 3, 7, 8, 2},      //
};

void run_stage(const Stage& z, ck::cpu::Pool pool) {
  const bool strided = z.in != 2 * z.half;
  std::vector<Block> right, left;
  right.reserve(z.units);
  int64_t H = z.H, W = z.W;
  for (int i = 0; i < z.units; ++i) {
    const bool first = strided && i == 0;
    const Sizes sizes{z.N, H, W, first ? z.in : z.half, z.half, z.half, 3, first ? 2 : 1};
    right.emplace_back(sizes, false, false, ck::Act::relu, ck::Act::relu, 20 * i);
    if (first) {
      left.emplace_back(Sizes{z.N, H, W, z.in, z.in, z.half, 3, 2}, false, false, ck::Act::relu, ck::Act::relu, 7);
      left[0].expand = false;
      H = left[0].P, W = left[0].Q;
    }
  }
  Floats x(z.N * z.H * z.W * z.in);
  x.random(99);
  for_each_isa([&] {
    for (Block& b : left) b.pack();
    for (Block& b : right) b.pack();
    Floats want(0);
    for (int i = 0; i < z.units; ++i) {
      const Floats& from = i ? want : x;
      want = strided && i == 0
                 ? by_turns(left[0].apply(from), right[0].apply(from))
                 : by_turns(half_of(from, 2 * z.half, z.half, 0), right[i].apply(half_of(from, 2 * z.half, z.half, 1)));
    }
    std::vector<ck::cpu::InvertedResidualArgs> units;
    for (const Block& b : right) units.push_back(b.args(pool));
    for (auto& unit : units) unit.x_pixel = 2 * z.half;
    ck::cpu::InvertedResidualArgs beside{};
    if (strided) beside = left[0].args(pool), units[0].left = &beside, units[0].x_pixel = z.in;
    Floats y(want.n);
    ck::cpu::shuffle_stage({units.data(), z.units, x.data(), y.data(), pool});
    expect_close("stage", y, want, 0.0);
  });
}

}  // namespace

DRIVE(inverted_residual) {
  for (const auto& pool : {ck::cpu::serial_pool(), pool_of<2>(), pool_of<5>()})
    for (const Sizes& z : kSizes) run(z, false, pool), run(z, true, pool);
}

DRIVE(shuffle_stage) {
  for (const auto& pool : {ck::cpu::serial_pool(), pool_of<2>(), pool_of<5>()})
    for (const Stage& z : kStages) run_stage(z, pool);
}
