// Sizes of spatial pyramid pooling, shared by the CPU and the CUDA kernels.
#pragma once
#include <cstdint>

#include "activation.h"  // CK_HD

namespace ck {

// x is [N, C, H, W], y is [N, (1 + count) * C, H, W]; both dense, both [N, H, W, channels] if channels_last.  Slot 0 of y's
// channels is x, slot 1 + s the maxima over windows that reach radius[s] to every side, inside the image.
struct SppShape {
  static constexpr int kMost = 8;
  int64_t N, C, H, W;
  bool channels_last;
  int count;
  // From small to large, so that each is the one before, pooled by the difference; slot: its place in y, from 1.
  int64_t radius[kMost];
  int slot[kMost];

  CK_HD int64_t elements() const { return N * C * H * W; }
  CK_HD int64_t slots() const { return 1 + count; }
  CK_HD int64_t largest() const { return radius[count - 1]; }
};

}  // namespace ck
