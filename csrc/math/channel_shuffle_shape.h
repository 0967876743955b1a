// Sizes of a channel shuffle, shared by the CPU and the CUDA kernels.
#pragma once
#include <cstdint>

#include "activation.h"  // CK_HD

namespace ck {

// The channels of `in` (one tensor, or two one after the other) are seen as a [groups, C / groups] matrix, transposed, and
// written to `out` (one tensor, or two that split the result):
//   out[i * groups + j] = in[j * (C / groups) + i]
// Every tensor is [N, its channels, HW], or [N, HW, its channels] if channels_last; dense.
struct ShuffleShape {
  int64_t N, HW;
  int64_t in_channels[2], out_channels[2];  // both sum to C; the second of each may be 0
  int64_t groups;
  int element_size;  // 2, 4 or 8 bytes: elements are moved, not interpreted
  bool channels_last;

  CK_HD int64_t channels() const { return in_channels[0] + in_channels[1]; }
};

}  // namespace ck
