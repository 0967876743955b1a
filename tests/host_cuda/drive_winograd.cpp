#include "../../csrc/cpu/winograd.h"
#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int64_t N, C, K, H, W;
  int top, left, bottom, right;
};

const Sizes kSizes[] = {
    {1, 16, 16, 2, 2, 1, 1, 1, 1},      // every tile at two borders
    {2, 16, 48, 7, 9, 1, 1, 1, 1},      // odd sizes
    {1, 32, 80, 12, 11, 0, 2, 2, 0},    // uneven padding, panels of different width
    {1, 16, 16, 3, 40, 0, 0, 0, 0},     // one row of y
    {3, 48, 64, 10, 10, 1, 1, 1, 1},    //
    {1, 400, 160, 26, 26, 1, 1, 1, 1},  // several blocks a task
};

// G g G^T, packed.
void pack(const Sizes& z, const Buffer<float>& w, const Buffer<float>& shift, Buffer<float>& packed) {
  static const double G[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  Buffer<float> u(z.K * z.C);
  for (int e = 0; e < 16; ++e) {
    for (int64_t i = 0; i < z.K * z.C; ++i) {
      double sum = 0;
      for (int p = 0; p < 3; ++p)
        for (int q = 0; q < 3; ++q) sum += G[e / 4][p] * G[e % 4][q] * w.at(i * 9 + p * 3 + q);
      u[i] = static_cast<float>(sum);
    }
    ck::cpu::pointwise_pack({ck::Dtype::f32, u.data(), nullptr, shift.data(), z.C, z.K,
                             packed.data() + e * ck::cpu::pointwise_packed_size(z.C, z.K), ck::cpu::serial_pool()});
  }
}

// Weights so small that the results are about 1, which errors are measured in.
void run(const Sizes& z, bool added, ck::Act act, ck::cpu::Pool pool) {
  const int64_t P = z.H + z.top + z.bottom - 2, Q = z.W + z.left + z.right - 2;
  Buffer<float> x(z.N * z.H * z.W * z.C), w(z.K * z.C * 9), shift(z.K), shortcut(z.N * P * Q * z.K),
      residual(shortcut.n);
  x.random(1), w.random(2, -0.05f, 0.05f), shift.random(3), shortcut.random(4), residual.random(5);
  Buffer<double> want(shortcut.n);
  for (int64_t n = 0; n < z.N; ++n)
    for (int64_t p = 0; p < P; ++p)
      for (int64_t q = 0; q < Q; ++q)
        for (int64_t k = 0; k < z.K; ++k) {
          double u = shift.at(k);
          for (int64_t i = 0; i < 9; ++i) {
            const int64_t h = p - z.top + i / 3, v = q - z.left + i % 3;
            if (h < 0 || h >= z.H || v < 0 || v >= z.W) continue;
            for (int64_t c = 0; c < z.C; ++c)
              u += w.at((k * z.C + c) * 9 + i) * x.at(((n * z.H + h) * z.W + v) * z.C + c);
          }
          const int64_t at = ((n * P + p) * Q + q) * z.K + k;
          if (added) u += shortcut.at(at);
          if (act == ck::Act::relu) u = std::max(u, 0.0);
          want[at] = u + (added ? residual.at(at) : 0.0);
        }
  for_each_isa([&] {
    Buffer<float> packed(ck::cpu::winograd_packed_size(z.C, z.K)), y(want.n);
    pack(z, w, shift, packed);
    ck::cpu::winograd({x.data(), packed.data(), added ? shortcut.data() : nullptr, added ? residual.data() : nullptr,
                       y.data(), z.N, z.C, z.H, z.W, P, Q, z.K, z.top, z.left, act, 0.0, pool});
    expect_close("winograd", y, want, 5e-6);
  });
}

}  // namespace

DRIVE(winograd) {
  for (const auto& pool : {ck::cpu::serial_pool(), pool_of<2>()})
    for (const Sizes& z : kSizes) {
      run(z, true, ck::Act::relu, pool);
      if (z.C < 100) run(z, false, ck::Act::identity, pool);
    }
}
