#include "../../csrc/cpu/channels_last.h"
#include "../../csrc/cpu/mean_pixels.h"
#include "drive.h"

using namespace drive;

namespace {

void into_pixels(int64_t N, int64_t C, int64_t pixels, ck::cpu::Pool pool) {
  Buffer<float> x(N * C * pixels), want(N * C * pixels);
  x.random(1, -1.f, 1.f);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t c = 0; c < C; ++c)
      for (int64_t p = 0; p < pixels; ++p) want[(n * pixels + p) * C + c] = x[(n * C + c) * pixels + p];
  for_each_isa([&] {
    Buffer<float> y(want.n);
    ck::cpu::channels_last({x.data(), y.data(), N, C, pixels, pool});
    expect_close("channels_last", y, want, 0.0);
  });
}

void means(int64_t N, int64_t C, int64_t pixels, ck::cpu::Pool pool) {
  Buffer<float> x(N * C * pixels), want(N * C);
  x.random(2, 1.f, 2.f);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t c = 0; c < C; ++c) {
      double sum = 0;
      for (int64_t p = 0; p < pixels; ++p) sum += static_cast<double>(x[(n * pixels + p) * C + c]);
      want[n * C + c] = static_cast<float>(sum / static_cast<double>(pixels));
    }
  for_each_isa([&] {
    Buffer<float> y(want.n);
    ck::cpu::mean_pixels({x.data(), y.data(), N, C, pixels, pool});
    expect_close("mean_pixels", y, want, 2e-6);
  });
}

}  // namespace

DRIVE(image) {
  for (const auto& pool : {ck::cpu::serial_pool(), pool_of<2>()}) {
    for (int64_t C = 2; C <= 4; ++C)
      for (int64_t pixels : {1, 15, 16, 17, 49, 9001, 16400}) into_pixels(2, C, pixels, pool);
    for (int64_t C : {1, 16, 37, 64, 200})
      for (int64_t pixels : {1, 49, 64, 65, 1000}) means(3, C, pixels, pool);
  }
}
