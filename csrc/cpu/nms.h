// Greedy non-maximum suppression of `images` sets of n boxes: kept indices by falling score, padded with -1.
#pragma once
#include <cstdint>

#include "../math/box_overlap.h"
#include "../math/dtype.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct NmsArgs {
  Dtype dtype;              // of boxes and scores
  const void* boxes;        // [images, n, 4]: x1, y1, x2, y2
  const void* scores;       // [images, n]
  const int64_t* segments;  // [images, n]: only boxes of equal segment suppress each other; or null
  int64_t images, n;        // n < 2^31
  double threshold;         // a number of the arithmetic's type (float, or double for f64)
  Overlap kind;
  double beta;
  int64_t max_out;
  int64_t* indices;  // [images, max_out]
  int64_t* count;    // [images]
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(nms, ck::cpu::NmsArgs)
