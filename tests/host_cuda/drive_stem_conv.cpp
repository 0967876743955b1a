#include "../../csrc/cpu/pointwise.h"
#include "../../csrc/cpu/stem_conv.h"
#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int64_t N, C, H, W, K;
  int kh, kw, sh, sw, top, left;
};

const Sizes kSizes[] = {
    {2, 3, 9, 11, 19, 3, 3, 2, 2, 1, 1},     // nothing is a multiple of anything
    {1, 3, 1, 1, 32, 3, 3, 2, 2, 1, 1},      // one pixel
    {1, 1, 7, 2, 5, 3, 5, 1, 1, 2, 3},       // windows wider than the image
    {2, 3, 40, 37, 64, 7, 7, 2, 2, 3, 3},    // both sides, several pixels each
    {1, 4, 30, 31, 16, 11, 11, 4, 4, 2, 2},  //
    {1, 2, 8, 8, 24, 2, 2, 2, 2, 0, 0},      // no side
    {1, 3, 5, 5, 8, 1, 1, 1, 1, 2, 2},       // rows and pixels that see nothing
};

void run(const Sizes& z, ck::Act act, ck::cpu::Pool pool) {
  const int64_t P = (z.H + 2 * z.top - z.kh) / z.sh + 1, Q = (z.W + 2 * z.left - z.kw) / z.sw + 1;
  const int64_t taps = z.kh * z.kw * z.C;
  Buffer<float> x(z.N * z.H * z.W * z.C), w(z.K * taps), shift(z.K);
  x.random(1), w.random(2), shift.random(3);
  Buffer<double> want(z.N * P * Q * z.K);
  for (int64_t i = 0; i < want.n; ++i) {
    const int64_t k = i % z.K, q = i / z.K % Q, p = i / z.K / Q % P, n = i / z.K / Q / P;
    double u = static_cast<double>(shift[k]);
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t c = t % z.C, column = q * z.sw - z.left + t / z.C % z.kw, row = p * z.sh - z.top + t / z.C / z.kw;
      if (row >= 0 && row < z.H && column >= 0 && column < z.W)
        u += x.at(((n * z.H + row) * z.W + column) * z.C + c) * w.at(k * taps + t);
    }
    want[i] = ck::with_act(act, [&](auto a) { return ck::activate<a(), double>(u, 0.1); });
  }
  for_each_isa([&] {
    Buffer<float> packed(ck::cpu::pointwise_packed_size(taps, z.K)), y(want.n);
    ck::cpu::pointwise_pack({ck::Dtype::f32, w.data(), nullptr, shift.data(), taps, z.K, packed.data(), pool});
    ck::cpu::stem_conv({x.data(), packed.data(), y.data(), z.N, z.C, z.H, z.W, P, Q, z.K, z.kh, z.kw, z.sh, z.sw, z.top,
                        z.left, act, 0.1, pool});
    expect_close("stem_conv", y, want, 1e-5);
  });
}

}  // namespace

DRIVE(stem_conv) {
  for (const auto& pool : {ck::cpu::serial_pool(), pool_of<3>()})
    for (const Sizes& z : kSizes)
      for (const auto act : {ck::Act::relu6, ck::Act::silu, ck::Act::leaky_relu}) run(z, act, pool);
}
