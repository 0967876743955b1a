#include "../../csrc/cpu/upsample_add.h"
#include "../../csrc/cuda/upsample_add.h"
#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int64_t N, C, H, W, H2, W2;
};

const Sizes kSizes[] = {
    {2, 3, 3, 5, 6, 10},     // twice
    {1, 3, 3, 5, 5, 9},      // one less
    {1, 8, 2, 8, 4, 16},     // rows and pixels of whole vectors
    {1, 1, 2, 37, 3, 73},    // several vectors a row, and a rest
    {2, 19, 1, 1, 2, 1},     // one pixel
    {1, 5, 3, 2, 12, 8},     // four times
    {1, 3, 3, 4, 7, 13},     // any other size
    {1, 3, 7, 8, 3, 5},      // pixels that nothing shows
    {1, 6, 20, 30, 39, 60},  // several blocks and tasks
    {0, 3, 2, 2, 4, 4},      // no images
};

template <class T>
void run(const Sizes& z, bool channels_last) {
  const ck::UpsampleShape s{DtypeOf<T>::value, z.N, z.C, {z.H, z.H2}, {z.W, z.W2}, channels_last};
  const auto at = [&](int64_t n, int64_t c, int64_t i, int64_t j, int64_t rows, int64_t columns) {
    return channels_last ? ((n * rows + i) * columns + j) * z.C + c : ((n * z.C + c) * rows + i) * columns + j;
  };
  Buffer<T> x(s.small()), y(s.large()), out(s.large()), dx(s.small());
  if (z.N > 0) x.random(1), y.random(2);
  Buffer<float> want(s.large()), want_dx(s.small());
  want_dx.fill(0.f);
  for (int64_t n = 0; n < z.N; ++n)
    for (int64_t c = 0; c < z.C; ++c)
      for (int64_t i = 0; i < z.H2; ++i)
        for (int64_t j = 0; j < z.W2; ++j) {
          const int64_t here = at(n, c, i, j, z.H2, z.W2);
          const int64_t from = at(n, c, i * z.H / z.H2, j * z.W / z.W2, z.H, z.W);
          want[here] = static_cast<float>(x[from]) + static_cast<float>(y[here]);
          want_dx[from] += static_cast<float>(y[here]);  // y as the gradient
        }
  char name[96];
  std::snprintf(name, sizeof name, "size %zu N%d C%d %dx%d to %dx%d %s", sizeof(T), int(z.N), int(z.C), int(z.H),
                int(z.W), int(z.H2), int(z.W2), channels_last ? "channels_last" : "nchw");
  expect(name, ck::cuda::upsample_add_forward(s, x.data(), y.data(), out.data(), nullptr) == cudaSuccess);
  expect(name, ck::cuda::upsample_add_backward(s, y.data(), dx.data(), nullptr) == cudaSuccess);
  expect_close(name, out, want, eps<T>());
  expect_close(name, dx, want_dx, eps<T>());
  for_each_isa([&] {
    Buffer<T> cout(s.large()), cdx(s.small());
    ck::cpu::upsample_add_forward({s, x.data(), y.data(), cout.data(), pool_of<3>()});
    ck::cpu::upsample_add_backward({s, y.data(), cdx.data(), pool_of<3>()});
    expect(name, std::memcmp(cout.data(), out.data(), cout.n * sizeof(T)) == 0);
    expect_close(name, cdx, want_dx, eps<T>());
  });
}

}  // namespace

DRIVE(upsample_add) {
  for (const Sizes& z : kSizes)
    for (bool channels_last : {false, true}) for_each_type([&](auto t) { run<decltype(t)>(z, channels_last); });
}
