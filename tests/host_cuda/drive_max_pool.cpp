#include "../../csrc/cpu/max_pool.h"
#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int64_t N, C, H, W, P, Q;
  int kh, kw, sh, sw, top, left;
};

const Sizes kSizes[] = {
    {2, 5, 7, 9, 4, 5, 3, 3, 2, 2, 1, 1},       // nothing is a multiple of anything
    {1, 16, 1, 1, 1, 1, 3, 3, 2, 2, 1, 1},      // one pixel
    {1, 37, 8, 11, 4, 5, 2, 3, 2, 2, 0, 0},     //
    {1, 21, 9, 12, 9, 12, 7, 5, 1, 1, 3, 2},    // taken apart
    {3, 64, 20, 20, 20, 20, 5, 5, 1, 1, 2, 2},  // windows that overlap, several tasks
    {1, 8, 6, 6, 3, 3, 3, 3, 2, 2, 0, 0},       // the last window ends outside
};

template <class T>
void run(const Sizes& z, ck::cpu::Pool pool) {
  Buffer<T> x(z.N * z.H * z.W * z.C), want(z.N * z.P * z.Q * z.C);
  x.random(1, -2.f, -1.f);
  for (int64_t n = 0; n < z.N; ++n)
    for (int64_t p = 0; p < z.P; ++p)
      for (int64_t q = 0; q < z.Q; ++q)
        for (int64_t c = 0; c < z.C; ++c) {
          T most = T(-INFINITY);
          for (int64_t h = p * z.sh - z.top; h < p * z.sh - z.top + z.kh; ++h)
            for (int64_t w = q * z.sw - z.left; w < q * z.sw - z.left + z.kw; ++w)
              if (h >= 0 && h < z.H && w >= 0 && w < z.W) {
                const T v = x[((n * z.H + h) * z.W + w) * z.C + c];
                if (static_cast<float>(v) > static_cast<float>(most)) most = v;
              }
          want[((n * z.P + p) * z.Q + q) * z.C + c] = most;
        }
  for_each_isa([&] {
    Buffer<T> y(want.n);
    ck::cpu::max_pool({DtypeOf<T>::value, x.data(), y.data(), z.N, z.C, z.H, z.W, z.P, z.Q, z.kh, z.kw, z.sh, z.sw,
                       z.top, z.left, pool});
    expect_close("max_pool", y, want, 0.0);
  });
}

}  // namespace

DRIVE(max_pool) {
  for (const auto& pool : {ck::cpu::serial_pool(), pool_of<2>()})
    for (const Sizes& z : kSizes) {
      for_each_type([&](auto t) { run<decltype(t)>(z, pool); });
      run<double>(z, pool);
    }
}
