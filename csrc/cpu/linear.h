// A linear layer of a few images, a classifier's: what counts is that every core reads its share of the weights, once.
#pragma once
#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct LinearArgs {
  const float* x;       // [N, C]
  const float* weight;  // [K, C]
  const float* bias;    // [K] or null
  float* y;             // [N, K]
  int64_t N, C, K;
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(linear, ck::cpu::LinearArgs)
