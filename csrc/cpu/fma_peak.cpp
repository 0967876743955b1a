// Two FMA pipes with a latency of 4 need 8 chains in flight; 12 leave room for a latency of 5 and fit, with the two
// constants, into AVX2's 16 registers.
#include "fma_peak.h"

#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int kChains = 12;

// Sum of the lanes after `turns` steps v <- v / 2 + 1, from 0.
double run_chains(int64_t turns) {
  F32 v[kChains];
  for (F32& chain : v) chain = F32(0.f);
  const F32 half(0.5f), one(1.f);
  for (int64_t t = 0; t < turns; ++t)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) v[i] = fma(v[i], half, one);
  double total = 0;
  for (const F32& chain : v) {
    float lanes[F32::N];
    store(lanes, chain);
    for (const float lane : lanes) total += lane;
  }
  return total;
}

}  // namespace

void fma_peak(const FmaPeakArgs& a) {
  parallel(a.pool, a.tasks, 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      a.sums[i] = run_chains(a.turns);
      a.flops[i] = 2.0 * kChains * F32::N * static_cast<double>(a.turns);
    }
  });
}

}  // namespace ck::cpu::CK_ISA
