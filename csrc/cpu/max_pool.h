// Maxima over windows of a channels_last image.
#pragma once
#include "../math/dtype.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct MaxPoolArgs {
  Dtype dtype;
  const void* x;  // [N, H, W, C]
  void* y;        // [N, P, Q, C]: the greatest of what lies inside the image; NaN where there is one
  int64_t N, C, H, W, P, Q;
  int kh, kw, sh, sw, top, left;  // every window reaches into the image
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(max_pool, ck::cpu::MaxPoolArgs)
