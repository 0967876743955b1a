// Sizes of a squeeze-and-excitation block, shared by the CPU and the CUDA kernels.
#pragma once
#include <cstdint>

#include "activation.h"

namespace ck {

// x: [N, C, HW], or [N, HW, C] if channels_last; w1: [R, C], w2: [C, R].
struct SqueezeExciteShape {
  int64_t N, C, HW, R;
  bool channels_last;
  Act act, gate;
  double slope;  // of act
};

}  // namespace ck
