// Rows of a detector's predictions whose score passes a threshold, as boxes with class and score.
#pragma once
#include <cstdint>

#include "../math/dtype.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct DetectionCandidatesArgs {
  Dtype dtype;
  const void* predictions;  // [images, rows, 5 + classes]: cx, cy, w, h, objectness, class scores
  int64_t images, rows, classes;
  double threshold;  // >= 0
  int64_t most;      // candidates of an image
  bool multi_label;
  void* boxes;      // [images, most, 4]: x1, y1, x2, y2; float, or double for f64; zeros behind the last
  void* scores;     // [images, most]; -1 behind the last
  int64_t* labels;  // [images, most]; -1 behind the last
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(detection_candidates, ck::cpu::DetectionCandidatesArgs)
