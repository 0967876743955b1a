// A task takes some channels of one image through all pixels, their sums in registers.  Sums of 64 pixels are added up, so that
// the error does not grow with the size of the map.
#include "mean_pixels.h"

#include <algorithm>

#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int N = V<float>::N;
constexpr int kVectors = 4;  // of a task's step: as many sums are on the way at once
constexpr int64_t kTaskElements = 16384,
                  kRun = 64;  // elements that make a task worth a thread; pixels of a partial sum

template <int VECTORS, class Load>
CK_INLINE void mean(const float* x, int64_t pixels, int64_t C, Load&& load, V<float>* y) {
  for (int v = 0; v < VECTORS; ++v) y[v] = V<float>(0.f);
  for (int64_t p = 0; p < pixels; p += kRun) {
    V<float> part[VECTORS];
    for (int v = 0; v < VECTORS; ++v) part[v] = V<float>(0.f);
    for (int64_t q = p; q < std::min(p + kRun, pixels); ++q)
      for (int v = 0; v < VECTORS; ++v) part[v] = part[v] + load(x + q * C + v * N);
    for (int v = 0; v < VECTORS; ++v) y[v] = y[v] + part[v];
  }
  const V<float> share(1.f / static_cast<float>(pixels));
  for (int v = 0; v < VECTORS; ++v) y[v] = y[v] * share;
}

}  // namespace

void mean_pixels(const MeanPixelsArgs& a) {
  constexpr int64_t kStep = kVectors * N;
  const int64_t steps = (a.C + kStep - 1) / kStep;
  const int64_t grain = std::max<int64_t>(1, kTaskElements / (a.pixels * kStep));
  parallel(a.pool, a.N * steps, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t n = t / steps, c = t % steps * kStep;
      const float* const x = a.x + n * a.pixels * a.C + c;
      float* const y = a.y + n * a.C + c;
      V<float> sums[kVectors];
      if (c + kStep <= a.C) {
        mean<kVectors>(x, a.pixels, a.C, [](const float* p) { return vload(p); }, sums);
        for (int v = 0; v < kVectors; ++v) store(y + v * N, sums[v]);
      } else {
        for (int64_t i = 0; i < a.C - c; i += N) {
          const int rest = static_cast<int>(std::min<int64_t>(N, a.C - c - i));
          mean<1>(x + i, a.pixels, a.C, [=](const float* p) { return vload_n(p, rest); }, sums);
          store_n(y + i, sums[0], rest);
        }
      }
    }
  });
}

}  // namespace ck::cpu::CK_ISA
