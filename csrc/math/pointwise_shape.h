// Sizes of a 1x1 convolution.
#pragma once
#include <cstdint>

namespace ck {

// x: [N, C, HW], or [N, HW, C] if channels_last; weight: [K, C]; y: as x, with K channels.
struct PointwiseShape {
  int64_t N, C, HW, K;
  bool channels_last;
};

}  // namespace ck
