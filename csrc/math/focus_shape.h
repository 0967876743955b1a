// Sizes of Focus, shared by the CPU and the CUDA kernels.
#pragma once
#include <cstdint>

#include "activation.h"  // CK_HD

namespace ck {

// The image is [N, C, 2H, 2W], its quarters are [N, 4C, H, W]; both dense, both [N, rows, columns, channels] if channels_last.
//   quarters[n, k * C + c, i, j] = image[n, c, 2 * i + k % 2, 2 * j + k / 2]        0 <= k < 4
// So, in NCHW, every row of the image is taken apart into its even and its odd elements; and in channels_last, where a pixel
// is an item of C elements, two rows of the image are interleaved item by item into one row of the quarters.
struct FocusShape {
  int64_t N, C, H, W;
  int element_size;  // 2, 4 or 8 bytes: elements are moved, not interpreted
  bool channels_last;
  bool inverse;  // from quarters to image

  CK_HD int64_t elements() const { return 4 * N * C * H * W; }
};

}  // namespace ck
