// An image of a few planes as pixels: the way into channels_last.
#pragma once
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct ChannelsLastArgs {
  const float* x;  // [N, C, pixels]
  float* y;        // [N, pixels, C]
  int64_t N, C, pixels;
  Pool pool;
};
constexpr int64_t kMostPlanes = 4;  // at least two
}  // namespace ck::cpu
CK_CPU_KERNEL(channels_last, ck::cpu::ChannelsLastArgs)
