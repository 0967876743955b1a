// The mean of a channels_last image over its pixels.
#pragma once
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct MeanPixelsArgs {
  const float* x;        // [N, pixels, C]
  float* y;              // [N, C]
  int64_t N, C, pixels;  // at least one pixel
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(mean_pixels, ck::cpu::MeanPixelsArgs)
