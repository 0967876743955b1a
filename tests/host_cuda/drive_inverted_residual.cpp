#include "../../csrc/cpu/dwconv.h"
#include "../../csrc/cpu/inverted_residual.h"
#include "../../csrc/cpu/pointwise.h"
#include "../../csrc/cpu/squeeze_excite.h"
#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int64_t N, H, W, C, hidden, K;
  int kernel, stride;
};

const Sizes kSizes[] = {
    {2, 7, 9, 5, 19, 5, 3, 1},      // nothing is a multiple of anything
    {1, 1, 1, 3, 6, 4, 3, 2},       // one pixel
    {1, 61, 90, 4, 48, 4, 5, 1},    // several strips
    {3, 44, 90, 8, 64, 12, 3, 2},   //
    {2, 12, 11, 16, 16, 24, 7, 1},  // no expansion
};

void run(const Sizes& z, bool squeeze) {
  constexpr int64_t R = 3;
  const bool expand = z.C != z.hidden, residual = z.C == z.K && z.stride == 1;
  const int64_t P = (z.H - 1) / z.stride + 1, Q = (z.W - 1) / z.stride + 1;
  const ck::DwConvShape s{z.N, z.hidden, z.H,          z.W,          P,   Q, z.kernel, z.kernel, z.stride, z.stride,
                          1,   1,        z.kernel / 2, z.kernel / 2, true};
  Buffer<float> x(z.N * z.H * z.W * z.C), we(z.hidden * z.C), wd(z.hidden * z.kernel * z.kernel), wp(z.K * z.hidden);
  Buffer<float> scale(z.hidden), shift(z.hidden), bias(z.K);
  Buffer<float> w1(R * z.hidden), b1(R), w2(z.hidden * R), b2(z.hidden);
  w1.random(8), b1.random(9), w2.random(10), b2.random(11);
  const auto layers = [&](int64_t images) {
    return ck::SqueezeExciteShape{images, z.hidden, P * Q, R, true, ck::Act::relu, ck::Act::sigmoid, 0};
  };
  x.random(1), we.random(2), wd.random(3), wp.random(4), scale.random(5), shift.random(6), bias.random(7);
  for_each_isa([&] {
    const auto pool = ck::cpu::serial_pool();
    const auto relu6 = ck::Act::relu6;
    Buffer<float> pe(ck::cpu::pointwise_packed_size(z.C, z.hidden)), pp(ck::cpu::pointwise_packed_size(z.hidden, z.K));
    ck::cpu::pointwise_pack({ck::Dtype::f32, we.data(), nullptr, shift.data(), z.C, z.hidden, pe.data(), pool});
    ck::cpu::pointwise_pack({ck::Dtype::f32, wp.data(), nullptr, bias.data(), z.hidden, z.K, pp.data(), pool});
    Buffer<float> e(z.N * z.H * z.W * z.hidden), d(z.N * P * Q * z.hidden), want(z.N * P * Q * z.K), y(want.n);
    if (expand)
      ck::cpu::pointwise({ck::Dtype::f32,
                          x.data(),
                          nullptr,
                          nullptr,
                          nullptr,
                          pe.data(),
                          nullptr,
                          nullptr,
                          e.data(),
                          {z.N, z.C, z.H * z.W, z.hidden, true},
                          relu6,
                          0,
                          pool});
    ck::cpu::dwconv({ck::Dtype::f32, expand ? e.data() : x.data(), wd.data(), scale.data(), shift.data(), nullptr,
                     d.data(), s, relu6, 0, nullptr, nullptr, pool});
    Buffer<float> g(d.n);
    if (squeeze)
      ck::cpu::squeeze_excite_forward(
          {ck::Dtype::f32, layers(z.N), d.data(), w1.data(), b1.data(), w2.data(), b2.data(), g.data(), pool});
    ck::cpu::pointwise({ck::Dtype::f32,
                        squeeze ? g.data() : d.data(),
                        nullptr,
                        nullptr,
                        nullptr,
                        pp.data(),
                        nullptr,
                        residual ? x.data() : nullptr,
                        want.data(),
                        {z.N, z.hidden, P * Q, z.K, true},
                        ck::Act::identity,
                        0,
                        pool});
    ck::cpu::inverted_residual({x.data(), expand ? pe.data() : nullptr, wd.data(), scale.data(), shift.data(),
                                pp.data(), y.data(), s, z.C, z.K, residual, relu6, 0, pool,
                                squeeze ? w1.data() : nullptr, b1.data(), w2.data(), b2.data(), layers(1)});
    expect_close("block", y, want, squeeze ? 1e-6 : 0.0);
  });
}

}  // namespace

DRIVE(inverted_residual) {
  for (const Sizes& z : kSizes) run(z, false), run(z, true);
}
